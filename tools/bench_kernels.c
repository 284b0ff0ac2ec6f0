/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-bench kernels: encoding and decoding on one core, chunk by chunk as the schedules do it, beside memcpy and beside a
   loop with the same reads and writes. The passes take turns, so that a busy moment of the machine meets all of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "json.h"

enum {
    PASSES = 7,
    CHUNK_BYTES = 32768, /* payload of one message, the library's default */
    UNIT = 2048          /* elements that the plain loop handles at once: they stay in L1 */
};

/* Bytes without a type, in vectors, for the plain loop. */
typedef uint64_t word_t __attribute__((vector_size(64), aligned(1), may_alias));
enum { WORD_FLOATS = sizeof(word_t) / sizeof(float) };

enum { COPY, ENCODE, ENCODE_STREAM, DECODE, DECODE_STREAM, OPERATIONS };

typedef struct kernels {
    const char    *spec;
    size_t         count;
    size_t         chunk;  /* elements of a frame */
    bool           whole;  /* one frame for the whole tensor, and decoding writes a dense result */
    size_t         arrays; /* of memory, in the plain loop's traffic */
    tacit_codec_t *codec;
    float         *in, *sum;
    float         *scratch;       /* copy's target and the plain loop's memory */
    uint8_t       *frames;        /* one behind the other */
    size_t         frames_room;   /* bytes */
    size_t        *frame_bytes;   /* of each */
    size_t         payload_bytes; /* of all */
    double         seconds[OPERATIONS][PASSES];
} kernels_t;

/* ---- What is measured ---- */

static tacit_status_t encode(kernels_t *run, uint64_t step)
{
    size_t done = 0, used = 0, frame = 0;

    while (done < run->count) {
        size_t         count = run->count - done < run->chunk ? run->count - done : run->chunk;
        tacit_status_t status = tacit_encode(run->codec, step, run->in, done, count, run->frames + used, run->frames_room - used,
                                             &run->frame_bytes[frame]);

        if (status != TACIT_OK) {
            return status;
        }
        used += run->frame_bytes[frame++];
        done += count;
    }
    run->payload_bytes = used;
    return TACIT_OK;
}

static tacit_status_t decode(kernels_t *run, uint64_t step)
{
    tacit_status_t status = TACIT_OK;
    size_t         used = 0;

    for (size_t frame = 0; status == TACIT_OK && used < run->payload_bytes; frame++) {
        const uint8_t *start = run->frames + used;

        status = run->whole ? tacit_decode(run->codec, step, start, run->frame_bytes[frame], run->sum, NULL, NULL)
                            : tacit_decode_add(run->codec, step, start, run->frame_bytes[frame], run->sum, NULL, NULL);
        used += run->frame_bytes[frame];
    }
    return status;
}

/* All of from[] meets all of to[], which is read and written: XOR is the least that makes both reads needed. */
static void merge(const float *from, float *to, size_t count)
{
    for (size_t i = 0; i + WORD_FLOATS <= count; i += WORD_FLOATS) {
        *(word_t *)(to + i) ^= *(const word_t *)(from + i);
    }
}

/* Reads all of from[]. */
static uint8_t fold(const uint8_t *from, size_t bytes)
{
    word_t all = {0};

    for (size_t i = 0; i + sizeof all <= bytes; i += sizeof all) {
        all ^= *(const word_t *)(from + i);
    }
    return (uint8_t)(all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7]);
}

/* Reads the input, reads and writes the memory, writes the payload. */
static void encode_stream(kernels_t *run)
{
    size_t used = 0;

    for (size_t done = 0; done < run->count; done += UNIT) {
        size_t   count = run->count - done < UNIT ? run->count - done : UNIT;
        size_t   end = (size_t)((double)run->payload_bytes * ((double)(done + count) / (double)run->count));
        size_t   bytes = end - used < count * sizeof(float) ? end - used : count * sizeof(float);
        uint8_t *payload = run->frames + used;

        for (size_t i = 0; i < run->arrays; i++) {
            merge(run->in + done, run->scratch + i * run->count + done, count);
        }
        memcpy(payload, run->in + done, bytes);
        if (run->arrays == 0) {
            payload[0] = fold((const uint8_t *)(run->in + done), count * sizeof(float));
        }
        used = end;
    }
}

/* Reads the payload, and reads and writes the sums or writes the dense result. */
static void decode_stream(kernels_t *run)
{
    size_t used = 0;

    for (size_t done = 0; done < run->count; done += UNIT) {
        size_t  count = run->count - done < UNIT ? run->count - done : UNIT;
        size_t  end = (size_t)((double)run->payload_bytes * ((double)(done + count) / (double)run->count));
        uint8_t seen = fold(run->frames + used, end - used);

        if (run->whole) {
            memset(run->sum + done, seen, count * sizeof(float));
        } else {
            merge(run->in + (seen & 1), run->sum + done, count); /* from L1: the same unit every time */
        }
        used = end;
    }
}

static tacit_status_t perform(kernels_t *run, int operation, uint64_t step)
{
    switch (operation) {
    case COPY:
        memcpy(run->scratch, run->in, run->count * sizeof *run->in);
        return TACIT_OK;
    case ENCODE:
        return encode(run, step);
    case DECODE:
        return decode(run, step);
    case ENCODE_STREAM:
        encode_stream(run);
        return TACIT_OK;
    default:
        decode_stream(run);
        return TACIT_OK;
    }
}

/* Pass -1 warms up. The plain loops come last: they spoil the frames and the sums. */
static tacit_status_t measure(kernels_t *run, uint64_t seed)
{
    static const int order[OPERATIONS] = {COPY, ENCODE, DECODE, ENCODE_STREAM, DECODE_STREAM};

    for (int pass = -1; pass < PASSES; pass++) {
        uint64_t       step = (uint64_t)(pass + 1);
        bench_random_t random = bench_random(seed, 0, step);

        bench_normal(&random, run->in, run->count);
        memset(run->sum, 0, run->count * sizeof *run->sum);
        for (int i = 0; i < OPERATIONS; i++) {
            double         start = bench_seconds();
            tacit_status_t status = perform(run, order[i], step);

            if (status != TACIT_OK) {
                return status;
            }
            if (pass >= 0) {
                run->seconds[order[i]][pass] = bench_seconds() - start;
            }
        }
    }
    return TACIT_OK;
}

/* ---- Preparing ---- */

/* Elements whose payload is one message. */
static size_t chunk_elements(const tacit_codec_t *codec, size_t count)
{
    size_t grain = tacit_codec_grain(codec), many = 64 * grain;
    size_t grains;

    if (grain == 0) {
        return count;
    }
    grains = CHUNK_BYTES * 63 / (tacit_codec_capacity(codec, many) - tacit_codec_capacity(codec, grain));
    return grains > 1 ? grains * grain : grain;
}

static tacit_status_t prepare(kernels_t *run)
{
    tacit_slot_config_t tensor = bench_tensor(run->spec, run->count);
    tacit_status_t      status = tacit_codec_create("bench", &tensor, NULL, 0, 1, &run->codec);
    size_t              frames, bytes = run->count * sizeof(float);
    double              traffic = bench_encode_traffic(run->spec);

    if (status != TACIT_OK) {
        return status;
    }
    run->whole = tacit_codec_grain(run->codec) == 0;
    run->chunk = chunk_elements(run->codec, run->count);
    run->arrays = isnan(traffic) ? 1 : (size_t)(traffic / (2 * sizeof(float)));
    frames = (run->count + run->chunk - 1) / run->chunk;
    run->frames_room = frames * tacit_codec_capacity(run->codec, run->chunk < run->count ? run->chunk : run->count) + 64;
    run->in = bench_memory(bytes > UNIT * sizeof(float) ? bytes : 2 * UNIT * sizeof(float));
    run->sum = run->in != NULL ? bench_memory(bytes) : NULL;
    run->scratch = run->sum != NULL ? bench_memory(bytes * (run->arrays > 1 ? run->arrays : 1)) : NULL;
    run->frames = run->scratch != NULL ? bench_memory(run->frames_room) : NULL;
    run->frame_bytes = run->frames != NULL ? bench_memory(frames * sizeof *run->frame_bytes) : NULL;
    return run->frame_bytes != NULL ? TACIT_OK : TACIT_ERR_MEMORY;
}

static void release(kernels_t *run)
{
    tacit_codec_destroy(run->codec);
    free(run->in);
    free(run->sum);
    free(run->scratch);
    free(run->frames);
    free(run->frame_bytes);
}

/* ---- Reporting ---- */

static void print_title(void)
{
    printf("%-36s %10s %9s %9s %9s %9s %9s %9s\n", "spec", "bytes", "encode", "decode", "copy", "stream", "encode", "decode");
    printf("%-36s %10s %9s %9s %9s %9s %9s %9s\n", "", "", "GB/s", "GB/s", "GB/s", "GB/s", "of limit", "of limit");
}

void bench_print_rates(const bench_rates_t *rates, const bench_options_t *options)
{
    const double gigabytes = 1e-9 * (double)rates->bytes, payload = 1e-9 * (double)rates->payload_bytes;
    const double copy = 2 * gigabytes / rates->copy_seconds;
    const double encode_limit = (gigabytes * (1 + rates->encode_traffic / sizeof(float)) + payload) / copy;
    const double decode_limit = (gigabytes * (1 + rates->decode_traffic / sizeof(float)) + payload) / copy;
    char         stream[16] = "-";
    json_t       json = {0};

    if (!options->json) {
        if (isfinite(rates->encode_stream_seconds)) {
            snprintf(stream, sizeof stream, "%.2f", gigabytes / rates->encode_stream_seconds);
        }
        printf("%-36s %10zu %9.2f %9.2f %9.2f %9s %9.3f %9.3f\n", rates->spec, rates->bytes, gigabytes / rates->encode_seconds,
               gigabytes / rates->decode_seconds, copy, stream, encode_limit / rates->encode_seconds,
               decode_limit / rates->decode_seconds);
        if (rates->dimension != 0) {
            bench_print_hashing(rates);
        }
        return;
    }
    json_open(&json, NULL, '{');
    json_text(&json, "mode", "kernels");
    json_text(&json, "spec", rates->spec);
    json_text(&json, "device", options->cuda ? "cuda" : "cpu");
    json_text(&json, "isa", options->cuda ? "cuda" : tacit_isa());
    json_count(&json, "bytes", rates->bytes);
    json_number(&json, "encode_gbps", gigabytes / rates->encode_seconds);
    json_number(&json, "decode_gbps", gigabytes / rates->decode_seconds);
    json_number(&json, "copy_gbps", copy);
    json_number(&json, "stream_gbps", gigabytes / rates->encode_stream_seconds);
    json_number(&json, "encode_of_limit", encode_limit / rates->encode_seconds);
    json_number(&json, "decode_of_limit", decode_limit / rates->decode_seconds);
    json_number(&json, "decode_stream_gbps", gigabytes / rates->decode_stream_seconds);
    json_count(&json, "payload_bytes", rates->payload_bytes);
    if (rates->dimension != 0) {
        bench_add_hashing(&json, rates);
    }
    json_close(&json, '}');
    json_end(&json);
}

static void print(kernels_t *run, const bench_options_t *options)
{
    const bench_rates_t rates = {.spec = run->spec,
                                 .bytes = run->count * sizeof(float),
                                 .payload_bytes = run->payload_bytes,
                                 .encode_traffic = bench_encode_traffic(run->spec),
                                 .decode_traffic = run->whole ? 0 : sizeof(float),
                                 .copy_seconds = bench_median(run->seconds[COPY], PASSES),
                                 .encode_seconds = bench_median(run->seconds[ENCODE], PASSES),
                                 .decode_seconds = bench_median(run->seconds[DECODE], PASSES),
                                 .encode_stream_seconds = bench_median(run->seconds[ENCODE_STREAM], PASSES),
                                 .decode_stream_seconds = bench_median(run->seconds[DECODE_STREAM], PASSES)};

    bench_print_rates(&rates, options);
}

static int run_one(const bench_options_t *options, const char *spec, size_t bytes)
{
    kernels_t      run = {.spec = spec, .count = bytes / sizeof(float)};
    tacit_status_t status = prepare(&run);

    if (status == TACIT_OK) {
        status = measure(&run, options->seed);
    }
    if (status == TACIT_OK) {
        print(&run, options);
    } else {
        const char *text = tacit_last_error();

        fprintf(stderr, "tacit-bench: %s: %s\n", spec, text[0] != '\0' ? text : tacit_strerror(status));
    }
    release(&run);
    return status == TACIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

int bench_kernels(const bench_options_t *options)
{
    int status = EXIT_SUCCESS;

    if (options->cuda && !bench_has_device()) {
        return EXIT_FAILURE;
    }
    if (!options->json) {
        print_title();
    }
    for (size_t i = 0; i < options->spec_count; i++) {
        for (size_t j = 0; j < options->size_count; j++) {
            int one = options->cuda                            ? bench_device(options, options->specs[i], options->bytes[j])
                      : bench_is_for_tokens(options->specs[i]) ? bench_tokens(options, options->specs[i], options->bytes[j])
                                                               : run_one(options, options->specs[i], options->bytes[j]);

            status = one != EXIT_SUCCESS ? one : status;
        }
    }
    return status;
}
