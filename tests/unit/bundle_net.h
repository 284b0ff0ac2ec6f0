/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles on several ranks in one thread, which a test drives step by step, and the same tensors as a group of all-reduces. */
#ifndef TACIT_TEST_BUNDLE_NET_H
#define TACIT_TEST_BUNDLE_NET_H

#include "half.h"
#include "session.h"
#include "tacit_bundle.h"

enum { TENSORS = 19, MOST = 5, STEPS = 4, BLOCKWISE = 8, SINGLE = 13 };

typedef struct kind {
    const char   *spec; /* as the group reduces it */
    size_t        count;
    tacit_dtype_t dtype;
    size_t        rows; /* of a matrix; else 0 */
} kind_t;

/* The blockwise ones first, then those of one factor. */
static const kind_t kinds[TENSORS] = {
    {"onebit:block=64+ef", 5000, TACIT_FLOAT32, 0},
    {"none", 0, TACIT_FLOAT32, 0},
    {"qsgd:bits=4,own=coded+ef", 777, TACIT_FLOAT32, 0},
    {"rotq:bits=3+ef:residual=bf16", 3000, TACIT_BFLOAT16, 0},
    {"onebit:block=0+ef", 300, TACIT_FLOAT32, 0},
    {"fp16+ef21:init=zero,average=0.5", 65, TACIT_FLOAT32, 0},
    {"fp8", 1000, TACIT_FLOAT16, 0},
    {"none+ef", 8, TACIT_FLOAT32, 0},
    {"topk:ratio=0.02+ef", 9000, TACIT_FLOAT32, 0},
    {"topk:ratio=0.1,values=fp16+dgc:dense=0", 1, TACIT_FLOAT32, 0},
    {"randk:ratio=0.05+ef", 3000, TACIT_FLOAT32, 0},
    {"topk:ratio=0.1+econtrol:init=zero", 600, TACIT_BFLOAT16, 0},
    {"randk:ratio=0.5", 9, TACIT_FLOAT16, 0},
    {"powersgd:rank=2+ef", 2000, TACIT_FLOAT32, 40},
    {"powersgd:rank=3,rate=1+ef21:init=zero,average=0.5", 888, TACIT_BFLOAT16, 24},
    {"powersgd:rank=4+ef", 30, TACIT_FLOAT32, 6}, /* it stays dense */
    {"powersgd:rank=1", 3000, TACIT_FLOAT16, 100},
    {"powersgd:rank=2+ef:residual=bf16", 1500, TACIT_FLOAT32, 20},
    {"powersgd+econtrol:init=zero", 77, TACIT_FLOAT32, 0},
};

/* What is kept of a run, by group or by bundle. */
typedef struct run {
    int        ranks, first, end; /* of the kinds */
    tacit_op_t op;
    bool       in_place;
    int        strict;
    uint8_t    kind;                  /* a tacit_bundle_kind_t; where it is sharded, tensor t belongs to rank t modulo ranks */
    float     *out[TENSORS];          /* rank 0's after each step, widened */
    uint64_t   hash[MOST];            /* of each rank's results */
    float     *memory[MOST][TENSORS]; /* all arrays */
    float     *owner[MOST][TENSORS];
    float     *work[MOST][TENSORS];
    size_t     work_count[TENSORS];
} run_t;

#define SUCCEEDS(call) ck_assert_msg((call) == TACIT_OK, "%s: %s", #call, tacit_last_error())

static inline void name_of(int tensor, char name[24])
{
    snprintf(name, 24, "tensor %d", tensor);
}

static inline size_t bytes_of(const kind_t *kind)
{
    return kind->count * (kind->dtype == TACIT_FLOAT32 ? 4 : 2);
}

static inline void to_dtype(const kind_t *kind, const float *x, void *to)
{
    if (kind->dtype == TACIT_FLOAT16) {
        tacit__float16_narrow(x, to, kind->count);
    } else if (kind->dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_narrow(x, to, kind->count);
    } else {
        memcpy(to, x, kind->count * sizeof *x);
    }
}

static inline void to_float(const kind_t *kind, const void *from, float *x)
{
    if (kind->dtype == TACIT_FLOAT16) {
        tacit__float16_widen(from, x, kind->count);
    } else if (kind->dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_widen(from, x, kind->count);
    } else {
        memcpy(x, from, kind->count * sizeof *x);
    }
}

static inline void shape_of(int tensor, tacit_slot_config_t *config)
{
    const kind_t *kind = &kinds[tensor];

    config->count = kind->count;
    config->dtype = kind->dtype;
    config->ndim = kind->rows != 0 ? 2 : 0;
    config->shape[0] = kind->rows;
    config->shape[1] = kind->rows != 0 ? kind->count / kind->rows : 0;
}

static inline void *input_of(int rank, int step, int tensor)
{
    const kind_t *kind = &kinds[tensor];
    float        *x = session_floats(kind->count);
    void         *in = calloc(1, bytes_of(kind) + 1);

    session_normal(rank, 100 * tensor + step, kind->count, x);
    to_dtype(kind, x, in);
    free(x);
    return in;
}

/* Everything that a codec remembers as a sender. */
static inline void read_memory(const tacit_codec_t *codec, float *values)
{
    for (int array = 0; array < TACIT_STATE_ARRAYS && codec->feedback != NULL && codec->feedback->arrays[array] != NULL;
         array++) {
        tacit__memory_read(codec, array, 0, codec->tensor.count, values + (size_t)array * codec->tensor.count);
    }
}

static inline void keep_codec(run_t *run, int rank, int tensor, const tacit_codec_t *codec)
{
    run->memory[rank][tensor] = session_floats(TACIT_STATE_ARRAYS * kinds[tensor].count);
    run->owner[rank][tensor] = session_floats(kinds[tensor].count);
    read_memory(codec, run->memory[rank][tensor]);
    for (size_t i = 0; i < codec->owner.count; i++) {
        run->owner[rank][tensor][codec->owner_first + i] = codec->owner.now[0][i];
    }
    run->work[rank][tensor] = session_floats(codec->work_count);
    run->work_count[tensor] = codec->work_count; /* on all ranks */
    if (codec->work_count != 0) {
        memcpy(run->work[rank][tensor], codec->work, codec->work_count * sizeof(float));
    }
}

static inline void keep_result(run_t *run, int rank, int step, int tensor, const void *out)
{
    const kind_t *kind = &kinds[tensor];

    if (rank == 0) {
        to_float(kind, out, run->out[tensor] + (size_t)step * kind->count);
    }
    run->hash[rank] = 31 * run->hash[rank] + harness_hash(out, bytes_of(kind));
}

static inline run_t run_of(int ranks, int first, int end, tacit_op_t op, bool in_place)
{
    run_t run = {.ranks = ranks, .first = first, .end = end, .op = op, .in_place = in_place};

    for (int t = first; t < end; t++) {
        run.out[t] = session_floats(STEPS * kinds[t].count);
    }
    return run;
}

static inline void run_free(run_t *run)
{
    for (int t = run->first; t < run->end; t++) {
        free(run->out[t]);
        for (int rank = 0; rank < run->ranks; rank++) {
            free(run->memory[rank][t]);
            free(run->owner[rank][t]);
            free(run->work[rank][t]);
        }
    }
}

/* ---- As a group ---- */

static inline void group_body(tacit_comm_t *comm, void *arg)
{
    run_t        *run = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[TENSORS];
    char          name[24];

    for (int t = run->first; t < run->end; t++) {
        tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;

        name_of(t, name);
        shape_of(t, &config);
        config.spec = kinds[t].spec;
        MUST(tacit_slot_create(comm, name, &config, &slots[t]));
    }
    for (int step = 0; step < STEPS; step++) {
        void *in[TENSORS], *out[TENSORS];

        MUST(tacit_group_begin(comm));
        for (int t = run->first; t < run->end; t++) {
            in[t] = input_of(rank, step, t);
            out[t] = run->in_place ? in[t] : calloc(1, bytes_of(&kinds[t]) + 1);
            MUST(tacit_allreduce(slots[t], in[t], out[t], run->op));
        }
        MUST(tacit_group_end(comm, NULL));
        for (int t = run->first; t < run->end; t++) {
            keep_result(run, rank, step, t, out[t]);
            free(in[t]);
            if (!run->in_place) {
                free(out[t]);
            }
        }
    }
    for (int t = run->first; t < run->end; t++) {
        keep_codec(run, rank, t, slots[t]->codec);
    }
}

/* ---- As a bundle, all ranks in turns ---- */

typedef struct node {
    tacit_codec_t  *codecs[TENSORS];
    tacit_bundle_t *bundle;
    void           *in[TENSORS], *out[TENSORS];
    uint8_t        *sent, *received, *gathered, *own;
} node_t;

typedef struct net {
    run_t *run;
    node_t nodes[MOST];
} net_t;

static inline void make_bundle(const run_t *run, node_t *node)
{
    const size_t count = (size_t)(run->end - run->first);
    int          owners[TENSORS];

    for (int t = run->first; t < run->end; t++) {
        owners[t - run->first] = t % run->ranks;
    }
    if (run->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        SUCCEEDS(tacit_bundle_create_reduce_scatter(node->codecs + run->first, owners, count, run->op, &node->bundle));
    } else if (run->kind == TACIT_BUNDLE_ALLGATHER) {
        SUCCEEDS(tacit_bundle_create_allgather(node->codecs + run->first, owners, count, &node->bundle));
    } else {
        SUCCEEDS(tacit_bundle_create(node->codecs + run->first, count, run->op, &node->bundle));
    }
}

static inline net_t net_of(run_t *run)
{
    net_t net = {.run = run};

    for (int rank = 0; rank < run->ranks; rank++) {
        node_t *node = &net.nodes[rank];
        size_t  sent = 0, received = 0;

        for (int t = run->first; t < run->end; t++) {
            tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
            tacit_config_t      config = TACIT_CONFIG_INIT;
            char                name[24];

            name_of(t, name);
            shape_of(t, &tensor);
            tensor.spec = kinds[t].spec;
            config.strict = run->strict;
            SUCCEEDS(tacit_codec_create(name, &tensor, &config, rank, run->ranks, &node->codecs[t]));
        }
        make_bundle(run, node);
        for (int other = 0; other < run->ranks; other++) {
            sent += tacit_bundle_scatter_bytes(node->bundle, rank, other);
            received += tacit_bundle_scatter_bytes(node->bundle, other, rank);
        }
        node->sent = malloc(sent + tacit_bundle_gather_bytes(node->bundle) + 1); /* an all-gather's one message is here */
        node->received = malloc(received + 1);
        node->own = malloc(tacit_bundle_gather_bytes(node->bundle) + 1);
        node->gathered = malloc((size_t)run->ranks * tacit_bundle_gather_bytes(node->bundle) + 1);
        ck_assert_uint_eq(tacit_bundle_gather_bytes(node->bundle), tacit_bundle_gather_bytes(net.nodes[0].bundle));
    }
    return net;
}

static inline void net_free(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        node_t *node = &net->nodes[rank];

        tacit_bundle_destroy(node->bundle);
        for (int t = net->run->first; t < net->run->end; t++) {
            tacit_codec_destroy(node->codecs[t]);
        }
        free(node->sent);
        free(node->received);
        free(node->own);
        free(node->gathered);
    }
}

static inline void all_to_all(net_t *net)
{
    for (int to = 0; to < net->run->ranks; to++) {
        uint8_t *at = net->nodes[to].received;

        for (int from = 0; from < net->run->ranks; from++) {
            const node_t  *node = &net->nodes[from];
            const uint8_t *message = node->sent;

            for (int before = 0; before < to; before++) {
                message += tacit_bundle_scatter_bytes(node->bundle, from, before);
            }
            memcpy(at, message, tacit_bundle_scatter_bytes(node->bundle, from, to));
            at += tacit_bundle_scatter_bytes(node->bundle, from, to);
        }
    }
}

static inline void all_gather(net_t *net)
{
    const size_t bytes = tacit_bundle_gather_bytes(net->nodes[0].bundle);

    for (int to = 0; to < net->run->ranks; to++) {
        for (int from = 0; from < net->run->ranks; from++) {
            memcpy(net->nodes[to].gathered + (size_t)from * bytes, net->nodes[from].own, bytes);
        }
    }
}

static inline void begin(net_t *net, int step)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = net->run->first; t < net->run->end; t++) {
            net->nodes[rank].in[t] = input_of(rank, step, t);
            net->nodes[rank].out[t] = net->run->in_place ? net->nodes[rank].in[t] : calloc(1, bytes_of(&kinds[t]) + 1);
        }
    }
}

static inline void end(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = net->run->first; t < net->run->end; t++) {
            free(net->nodes[rank].in[t]);
            if (!net->run->in_place) {
                free(net->nodes[rank].out[t]);
            }
        }
    }
}

static inline tacit_status_t encode(node_t *node, const run_t *run, uint64_t step)
{
    return tacit_bundle_encode(node->bundle, step, (const void *const *)node->in + run->first, node->sent);
}

static inline void encode_all(net_t *net, uint64_t step)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        SUCCEEDS(encode(&net->nodes[rank], net->run, step));
    }
}

static inline void reduce_all(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        SUCCEEDS(tacit_bundle_reduce(net->nodes[rank].bundle, net->nodes[rank].received, net->nodes[rank].own));
    }
}

static inline tacit_status_t finish(node_t *node, const run_t *run)
{
    return tacit_bundle_finish(node->bundle, node->gathered, node->out + run->first);
}

/* A step in which nothing goes wrong. */
static inline void step_well(net_t *net, int step)
{
    begin(net, step);
    encode_all(net, (uint64_t)step);
    all_to_all(net);
    reduce_all(net);
    all_gather(net);
    for (int rank = 0; rank < net->run->ranks; rank++) {
        SUCCEEDS(finish(&net->nodes[rank], net->run));
        for (int t = net->run->first; t < net->run->end; t++) {
            keep_result(net->run, rank, step, t, net->nodes[rank].out[t]);
        }
    }
    end(net);
}

static inline void keep_all(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = net->run->first; t < net->run->end; t++) {
            keep_codec(net->run, rank, t, net->nodes[rank].codecs[t]);
        }
    }
}

static inline void runs_equal(const run_t *a, const run_t *b, const char *what)
{
    for (int t = a->first; t < a->end; t++) {
        const size_t count = kinds[t].count;
        char         text[200];

        snprintf(text, sizeof text, "%s, %s, %d ranks", what, kinds[t].spec, a->ranks);
        same_floats(a->out[t], b->out[t], STEPS * count, text);
        for (int rank = 0; rank < a->ranks; rank++) {
            ck_assert_uint_eq(a->hash[rank], a->hash[0]);
            same_floats(a->memory[rank][t], b->memory[rank][t], TACIT_STATE_ARRAYS * count, text);
            same_floats(a->owner[rank][t], b->owner[rank][t], count, text);
            same_floats(a->work[rank][t], b->work[rank][t], a->work_count[t], text);
        }
    }
}

/* ---- What goes wrong ---- */

static inline void put(net_t *net, int rank, int tensor, size_t element, float value)
{
    ((float *)net->nodes[rank].in[tensor])[element] = value;
}

/* Memory is as it was: the same bits in strict mode, else to within rounding of what was added and taken away. */
static inline void memory_is(const run_t *run, int rank, int tensor, const tacit_codec_t *codec, const float *in)
{
    const size_t count = kinds[tensor].count;
    const float  rounding = codec->precision != TACIT_PRECISION_FP32 ? 0x1p-6f : 1e-4f;
    float       *now = session_floats(TACIT_STATE_ARRAYS * count);

    read_memory(codec, now);
    for (size_t i = 0; i < TACIT_STATE_ARRAYS * count; i++) {
        const float was = run->memory[rank][tensor][i];
        const float x = kinds[tensor].dtype == TACIT_FLOAT32 && isfinite(in[i % count]) ? fabsf(in[i % count]) : 0;

        ck_assert_msg(run->strict ? tacit__float_bits(now[i]) == tacit__float_bits(was)
                                  : fabsf(now[i] - was) < rounding * (1 + fabsf(was) + x),
                      "%s, rank %d: element %zu of memory is %a, not %a", kinds[tensor].spec, rank, i, (double)now[i],
                      (double)was);
    }
    for (size_t i = 0; i < codec->owner.count; i++) {
        ck_assert(tacit__float_bits(codec->owner.now[0][i]) ==
                  tacit__float_bits(run->owner[rank][tensor][codec->owner_first + i]));
    }
    for (size_t i = 0; i < codec->work_count; i++) {
        ck_assert(tacit__float_bits(codec->work[i]) == tacit__float_bits(run->work[rank][tensor][i]));
    }
    free(now);
}

static inline void check_memory(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = net->run->first; t < net->run->end; t++) {
            memory_is(net->run, rank, t, net->nodes[rank].codecs[t], net->nodes[rank].in[t]);
        }
    }
}

static inline void fails(tacit_status_t status, tacit_status_t expected, const char *words)
{
    ck_assert_msg(status == expected && strstr(tacit_last_error(), words) != NULL, "'%s' (%s), not '%s' (%s)", tacit_last_error(),
                  tacit_strerror(status), words, tacit_strerror(expected));
}

#endif
