/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts: calls that are wrong or come at the wrong time, messages that nobody honest has sent, NaN, no memory. */
#include "bits.h"
#include "cuda_module.h"
#include "frame.h"
#include "mixture.h"

enum { RANKS = 3, EXPERTS = 7, TOKENS = 12, DIMENSION = 6, CHOICES = 2 };

/* A call ends with this status, and the message has all of these words. */
static void fails(tacit_status_t status, tacit_status_t expected, const char *words)
{
    char copy[200];

    ck_assert_msg(status == expected, "%s, not %s: %s", tacit_strerror(status), tacit_strerror(expected), tacit_last_error());
    snprintf(copy, sizeof copy, "%s", words);
    for (const char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        ck_assert_msg(strstr(tacit_last_error(), word) != NULL, "'%s' is not in '%s'", word, tacit_last_error());
    }
}

static mixture_t layer_of(const char *spec, int nonfinite)
{
    tacit_moe_config_t config = config_of(DIMENSION, EXPERTS, TOKENS, CHOICES, spec);
    tacit_config_t     common = TACIT_CONFIG_INIT;
    mixture_t          mixture;

    common.nonfinite = nonfinite;
    mixture = mixture_of(RANKS, &config, &common);
    mixture.expert = scaling;
    mixture.back = scaling_back;
    fill(&mixture, 1, 0);
    for (int r = 0; r < RANKS; r++) {
        mixture.count[r] = TOKENS;
    }
    return mixture;
}

/* ---- Arguments ---- */

START_TEST(configurations)
{
    static const struct {
        tacit_moe_config_t config;
        int                rank, ranks;
        tacit_status_t     status;
        const char        *words;
    } wrong[] = {
        {{sizeof(tacit_moe_config_t), 0, 4, 4, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "'m'|dimension is 0"},
        {{sizeof(tacit_moe_config_t), 4, 0, 4, 0, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "'m'|experts 0"},
        {{sizeof(tacit_moe_config_t), 4, 4, 0, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "'m'|tokens 0"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 5, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "5 choices|4 experts"},
        {{sizeof(tacit_moe_config_t), 4, 70000, 4, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "70000 experts|32768"},
        {{sizeof(tacit_moe_config_t), 4, SIZE_MAX, 4, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "32768"},
        {{sizeof(tacit_moe_config_t), 4, 4, 1u << 31, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "2147483648 tokens|too many"},
        {{sizeof(tacit_moe_config_t), SIZE_MAX / 2, 4, 4, 1, 0, 0, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "too many"},
        {{sizeof(tacit_moe_config_t), 1u << 30, 2, SIZE_MAX / 4, 2, 0, 0, 0, 0}, 0, 8, TACIT_ERR_ARGUMENT, "too many"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, (tacit_dtype_t)3, 0, 0}, 0, 2, TACIT_ERR_ARGUMENT, "dtype 3"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, (tacit_device_t)2, 0}, 0, 2, TACIT_ERR_ARGUMENT, "'m'|device 2"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, 0, 0}, 2, 2, TACIT_ERR_ARGUMENT, "rank 2 of 2"},
        {{sizeof(tacit_moe_config_t) - 1, 4, 4, 4, 1, 0, 0, 0, 0},
         0,
         2,
         TACIT_ERR_ARGUMENT,
         "struct_bytes|TACIT_MOE_CONFIG_INIT"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, 0, "bf61"}, 0, 2, TACIT_ERR_SPEC, "bf61|bf16"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, 0, "topk:ratio=0.1"}, 0, 2, TACIT_ERR_SPEC, "topk|rows"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, 0, "bf16+ef"}, 0, 2, TACIT_ERR_SPEC, "feedback|+ef"},
        {{sizeof(tacit_moe_config_t), 4, 4, 4, 1, 0, 0, 0, "lsh:hashes=0"}, 0, 2, TACIT_ERR_SPEC, "hashes"},
    };
    tacit_moe_t *moe = NULL;

    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        fails(tacit_moe_create_codec("m", &wrong[i].config, NULL, wrong[i].rank, wrong[i].ranks, &moe), wrong[i].status,
              wrong[i].words);
        ck_assert_ptr_null(moe);
    }
    fails(tacit_moe_create_codec(NULL, &wrong[0].config, NULL, 0, 1, &moe), TACIT_ERR_ARGUMENT, "name");
    fails(tacit_moe_counters(NULL, NULL), TACIT_ERR_ARGUMENT, "counters_out");
    tacit_moe_destroy(NULL);
    tacit_moe_pass_destroy(NULL);
}
END_TEST

/* Where tokens are to be on a GPU and there is none, the reason is the one that all who want one get. */
START_TEST(without_a_gpu)
{
    const tacit_moe_config_t   config = {sizeof config, 4, 4, 4, 1, 0, TACIT_FLOAT32, TACIT_CUDA, NULL};
    const tacit_cuda_module_t *module = NULL;
    const tacit_status_t       expected = tacit__cuda_module(&module);
    tacit_moe_t               *moe = NULL;
    char                       text[TACIT_TEXT_BYTES];

    snprintf(text, sizeof text, "%s", tacit_last_error());
    ck_assert_int_eq(tacit_moe_create_codec("m", &config, NULL, 0, 2, &moe), expected);
    ck_assert((moe != NULL) == (expected == TACIT_OK));
    ck_assert(expected == TACIT_OK || strcmp(tacit_last_error(), text) == 0);
    tacit_moe_destroy(moe);
}
END_TEST

START_TEST(choices)
{
    mixture_t         mixture = layer_of("none", 0);
    tacit_moe_t      *moe = mixture.moe[1];
    tacit_moe_pass_t *pass = NULL;
    int32_t          *experts = mixture.experts[1];
    const int32_t     before = experts[5];

    experts[5] = EXPERTS;
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS, experts, &pass), TACIT_ERR_ARGUMENT,
          "rank 1|'layer'|token 2|choice 1|expert 7|there are 7");
    experts[5] = -2;
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS, experts, &pass), TACIT_ERR_ARGUMENT, "token 2|expert -2");
    experts[5] = experts[4];
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS, experts, &pass), TACIT_ERR_ARGUMENT, "token 2|twice|0 and 1");
    experts[5] = before;
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS + 1, experts, &pass), TACIT_ERR_ARGUMENT, "13 tokens|12");
    fails(tacit_moe_dispatch_begin(moe, NULL, TOKENS, experts, &pass), TACIT_ERR_ARGUMENT, "tokens");
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS, NULL, &pass), TACIT_ERR_ARGUMENT, "experts");
    fails(tacit_moe_dispatch_begin(moe, mixture.tokens[1], TOKENS, experts, NULL), TACIT_ERR_ARGUMENT, "pass_out");
    fails(tacit_moe_dispatch_begin(NULL, mixture.tokens[1], TOKENS, experts, &pass), TACIT_ERR_ARGUMENT, "layer");
    ck_assert_ptr_null(pass);
    succeed(tacit_moe_dispatch_begin(moe, NULL, 0, NULL, &pass)); /* nothing to send is no fault */
    mixture_release(&mixture);                                    /* with its passes */
}
END_TEST

/* ---- Order ---- */

/* All calls but the one that is allowed after `done` of them: begin, end, begin … of the four exchanges. */
static void check_others(mixture_t *mixture, int done)
{
    tacit_moe_pass_t *pass = mixture->pass[0];
    tacit_moe_batch_t batch;
    float             room[TOKENS * RANKS * CHOICES * DIMENSION];

    for (int call = 1; call < 8; call++) {
        if (call == done) {
            continue;
        }
        fails(call == 1   ? tacit_moe_dispatch_end(pass, &batch)
              : call == 2 ? tacit_moe_combine_begin(pass, room)
              : call == 3 ? tacit_moe_combine_end(pass, mixture->weights[0], room)
              : call == 4 ? tacit_moe_combine_backward_begin(pass, room, NULL)
              : call == 5 ? tacit_moe_combine_backward_end(pass, room)
              : call == 6 ? tacit_moe_dispatch_backward_begin(pass, room)
                          : tacit_moe_dispatch_backward_end(pass, room),
              TACIT_ERR_STATE, "rank 0|'layer'|comes after");
    }
    if (done % 2 == 0) {
        fails(tacit_moe_write(pass, 1, room), TACIT_ERR_STATE, "no exchange");
        fails(tacit_moe_read(pass, 1, room, 64), TACIT_ERR_STATE, "no exchange");
        ck_assert_uint_eq(tacit_moe_message_bytes(pass, 1) + tacit_moe_expected_bytes(pass, 1), 0);
    } else {
        fails(tacit_moe_write(pass, 0, room), TACIT_ERR_ARGUMENT, "rank 0|with rank 0");
        fails(tacit_moe_write(pass, RANKS, room), TACIT_ERR_ARGUMENT, "rank 3");
        fails(tacit_moe_write(pass, -1, room), TACIT_ERR_ARGUMENT, "rank -1");
        fails(tacit_moe_read(pass, 0, room, 64), TACIT_ERR_ARGUMENT, "rank 0");
        fails(tacit_moe_write(pass, 1, NULL), TACIT_ERR_ARGUMENT, "NULL");
    }
}

/* The end of an exchange wants each message, written and read. */
static void check_messages(mixture_t *mixture, tacit_status_t (*end)(tacit_moe_pass_t *pass, mixture_t *mixture), bool first)
{
    uint8_t message[RANKS][4096], own[4096];

    for (int s = 0; s < RANKS; s++) {
        for (int r = 0; r < RANKS; r++) {
            if (r != s && s != 0) {
                succeed(tacit_moe_write(mixture->pass[s], r, r == 0 ? message[s] : own));
            }
        }
    }
    fails(end(mixture->pass[0], mixture), TACIT_ERR_STATE, "to rank 1|written");
    succeed(tacit_moe_write(mixture->pass[0], 1, own));
    fails(end(mixture->pass[0], mixture), TACIT_ERR_STATE, "from rank 1|read");
    succeed(tacit_moe_read(mixture->pass[0], 1, message[1], tacit_moe_message_bytes(mixture->pass[1], 0)));
    if (first) { /* only there does it say what memory it needs */
        fails(tacit_moe_read(mixture->pass[0], 1, message[1], tacit_moe_message_bytes(mixture->pass[1], 0)), TACIT_ERR_STATE,
              "rank 1|already");
    }
    succeed(tacit_moe_write(mixture->pass[0], 2, own));
    fails(end(mixture->pass[0], mixture), TACIT_ERR_STATE, "from rank 2|read");
    succeed(tacit_moe_read(mixture->pass[0], 2, message[2], tacit_moe_message_bytes(mixture->pass[2], 0)));
}

static tacit_status_t end_dispatch(tacit_moe_pass_t *pass, mixture_t *mixture)
{
    return tacit_moe_dispatch_end(pass, &mixture->batch[0]);
}

static tacit_status_t end_combine(tacit_moe_pass_t *pass, mixture_t *mixture)
{
    return tacit_moe_combine_end(pass, mixture->weights[0], mixture->out[0]);
}

START_TEST(order_of_calls)
{
    mixture_t mixture = layer_of("none", 0);
    float     room[TOKENS * RANKS * CHOICES * DIMENSION] = {0};

    for (int r = 0; r < RANKS; r++) {
        succeed(tacit_moe_dispatch_begin(mixture.moe[r], mixture.tokens[r], TOKENS, mixture.experts[r], &mixture.pass[r]));
    }
    check_others(&mixture, 1);
    check_messages(&mixture, end_dispatch, true);
    fails(tacit_moe_dispatch_end(mixture.pass[0], NULL), TACIT_ERR_ARGUMENT, "moe layer|dispatch_end|NULL");
    pass_over(&mixture);

    for (int step = 0; step < 4; step++) {
        for (int r = 0; r < RANKS; r++) {
            tacit_moe_pass_t *pass = mixture.pass[r];

            succeed(step == 0   ? tacit_moe_dispatch_begin(mixture.moe[r], mixture.tokens[r], TOKENS, mixture.experts[r],
                                                           &mixture.pass[r])
                    : step == 1 ? tacit_moe_combine_begin(pass, room)
                    : step == 2 ? tacit_moe_combine_backward_begin(pass, room, NULL)
                                : tacit_moe_dispatch_backward_begin(pass, room));
        }
        check_others(&mixture, 2 * step + 1);
        if (step == 1) {
            check_messages(&mixture, end_combine, false);
        }
        move_messages(&mixture, step == 0);
        for (int r = 0; r < RANKS; r++) {
            tacit_moe_pass_t *pass = mixture.pass[r];

            succeed(step == 0   ? tacit_moe_dispatch_end(pass, &mixture.batch[r])
                    : step == 1 ? tacit_moe_combine_end(pass, mixture.weights[r], room)
                    : step == 2 ? tacit_moe_combine_backward_end(pass, room)
                                : tacit_moe_dispatch_backward_end(pass, room));
        }
        check_others(&mixture, 2 * step + 2);
    }
    fails(tacit_moe_combine_begin(NULL, room), TACIT_ERR_ARGUMENT, "combine_begin|no pass");
    fails(tacit_moe_combine_end(NULL, room, room), TACIT_ERR_ARGUMENT, "combine_end|no pass");
    mixture_release(&mixture);
}
END_TEST

/* Passes do not touch each other, in whatever order they go on and end; but each wants its own messages. */
START_TEST(side_by_side)
{
    mixture_t mixtures[3] = {layer_of("lsh:hashes=1", 0), layer_of("lsh:hashes=1", 0), layer_of("lsh:hashes=1", 0)};
    mixture_t both[2];
    uint8_t   message[4096];

    for (size_t m = 0; m < 2; m++) { /* one layer for two passes, and two for one each */
        fill(&mixtures[m], 10 + m, 0);
        dispatch(&mixtures[m]);
        combine(&mixtures[m]);
        backward(&mixtures[m]);
        both[m] = mixture_of(RANKS, &mixtures[2].config, NULL);
        memcpy(both[m].count, mixtures[m].count, sizeof both[m].count);
        fill(&both[m], 10 + m, 0);
        both[m].expert = scaling;
        both[m].back = scaling_back;
        for (int r = 0; r < RANKS; r++) {
            tacit_moe_destroy(both[m].moe[r]);
            both[m].moe[r] = mixtures[2].moe[r];
        }
    }
    dispatch(&both[0]);
    dispatch(&both[1]);
    combine(&both[1]);
    combine(&both[0]);
    backward(&both[0]);
    backward(&both[1]);
    for (size_t m = 0; m < 2; m++) {
        for (int r = 0; r < RANKS; r++) {
            same_floats(both[m].out[r], mixtures[m].out[r], TOKENS * DIMENSION, "outputs");
            same_floats(both[m].token_gradients[r], mixtures[m].token_gradients[r], TOKENS * DIMENSION, "gradients");
            both[m].moe[r] = NULL;
        }
        pass_over(&both[m]);
        for (int r = 0; r < RANKS; r++) {
            succeed(
                tacit_moe_dispatch_begin(mixtures[2].moe[r], both[m].tokens[r], TOKENS, both[m].experts[r], &both[m].pass[r]));
        }
    }
    succeed(tacit_moe_write(both[0].pass[0], 1, message));
    fails(tacit_moe_read(both[1].pass[1], 0, message, tacit_moe_message_bytes(both[0].pass[0], 1)), TACIT_ERR_MISMATCH,
          "rank 0|of pass 2|of 3");
    mixture_release(&both[0]);
    mixture_release(&both[1]);
    for (size_t m = 0; m < 3; m++) {
        mixture_release(&mixtures[m]);
    }
}
END_TEST

/* ---- Messages ---- */

/* What rank 0 sends rank 1, of 3 rows for experts 2 and 3, 3, and 2 of the layer, which are 0 and 1 there; another one's. */
static uint8_t *message_of(mixture_t *mixture, size_t *bytes_out)
{
    uint8_t *message;

    for (int r = 0; r < RANKS; r++) {
        for (size_t i = 0; i < TOKENS * CHOICES; i++) {
            mixture->experts[r][i] = -1;
        }
        mixture->experts[r][0] = mixture->experts[r][4] = 2;
        mixture->experts[r][1] = mixture->experts[r][3] = 3;
        succeed(tacit_moe_dispatch_begin(mixture->moe[r], mixture->tokens[r], TOKENS, mixture->experts[r], &mixture->pass[r]));
    }
    *bytes_out = tacit_moe_message_bytes(mixture->pass[0], 1);
    message = zeros_of(*bytes_out, 1);
    succeed(tacit_moe_write(mixture->pass[0], 1, message));
    return message;
}

/* Makes a frame's checksums right. */
static void seal(uint8_t *message, size_t bytes)
{
    tacit_frame_t frame = tacit__frame_read(message);

    frame.payload_bytes = (uint32_t)(bytes - TACIT_FRAME_HEADER_BYTES);
    tacit__frame_write(&frame, message);
}

START_TEST(heads)
{
    static const uint8_t expected[] = {3, 0, 0, 0, 0, 0, 1, 0x80, 1, 0x80, 0, 0x80};
    static const struct {
        size_t      at; /* of the head */
        uint32_t    value;
        size_t      bytes;
        const char *words;
    } wrong[] = {
        {4, 1, 2, "row 0 of rank 0|expert 1"},       /* not ascending */
        {4, 2, 2, "row 0 of rank 0|expert 2|has 2"}, /* not there */
        {4, 0x8000, 2, "rank 0's rows are 3"},       /* a row more */
        {6, 1, 2, "row 0 of rank 0|expert 1"},       /* a row less */
        {10, 0, 2, "experts for 2 of its 3 rows"},   /* without an end */
        {0, 4, 4, "rank 0's message|elements"},      /* another number of rows */
        {0, 0xffffffff, 4, "rank 0's message|elements"},
    };
    mixture_t mixture = layer_of("none", 0);
    size_t    bytes;
    uint8_t  *message = message_of(&mixture, &bytes), *copy = zeros_of(bytes, 1);

    same_bytes(message + TACIT_FRAME_HEADER_BYTES, expected, sizeof expected, "the head");
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        memcpy(copy, message, bytes);
        memcpy(copy + TACIT_FRAME_HEADER_BYTES + wrong[i].at, &wrong[i].value, wrong[i].bytes);
        seal(copy, bytes);
        fails(tacit_moe_read(mixture.pass[1], 0, copy, bytes), TACIT_ERR_FRAME, wrong[i].words);
    }
    succeed(tacit_moe_read(mixture.pass[1], 0, message, bytes)); /* none of them has left a trace */
    free(message);
    free(copy);
    mixture_release(&mixture);
}
END_TEST

/* Heads that are right in themselves, but say more than ranks may send. */
START_TEST(bounds)
{
    tacit_moe_config_t config = config_of(DIMENSION, EXPERTS, TOKENS, CHOICES, NULL);
    uint8_t            head[4 + 2 * TOKENS * CHOICES + 2];
    tacit_moe_pass_t  *pass;
    tacit_moe_t       *moe;

    for (int limited = 0; limited < 2; limited++) {
        const uint32_t most = limited == 0 ? TOKENS : 2 * 3;

        config.capacity = limited == 0 ? 0 : 3;
        succeed(tacit_moe_create_codec("layer", &config, NULL, 1, RANKS, &moe));
        succeed(tacit_moe_dispatch_begin(moe, NULL, 0, NULL, &pass));
        for (uint32_t rows = most + 1; rows + 1 > most; rows--) {
            for (size_t i = 0; i < rows; i++) { /* experts 0 and 1 in turn */
                tacit__store16(head + 4 + 2 * i, (uint16_t)(0x8000 | i % 2));
            }
            tacit__store32(head, rows);
            if (rows > most) {
                fails(tacit__moe_meet(pass, 0, head, 4 + 2 * rows), TACIT_ERR_FRAME, limited == 0 ? "13 rows|12" : "7 rows|6");
                continue;
            }
            fails(tacit__moe_meet(pass, 0, head, 3), TACIT_ERR_FRAME, "rank 0|3 bytes");
            fails(tacit__moe_meet(pass, 0, head, 4 + 2 * rows - 1), TACIT_ERR_FRAME, "bytes");
            tacit__store16(head + 4, 0x8001); /* one more for an expert than its capacity */
            if (limited == 1) {
                fails(tacit__moe_meet(pass, 0, head, 4 + 2 * rows), TACIT_ERR_FRAME, "rank 0|more than 3|expert 1 of rank 1");
            }
            tacit__store16(head + 4, 0x8000);
            succeed(tacit__moe_meet(pass, 0, head, 4 + 2 * rows));
        }
        tacit_moe_destroy(moe);
    }
    config.experts = config.choices = 1; /* none on the first rank */
    succeed(tacit_moe_create_codec("layer", &config, NULL, 0, 2, &moe));
    succeed(tacit_moe_dispatch_begin(moe, NULL, 0, NULL, &pass));
    tacit__store32(head, 1);
    fails(tacit__moe_meet(pass, 1, head, 4), TACIT_ERR_FRAME, "1 rows");
    tacit__store32(head, 0);
    succeed(tacit__moe_meet(pass, 1, head, 4));
    tacit_moe_destroy(moe);
}
END_TEST

/* Every bit of a message counts, every length, and every field of its header. */
START_TEST(damage)
{
    mixture_t mixture = layer_of(_i == 0 ? "none" : "fp8", 0);
    size_t    bytes;
    uint8_t  *message = message_of(&mixture, &bytes);

    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        fails(tacit_moe_read(mixture.pass[1], 0, message, bytes), TACIT_ERR_FRAME, "'layer'|rank 0");
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t length = 0; length < bytes; length++) {
        uint8_t *cut = malloc(length + 1);
        memcpy(cut, message, length);
        fails(tacit_moe_read(mixture.pass[1], 0, cut, length), TACIT_ERR_FRAME, "'layer'|rank 0");
        if (length >= TACIT_FRAME_HEADER_BYTES) {
            seal(cut, length);
            fails(tacit_moe_read(mixture.pass[1], 0, cut, length), TACIT_ERR_FRAME, "'layer'|rank 0");
        }
        free(cut);
    }
    for (size_t at = TACIT_AT_KIND; at < TACIT_AT_PAYLOAD_BYTES; at++) {
        static const size_t unread[] = {TACIT_AT_SEQUENCE, TACIT_AT_HISTORY, TACIT_AT_ROUND_INDEX, TACIT_AT_TOTAL,
                                        TACIT_AT_FIRST};
        bool                counts = at < TACIT_AT_STATUS;
        tacit_status_t      status;
        for (size_t i = 0; i < COUNT_OF(unread); i++) {
            counts = counts && (at < unread[i] || at >= unread[i] + (unread[i] == TACIT_AT_ROUND_INDEX ? 3 : 4));
        }
        if (!counts) {
            continue;
        }
        message[at] ^= 1;
        seal(message, bytes);
        status = tacit_moe_read(mixture.pass[1], 0, message, bytes);
        ck_assert_msg(status == TACIT_ERR_FRAME || status == TACIT_ERR_MISMATCH, "byte %zu: %s", at, tacit_strerror(status));
        message[at] ^= 1;
        seal(message, bytes);
    }
    fails(tacit_moe_read(mixture.pass[1], 2, message, bytes), TACIT_ERR_FRAME, "rank 2's is one of rank 0's");
    succeed(tacit_moe_read(mixture.pass[1], 0, message, bytes));
    free(message);
    mixture_release(&mixture);
}
END_TEST

/* Whatever comes, sealed as it should be: it is refused, or a batch that is whole. */
START_TEST(hostile)
{
    mixture_t        mixture = layer_of("qsgd:bits=4,block=32", 0);
    harness_random_t random = {3};
    size_t           taken = 0;

    for (int turn = 0; turn < 3000; turn++) {
        size_t   bytes, most;
        uint8_t *message = message_of(&mixture, &bytes), *longer;

        most = bytes + 8;
        longer = zeros_of(most, 1);
        memcpy(longer, message, bytes);
        bytes = harness_next(&random) % 4 == 0 ? TACIT_FRAME_HEADER_BYTES + harness_next(&random) % (most - 64) : bytes;
        for (uint64_t changes = harness_next(&random) % 4; changes > 0; changes--) {
            const size_t at = harness_next(&random) % 2 == 0 ? TACIT_AT_COUNT : TACIT_FRAME_HEADER_BYTES;
            longer[at + harness_next(&random) % 14] = (uint8_t)(harness_next(&random) % 5);
        }
        seal(longer, bytes);
        if (tacit_moe_read(mixture.pass[1], 0, longer, bytes) == TACIT_OK) {
            taken++;
            succeed(tacit_moe_write(mixture.pass[1], 0, message));
            succeed(tacit_moe_write(mixture.pass[1], 2, longer));
            succeed(tacit_moe_write(mixture.pass[2], 1, longer));
            succeed(tacit_moe_read(mixture.pass[1], 2, longer, tacit_moe_message_bytes(mixture.pass[2], 1)));
            succeed(tacit_moe_dispatch_end(mixture.pass[1], &mixture.batch[1]));
            ck_assert_uint_eq(mixture.batch[1].first[2], mixture.batch[1].count);
        }
        free(message);
        free(longer);
        pass_over(&mixture);
    }
    ck_assert_uint_gt(taken, 100);
    ck_assert_uint_lt(taken, 2900);
    mixture_release(&mixture);
}
END_TEST

/* ---- NaN ---- */

/* What is sent as it is may be anything. Where something is lost, or clustered, the policy holds. */
START_TEST(not_finite)
{
    static const char *const specs[] = {"none", "bf16", "lsh:hashes=1", "lsh:hashes=1,values=bf16"};
    const char              *spec = specs[_i / 3];
    const int                policy = _i % 3;
    mixture_t                mixture = layer_of(spec, policy);
    uint8_t                  message[8192];
    tacit_status_t           status = TACIT_OK;

    for (size_t t = 0; t < TOKENS; t++) { /* all go from rank 0 to rank 1, and the second to its own, too */
        mixture.experts[0][2 * t] = 2;
        mixture.experts[0][2 * t + 1] = -1;
        memcpy(mixture.tokens[0] + t * DIMENSION, mixture.tokens[0], DIMENSION * sizeof(float));
    }
    mixture.experts[0][3] = 0;
    mixture.tokens[0][DIMENSION + 2] = NAN;
    mixture.tokens[0][2 * DIMENSION + 2] = INFINITY;
    for (int r = 0; r < RANKS; r++) {
        status = tacit_moe_dispatch_begin(mixture.moe[r], mixture.tokens[r], TOKENS, mixture.experts[r], &mixture.pass[r]);
        if (status != TACIT_OK) {
            break;
        }
    }
    status = status == TACIT_OK ? tacit_moe_write(mixture.pass[0], 1, message) : status;
    if (policy == TACIT_NONFINITE_ERROR && _i >= 3) {
        fails(status, TACIT_ERR_VALUE, "rank 0|'layer'|NaN");
    } else {
        succeed(status);
        move_messages(&mixture, true);
        for (int r = 0; r < RANKS; r++) {
            succeed(tacit_moe_dispatch_end(mixture.pass[r], &mixture.batch[r]));
        }
        for (size_t i = 0; i < DIMENSION; i++) { /* the own copy of the second is the first of rank 0's batch */
            ck_assert(i == 2 ? isnan(((const float *)mixture.batch[0].rows)[i])
                             : ((const float *)mixture.batch[0].rows)[i] == mixture.tokens[0][i]);
        }
        for (size_t row = 0; row < 3 && _i < 6; row++) { /* of the plain ones: NaN, infinity, finite */
            const float value = ((const float *)mixture.batch[1].rows)[DIMENSION * row + 2];
            ck_assert(row == 0                                    ? isfinite(value)
                      : policy == TACIT_NONFINITE_SKIP && _i >= 3 ? value == 0
                      : row == 1                                  ? isnan(value)
                                                                  : isinf(value));
        }
        for (size_t i = 0; i < batch_elements(&mixture, 1) && _i >= 6 && policy == TACIT_NONFINITE_SKIP; i++) {
            ck_assert(isfinite(((const float *)mixture.batch[1].rows)[i]));
        }
    }
    mixture_release(&mixture);
}
END_TEST

/* The gradients of a cluster. Nothing of the call remains, and one that is finite may follow. */
START_TEST(gradients_not_finite)
{
    mixture_t mixture = layer_of("lsh:hashes=1", TACIT_NONFINITE_ERROR);
    float     gradients[TOKENS * DIMENSION];

    dispatch(&mixture);
    combine(&mixture);
    for (int r = 0; r < RANKS; r++) {
        memcpy(gradients, mixture.gradients[r], sizeof gradients);
        for (size_t i = 0; i < TOKENS * DIMENSION; i += 3) {
            gradients[i] = NAN;
        }
        fails(tacit_moe_combine_backward_begin(mixture.pass[r], gradients, NULL), TACIT_ERR_VALUE,
              "'layer'|combine_backward|NaN");
    }
    backward(&mixture);
    mixture_release(&mixture);
}
END_TEST

/* What stays on its rank is as it is there, whatever the policy: tokens, and gradients, too. */
START_TEST(own_not_finite)
{
    mixture_t mixture = layer_of("lsh:hashes=1", TACIT_NONFINITE_SKIP);

    for (size_t t = 0; t < TOKENS; t++) {
        mixture.experts[0][2 * t] = 0;
        mixture.experts[0][2 * t + 1] = -1;
    }
    mixture.weights[0][0] = 1;
    dispatch(&mixture);
    combine(&mixture);
    mixture.gradients[0][1] = NAN;
    backward(&mixture);
    ck_assert(isfinite(mixture.reply_gradients[0][0]));
    ck_assert(isnan(mixture.reply_gradients[0][1]));
    ck_assert(isnan(mixture.token_gradients[0][1]));
    mixture_release(&mixture);
}
END_TEST

/* ---- Memory ---- */

/* Calls that fail are made again; what ranks count must stay the same, so all do. Returns whether one has failed. */
static bool run_without(mixture_t *mixture, uint64_t nth)
{
    const size_t elements = TOKENS * DIMENSION;
    bool         failed = false;

    tacit__alloc_fail_after(nth);
    for (bool again = true; again; failed = failed || again) {
        again = false;
        for (int r = 0; r < RANKS; r++) {
            const tacit_status_t status =
                tacit_moe_dispatch_begin(mixture->moe[r], mixture->tokens[r], TOKENS, mixture->experts[r], &mixture->pass[r]);

            ck_assert(status == TACIT_OK || status == TACIT_ERR_MEMORY);
            again = again || status != TACIT_OK;
        }
        if (again) {
            pass_over(mixture);
        }
    }
    for (int step = 0; step < 4; step++) {
        for (int r = 0; r < 2 * RANKS; r++) {
            tacit_moe_pass_t *pass = mixture->pass[r % RANKS];
            float            *room = zeros_of(2 * RANKS * elements, sizeof *room);
            const int         call = 2 * step + r / RANKS;
            tacit_status_t    status = TACIT_ERR_MEMORY;

            for (int turn = 0; turn < 2 && status == TACIT_ERR_MEMORY; turn++) {
                status = call == 0   ? TACIT_OK
                         : call == 1 ? tacit_moe_dispatch_end(pass, &mixture->batch[r % RANKS])
                         : call == 2 ? tacit_moe_combine_begin(pass, room)
                         : call == 3 ? tacit_moe_combine_end(pass, mixture->weights[r % RANKS], mixture->out[r % RANKS])
                         : call == 4 ? tacit_moe_combine_backward_begin(pass, mixture->gradients[r % RANKS],
                                                                        mixture->weight_gradients[r % RANKS])
                         : call == 5 ? tacit_moe_combine_backward_end(pass, room)
                         : call == 6 ? tacit_moe_dispatch_backward_begin(pass, room)
                                     : tacit_moe_dispatch_backward_end(pass, mixture->token_gradients[r % RANKS]);
                failed = failed || status != TACIT_OK;
            }
            succeed(status);
            free(room);
            for (int s = 0; s < RANKS && r == RANKS - 1; s++) { /* messages, of which one may not be read the first time */
                for (int to = 0; to < RANKS; to++) {
                    uint8_t      message[8192];
                    const size_t bytes = tacit_moe_message_bytes(mixture->pass[s], to);

                    if (s == to) {
                        continue;
                    }
                    succeed(tacit_moe_write(mixture->pass[s], to, message));
                    status = tacit_moe_read(mixture->pass[to], s, message, bytes);
                    failed = failed || status != TACIT_OK;
                    succeed(status == TACIT_ERR_MEMORY ? tacit_moe_read(mixture->pass[to], s, message, bytes) : status);
                }
            }
        }
    }
    tacit__alloc_fail_after(0);
    return failed;
}

START_TEST(no_memory)
{
    static const char *const specs[] = {"none", "fp8", "lsh:hashes=2"};
    mixture_t                plain = layer_of(specs[_i], 0);
    tacit_moe_config_t       config = config_of(DIMENSION, EXPERTS, TOKENS, CHOICES, specs[_i]);
    tacit_moe_t             *moe = NULL;
    uint64_t                 nth = 1;

    ck_assert(!run_without(&plain, 0));
    for (bool failed = true; failed; nth++) {
        mixture_t mixture = layer_of(specs[_i], 0);

        failed = run_without(&mixture, nth);
        for (int r = 0; r < RANKS; r++) {
            same_floats(mixture.out[r], plain.out[r], TOKENS * DIMENSION, "outputs");
            same_floats(mixture.token_gradients[r], plain.token_gradients[r], TOKENS * DIMENSION, "gradients");
        }
        mixture_release(&mixture);
    }
    ck_assert_uint_gt(nth, 40);
    for (nth = 1; moe == NULL; nth++) {
        tacit__alloc_fail_after(nth);
        ck_assert(tacit_moe_create_codec("layer", &config, NULL, 0, 2, &moe) == (moe != NULL ? TACIT_OK : TACIT_ERR_MEMORY));
    }
    tacit__alloc_fail_after(0);
    ck_assert_uint_gt(nth, 4);
    tacit_moe_destroy(moe);
    mixture_release(&plain);
}
END_TEST

static Suite *suite(void)
{
    Suite *all = suite_create("moe_faults");
    TCase *moe = tcase_create("moe_faults");

    tcase_add_test(moe, configurations);
    tcase_add_test(moe, without_a_gpu);
    tcase_add_test(moe, choices);
    tcase_add_test(moe, order_of_calls);
    tcase_add_test(moe, side_by_side);
    tcase_add_test(moe, heads);
    tcase_add_test(moe, bounds);
    tcase_add_loop_test(moe, damage, 0, 2);
    tcase_add_test(moe, hostile);
    tcase_add_loop_test(moe, not_finite, 0, 12);
    tcase_add_test(moe, gradients_not_finite);
    tcase_add_test(moe, own_not_finite);
    tcase_add_loop_test(moe, no_memory, 0, 3);
    suite_add_tcase(all, moe);
    return all;
}

int main(void)
{
    return harness_main(suite());
}
