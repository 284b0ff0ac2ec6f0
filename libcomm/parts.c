/* SPDX-License-Identifier: Apache-2.0 */
/* Divides blockwise tensors among owners: doc/wire-format.md, "Parts". */
#include "parts.h"

size_t tacit__part_bytes(const tacit_codec_t *codec, size_t count)
{
    return codec->compressor->bound(codec->spec.compressor_config, count);
}

size_t tacit__part_begin(const tacit_codec_t *codec, uint64_t before, uint64_t total, int owner)
{
    const size_t   count = codec->tensor.count, edge = tacit__codec_edge(codec);
    const uint64_t blocks = (count + edge - 1) / edge, bytes = tacit__part_bytes(codec, count);
    const unsigned ranks = (unsigned)codec->ranks;
    /* Both sides times `ranks`, so that equal parts are equal to the block. */
    const unsigned __int128 target = (unsigned __int128)total * (unsigned)owner, start = (unsigned __int128)before * ranks,
                            length = (unsigned __int128)bytes * ranks;

    if (owner >= codec->ranks || target >= start + length) {
        return count;
    }
    return target <= start ? 0 : tacit__min(count, (size_t)(blocks * (target - start) / length) * edge);
}
