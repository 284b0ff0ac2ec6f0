/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles of tensors that belong to one rank each: the same values as frame by frame through the codecs' calls; and what a rank
   finds before it sends, all ranks return, with memory as before. */
#include "bundle_net.h"
#include "frame.h"

enum { KINDS = 2 };
static const uint8_t both[KINDS] = {TACIT_BUNDLE_REDUCE_SCATTER, TACIT_BUNDLE_ALLGATHER};

static int owner_of(const run_t *run, int tensor)
{
    return tensor % run->ranks;
}

static run_t sharded(uint8_t kind, int ranks, tacit_op_t op, int strict)
{
    run_t run = run_of(ranks, 0, BLOCKWISE, op, false);

    run.kind = kind;
    run.strict = strict;
    return run;
}

/* ---- A step of all ranks ---- */

static void exchange(net_t *net)
{
    const size_t bytes = tacit_bundle_gather_bytes(net->nodes[0].bundle);

    if (net->run->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        all_to_all(net);
        return;
    }
    for (int to = 0; to < net->run->ranks; to++) {
        for (int from = 0; from < net->run->ranks; from++) {
            memcpy(net->nodes[to].gathered + (size_t)from * bytes, net->nodes[from].sent, bytes);
        }
    }
}

/* Where a rank needs no tensor it is given none. */
static void begin_shards(net_t *net, int step)
{
    begin(net, step);
    for (int rank = 0; rank < net->run->ranks; rank++) {
        node_t *node = &net->nodes[rank];

        for (int t = 0; t < net->run->end; t++) {
            if (owner_of(net->run, t) != rank && net->run->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
                free(net->run->in_place ? NULL : node->out[t]);
                node->out[t] = NULL;
            }
            if (owner_of(net->run, t) != rank && net->run->kind == TACIT_BUNDLE_ALLGATHER) {
                free(net->run->in_place ? NULL : node->in[t]);
                node->in[t] = NULL;
            }
        }
    }
}

static tacit_status_t finish_shards(net_t *net, int rank)
{
    node_t *node = &net->nodes[rank];

    return tacit_bundle_finish(node->bundle, net->run->kind == TACIT_BUNDLE_REDUCE_SCATTER ? node->received : node->gathered,
                               node->out);
}

static void finish_all(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        SUCCEEDS(finish_shards(net, rank));
    }
}

/* ---- The same, frame by frame ---- */

typedef struct reference {
    tacit_codec_t *codecs[MOST][TENSORS];
} reference_t;

static reference_t reference_of(const run_t *run)
{
    reference_t reference;

    for (int rank = 0; rank < run->ranks; rank++) {
        for (int t = 0; t < run->end; t++) {
            tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
            char                name[24], spec[SPEC_BYTES];

            name_of(t, name);
            tensor.count = kinds[t].count;
            tensor.dtype = kinds[t].dtype;
            tensor.spec = spec_in(kinds[t].spec, spec);
            SUCCEEDS(tacit_codec_create(name, &tensor, NULL, rank, run->ranks, &reference.codecs[rank][t]));
        }
    }
    return reference;
}

static void reference_free(const run_t *run, reference_t *reference)
{
    for (int rank = 0; rank < run->ranks; rank++) {
        for (int t = 0; t < run->end; t++) {
            tacit_codec_destroy(reference->codecs[rank][t]);
        }
    }
}

/* sum += what `from` sends of a tensor, as `to` decodes it. */
static void send(reference_t *reference, int from, int to, int tensor, uint64_t step, const void *in, float *sum)
{
    tacit_codec_t *codec = reference->codecs[from][tensor];
    const size_t   count = kinds[tensor].count, capacity = tacit_codec_capacity(codec, count);
    uint8_t       *frame = malloc(capacity);
    size_t         bytes;

    SUCCEEDS(tacit_encode(codec, step, in, 0, count, frame, capacity, &bytes));
    SUCCEEDS(tacit_decode_add(reference->codecs[to][tensor], step, frame, bytes, sum, NULL, NULL));
    free(frame);
}

/* sum += an owner's own, exactly. */
static void add_own(tacit_codec_t *codec, uint64_t step, const void *in, float *sum)
{
    const size_t count = codec->tensor.count;
    float       *own = session_floats(count);

    ck_assert_uint_eq(tacit__codec_own(codec, in, 0, count, own, false), 0);
    tacit__codec_own_keep(codec, step, in, 0, count);
    for (size_t i = 0; i < count; i++) {
        sum[i] += own[i];
    }
    free(own);
}

static float *reduce_scatter(reference_t *reference, const net_t *net, int tensor, uint64_t step)
{
    const run_t   *run = net->run;
    const int      owner = owner_of(run, tensor);
    tacit_codec_t *codec = reference->codecs[owner][tensor];
    float         *sum = session_floats(kinds[tensor].count);

    for (int rank = 0; rank < run->ranks; rank++) {
        if (rank == owner && !tacit__codec_own_coded(codec)) {
            add_own(codec, step, net->nodes[rank].in[tensor], sum);
        } else {
            send(reference, rank, owner, tensor, step, net->nodes[rank].in[tensor], sum);
        }
    }
    for (size_t i = 0; run->op == TACIT_AVERAGE && run->ranks > 1 && i < kinds[tensor].count; i++) {
        sum[i] *= 1.0f / (float)run->ranks;
    }
    return sum;
}

/* What a codec makes of a sum, as float32. */
static float *combined(tacit_codec_t *codec, int tensor, const float *sum)
{
    float *out = session_floats(kinds[tensor].count);
    void  *stored = calloc(1, bytes_of(&kinds[tensor]) + 1);

    SUCCEEDS(tacit_codec_combine(codec, sum, 0, kinds[tensor].count, stored));
    to_float(&kinds[tensor], stored, out);
    free(stored);
    return out;
}

static void is_same(const run_t *run, int rank, int tensor, const void *out, const float *expected)
{
    float *values = session_floats(kinds[tensor].count);

    to_float(&kinds[tensor], out, values);
    for (size_t i = 0; i < kinds[tensor].count; i++) {
        ck_assert_msg(values[i] == expected[i], "%s, %d ranks, rank %d: element %zu is %a, not %a", kinds[tensor].spec,
                      run->ranks, rank, i, (double)values[i], (double)expected[i]);
    }
    free(values);
}

static void expect_results(reference_t *reference, const net_t *net, float *const *sums)
{
    const run_t *run = net->run;

    for (int t = 0; t < run->end; t++) {
        for (int rank = 0; rank < run->ranks; rank++) {
            if (net->nodes[rank].out[t] != NULL) {
                float *expected = combined(reference->codecs[rank][t], t, sums[t]);

                is_same(run, rank, t, net->nodes[rank].out[t], expected);
                free(expected);
            }
        }
    }
}

static void step_checked(net_t *net, reference_t *reference, int step)
{
    const run_t *run = net->run;
    float       *sums[TENSORS];

    begin_shards(net, step);
    for (int t = 0; t < run->end; t++) { /* before results are written over inputs */
        if (run->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
            sums[t] = reduce_scatter(reference, net, t, (uint64_t)step);
        } else {
            sums[t] = session_floats(kinds[t].count);
            send(reference, owner_of(run, t), 0, t, (uint64_t)step, net->nodes[owner_of(run, t)].in[t], sums[t]);
        }
    }
    encode_all(net, (uint64_t)step);
    exchange(net);
    finish_all(net);
    expect_results(reference, net, sums);
    for (int t = 0; t < run->end; t++) {
        free(sums[t]);
    }
}

static void end_shards(net_t *net)
{
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = 0; t < net->run->end; t++) {
            free(net->nodes[rank].in[t]);
            if (net->nodes[rank].out[t] != net->nodes[rank].in[t]) {
                free(net->nodes[rank].out[t]);
            }
        }
    }
}

static void step_well_sharded(net_t *net, int step)
{
    begin_shards(net, step);
    encode_all(net, (uint64_t)step);
    exchange(net);
    finish_all(net);
    for (int rank = 0; rank < net->run->ranks; rank++) {
        for (int t = 0; t < net->run->end; t++) {
            if (net->nodes[rank].out[t] != NULL) {
                net->run->hash[rank] = 31 * net->run->hash[rank] + harness_hash(net->nodes[rank].out[t], bytes_of(&kinds[t]));
            }
        }
    }
    end_shards(net);
}

/* ---- What is right ---- */

START_TEST(is_frame_by_frame)
{
    const int   ranks = 1 + _i / KINDS % MOST;
    run_t       run = sharded(both[_i % KINDS], ranks, _i / KINDS % 2 == 0 ? TACIT_SUM : TACIT_AVERAGE, _i / KINDS % 3 == 0);
    net_t       net = net_of(&run);
    reference_t reference = reference_of(&run);

    for (int step = 0; step < STEPS; step++) {
        step_checked(&net, &reference, step);
        end_shards(&net);
    }
    for (int rank = 0; rank < ranks; rank++) { /* and what they remember */
        for (int t = 0; t < run.end; t++) {
            float *mine = session_floats(TACIT_STATE_ARRAYS * kinds[t].count),
                  *theirs = session_floats(TACIT_STATE_ARRAYS * kinds[t].count);

            read_memory(net.nodes[rank].codecs[t], mine);
            read_memory(reference.codecs[rank][t], theirs);
            for (size_t i = 0; i < TACIT_STATE_ARRAYS * kinds[t].count; i++) {
                ck_assert_msg(mine[i] == theirs[i], "%s, rank %d of %d: element %zu of memory", kinds[t].spec, rank, ranks, i);
            }
            free(mine);
            free(theirs);
        }
    }
    reference_free(&run, &reference);
    net_free(&net);
    run_free(&run);
}
END_TEST

/* Results over inputs, and strict memory: the same bits. */
START_TEST(in_place)
{
    run_t run = sharded(both[_i % KINDS], 3, TACIT_AVERAGE, 0), other = run;
    net_t net, aside;

    other.in_place = true;
    other.strict = 1;
    memset(other.hash, 0, sizeof other.hash);
    net = net_of(&run);
    aside = net_of(&other);
    for (int step = 0; step < STEPS; step++) {
        step_well_sharded(&net, step);
        step_well_sharded(&aside, step);
    }
    ck_assert_mem_eq(run.hash, other.hash, sizeof run.hash);
    net_free(&net);
    net_free(&aside);
    run_free(&run);
}
END_TEST

START_TEST(bytes)
{
    run_t scatter = sharded(TACIT_BUNDLE_REDUCE_SCATTER, 3, TACIT_SUM, 0),
          gather = sharded(TACIT_BUNDLE_ALLGATHER, 3, TACIT_SUM, 0);
    net_t scatters = net_of(&scatter), gathers = net_of(&gather);

    ck_assert_uint_eq(tacit_bundle_gather_bytes(scatters.nodes[0].bundle), 0);
    ck_assert_uint_ne(tacit_bundle_gather_bytes(gathers.nodes[0].bundle), 0);
    for (int from = 0; from < 3; from++) {
        for (int to = 0; to < 3; to++) {
            ck_assert((tacit_bundle_scatter_bytes(scatters.nodes[0].bundle, from, to) == 0) == (from == to));
            ck_assert_uint_eq(tacit_bundle_scatter_bytes(gathers.nodes[0].bundle, from, to), 0);
        }
    }
    net_free(&scatters);
    net_free(&gathers);
    run_free(&scatter);
    run_free(&gather);
}
END_TEST

/* With ef21 it is changes that travel: what stays the same arrives more exactly from step to step, on all ranks alike. */
START_TEST(changes_travel)
{
    enum { COUNT = 500, RANKS = 3, TIMES = 12 };
    const int       owners[] = {1};
    tacit_codec_t  *codecs[RANKS];
    tacit_bundle_t *bundles[RANKS];
    float          *x = session_floats(COUNT), *out[RANKS];
    double          first = 0, last = 0;
    uint8_t        *message, *all;
    size_t          size;

    session_normal(0, 0, COUNT, x);
    for (int rank = 0; rank < RANKS; rank++) {
        tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;

        tensor.count = COUNT;
        tensor.spec = "qsgd:bits=4+ef21:init=zero";
        SUCCEEDS(tacit_codec_create("x", &tensor, NULL, rank, RANKS, &codecs[rank]));
        SUCCEEDS(tacit_bundle_create_allgather(&codecs[rank], owners, 1, &bundles[rank]));
        out[rank] = session_floats(COUNT);
    }
    size = tacit_bundle_gather_bytes(bundles[0]);
    message = malloc(size);
    all = malloc(RANKS * size);
    for (uint64_t step = 0; step < TIMES; step++) {
        for (int rank = 0; rank < RANKS; rank++) {
            const void *in[] = {rank == 1 ? x : NULL};

            SUCCEEDS(tacit_bundle_encode(bundles[rank], step, in, message));
            memcpy(all + (size_t)rank * size, message, size);
        }
        last = 0;
        for (int rank = 0; rank < RANKS; rank++) {
            void *to[] = {out[rank]};

            SUCCEEDS(tacit_bundle_finish(bundles[rank], all, to));
            ck_assert_mem_eq(out[rank], out[0], COUNT * sizeof(float));
        }
        for (size_t i = 0; i < COUNT; i++) {
            last += fabs((double)(out[0][i] - x[i]));
        }
        first = step == 0 ? last : first;
    }
    ck_assert_msg(last < 1e-4 * first && first > 1, "%g, then %g", first, last);
    for (int rank = 0; rank < RANKS; rank++) {
        tacit_bundle_destroy(bundles[rank]);
        tacit_codec_destroy(codecs[rank]);
        free(out[rank]);
    }
    free(message);
    free(all);
    free(x);
}
END_TEST

/* ---- What goes wrong ---- */

enum { RANKS = 3 };

/* NaN of a rank in a tensor of its own or of another: found before anything is sent. */
START_TEST(value_faults)
{
    static const int tensors[] = {4, 0, 7, 2};
    const uint8_t    kind = both[_i % KINDS];
    const int        which = _i / KINDS % 4, strict = _i / KINDS / 4;
    run_t            run = sharded(kind, RANKS, TACIT_AVERAGE, strict), plain = sharded(kind, RANKS, TACIT_AVERAGE, strict);
    net_t            net = net_of(&run), other = net_of(&plain);
    const int        tensor = tensors[which], rank = kind == TACIT_BUNDLE_ALLGATHER ? owner_of(&run, tensor) : 1;
    char             words[60], text[600] = "";

    snprintf(words, sizeof words, "rank %d: slot 'tensor %d' at step 1", rank, tensor);
    step_well_sharded(&net, 0);
    step_well_sharded(&other, 0);
    keep_all(&net);
    begin_shards(&net, 1);
    put(&net, rank, tensor, kinds[tensor].count - 1, _i % 3 == 0 ? INFINITY : NAN);
    encode_all(&net, 1);
    exchange(&net);
    for (int r = 0; r < RANKS; r++) {
        fails(finish_shards(&net, r), TACIT_ERR_VALUE, words);
        ck_assert(r == 0 || strcmp(text, tacit_last_error()) == 0);
        snprintf(text, sizeof text, "%s", tacit_last_error());
        for (int t = 0; t < run.end; t++) {
            if (net.nodes[r].in[t] != NULL) {
                memory_is(&run, r, t, net.nodes[r].codecs[t], net.nodes[r].in[t]);
            }
        }
    }
    end_shards(&net);
    for (int step = 1; step < STEPS; step++) {
        step_well_sharded(&net, step);
        step_well_sharded(&other, step);
        ck_assert(!strict || memcmp(run.hash, plain.hash, sizeof run.hash) == 0); /* as if nothing had been */
    }
    net_free(&net);
    net_free(&other);
    run_free(&run);
    run_free(&plain);
}
END_TEST

/* A sum that is not finite stays with its owner, as it is. */
START_TEST(sums_overflow)
{
    run_t run = sharded(TACIT_BUNDLE_REDUCE_SCATTER, RANKS, TACIT_SUM, 0);
    net_t net = net_of(&run);

    begin_shards(&net, 0);
    for (int rank = 0; rank < RANKS; rank++) {
        put(&net, rank, 7, 3, 3e38f);
    }
    encode_all(&net, 0);
    exchange(&net);
    finish_all(&net);
    ck_assert(isinf(((float *)net.nodes[1].out[7])[3]) && isfinite(((float *)net.nodes[1].out[7])[2]));
    end_shards(&net);
    net_free(&net);
    run_free(&run);
}
END_TEST

/* Damage is found by its receiver, and the next step shows all that some have another step behind them. */
START_TEST(damage)
{
    const bool gather = both[_i % KINDS] == TACIT_BUNDLE_ALLGATHER, cancels = _i / KINDS != 0;
    run_t      run = sharded(both[_i % KINDS], RANKS, TACIT_SUM, 1);
    net_t      net = net_of(&run);

    step_well_sharded(&net, 0);
    keep_all(&net);
    begin_shards(&net, 1);
    encode_all(&net, 1);
    exchange(&net);
    if (cancels) {
        tacit_bundle_cancel(net.nodes[2].bundle);
    } else {
        (gather ? net.nodes[2].gathered : net.nodes[2].received)[70] ^= 1; /* of rank 0 */
        fails(finish_shards(&net, 2), TACIT_ERR_FRAME, "rank 2: a bundle's message from rank 0");
    }
    for (int t = 0; t < run.end; t++) {
        if (net.nodes[2].in[t] != NULL) {
            memory_is(&run, 2, t, net.nodes[2].codecs[t], net.nodes[2].in[t]);
        }
    }
    SUCCEEDS(finish_shards(&net, 0));
    SUCCEEDS(finish_shards(&net, 1));
    end_shards(&net);
    begin_shards(&net, 2);
    encode_all(&net, 2);
    exchange(&net);
    for (int rank = 0; rank < RANKS; rank++) {
        fails(finish_shards(&net, rank), TACIT_ERR_MISMATCH, "other steps behind it");
    }
    end_shards(&net);
    net_free(&net);
    run_free(&run);
}
END_TEST

/* Ranks that have tensors belong to others. */
START_TEST(mismatches)
{
    run_t     run = sharded(TACIT_BUNDLE_ALLGATHER, 2, TACIT_SUM, 0);
    net_t     net = net_of(&run);
    const int owners[BLOCKWISE] = {1, 1, 0, 1, 0, 1, 0, 1};

    tacit_bundle_destroy(net.nodes[1].bundle);
    SUCCEEDS(tacit_bundle_create_allgather(net.nodes[1].codecs, owners, BLOCKWISE, &net.nodes[1].bundle));
    begin(&net, 0);
    free(net.nodes[1].sent);
    net.nodes[1].sent =
        calloc(1, tacit_bundle_gather_bytes(net.nodes[1].bundle) + tacit_bundle_gather_bytes(net.nodes[0].bundle));
    encode_all(&net, 0);
    exchange(&net);
    fails(finish_shards(&net, 0), TACIT_ERR_MISMATCH, "rank 1 has other tensors than rank 0");
    tacit_bundle_cancel(net.nodes[1].bundle);
    end(&net);
    net_free(&net);
    run_free(&run);
}
END_TEST

START_TEST(refusals)
{
    run_t               run = sharded(both[_i], 2, TACIT_SUM, 0);
    net_t               net = net_of(&run);
    node_t             *node = &net.nodes[0];
    const bool          gather = run.kind == TACIT_BUNDLE_ALLGATHER;
    int                 owners[BLOCKWISE] = {0, 1, 2};
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *topk;
    tacit_bundle_t     *bundle = NULL;
    tacit_status_t      status = TACIT_ERR_MEMORY;

    if (gather) {
        fails(tacit_bundle_create_allgather(node->codecs, NULL, 3, &bundle), TACIT_ERR_ARGUMENT, "owners, an operator");
        fails(tacit_bundle_create_allgather(node->codecs, owners, 3, &bundle), TACIT_ERR_ARGUMENT, "rank 2, is none of the 2");
    } else {
        fails(tacit_bundle_create_reduce_scatter(node->codecs, NULL, 3, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "owners");
        owners[2] = -1;
        fails(tacit_bundle_create_reduce_scatter(node->codecs, owners, 3, TACIT_SUM, &bundle), TACIT_ERR_ARGUMENT, "rank -1");
    }
    tensor.count = 600;
    tensor.spec = "topk:ratio=0.1+ef";
    SUCCEEDS(tacit_codec_create("entries", &tensor, NULL, 0, 2, &topk));
    fails(tacit_bundle_create_allgather(&topk, owners, 1, &bundle), TACIT_ERR_UNSUPPORTED, "works by blocks");
    tacit_codec_destroy(topk);

    begin(&net, 0);
    fails(tacit_bundle_encode(node->bundle, 0, (const void *const *)node->in, NULL), TACIT_ERR_ARGUMENT, "NULL");
    SUCCEEDS(encode(node, &run, 0));
    fails(tacit_bundle_reduce(node->bundle, node->received, node->own), TACIT_ERR_STATE, "tacit_bundle_finish() comes next");
    fails(tacit_bundle_finish(node->bundle, NULL, node->out), TACIT_ERR_ARGUMENT, "NULL");
    tacit_bundle_cancel(node->bundle);
    node->in[2] = (free(node->in[2]), NULL); /* an own one */
    fails(encode(node, &run, 0), TACIT_ERR_ARGUMENT, "NULL");
    end(&net);
    owners[2] = 0;
    for (uint64_t nth = 1; status != TACIT_OK; nth++) { /* memory that is missing */
        tacit__alloc_fail_after(nth);
        status = gather ? tacit_bundle_create_allgather(node->codecs, owners, BLOCKWISE, &bundle)
                        : tacit_bundle_create_reduce_scatter(node->codecs, owners, BLOCKWISE, TACIT_SUM, &bundle);
        tacit__alloc_fail_after(0);
        ck_assert_msg((status == TACIT_OK || status == TACIT_ERR_MEMORY) && nth < 200, "%s", tacit_last_error());
    }
    tacit_bundle_destroy(bundle);
    net_free(&net);
    run_free(&run);
}
END_TEST

static tacit_status_t make_of_kind(int kind, tacit_codec_t *codec)
{
    const int       owner = 0;
    tacit_bundle_t *bundle = NULL;
    tacit_status_t  status;

    if (kind == TACIT_BUNDLE_ALLREDUCE) {
        status = tacit_bundle_create(&codec, 1, TACIT_SUM, &bundle);
    } else if (kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        status = tacit_bundle_create_reduce_scatter(&codec, &owner, 1, TACIT_SUM, &bundle);
    } else {
        status = tacit_bundle_create_allgather(&codec, &owner, 1, &bundle);
    }
    tacit_bundle_destroy(bundle);
    return status;
}

/* What an all-gather remembers is no gradient's: its codecs are in no other kind, before they are reset. */
START_TEST(kinds_apart)
{
    static const int others[] = {TACIT_BUNDLE_ALLREDUCE, TACIT_BUNDLE_REDUCE_SCATTER};
    const int        other = others[_i % 2];
    const bool       gather_first = _i / 2 != 0;
    const int first = gather_first ? TACIT_BUNDLE_ALLGATHER : other, second = gather_first ? other : TACIT_BUNDLE_ALLGATHER;
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *with, *without;

    tensor.count = 600;
    tensor.spec = "onebit+ef";
    SUCCEEDS(tacit_codec_create("shared", &tensor, NULL, 0, 2, &with));
    tensor.spec = "onebit";
    SUCCEEDS(tacit_codec_create("forgetful", &tensor, NULL, 0, 2, &without));
    for (int times = 0; times < 2; times++) {
        SUCCEEDS(make_of_kind(first, with));
        SUCCEEDS(make_of_kind(first, without));
    }
    fails(make_of_kind(second, with), TACIT_ERR_STATE, "codec 'shared'");
    fails(make_of_kind(second, with), TACIT_ERR_STATE, "make a codec for each kind"); /* still */
    SUCCEEDS(make_of_kind(second, without));
    SUCCEEDS(make_of_kind(first, with));
    tacit_codec_reset(with);
    SUCCEEDS(make_of_kind(second, with));
    fails(make_of_kind(first, with), TACIT_ERR_STATE, "codec 'shared'");
    tacit_codec_destroy(with);
    tacit_codec_destroy(without);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bundle_sharded");
    TCase *tests = tcase_create("bundle_sharded");

    tcase_add_loop_test(tests, is_frame_by_frame, 0, KINDS * MOST * 2);
    tcase_add_loop_test(tests, in_place, 0, KINDS);
    tcase_add_test(tests, bytes);
    tcase_add_test(tests, changes_travel);
    tcase_add_loop_test(tests, value_faults, 0, KINDS * 4 * 2);
    tcase_add_test(tests, sums_overflow);
    tcase_add_loop_test(tests, damage, 0, KINDS * 2);
    tcase_add_test(tests, mismatches);
    tcase_add_loop_test(tests, refusals, 0, KINDS);
    tcase_add_loop_test(tests, kinds_apart, 0, 4);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
