/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes decoders with frames whose headers are right and whose payloads are hostile. Input: a spec, a dtype, a count, a
   range, then the payload. A frame that is refused leaves `out` as it was. */
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { HEAD = 8, MOST_COUNT = 3000 };

static const char *const specs[] = {"none",
                                    "fp16",
                                    "bf16+ef",
                                    "onebit",
                                    "onebit:block=64+ef",
                                    "onebit:block=0+ef",
                                    "qsgd:bits=1",
                                    "qsgd:bits=3,block=32+ef",
                                    "qsgd:bits=8",
                                    "topk:ratio=0.1+ef",
                                    "topk:ratio=0.02,index=u16",
                                    "topk:ratio=0.02,index=u32,values=fp16",
                                    "randk:ratio=0.05+ef",
                                    "fp8:block=32+ef",
                                    "fp8:format=e5m2",
                                    "rotq:bits=1",
                                    "rotq:bits=3+ef",
                                    "powersgd+ef",
                                    "topk:ratio=0.02+dgc"};

static void use(tacit_codec_t *codec, const uint8_t *frame, size_t bytes)
{
    const size_t element = tacit__codec_element_bytes(codec), count = codec->tensor.count;
    uint8_t     *out = calloc(count + 1, element), *before = calloc(count + 1, element);
    float       *sum = calloc(count + 1, sizeof *sum);
    size_t       first, elements;

    if (tacit_decode(codec, 1, frame, bytes, out, &first, &elements) != TACIT_OK) {
        if (memcmp(out, before, count * element) != 0) {
            abort();
        }
    } else if (first > count || elements > count - first) {
        abort();
    }
    if (tacit_decode_add(codec, 1, frame, bytes, sum, NULL, NULL) != TACIT_OK) {
        for (size_t i = 0; i < count; i++) {
            if (sum[i] != 0.0f) {
                abort();
            }
        }
    }
    free(out);
    free(before);
    free(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    tacit_frame_t       frame = {.kind = TACIT_FRAME_ENCODED, .step = 1, .total = 1};
    uint8_t            *message;

    if (bytes < HEAD) {
        return 0;
    }
    config.spec = specs[data[0] % (sizeof specs / sizeof *specs)];
    config.dtype = (tacit_dtype_t)(data[1] % 3);
    config.count = (size_t)(data[2] | data[3] << 8) % MOST_COUNT;
    if (tacit_codec_create("slot", &config, NULL, 0, 2, &codec) != TACIT_OK) {
        return 0;
    }
    frame.slot = (uint32_t)codec->key.slot;
    frame.spec = (uint32_t)codec->spec.hash;
    frame.elements = (uint32_t)config.count;
    frame.compressor = codec->compressor->wire_id;
    frame.compressor_version = codec->compressor->wire_version;
    frame.first = (uint32_t)(data[4] | data[5] << 8);
    frame.count = data[6] == 0 && data[7] == 0 ? (uint32_t)config.count - frame.first : (uint32_t)(data[6] | data[7] << 8);
    frame.payload_bytes = (uint32_t)(bytes - HEAD);
    message = malloc(TACIT_FRAME_HEADER_BYTES + frame.payload_bytes);
    memcpy(message + TACIT_FRAME_HEADER_BYTES, data + HEAD, frame.payload_bytes);
    use(codec, message, tacit__frame_write(&frame, message));
    free(message);
    tacit_codec_destroy(codec);
    return 0;
}
