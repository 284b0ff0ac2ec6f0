/* SPDX-License-Identifier: Apache-2.0 */
/* The public codec: a reduce-scatter and all-gather made by hand from its frames is tacit_allreduce() bit by bit, frames that lie
   change nothing, and memory stays bounded. */
#include "codec_memory.h"
#include "session.h"

enum { FRAME_BYTES = 65536, HEADER_BYTES = 64 };

static tacit_codec_t *codec_of(const char *name, const char *spec, size_t count, int rank, int ranks, int strict)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;
    tacit_codec_t      *codec = NULL;

    tensor.count = count;
    tensor.spec = spec;
    config.strict = strict;
    ck_assert_msg(tacit_codec_create(name, &tensor, &config, rank, ranks, &codec) == TACIT_OK, "%s: %s", spec,
                  tacit_last_error());
    return codec;
}

#define SUCCEEDS(call) ck_assert_msg((call) == TACIT_OK, "%s: %s", #call, tacit_last_error())

static void fails(tacit_status_t status, tacit_status_t expected, const char *words)
{
    ck_assert_msg(status == expected && strstr(tacit_last_error(), words) != NULL, "'%s' (%s), not '%s' (%s)", tacit_last_error(),
                  tacit_strerror(status), words, tacit_strerror(expected));
}

/* ---- By hand ---- */

typedef struct hand {
    const session_t *session;
    tacit_codec_t   *codecs[MOST_RANKS];
    float           *x[MOST_RANKS], *sum, *out;
    uint8_t         *frames[MOST_RANKS];
    size_t           bytes[MOST_RANKS];
    float            scale;
} hand_t;

/* What rank `owner` does with its part: everybody's frames, added in rank order, encoded again, decoded by all. */
static void reduce_part(hand_t *hand, uint64_t step, int owner)
{
    const size_t first = hand->session->part_first[owner], count = hand->session->part_count[owner];
    uint8_t     *result = malloc(FRAME_BYTES);
    size_t       bytes, from, length;

    for (int rank = 0; rank < hand->session->ranks; rank++) {
        SUCCEEDS(tacit_encode(hand->codecs[rank], step, hand->x[rank], first, count, hand->frames[rank], FRAME_BYTES,
                              &hand->bytes[rank]));
        ck_assert_uint_le(hand->bytes[rank], tacit_codec_capacity(hand->codecs[rank], count));
    }
    memset(hand->sum, 0, hand->session->count * sizeof *hand->sum);
    for (int rank = 0; rank < hand->session->ranks; rank++) {
        SUCCEEDS(tacit_decode_add(hand->codecs[owner], step, hand->frames[rank], hand->bytes[rank], hand->sum, &from, &length));
        ck_assert(from == first && length == count);
    }
    for (size_t i = first; i < first + count; i++) {
        hand->sum[i] *= hand->scale;
    }
    SUCCEEDS(tacit_codec_own(hand->codecs[owner], first, count, hand->session->op));
    SUCCEEDS(tacit_reencode(hand->codecs[owner], step, hand->sum + first, first, count, result, FRAME_BYTES, &bytes));
    for (int rank = 0; rank < hand->session->ranks; rank++) {
        SUCCEEDS(tacit_decode(hand->codecs[rank], step, result, bytes, hand->out, NULL, NULL));
    }
    free(result);
}

/* All frames go to all. */
static void gather_all(hand_t *hand, uint64_t step)
{
    const size_t count = hand->session->count;

    memset(hand->out, 0, count * sizeof *hand->out);
    for (int rank = 0; rank < hand->session->ranks; rank++) {
        SUCCEEDS(
            tacit_encode(hand->codecs[rank], step, hand->x[rank], 0, count, hand->frames[rank], FRAME_BYTES, &hand->bytes[rank]));
        SUCCEEDS(tacit_decode_add(hand->codecs[0], step, hand->frames[rank], hand->bytes[rank], hand->out, NULL, NULL));
    }
    for (size_t i = 0; i < count; i++) {
        hand->out[i] *= hand->scale;
    }
}

static void by_hand(const session_t *session)
{
    hand_t hand = {.session = session, .scale = session->op == TACIT_AVERAGE ? 1.0f / (float)session->ranks : 1};

    hand.sum = session_floats(session->count);
    hand.out = session_floats(session->count);
    for (int rank = 0; rank < session->ranks; rank++) {
        hand.codecs[rank] = codec_of("gradient", session->spec, session->count, rank, session->ranks, 0);
        hand.x[rank] = session_floats(session->count);
        hand.frames[rank] = malloc(FRAME_BYTES);
    }
    for (int step = 0; step < session->steps; step++) {
        for (int rank = 0; rank < session->ranks; rank++) {
            session_normal(rank, step, session->count, hand.x[rank]);
        }
        if (tacit_codec_grain(hand.codecs[0]) == 0) {
            gather_all(&hand, (uint64_t)step);
        }
        for (int owner = 0; tacit_codec_grain(hand.codecs[0]) != 0 && owner < session->ranks; owner++) {
            reduce_part(&hand, (uint64_t)step, owner);
        }
        same_floats(hand.out, session->out + (size_t)step * session->count, session->count, session->spec);
    }
    for (int rank = 0; rank < session->ranks; rank++) {
        if (hand.codecs[rank]->feedback != NULL) {
            same_floats(hand.codecs[rank]->memory.now[0], session->memory[rank], session->count, "memory");
        }
        if (hand.codecs[rank]->owner.count != 0) {
            same_floats(hand.codecs[rank]->owner.now[0], session->owner + session->part_first[rank], session->part_count[rank],
                        "owner's memory");
        }
        tacit_codec_destroy(hand.codecs[rank]);
        free(hand.x[rank]);
        free(hand.frames[rank]);
    }
    free(hand.sum);
    free(hand.out);
}

/* Blockwise ones encode the own contribution as any other; with feedback, so that the session tells who owns what. */
static const char *handmade[] = {"fp16:own=coded+ef",
                                 "bf16:own=coded+ef",
                                 "onebit:own=coded+ef",
                                 "onebit:block=32,own=coded,norm=l1+ef",
                                 "onebit:block=0,own=coded+ef",
                                 "qsgd:bits=4,own=coded+ef",
                                 "qsgd:bits=8,rounding=stochastic,block=64,own=coded+ef",
                                 "topk:ratio=0.01+ef",
                                 "topk:ratio=0.1,values=fp16",
                                 "randk:ratio=0.1+ef",
                                 "randk:ratio=0.3"};

START_TEST(as_the_collective)
{
    static const size_t sizes[] = {9, 5000};

    for (int ranks = 1; ranks <= 4; ranks++) {
        for (size_t n = 0; n < COUNT_OF(sizes); n++) {
            session_t session = {.spec = handmade[_i],
                                 .ranks = ranks,
                                 .steps = 4,
                                 .count = sizes[n],
                                 .op = ranks % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE};
            session_run(&session);
            by_hand(&session);
            session_free(&session);
        }
    }
}
END_TEST

/* ---- Frames that lie ---- */

static const char *liars[] = {
    "none+ef",           "fp16+ef",           "onebit:block=32+ef", "onebit:block=0", "qsgd:bits=3,block=32+ef",
    "topk:ratio=0.1+ef", "randk:ratio=0.1+ef"};

enum { LIAR_COUNT = 100 };

/* Nothing that decoding may touch has been touched. */
typedef struct witness {
    tacit_codec_t *codec;
    float          out[LIAR_COUNT], sum[LIAR_COUNT];
    size_t         first, count;
} witness_t;

static void refuse(witness_t *witness, uint64_t step, const uint8_t *frame, size_t bytes, tacit_status_t expected,
                   const char *what)
{
    uint8_t *exact = malloc(bytes + 1); /* for sanitizers to see what is read behind it */

    memcpy(exact, frame, bytes);
    for (int add = 0; add < 2; add++) {
        const tacit_status_t status =
            add ? tacit_decode_add(witness->codec, step, exact, bytes, witness->sum, &witness->first, &witness->count)
                : tacit_decode(witness->codec, step, exact, bytes, witness->out, &witness->first, &witness->count);
        ck_assert_msg(status == expected || (expected == TACIT_OK && status != TACIT_OK), "%s: '%s' (%s)", what,
                      tacit_strerror(status), tacit_last_error());
    }
    for (size_t i = 0; i < LIAR_COUNT; i++) {
        ck_assert_msg(witness->out[i] == 5 && witness->sum[i] == 6, "%s: element %zu is written", what, i);
    }
    ck_assert_msg(witness->first == 77 && witness->count == 78, "%s: a range is reported", what);
    free(exact);
}

/* A frame of the same tensor but for one thing. */
static void refuse_other(witness_t *witness, const char *name, const char *spec, size_t count, const char *what)
{
    tacit_codec_t *other = codec_of(name, spec, count, 0, 2, 0);
    float         *x = session_floats(count);
    uint8_t        frame[1024];
    size_t         bytes;

    session_normal(0, 0, count, x);
    SUCCEEDS(tacit_encode(other, 3, x, 0, count, frame, sizeof frame, &bytes));
    refuse(witness, 3, frame, bytes, TACIT_ERR_MISMATCH, what);
    tacit_codec_destroy(other);
    free(x);
}

START_TEST(frames_that_lie)
{
    const char    *spec = liars[_i];
    tacit_codec_t *sender = codec_of("gradient", spec, LIAR_COUNT, 0, 2, 0);
    witness_t      witness = {.codec = codec_of("gradient", spec, LIAR_COUNT, 1, 2, 0), .first = 77, .count = 78};
    float          x[LIAR_COUNT];
    uint8_t        frame[1024];
    size_t         bytes;

    for (size_t i = 0; i < LIAR_COUNT; i++) {
        witness.out[i] = 5;
        witness.sum[i] = 6;
    }
    session_normal(0, 0, LIAR_COUNT, x);
    SUCCEEDS(tacit_encode(sender, 3, x, 0, LIAR_COUNT, frame, sizeof frame, &bytes));
    for (size_t cut = 0; cut < bytes; cut++) {
        refuse(&witness, 3, frame, cut, TACIT_ERR_FRAME, "cut");
    }
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refuse(&witness, 3, frame, bytes, TACIT_ERR_FRAME, "a bit flipped");
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    frame[bytes] = 0;
    refuse(&witness, 3, frame, bytes + 1, TACIT_ERR_FRAME, "longer");
    refuse(&witness, 4, frame, bytes, TACIT_ERR_MISMATCH, "another step");
    refuse_other(&witness, "weights", spec, LIAR_COUNT, "another slot");
    refuse_other(&witness, "gradient", spec, LIAR_COUNT + 1, "another count");
    refuse_other(&witness, "gradient", strcmp(spec, "bf16") == 0 ? "fp16" : "bf16", LIAR_COUNT, "another spec");
    refuse_other(&witness, "gradient", "topk:ratio=0.5", LIAR_COUNT, "another spec");
    SUCCEEDS(tacit_decode(witness.codec, 3, frame, bytes, witness.out, &witness.first, &witness.count));
    ck_assert(witness.first == 0 && witness.count == LIAR_COUNT);
    tacit_codec_destroy(sender);
    tacit_codec_destroy(witness.codec);
}
END_TEST

/* ---- Calls that are refused ---- */

START_TEST(wrong_calls)
{
    tacit_codec_t *blocks = codec_of("blocks", "onebit:block=64+ef", 200, 0, 2, 0),
                  *whole = codec_of("whole", "topk:ratio=0.1+ef", 200, 0, 2, 0),
                  *plain = codec_of("plain", "onebit:block=64", 200, 0, 2, 0);
    float   x[200], zero[200] = {0};
    uint8_t frame[4096];
    size_t  bytes = 99;

    session_normal(0, 0, 200, x);
    ck_assert_uint_eq(tacit_codec_grain(blocks), 64);
    ck_assert_uint_eq(tacit_codec_grain(whole), 0);
    fails(tacit_encode(blocks, 0, x, 32, 64, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "multiples of 64");
    fails(tacit_encode(blocks, 0, x, 0, 65, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "multiples of 64");
    fails(tacit_encode(blocks, 0, x, 128, 73, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "not within its 200");
    fails(tacit_encode(blocks, 0, x, 256, 0, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "not within its 200");
    fails(tacit_encode(blocks, 0, x, 64, SIZE_MAX, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "not within its 200");
    fails(tacit_encode(blocks, 0, x, 0, 64, frame, tacit_codec_capacity(blocks, 64) - 1, &bytes), TACIT_ERR_ARGUMENT, "capacity");
    fails(tacit_encode(whole, 0, x, 0, 100, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "whole tensor");
    fails(tacit_encode(whole, 0, x, 100, 100, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "whole tensor");
    fails(tacit_encode(whole, 0, x, 0, 200, frame, tacit_codec_capacity(whole, 200) - 1, &bytes), TACIT_ERR_ARGUMENT, "capacity");
    fails(tacit_encode(NULL, 0, x, 0, 64, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "NULL");
    fails(tacit_encode(blocks, 0, NULL, 0, 64, frame, sizeof frame, &bytes), TACIT_ERR_ARGUMENT, "NULL");
    fails(tacit_reencode(blocks, 0, x, 0, 64, frame, sizeof frame, &bytes), TACIT_ERR_STATE, "tacit_codec_own()");
    SUCCEEDS(tacit_codec_own(blocks, 64, 64, TACIT_SUM));
    fails(tacit_reencode(blocks, 0, x, 0, 64, frame, sizeof frame, &bytes), TACIT_ERR_STATE, "tacit_codec_own()");
    fails(tacit_reencode(blocks, 0, x, 64, 128, frame, sizeof frame, &bytes), TACIT_ERR_STATE, "tacit_codec_own()");
    fails(tacit_reencode(whole, 0, x, 0, 200, frame, sizeof frame, &bytes), TACIT_ERR_UNSUPPORTED, "gather the frames");
    fails(tacit_codec_own(whole, 0, 200, TACIT_SUM), TACIT_ERR_UNSUPPORTED, "gather the frames");
    fails(tacit_codec_own(blocks, 32, 64, TACIT_SUM), TACIT_ERR_ARGUMENT, "multiples of 64");
    ck_assert_uint_eq(bytes, 99);
    same_floats(blocks->memory.now[0], zero, 200, "memory");
    same_floats(whole->memory.now[0], zero, 200, "memory");
    /* Without feedback there is nothing to own. */
    SUCCEEDS(tacit_reencode(plain, 0, x, 0, 64, frame, sizeof frame, &bytes));
    ck_assert_uint_eq(bytes, tacit_codec_capacity(plain, 64));
    tacit_codec_destroy(blocks);
    tacit_codec_destroy(whole);
    tacit_codec_destroy(plain);
    tacit_codec_destroy(NULL);
}
END_TEST

/* Zeros are sent as ones: a padded byte of signs is 0xff. */
START_TEST(zeros)
{
    tacit_codec_t *codec = codec_of("zeros", "onebit:block=0+ef", 10, 0, 1, 0);
    const uint8_t  payload[8] = {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    float          x[10] = {0, -0.0f}, zero[10] = {0};
    uint8_t        frame[128];
    size_t         bytes;

    SUCCEEDS(tacit_encode(codec, 0, x, 0, 10, frame, sizeof frame, &bytes));
    ck_assert_uint_eq(bytes, HEADER_BYTES + sizeof payload);
    same_bytes(frame + HEADER_BYTES, payload, sizeof payload, "payload");
    same_floats(codec->memory.now[0], zero, 10, "memory");
    tacit_codec_destroy(codec);
}
END_TEST

/* A value that is not finite, in the last element of several units: memory as before, exactly where it is doubled. */
START_TEST(not_finite)
{
    enum { COUNT = 6000 };
    float   *x = session_floats(COUNT), *memory = session_floats(COUNT);
    uint8_t *frame = malloc(FRAME_BYTES);
    size_t   bytes;

    for (int strict = 0; strict < 2; strict++) {
        tacit_codec_t *codec = codec_of("gradient", liars[_i], COUNT, 0, 1, strict);

        session_normal(0, 0, COUNT, x);
        SUCCEEDS(tacit_encode(codec, 0, x, 0, COUNT, frame, FRAME_BYTES, &bytes));
        if (codec->feedback != NULL) {
            memcpy(memory, codec->memory.now[0], COUNT * sizeof *memory);
        }
        x[COUNT - 1] = INFINITY;
        fails(tacit_encode(codec, 1, x, 0, COUNT, frame, FRAME_BYTES, &bytes), TACIT_ERR_VALUE,
              "slot 'gradient' holds NaN or infinity at step 1");
        for (size_t i = 0; codec->feedback != NULL && i < COUNT; i++) {
            /* A few roundings of numbers below 16. */
            ck_assert_double_le(fabs((double)codec->memory.now[0][i] - (double)memory[i]),
                                strict ? 0 : 4 * 16 * (double)FLT_EPSILON);
        }
        tacit_codec_destroy(codec);
    }
    free(x);
    free(memory);
    free(frame);
}
END_TEST

/* Doubled memory: what a step that failed has written is not settled by what comes after it. */
START_TEST(combine_after_failure)
{
    enum { COUNT = 6000 };
    static const char *const specs[] = {"onebit:block=64+ef21", "onebit:block=64+econtrol:residual=bf16", "topk:ratio=0.1+ef21"};
    float                   *x = session_floats(COUNT), *before = session_floats(COUNT), *now = session_floats(COUNT);
    uint8_t                 *frame = malloc(FRAME_BYTES);
    tacit_codec_t           *codec = codec_of("gradient", specs[_i], COUNT, 0, 1, 1);
    size_t                   bytes;

    session_normal(0, 0, COUNT, x);
    SUCCEEDS(tacit_encode(codec, 0, x, 0, COUNT, frame, FRAME_BYTES, &bytes));
    SUCCEEDS(tacit_decode(codec, 0, frame, bytes, now, NULL, NULL));
    tacit__memory_read(codec, 0, 0, COUNT, before);
    session_normal(0, 1, COUNT, x);
    x[COUNT - 1] = INFINITY;
    fails(tacit_encode(codec, 1, x, 0, COUNT, frame, FRAME_BYTES, &bytes), TACIT_ERR_VALUE, "holds NaN or infinity at step 1");
    x[COUNT - 1] = 0;
    SUCCEEDS(tacit_codec_combine(codec, x, 0, COUNT, x));
    tacit__memory_read(codec, 0, 0, COUNT, now);
    same_floats(now, before, COUNT, specs[_i]);
    tacit_codec_destroy(codec);
    free(x);
    free(before);
    free(now);
    free(frame);
}
END_TEST

/* ---- Memory ---- */

/* What was decoded and what is remembered is what was given, over 50 steps. */
START_TEST(conserves)
{
    enum { COUNT = 300, STEPS = 50 };
    const char    *spec = handmade[_i];
    tacit_codec_t *codec = codec_of("gradient", spec, COUNT, 0, 1, 0);
    double         balance[COUNT] = {0};
    float          x[COUNT], largest = 0;
    uint8_t        frame[4096];
    size_t         bytes;

    for (int step = 0; codec->feedback != NULL && step < STEPS; step++) {
        float decoded[COUNT];

        session_normal(0, step, COUNT, x);
        SUCCEEDS(tacit_encode(codec, (uint64_t)step, x, 0, COUNT, frame, sizeof frame, &bytes));
        SUCCEEDS(tacit_decode(codec, (uint64_t)step, frame, bytes, decoded, NULL, NULL));
        largest = fmaxf(largest, largest_of(codec->memory.now[0], COUNT) + largest_of(x, COUNT) + largest_of(decoded, COUNT));
        for (size_t i = 0; i < COUNT; i++) {
            balance[i] += (double)x[i] - (double)decoded[i];
        }
    }
    for (size_t i = 0; codec->feedback != NULL && i < COUNT; i++) {
        /* An ulp a step: half of one for x + memory, half of one for what is left. */
        ck_assert_double_le(fabs(balance[i] - (double)codec->memory.now[0][i]), STEPS * (double)FLT_EPSILON * (double)largest);
    }
    tacit_codec_destroy(codec);
}
END_TEST

/* Owning another part, or a sum instead of an average, moves the owner's memory to the sender's. */
START_TEST(owning_another_part)
{
    tacit_codec_t *codec = codec_of("gradient", "onebit:block=32+ef", 128, 0, 4, 0);
    float          x[128], kept[64];
    uint8_t        frame[256];
    size_t         bytes;

    session_normal(0, 0, 128, x);
    SUCCEEDS(tacit_codec_own(codec, 0, 64, TACIT_AVERAGE));
    SUCCEEDS(tacit_reencode(codec, 0, x, 0, 64, frame, sizeof frame, &bytes));
    memcpy(kept, codec->owner.now[0], sizeof kept);
    SUCCEEDS(tacit_codec_own(codec, 0, 64, TACIT_AVERAGE));
    same_floats(codec->owner.now[0], kept, 64, "the same part again");
    SUCCEEDS(tacit_codec_own(codec, 0, 64, TACIT_SUM));
    for (size_t i = 0; i < 128; i++) {
        ck_assert(codec->memory.now[0][i] == (i < 64 ? 4 * kept[i] : 0));
        ck_assert(i >= 64 || codec->owner.now[0][i] == 0);
    }
    tacit_codec_reset(codec);
    SUCCEEDS(tacit_reencode(codec, 1, x, 0, 64, frame, sizeof frame, &bytes));
    memcpy(kept, codec->owner.now[0], sizeof kept);
    SUCCEEDS(tacit_codec_own(codec, 64, 64, TACIT_SUM));
    same_floats(codec->memory.now[0], kept, 64, "another part");
    tacit_codec_destroy(codec);
}
END_TEST

/* Ten thousand steps of noise and drift. Where encoding keeps all but a part f of the square, memory's norm stays below
   2 sqrt(f) / (1 - f) of the input's (Karimireddy et al. 2019, lemma 3, with steps of 1). The root mean square of `onebit` has
   no f below 1 that holds for all inputs; 0.8 does for dense ones. */
static void stays_bounded(const char *spec)
{
    enum { COUNT = 100, STEPS = 10000 };
    tacit_codec_t *codec = codec_of("gradient", spec, COUNT, 0, 1, 0);
    float          x[COUNT];
    uint8_t        frame[1024];
    size_t         bytes;
    double         factor, largest = 0, most = 0;

    (void)codec->compressor->quality(codec->spec.compressor_config, COUNT, &factor);
    factor = factor < 1 ? factor : 0.8;
    for (int step = 0; step < STEPS; step++) {
        double square = 0, memory = 0;

        harness_fill(x, COUNT, (uint64_t)step, 1);
        for (size_t i = 0; i < COUNT; i++) {
            x[i] += (float)i / COUNT;
            square += (double)x[i] * (double)x[i];
        }
        SUCCEEDS(tacit_encode(codec, (uint64_t)step, x, 0, COUNT, frame, sizeof frame, &bytes));
        for (size_t i = 0; i < COUNT; i++) {
            memory += (double)codec->memory.now[0][i] * (double)codec->memory.now[0][i];
        }
        largest = fmax(largest, sqrt(square));
        most = fmax(most, sqrt(memory));
    }
    ck_assert_msg(most <= 2 * sqrt(factor) / (1 - factor) * largest, "%s: memory reaches %g, inputs %g, factor %g", spec, most,
                  largest, factor);
    tacit_codec_destroy(codec);
}

/* Every compressor with each word and each end of each parameter, where feedback is allowed. */
static void bounded_with(const tacit_compressor_t *compressor, const tacit_param_t *param, const char *value)
{
    char spec[128];

    snprintf(spec, sizeof spec, "%s:%s=%s+ef", compressor->name, param->key, value);
    if (tacit_spec_check(spec, NULL, 0) == TACIT_OK) {
        stays_bounded(spec);
    }
}

START_TEST(bounded)
{
    const tacit_compressor_t *compressor = tacit__compressor_at((size_t)_i);
    char                      spec[64], values[64];

    snprintf(spec, sizeof spec, "%s+ef", compressor->name);
    if (tacit_spec_check(spec, NULL, 0) == TACIT_OK) {
        stays_bounded(spec);
    }
    for (const tacit_param_t *param = compressor->params; param->key != NULL; param++) {
        if (param->type == TACIT_PARAM_WORD) {
            snprintf(values, sizeof values, "%s", param->words);
            for (char *word = strtok(values, " "); word != NULL; word = strtok(NULL, " ")) {
                bounded_with(compressor, param, word);
            }
            continue;
        }
        snprintf(values, sizeof values, "%.9g", param->low < 0.01 && param->type == TACIT_PARAM_REAL ? 0.02 : param->low);
        bounded_with(compressor, param, values);
        snprintf(values, sizeof values, "%.9g", param->high);
        bounded_with(compressor, param, values);
    }
}
END_TEST

START_TEST(refused_pairs)
{
    refused("randk:ratio=0.1,scale=unbiased+ef", "grows without limit|scale=one");
    refused("qsgd:bits=1,rounding=stochastic+ef", "qsgd");
    refused("qsgd:bits=2,rounding=stochastic,block=4096+ef", "block");
}
END_TEST

/* ---- State ---- */

static const char *const kept[] = {"onebit:block=64+ef",         "qsgd:bits=4+ef:residual=int8",
                                   "topk:ratio=0.1+dgc:dense=0", "topk:ratio=0.1+econtrol:init=zero",
                                   "randk:ratio=0.1+ef",         "fp16"};
enum { KEPT = sizeof kept / sizeof *kept, LENGTH = 700 };

static void encode_steps(tacit_codec_t *codec, uint64_t from, uint64_t to, uint8_t *frame, size_t *bytes_out)
{
    float x[LENGTH];

    for (uint64_t step = from; step < to; step++) {
        session_normal(1, (int)step, LENGTH, x);
        SUCCEEDS(tacit_encode(codec, step, x, 0, LENGTH, frame, FRAME_BYTES, bytes_out));
    }
}

/* What is loaded goes on as what was saved; what is damaged, or another's, changes nothing. */
START_TEST(state)
{
    tacit_codec_t *codec = codec_of("w", kept[_i], LENGTH, 1, 2, 0), *other = codec_of("w", kept[_i], LENGTH, 1, 2, 0);
    tacit_codec_t *stranger = codec_of("v", kept[_i], LENGTH, 1, 2, 0);
    uint8_t       *frame = malloc(FRAME_BYTES), *same = malloc(FRAME_BYTES), *saved;
    size_t         bytes = 0, frame_bytes, same_count;

    encode_steps(codec, 0, 3, frame, &frame_bytes);
    if (tacit_codec_grain(codec) != 0) {
        SUCCEEDS(tacit_codec_own(codec, 0, 256, TACIT_AVERAGE));
    }
    SUCCEEDS(tacit_codec_save(codec, NULL, 0, &bytes));
    saved = malloc(bytes);
    fails(tacit_codec_save(codec, saved, bytes - 1, &bytes), TACIT_ERR_ARGUMENT, "its state takes");
    SUCCEEDS(tacit_codec_save(codec, saved, bytes, &bytes));
    fails(tacit_codec_load(stranger, saved, bytes), TACIT_ERR_MISMATCH, "name");
    fails(tacit_codec_load(other, saved, bytes - 1), TACIT_ERR_FILE, "damaged");
    for (size_t at = 0; at < bytes; at += 1 + bytes / 150) {
        saved[at] ^= 0x10;
        ck_assert_int_ne(tacit_codec_load(other, saved, bytes), TACIT_OK);
        saved[at] ^= 0x10;
    }
    encode_steps(other, 0, 3, same, &same_count); /* as if nothing had been loaded */
    ck_assert_uint_eq(same_count, frame_bytes);
    same_bytes(same, frame, frame_bytes, "after states that were refused");
    tacit_codec_reset(other);
    SUCCEEDS(tacit_codec_load(other, saved, bytes));
    encode_steps(codec, 3, 6, frame, &frame_bytes);
    encode_steps(other, 3, 6, same, &same_count);
    ck_assert_uint_eq(same_count, frame_bytes);
    same_bytes(same, frame, frame_bytes, "after loading");
    tacit_codec_destroy(codec);
    tacit_codec_destroy(other);
    tacit_codec_destroy(stranger);
    free(frame);
    free(same);
    free(saved);
}
END_TEST

/* ---- TACIT_DISABLE ---- */

static void make_disabled(const char *spec, bool disable, tacit_codec_t **codec_out)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;

    tensor.count = 1000;
    tensor.ndim = 2; /* a matrix, for powersgd */
    tensor.shape[0] = 25;
    tensor.shape[1] = 40;
    config.spec = spec; /* as a tensor's own */
    ck_assert_int_eq(disable ? setenv("TACIT_DISABLE", "1", 1) : unsetenv("TACIT_DISABLE"), 0);
    SUCCEEDS(tacit_codec_create("w", &tensor, &config, 0, 2, codec_out));
    ck_assert_int_eq(unsetenv("TACIT_DISABLE"), 0);
}

/* Nothing is compressed, whatever the spec: also where a codec would refuse that for its dense beginning. */
START_TEST(disabled)
{
    static const char *const specs[] = {"onebit+ef", "topk:ratio=0.01", "powersgd+ef", "topk:ratio=0.1+ef21:init=gradient"};
    tacit_codec_t           *codec, *other;
    float                   *in = session_floats(1000), *out = session_floats(1000);
    uint8_t                 *frame = malloc(FRAME_BYTES);
    size_t                   bytes;

    session_normal(0, 0, 1000, in);
    make_disabled(specs[_i], true, &codec);
    SUCCEEDS(tacit_encode(codec, 0, in, 0, 1000, frame, FRAME_BYTES, &bytes));
    SUCCEEDS(tacit_decode(codec, 0, frame, bytes, out, NULL, NULL));
    ck_assert_mem_eq(in, out, 1000 * sizeof *in);
    ck_assert_str_eq(codec->given.text, specs[_i]);
    if (_i == 0) { /* ranks without it do not take that for theirs */
        make_disabled(specs[_i], false, &other);
        fails(tacit_decode(other, 0, frame, bytes, out, NULL, NULL), TACIT_ERR_MISMATCH, "another slot or spec");
        tacit_codec_destroy(other);
    }
    tacit_codec_destroy(codec);
    free(in);
    free(out);
    free(frame);
}
END_TEST

/* A spec that is wrong stays so. */
START_TEST(disabled_is_checked)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec = NULL;

    tensor.count = 1000;
    tensor.spec = "onebti";
    ck_assert_int_eq(setenv("TACIT_DISABLE", "1", 1), 0);
    fails(tacit_codec_create("w", &tensor, NULL, 0, 2, &codec), TACIT_ERR_SPEC, "did you mean 'onebit'");
    ck_assert_int_eq(unsetenv("TACIT_DISABLE"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec");
    TCase *tests = tcase_create("codec"), *memory = tcase_create("memory");
    int    compressors = 0;

    while (tacit__compressor_at((size_t)compressors) != NULL) {
        compressors++;
    }
    tcase_add_loop_test(tests, as_the_collective, 0, (int)COUNT_OF(handmade));
    tcase_add_loop_test(tests, frames_that_lie, 0, (int)COUNT_OF(liars));
    tcase_add_test(tests, wrong_calls);
    tcase_add_test(tests, zeros);
    tcase_add_loop_test(tests, not_finite, 0, (int)COUNT_OF(liars));
    tcase_add_loop_test(tests, combine_after_failure, 0, 3);
    tcase_add_loop_test(tests, state, 0, KEPT);
    tcase_add_loop_test(tests, disabled, 0, 4);
    tcase_add_test(tests, disabled_is_checked);
    tcase_add_loop_test(memory, conserves, 0, (int)COUNT_OF(handmade));
    tcase_add_test(memory, owning_another_part);
    tcase_add_loop_test(memory, bounded, 0, compressors);
    tcase_add_test(memory, refused_pairs);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, memory);
    tcase_set_timeout(tests, 120);
    tcase_set_timeout(memory, 120);
    return harness_main(suite);
}
