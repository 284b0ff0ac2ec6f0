/* SPDX-License-Identifier: Apache-2.0 */
/* Divides blockwise tensors among owners: doc/wire-format.md, "Parts". */
#include "parts.h"

size_t tacit__part_bytes(const tacit_codec_t *codec, size_t count)
{
    return codec->compressor->bound(codec->spec.compressor_config, count);
}

size_t tacit__part_begin(const tacit_codec_t *codec, const tacit_range_t *range, uint64_t before, uint64_t total, int owner,
                         int owners)
{
    const size_t   count = range->end - range->begin, edge = tacit__codec_edge(codec);
    const uint64_t blocks = (count + edge - 1) / edge, bytes = tacit__part_bytes(codec, count);
    /* Both sides times `owners`, so that equal parts are equal to the block. */
    const unsigned __int128 target = (unsigned __int128)total * (unsigned)owner,
                            start = (unsigned __int128)before * (unsigned)owners,
                            length = (unsigned __int128)bytes * (unsigned)owners;

    if (owner >= owners || target >= start + length) {
        return range->end;
    }
    return range->begin + (target <= start ? 0 : tacit__min(count, (size_t)(blocks * (target - start) / length) * edge));
}

tacit_range_t tacit__rail_range(const tacit_codec_t *codec, int rail, int rails)
{
    const size_t   count = codec->tensor.count;
    const uint64_t units = (count + TACIT_UNIT - 1) / TACIT_UNIT;
    const uint64_t first = codec->key.slot % (unsigned)rails; /* so that small tensors are dealt out */
    const uint64_t turn = ((uint64_t)rail + first) % (unsigned)rails;

    return (tacit_range_t){tacit__min(count, (size_t)(units * turn / (unsigned)rails) * TACIT_UNIT),
                           tacit__min(count, (size_t)(units * (turn + 1) / (unsigned)rails) * TACIT_UNIT)};
}

tacit_deal_t tacit__rail_deal(const tacit_codec_t *codec, int rail, int rails, int hosts)
{
    const tacit_range_t range = tacit__rail_range(codec, rail, rails);

    return (tacit_deal_t){codec->key.slot, range.end - range.begin, (uint32_t)hosts, (uint32_t)range.begin};
}
