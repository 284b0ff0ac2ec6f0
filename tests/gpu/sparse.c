/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles with tensors that travel whole, sparse or linear, on a GPU: as kernels.c. */
#include <stddef.h>

/* Counts around the edges of rows, tiles, chunks and spans. */
static size_t counts[] = {5000, 0, 1, 777, 4096, 9001, 4097, 65, 33};
enum { LARGE = 5, LARGE_COUNT = 70000 }; /* more than a span, in a few tests */

#include "bundle.h"
#include "nets.h"

/* ---- Tests ---- */

static const char *const specs[] = {
    "randk+ef",
    "randk:ratio=0.3",
    "randk:ratio=0.1+ef21",
    "randk:ratio=1+ef",
    "randk+econtrol:eta=0.01",
    "topk+ef",
    "topk",
    "topk:index=u32+ef",
    "topk:ratio=0.2,index=u16+ef",
    "topk:index=rle16+ef",
    "topk:ratio=0.00001,index=rle16+ef",
    "topk:ratio=0.3,index=bitmap+ef",
    "topk:ratio=0.0003,index=rice+ef",
    "topk:ratio=0.5,index=rice+ef",
    "topk:ratio=1+ef",
    "topk:values=fp16+ef",
    "topk:ratio=0.9,values=fp16+ef",
    "topk:ratio=0.1,values=fp16,index=rle16+ef",
    "topk:ratio=0.02+ef21",
    "topk:ratio=0.02,values=fp16+ef21:average=0.3",
    "topk:ratio=0.1+econtrol:eta=0.05",
    "topk+dgc:dense=0",
    "topk:ratio=0.1,values=fp16+dgc:nesterov=on,dense=0",
    "topk:ratio=0.1+dgc:masking=off,momentum=0.5",
    "topk:ratio=1+dgc:dense=100",
    "topk:select=sampled+ef",
    "topk:select=sampled,sample=0.05+dgc:nesterov=on",
    "topk:ratio=0.1,select=sampled,values=fp16+ef21",
};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(every_spec)
{
    const tacit_op_t op = _i % 2 == 0 ? TACIT_AVERAGE : TACIT_SUM;
    const size_t     usual = counts[LARGE];

    run_both(&(setup_t){.spec = specs[_i], .op = op, .ranks = 3});
    counts[LARGE] = LARGE_COUNT;
    run_both(&(setup_t){.spec = specs[_i], .op = op, .ranks = 1});
    counts[LARGE] = usual;
}
END_TEST

START_TEST(halves)
{
    const setup_t setup = {.spec = specs[_i * 2 % SPECS], .dtype = _i % 2 == 0 ? TACIT_FLOAT16 : TACIT_BFLOAT16, .ranks = 2};

    run_both(&setup);
}
END_TEST

START_TEST(strict_memory)
{
    run_both(&(setup_t){.spec = "topk+ef", .ranks = 2, .strict = 1});
    run_both(&(setup_t){.spec = "topk:values=fp16+ef", .ranks = 2, .strict = 1});
    run_both(&(setup_t){.spec = "topk+ef21", .ranks = 2, .strict = 1});
    run_both(&(setup_t){.spec = "randk+ef", .ranks = 3, .strict = 1});
}
END_TEST

START_TEST(one_rank_and_four)
{
    run_both(&(setup_t){.spec = "topk+ef", .ranks = 1});
    run_both(&(setup_t){.spec = "randk+ef", .ranks = 1});
    run_both(&(setup_t){.spec = "topk+ef", .ranks = 4, .op = TACIT_AVERAGE});
}
END_TEST

/* NaN and infinity pass, or count as zero, as on the CPU. */
START_TEST(what_is_not_finite)
{
    static const char *const some[] = {"topk+ef",
                                       "topk:values=fp16+ef",
                                       "topk:ratio=0.0002+ef",
                                       "topk+ef21",
                                       "topk+econtrol:eta=0.01",
                                       "randk:ratio=0.5+ef",
                                       "randk:ratio=0.5+ef21",
                                       "topk",
                                       "randk"};

    for (int skip = 0; skip < 4; skip++) {
        const setup_t setup = {.spec = some[_i],
                               .ranks = 2,
                               .strict = skip / 2,
                               .nonfinite = skip % 2 ? TACIT_NONFINITE_SKIP : TACIT_NONFINITE_PASS};

        run_spoiled(&setup);
    }
}
END_TEST

/* Where many magnitudes are equal, or almost so, the first of the largest are sent. */
START_TEST(alike)
{
    static const char *const some[] = {"topk+ef",
                                       "topk:values=fp16+ef",
                                       "topk:select=sampled+ef",
                                       "topk:ratio=0.6+ef21",
                                       "topk:ratio=0.01+dgc:dense=0",
                                       "topk:ratio=0.01+dgc:dense=0,residual=int8"};
    const setup_t            setup = {.spec = some[_i], .ranks = 2};
    net_t                    cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int rank = 0; rank < setup.ranks; rank++) {
            for (int t = 0; t < TENSORS; t++) {
                for (size_t i = 0; i < counts[t]; i++) {
                    const float sign = i * 7 % 5 < 2 ? 1 : -1, more = step == 1 && i > 4200 ? 0x1p-20f * (float)(i % 7) : 0;
                    const float size = step == 2 && i % 3 == 0 ? 0x1p-25f : i % 100 == 0 ? 0 : 1.5f + more;

                    ((float *)cpu.nodes[rank].in[t])[i] = ((float *)gpu.nodes[rank].in[t])[i] = sign * size;
                }
            }
        }
        step_both(&cpu, &gpu, step);
    }
    nets_end(&cpu, &gpu);
}
END_TEST

/* Gaps of more elements than 16 bits tell. */
START_TEST(far_apart)
{
    static const char *const some[] = {"topk:ratio=0.00003,index=rle16+ef", "topk:ratio=0.00003,index=rle16,values=fp16+ef",
                                       "topk:ratio=0.00003,index=u16+ef", "topk:ratio=0.00003+ef"};
    const setup_t            setup = {.spec = some[_i], .ranks = 2};
    const size_t             usual = counts[LARGE];
    net_t                    cpu, gpu;

    counts[LARGE] = LARGE_COUNT;
    nets_init(&cpu, &gpu, &setup);
    inputs(&cpu, 0);
    inputs(&gpu, 0);
    for (int rank = 0; rank < setup.ranks; rank++) {
        float *const from = cpu.nodes[rank].in[LARGE], *const to = gpu.nodes[rank].in[LARGE];

        harness_fill(from, LARGE_COUNT, (uint64_t)rank, 1.0f);
        from[1] = 100;
        from[LARGE_COUNT - 10] = -100;
        from[LARGE_COUNT - 8] = 100;
        memcpy(to, from, LARGE_COUNT * sizeof *to);
    }
    step_both(&cpu, &gpu, 0);
    nets_end(&cpu, &gpu);
    counts[LARGE] = usual;
}
END_TEST

/* ---- Packed memory ---- */

static const char *const packed[] = {
    "topk+ef:residual=bf16",
    "topk:values=fp16+ef:residual=int8",
    "topk:ratio=0.1+dgc:dense=0,residual=bf16",
    "topk:ratio=0.1,values=fp16+dgc:dense=100,nesterov=on,masking=off,residual=int8",
    "topk:ratio=0.1+econtrol:eta=0.05,residual=bf16",
    "topk:ratio=0.3,values=fp16,select=sampled+econtrol:eta=0.05,residual=int8",
    "topk:ratio=0.02+ef21:average=0.3,residual=bf16",
    "topk:ratio=0.02+ef21:average=0.3,residual=int8",
    "randk+ef:residual=bf16",
    "randk:ratio=0.3+ef:residual=int8",
    "randk:ratio=0.1+econtrol:eta=0.05,residual=bf16",
    "randk+econtrol:eta=0.01,residual=int8",
    "randk:ratio=0.1+ef21:average=0.5,residual=bf16",
    "randk+ef21:average=0.5,residual=int8",
};
enum { PACKED = sizeof packed / sizeof *packed };

/* A step that fails, or is cancelled, leaves every byte of it as it was. */
START_TEST(packed_memory)
{
    const setup_t setup = {.spec = packed[_i],
                           .dtype = (tacit_dtype_t)(_i % 3),
                           .op = _i % 4 < 2 ? TACIT_AVERAGE : TACIT_SUM,
                           .ranks = 2,
                           .strict = (_i / 2 + _i) % 2};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 4; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        if (step != 2) {
            step_both(&cpu, &gpu, step);
        } else if (_i % 2 == 0) {
            spoil(setup.dtype, gpu.nodes[1].in[0], 3210, NAN);
            encode(&gpu, step);
            reduce(&gpu);
            ck_assert_int_eq(finish(&gpu), TACIT_ERR_VALUE);
        } else {
            encode(&gpu, step);
            reduce(&gpu);
            for (int rank = 0; rank < setup.ranks; rank++) {
                tacit_bundle_cancel(gpu.nodes[rank].bundle);
            }
        }
        same_memory(&cpu, &gpu);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* Around what is not finite, with which a tracker may be lost, and all that is kept of its element. */
START_TEST(packed_and_not_finite)
{
    static const char *const some[] = {"topk:values=fp16+ef:residual=int8",
                                       "topk:ratio=0.1+dgc:dense=0,residual=int8",
                                       "topk:ratio=0.1+econtrol:eta=0.05,residual=int8",
                                       "topk+ef21:average=0.5,residual=bf16",
                                       "randk:ratio=0.5+ef:residual=bf16",
                                       "randk:ratio=0.5+ef21:average=0.5,residual=int8"};

    for (int skip = 0; skip < 2; skip++) {
        const setup_t setup = {.spec = some[_i],
                               .ranks = 2,
                               .strict = (_i + skip) % 2,
                               .nonfinite = skip ? TACIT_NONFINITE_SKIP : TACIT_NONFINITE_PASS};

        run_spoiled(&setup);
    }
}
END_TEST

/* Beside memory that is not packed. */
START_TEST(packed_or_not)
{
    static const char *const some[][2] = {{"topk:ratio=0.1+econtrol:eta=0.05,residual=int8", "topk:ratio=0.1+econtrol:eta=0.05"},
                                          {"randk+ef", "topk:ratio=0.1+dgc:dense=0,residual=bf16"},
                                          {"onebit+ef", "randk+ef:residual=int8"}};

    for (int t = 1; t < TENSORS; t += 2) {
        others[t] = some[_i][1];
    }
    run_both(&(setup_t){.spec = some[_i][0], .ranks = 2});
    memset(others, 0, sizeof others);
}
END_TEST

/* ---- Faults ---- */

static void tame(net_t *net, uint64_t step)
{
    inputs(net, step);
    for (int t = 0; t < TENSORS; t++) { /* what is huge cannot be taken back */
        for (int rank = 0; rank < net->setup.ranks; rank++) {
            harness_fill(net->nodes[rank].in[t], counts[t], step, 1.0f);
        }
    }
}

/* Memory of a GPU as it is on the CPU, to within rounding; then exactly. */
static void like_memory(const net_t *cpu, net_t *gpu)
{
    for (int rank = 0; rank < gpu->setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            tacit_codec_t *codec = gpu->nodes[rank].codecs[t], *twin = cpu->nodes[rank].codecs[t];

            for (int array = 0; array < TACIT_STATE_ARRAYS; array++) {
                for (size_t i = 0; codec->memory.now[array] != NULL && i < counts[t]; i++) {
                    ck_assert_float_eq_tol(codec->memory.now[array][i], twin->memory.now[array][i], 1e-5f);
                    codec->memory.now[array][i] = twin->memory.now[array][i];
                }
            }
        }
    }
}

static const char *const remembering[] = {"topk+ef",
                                          "topk:values=fp16+ef",
                                          "topk:ratio=0.1+dgc:dense=0",
                                          "topk:ratio=0.1+dgc:dense=0,nesterov=on,masking=off",
                                          "topk:ratio=0.02+econtrol:eta=0.01",
                                          "topk+ef21:average=0.5",
                                          "randk+ef",
                                          "randk:ratio=0.5+ef21"};
enum { REMEMBERING = sizeof remembering / sizeof *remembering };

/* The step fails on all ranks, nothing is written, memory is as before to within rounding, and the next step works. */
START_TEST(a_value_is_everybodys_fault)
{
    const setup_t setup = {.spec = remembering[_i], .ranks = 3};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 4; step++) {
        tame(&cpu, step);
        tame(&gpu, step);
        if (step != 2) {
            step_both(&cpu, &gpu, step);
            same_memory(&cpu, &gpu);
            continue;
        }
        spoil(setup.dtype, gpu.nodes[1].in[0], 3210, NAN);
        spoil(setup.dtype, gpu.nodes[1].in[LARGE], 8000, INFINITY);
        encode(&gpu, step);
        reduce(&gpu);
        ck_assert_int_eq(finish(&gpu), TACIT_ERR_VALUE);
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "rank 1: slot 'tensor 0' at step 2 holds NaN"));
        for (size_t i = 0; i < bytes_of(setup.dtype, counts[0]); i++) {
            ck_assert_uint_eq(((uint8_t *)gpu.nodes[2].out[0])[i], 0x55);
        }
        like_memory(&cpu, &gpu);
        ck_assert_int_eq(tacit_bundle_poll(gpu.nodes[0].bundle, 0), TACIT_OK);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* cancel() brings memory back, before tensors are encoded and after. */
START_TEST(cancelled)
{
    const setup_t setup = {.spec = remembering[_i], .ranks = 2};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    tame(&cpu, 0);
    tame(&gpu, 0);
    step_both(&cpu, &gpu, 0);
    for (int encoded = 0; encoded < 2; encoded++) {
        tame(&gpu, 1);
        encode(&gpu, 1);
        if (encoded) {
            reduce(&gpu);
        }
        for (int rank = 0; rank < setup.ranks; rank++) {
            tacit_bundle_cancel(gpu.nodes[rank].bundle);
        }
        settle(&gpu);
        like_memory(&cpu, &gpu);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* What a fault in the first exchange keeps from being encoded is not taken back: memory stays exactly as it was. */
START_TEST(damage_before)
{
    const setup_t setup = {.spec = "topk:ratio=0.1+dgc:dense=100", .ranks = 2};
    net_t         cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 3; step++) {
        tame(&cpu, step);
        tame(&gpu, step);
        if (step != 1) {
            step_both(&cpu, &gpu, step);
        } else {
            encode(&gpu, step);
            gpu.nodes[1].received[70] ^= 1;
            reduce(&gpu);
            ck_assert_int_eq(finish(&gpu), TACIT_ERR_FRAME);
            for (int t = 0; t < TENSORS; t++) {
                const tacit_state_t *state = &gpu.nodes[1].codecs[t]->memory, *twin = &cpu.nodes[1].codecs[t]->memory;

                for (int array = 0; array < 2 && state->now[array] != NULL; array++) {
                    same(twin->now[array], state->now[array], 4 * counts[t], &setup, "memory", 1, t);
                }
            }
            like_memory(&cpu, &gpu); /* the other rank hears of it when it has encoded */
        }
        same_memory(&cpu, &gpu);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* A message of another content that is whole nevertheless. */
static void reseal(uint8_t *message)
{
    tacit_frame_t frame = tacit__frame_read(message);

    tacit__frame_write(&frame, message);
}

/* Steps that may fail: on both alike, in the same words, or with the same results. Returns the status. */
static tacit_status_t finish_both(net_t *cpu, net_t *gpu)
{
    char                 text[512];
    const tacit_status_t status = finish(cpu);

    snprintf(text, sizeof text, "%s", status == TACIT_OK ? "" : tacit_last_error());
    ck_assert_msg(finish(gpu) == status, "'%s': the CPU says %d: '%s'", cpu->setup.spec, (int)status, text);
    if (status != TACIT_OK) {
        ck_assert_str_eq(text, tacit_last_error());
        return status;
    }
    for (int rank = 0; rank < cpu->setup.ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            same(cpu->nodes[rank].out[t], gpu->nodes[rank].out[t], 4 * counts[t], &cpu->setup, "what comes out", rank, t);
        }
    }
    return status;
}

/* Behind a payload's indices, where there is room, a word of zeros more; or in their last bit a one, which begins an entry that
   does not end. */
static void spoil_end(const tacit_whole_t *whole, uint8_t *place, bool longer)
{
    uint32_t words[6]; /* the length, zeros, pairs, format */
    size_t   values;
    uint8_t *end;

    memcpy(words, place, sizeof words);
    values = (size_t)words[4] * ((words[5] >> 8 & 0xff) != 0 ? 2 : 4);
    end = place + 16 + words[0] - values;
    if (longer && words[0] + 4 <= whole->bound) {
        memmove(end + 4, end, values);
        memset(end, 0, 4);
        words[0] += 4;
        memcpy(place, words, 4);
    } else if (words[0] > 8 + values) {
        end[-1] |= 0x80;
    }
}

/* Payloads that are none, or other ones, are on a GPU what they are on the CPU. */
START_TEST(hostile)
{
    static const char *const some[] = {"topk:index=u32",
                                       "topk:ratio=0.1,index=u16",
                                       "topk:index=rle16",
                                       "topk:index=bitmap",
                                       "topk:index=rice",
                                       "topk:ratio=0.3,values=fp16,index=rice",
                                       "topk:ratio=0.001,index=rle16",
                                       "randk:ratio=0.3"};
    enum { TRIES = 27 };
    const setup_t setup = {.spec = some[_i], .ranks = 2, .nonfinite = TACIT_NONFINITE_PASS};
    net_t         cpu, gpu;
    int           failed = 0;
    uint64_t      random = 88172645463325252u + (uint64_t)_i;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < TRIES; step++) {
        const tacit_whole_t *whole = &cpu.nodes[0].bundle->wholes[step % TENSORS];
        uint8_t             *payload = cpu.nodes[1].own + TACIT_FRAME_HEADER_BYTES + whole->at;

        inputs(&cpu, step);
        inputs(&gpu, step);
        memset(cpu.nodes[1].in[3], 0, counts[3] * sizeof(float)); /* of which nothing is sent */
        memset(gpu.nodes[1].in[3], 0, counts[3] * sizeof(float));
        encode(&cpu, step);
        encode(&gpu, step);
        reduce(&cpu);
        reduce(&gpu);
        if (step % 4 == 3 && _i < 7) {
            spoil_end(whole, payload, step % 8 == 3);
        }
        for (uint64_t changes = step % 4 == 3 ? 0 : 1 + step % 4; changes > 0; changes--) {
            size_t at, room = (size_t)4 + *(uint32_t *)(void *)payload + 12;

            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            at = random % 5 == 0 ? 16 + random / 5 % 8 : random % 31 == 1 ? random / 5 % 3 : 16 + random / 5 % (room - 12);
            at = at < 16 + whole->bound ? at : 16;
            payload[at] ^= (uint8_t)(1u << random / 64 % 8);
        }
        reseal(cpu.nodes[1].own);
        memcpy(gpu.nodes[1].own, cpu.nodes[1].own, cpu.nodes[1].gather_bytes);
        all_gather(&cpu);
        all_gather(&gpu);
        failed += finish_both(&cpu, &gpu) != TACIT_OK;
        for (int rank = 0; rank < 2; rank++) { /* what has failed on one side would be another history */
            ck_assert_int_eq(tacit_bundle_poll(gpu.nodes[rank].bundle, 0), TACIT_OK);
        }
    }
    ck_assert_int_gt(failed, 1);
    ck_assert_int_lt(failed, TRIES);
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

/* A sum that leaves the range of float32 is found by all ranks before anything is written. */
START_TEST(too_large)
{
    static const char *const some[] = {"topk", "randk:ratio=1", "topk:select=sampled+ef"};
    const setup_t            setup = {.spec = some[_i], .ranks = 2};
    net_t                    cpu, gpu;

    nets_init(&cpu, &gpu, &setup);
    for (uint64_t step = 0; step < 3; step++) {
        tame(&cpu, step);
        tame(&gpu, step);
        for (int rank = 0; rank < 2; rank++) {
            const float value = rank == 1 && step == 1 ? -3e38f : 3e38f; /* these add up to nothing */

            ((float *)cpu.nodes[rank].in[LARGE])[8999] = ((float *)gpu.nodes[rank].in[LARGE])[8999] = step == 2 ? 1.0f : value;
            ((float *)cpu.nodes[rank].in[4])[10] = ((float *)gpu.nodes[rank].in[4])[10] = step == 2 ? 1.0f : value;
        }
        encode(&cpu, step);
        encode(&gpu, step);
        reduce(&cpu);
        reduce(&gpu);
        ck_assert_int_eq(finish_both(&cpu, &gpu), step == 0 ? TACIT_ERR_VALUE : TACIT_OK);
    }
    net_free(&cpu);
    net_free(&gpu);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *added = tcase_create(name);

    tcase_set_timeout(added, 300);
    suite_add_tcase(suite, added);
    return added;
}

int main(void)
{
    Suite *suite;
    TCase *specs_case, *memory, *packed_case, *faults, *wire;

    if (!nets_begin()) {
        return GPU_SKIPPED;
    }
    suite = suite_create("sparse");
    specs_case = add_case(suite, "specs");
    tcase_add_loop_test(specs_case, every_spec, 0, SPECS);
    tcase_add_loop_test(specs_case, halves, 0, 8);
    tcase_add_test(specs_case, one_rank_and_four);
    tcase_add_loop_test(specs_case, far_apart, 0, 4);
    memory = add_case(suite, "memory");
    tcase_add_test(memory, strict_memory);
    tcase_add_loop_test(memory, what_is_not_finite, 0, 9);
    tcase_add_loop_test(memory, alike, 0, 6);
    packed_case = add_case(suite, "packed");
    tcase_add_loop_test(packed_case, packed_memory, 0, PACKED);
    tcase_add_loop_test(packed_case, packed_and_not_finite, 0, 6);
    tcase_add_loop_test(packed_case, packed_or_not, 0, 3);
    faults = add_case(suite, "faults");
    tcase_add_loop_test(faults, a_value_is_everybodys_fault, 0, REMEMBERING);
    tcase_add_loop_test(faults, cancelled, 0, REMEMBERING);
    tcase_add_test(faults, damage_before);
    wire = add_case(suite, "wire");
    tcase_add_loop_test(wire, hostile, 0, 8);
    tcase_add_loop_test(wire, too_large, 0, 3);
    return harness_main(suite);
}
