/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse reductions by owners: results against the same in plain loops, bytes as ranks grow, where it is dense, when it pays.
   Faults of the wire and of memory are with those of the others. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>

#include "harness.h"
#include "operation.h"
#include "session.h"
#include "spec.h"

static const char *const plan = "sparse-scatter";

static const tacit_schedule_t *schedule(void)
{
    return tacit__schedule_named(plan);
}

static void set_plan(const char *name)
{
    ck_assert_int_eq(setenv("TACIT_PLAN", name, 1), 0);
}

static void plan_scatter(void)
{
    set_plan(plan);
}

static void plan_none(void)
{
    ck_assert_int_eq(unsetenv("TACIT_PLAN"), 0);
}

/* ---- Results ---- */

typedef struct serial {
    tacit_spec_t spec;
    float       *memory, *owner, *a, *sum, *values, *out; /* memory: ranks times count; owner: in elements of the tensor */
    uint32_t    *indices, *places;
} serial_t;

/* Chooses among a[0..count) and writes what is decoded to values[]; a small part is dense where that is shorter. */
static size_t choose(const serial_t *serial, const tacit_block_t *block, const float *a, bool part)
{
    const tacit_select_t   *select = serial->spec.compressor->select;
    struct tacit_selection *selection = NULL;
    tacit_entries_t         chosen;
    size_t                  entries, bytes;
    uint8_t                *payload;

    ck_assert(tacit__selection_reserve(&selection, &serial->spec, block->count));
    chosen = tacit__choose(select, block, a, selection);
    entries = chosen.count;
    payload = malloc(select->bound(block->config, block->count, entries));
    memcpy(serial->indices, chosen.indices, entries * sizeof *serial->indices);
    bytes = select->encode(block, chosen.values, serial->indices, entries, payload, serial->values);
    tacit__selection_release(selection);

    for (uint32_t i = 0; part && block->count * sizeof *a < bytes && i < block->count; i++) {
        serial->indices[i] = i;
        serial->values[i] = a[i];
        entries = block->count;
    }
    free(payload);
    return entries;
}

static tacit_block_t whole_block(const serial_t *serial, int step, uint64_t rank, size_t count)
{
    const tacit_key_t key = {0x7461636974u, tacit__hash_text("gradient"), (uint64_t)step, rank};

    return (tacit_block_t){serial->spec.compressor_config, key, 0, count};
}

/* What all ranks send at a step, into serial->sum, in rank order. */
static void add_up(const session_t *session, serial_t *serial, int step)
{
    const size_t count = session->count;

    memset(serial->sum, 0, count * sizeof *serial->sum);
    for (int rank = 0; rank < session->ranks; rank++) {
        const tacit_block_t block = whole_block(serial, step, (uint64_t)rank, count);
        float              *memory = serial->memory + (size_t)rank * count;
        size_t              entries;

        session_normal(rank, step, count, serial->a);
        for (size_t i = 0; i < count; i++) {
            memory[i] = serial->a[i] + memory[i];
        }
        entries = choose(serial, &block, memory, false);
        for (size_t i = 0; i < entries; i++) {
            memory[serial->indices[i]] -= serial->values[i];
            serial->sum[serial->indices[i]] += serial->values[i];
        }
    }
    for (size_t i = 0; session->op == TACIT_AVERAGE && i < count; i++) {
        serial->sum[i] *= 1.0f / (float)session->ranks;
    }
}

static void step_by_owners(const session_t *session, serial_t *serial, int step)
{
    const tacit_deal_t deal = {tacit__hash_text("gradient"), session->count, (uint32_t)session->ranks, 0};

    add_up(session, serial, step);
    memset(serial->out, 0, session->count * sizeof *serial->out);
    for (uint32_t owner = 0; owner < deal.ranks; owner++) {
        const size_t        part = tacit__deal_part(&deal, owner);
        const tacit_block_t block = whole_block(serial, step, deal.ranks + owner, part);
        size_t              entries;

        for (uint32_t place = 0; place < part; place++) {
            const uint32_t element = tacit__deal_element(&deal, owner, place);

            serial->owner[element] = serial->sum[element] + serial->owner[element];
            serial->a[place] = serial->owner[element];
        }
        entries = choose(serial, &block, serial->a, true);
        for (size_t i = 0; i < entries; i++) {
            const uint32_t element = tacit__deal_element(&deal, owner, serial->indices[i]);

            serial->out[element] = serial->values[i];
            serial->owner[element] -= serial->values[i];
        }
    }
}

static const int   many[] = {2, 3, 4, 5, 8, 16};
static const char *choosing[] = {"topk:ratio=0.05+ef by sparse-scatter",
                                 "topk:ratio=0.1,values=fp16,index=u16+ef by sparse-scatter",
                                 "topk:ratio=0.3,select=sampled+ef by sparse-scatter"};

/* Bit by bit, memory included. */
START_TEST(as_in_plain_loops)
{
    enum { MOST = 5000 };
    static const size_t counts[] = {1, 100, 1000, MOST};
    serial_t            serial;
    char                alone[SPEC_BYTES];

    for (size_t s = 0; s < sizeof choosing / sizeof *choosing; s++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            session_t session = {.spec = choosing[s],
                                 .ranks = many[_i],
                                 .steps = 4,
                                 .count = counts[c],
                                 .op = (s + c) % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE,
                                 .in_place = c % 2 != 0,
                                 .config = {.chunk_bytes = 2048}};

            serial.memory = session_floats((size_t)session.ranks * session.count);
            serial.owner = session_floats(session.count);
            serial.a = session_floats(session.count);
            serial.sum = session_floats(session.count);
            serial.values = session_floats(session.count);
            serial.out = session_floats(session.count);
            serial.indices = calloc(session.count, sizeof *serial.indices);
            session_run(&session);
            ck_assert_int_eq(tacit__spec_parse(spec_in(session.spec, alone), &serial.spec), TACIT_OK);
            for (int step = 0; step < session.steps; step++) {
                step_by_owners(&session, &serial, step);
                same_floats(session.out + (size_t)step * session.count, serial.out, session.count, session.spec);
            }
            same_floats(session.owner, serial.owner, session.count, "owners' memory");
            for (int rank = 0; rank < session.ranks; rank++) {
                same_floats(session.memory[rank], serial.memory + (size_t)rank * session.count, session.count, "memory");
            }
            session_conserves(&session);
            session_free(&session);
            tacit__spec_release(&serial.spec);
            free(serial.memory);
            free(serial.owner);
            free(serial.a);
            free(serial.sum);
            free(serial.values);
            free(serial.out);
            free(serial.indices);
        }
    }
}
END_TEST

/* Where owners remember nothing all of the sum goes out: the same bits as everybody's entries to everybody. */
START_TEST(all_of_the_sum)
{
    static const char *const specs[] = {"topk:ratio=0.05", "topk:ratio=0.1+dgc:dense=0", "topk:ratio=1",
                                        "topk:ratio=0.9,index=u32"};
    char                     owners[64], everybody[64];

    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        session_t session = {.spec = owners,
                             .ranks = many[_i],
                             .steps = 4,
                             .count = 3000,
                             .op = s % 2 != 0 ? TACIT_SUM : TACIT_AVERAGE,
                             .config = {.chunk_bytes = 2048}},
                  other = session;

        snprintf(owners, sizeof owners, "%s by %s", specs[s], plan);
        snprintf(everybody, sizeof everybody, "%s by sparse", specs[s]);
        other.spec = everybody;
        session_run(&session);
        session_run(&other);
        sessions_equal(&session, &other, "owners and everybody");
        session_free(&session);
        session_free(&other);
    }
}
END_TEST

/* Rounded to float16, what nobody remembers would be lost. */
START_TEST(lossy_sums)
{
    static const struct {
        const char *spec;
        bool        carried;
    } cases[] = {{"topk:values=fp16+ef", true},
                 {"topk:values=fp16", false},
                 {"topk:values=fp16+dgc:dense=0", false},
                 {"topk+dgc:dense=0", true},
                 {"topk:values=fp16+ef21", true},
                 {"topk:values=fp16+econtrol", true},
                 {"topk", true},
                 {"randk+ef", false},
                 {"onebit+ef", false}};
    tacit_comm_t        comm = {.ranks = 4};
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;

    tensor.count = 1000;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        tacit_codec_t *codec;

        tensor.spec = cases[c].spec;
        MUST(tacit__codec_create("w", &tensor, &config, 0, 4, &codec));
        ck_assert_msg(schedule()->carries(&comm, codec) == cases[c].carried, "%s", cases[c].spec);
        tacit_codec_destroy(codec);
    }
}
END_TEST

/* ---- Other plans, other operators ---- */

enum { CHANGES = 8, CHANGED = 700 };

typedef struct change {
    const char *spec;
    float       out[CHANGED], memory[4][CHANGED], owner[CHANGED];
    int         first, last;
} change_t;

/* Sums and averages by turns; saved and loaded between calls. */
static void change_body(tacit_comm_t *comm, void *arg)
{
    change_t     *change = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", CHANGED, TACIT_FLOAT32, change->spec);
    float         x[CHANGED], out[CHANGED];
    char          path[HARNESS_PATH_BYTES];

    harness_path(path, "state.%d", rank);
    if (change->first != 0) {
        MUST(tacit_load(comm, path));
    }
    for (int step = change->first; step < change->last; step++) {
        const tacit_op_t op = step % 4 < 2 ? TACIT_SUM : TACIT_AVERAGE;

        session_normal(rank, step, CHANGED, x);
        MUST(tacit_allreduce(slot, x, out, op));
        for (size_t i = 0; rank == 0 && i < CHANGED; i++) {
            change->out[i] += op == TACIT_SUM ? out[i] : 4 * out[i];
        }
    }
    memcpy(change->memory[rank], slot->codec->memory.now[0], sizeof x);
    for (size_t i = 0, element; i < slot->codec->owner.count; i++) {
        (void)tacit__codec_owned(slot->codec, i, &element);
        change->owner[element] = slot->codec->owner.now[0][i] * (slot->codec->owner_is_mean ? 4.0f : 1.0f);
    }
    MUST(tacit_save(comm, path));
}

/* What owners remember goes back to senders where there are none, and nothing is lost; on two hosts too. */
START_TEST(handed_over)
{
    static const char *const plans[][2] = {{"sparse-scatter", "sparse"}, {"two_level_scatter", "two_level_sparse"}};
    change_t                 change = {.spec = "topk:ratio=0.02+ef"};
    float                    x[CHANGED], remembered;
    double                   lost = 0;
    char                     path[HARNESS_PATH_BYTES];

    name_hosts(_i / 2 == 0 ? NULL : "2");
    for (; change.last < CHANGES; change.first = change.last) {
        set_plan(plans[_i / 2][change.last / 2 % 2]);
        change.last += _i % 2 == 0 ? CHANGES : 2;
        memset(change.owner, 0, sizeof change.owner);
        run_ranks(4, NULL, change_body, &change);
        remembered = largest_of(change.owner, CHANGED);
        ck_assert((remembered != 0) == (_i % 2 == 0 || change.last % 4 == 2));
    }
    name_hosts(NULL);
    for (size_t i = 0; i < CHANGED; i++) {
        double left = -(double)change.out[i] - (double)change.owner[i];

        for (int rank = 0; rank < 4; rank++) {
            left -= (double)change.memory[rank][i];
            for (int step = 0; step < CHANGES; step++) {
                session_normal(rank, step, CHANGED, x);
                left += (double)x[i];
            }
        }
        lost = fmax(lost, fabs(left));
    }
    ck_assert_double_le(lost, 2.0 * CHANGES * 10 * (double)FLT_EPSILON * 4 * 40); /* below 40; see session_conserves() */
    for (int rank = 0; rank < 4; rank++) {
        ck_assert_int_eq(remove(harness_path(path, "state.%d", rank)), 0);
    }
}
END_TEST

static void respec_body(tacit_comm_t *comm, void *arg)
{
    const bool    levels = *(const bool *)arg;
    tacit_slot_t *slot = slot_of(comm, "gradient", 1 << 20, TACIT_FLOAT32, "topk:ratio=0.0001+ef");

    ck_assert_str_eq(tacit_slot_schedule(slot), levels ? "two_level_sparse" : "sparse");
    MUST(tacit_slot_set_spec(slot, "topk:ratio=0.1+ef"));
    ck_assert_str_eq(tacit_slot_schedule(slot), levels ? "two_level_scatter" : "sparse-scatter");
    MUST(tacit_slot_set_spec(slot, "topk:ratio=0.0001+ef"));
    ck_assert_str_eq(tacit_slot_schedule(slot), levels ? "two_level_sparse" : "sparse");
}

/* Another density, another schedule. */
START_TEST(respecified)
{
    bool levels = _i == 1;

    name_hosts(levels ? "1,1,1,3" : NULL);
    run_ranks(levels ? 6 : 4, NULL, respec_body, &levels);
    name_hosts(NULL);
}
END_TEST

/* ---- Volume ---- */

typedef struct volume {
    const char *spec;
    size_t      count;
    int         steps;
    bool        on_hosts;          /* these bytes are counted that go to other hosts */
    uint64_t    bytes[MOST_RANKS]; /* that a rank sends in a call */
    uint64_t    hash[MOST_RANKS];
} volume_t;

static void volume_body(tacit_comm_t *comm, void *arg)
{
    volume_t        *volume = arg;
    const int        rank = tacit_comm_rank(comm);
    tacit_slot_t    *slot = slot_of(comm, "gradient", volume->count, TACIT_FLOAT32, volume->spec);
    float           *x = session_floats(volume->count);
    tacit_counters_t counters;

    for (int step = 0; step < volume->steps; step++) {
        session_normal(rank, step, volume->count, x);
        MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    }
    MUST(tacit_slot_counters(slot, &counters));
    volume->bytes[rank] = (volume->on_hosts ? counters.network_bytes : counters.wire_bytes) / (uint64_t)volume->steps;
    volume->hash[rank] = harness_hash(x, volume->count * sizeof *x);
    free(x);
}

static uint64_t most_bytes(int ranks, const char *name, volume_t *volume)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    uint64_t       most = 0;

    set_plan(name);
    config.chunk_bytes = ranks > 16 ? 2048 : 0;
    run_ranks(ranks, &config, volume_body, volume);
    for (int rank = 0; rank < ranks; rank++) {
        ck_assert(volume->hash[rank] == volume->hash[0]);
        most = volume->bytes[rank] > most ? volume->bytes[rank] : most;
    }
    return most;
}

/* Twice a rank's entries, whatever the number of ranks; a frame, a record and a payload have headers, and each of two verdicts
   is a frame. Entries cost 4 bytes and, one in a hundred, 8.2 bits at best. */
static uint64_t bound(const volume_t *volume, int ranks)
{
    const double entries = 0.01 * (double)volume->count, chance = 1.1;

    return (uint64_t)(2 * entries * (4 + 9.0 / 8) * chance) + (uint64_t)(ranks - 1) * (2 * (64 + 16 + 8 + 8 + 2 * 5) + 2 * 64);
}

START_TEST(bounded_volume)
{
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        volume_t       volume = {.spec = "topk:ratio=0.01+ef", .count = 1 << 17, .steps = 3};
        const uint64_t scattered = most_bytes(many[i], plan, &volume), gathered = most_bytes(many[i], "sparse", &volume);

        ck_assert_msg(scattered <= bound(&volume, many[i]), "%d ranks: %zu bytes, more than %zu", many[i], (size_t)scattered,
                      (size_t)bound(&volume, many[i]));
        ck_assert_uint_ge(gathered, (uint64_t)(many[i] - 1) * 1311 * 5);
    }
}
END_TEST

/* The same of leaders' rails, with hosts for ranks: 7 hosts' entries from each, or twice 7 eighths of one's. */
START_TEST(bounded_between_hosts)
{
    volume_t volume = {.spec = "topk:ratio=0.01+ef", .count = 1 << 19, .steps = 3, .on_hosts = true}, rail = volume;
    uint64_t scattered, gathered;

    rail.count /= 2;
    name_hosts("2");
    scattered = most_bytes(16, "two_level_scatter", &volume);
    gathered = most_bytes(16, "two_level_sparse", &volume);
    name_hosts(NULL);
    /* a rank has 14 peers on other hosts, 7 of them for verdicts alone */
    ck_assert_uint_le(scattered, bound(&rail, 8) + 7 * 2 * 64);
    ck_assert_uint_ge(gathered, 7 * 2621 * 5);
}
END_TEST

START_TEST(many_ranks)
{
    volume_t       volume = {.spec = "topk:ratio=0.01+ef", .count = 1 << 18, .steps = 1};
    const uint64_t bytes = most_bytes(MOST_RANKS, plan, &volume);

    ck_assert_msg(bytes <= bound(&volume, MOST_RANKS), "%zu bytes, more than %zu", (size_t)bytes,
                  (size_t)bound(&volume, MOST_RANKS));
}
END_TEST

/* ---- Dense ranges ---- */

enum { DENSE = 2048, ENTRIES = 600 };

typedef struct dense {
    const char *spec;
    size_t      entries; /* in rank 1's part, all rank 0's */
    uint64_t    bytes;   /* that rank 1 sends */
    float       out[DENSE];
} dense_t;

static void dense_body(tacit_comm_t *comm, void *arg)
{
    dense_t           *dense = arg;
    tacit_slot_t      *slot = slot_of(comm, "gradient", DENSE, TACIT_FLOAT32, dense->spec);
    const tacit_deal_t deal = tacit__codec_deal(slot->codec);
    float              x[DENSE] = {0.0f};
    tacit_counters_t   counters;

    for (uint32_t place = 0; tacit_comm_rank(comm) == 0 && place < dense->entries; place++) {
        x[tacit__deal_element(&deal, 1, place)] = 1.0f + (float)place;
    }
    MUST(tacit_allreduce(slot, x, x, TACIT_SUM));
    MUST(tacit_slot_counters(slot, &counters));
    if (tacit_comm_rank(comm) == 1) {
        dense->bytes = counters.wire_bytes;
        memcpy(dense->out, x, sizeof x);
    }
}

/* With 32 bits an index, pairs are longer than 1024 values from 512 entries on: 8 + 8 · 511 = 4 · 1024; without, from where an
   encoder's measure says so. */
START_TEST(dense_where_shorter)
{
    static const struct {
        const char *spec;
        double      bytes, each; /* of a payload: so many, and for each entry */
        size_t      entries[5];
    } cases[] = {{"topk:ratio=1,index=u32", 8, 8, {100, 510, 511, 512, 1024}},
                 {"topk:ratio=1,index=u32+ef", 8, 8, {100, 510, 511, 512, 1024}},
                 {"topk:ratio=1,index=bitmap", 8 + 128, 4, {500, 988, 990, 991, 1024}},
                 {"topk:ratio=1,index=bitmap+ef", 8 + 128, 4, {500, 988, 990, 991, 1024}}};

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (size_t i = 0; i < 5; i++) {
            dense_t        dense = {.spec = cases[c].spec, .entries = cases[c].entries[i]};
            const uint64_t pairs = (uint64_t)(cases[c].bytes + cases[c].each * (double)dense.entries);

            run_ranks(2, NULL, dense_body, &dense);
            /* an empty contribution, a result of one record, two verdicts */
            ck_assert_uint_eq(dense.bytes, 64 + 64 + 16 + (pairs < 4096 ? pairs : 4096) + 2 * 64);
            ck_assert_float_eq(largest_of(dense.out, DENSE), (float)dense.entries);
        }
    }
}
END_TEST

/* ---- When it pays ---- */

START_TEST(crossover)
{
    static const struct {
        const char *spec;
        size_t      count;
        int         hosts, here; /* ranks of each, all of which lead */
        bool        pays;
    } cases[] = {
        {"topk:ratio=0.01+ef", 1 << 24, 2, 1, false},
        {"topk:ratio=0.5+ef", 1 << 24, 2, 1, false},
        {"topk:ratio=0.01+ef", 1 << 24, 3, 1, false},
        {"topk:ratio=0.01+ef", 1 << 24, 4, 1, true},
        {"topk:ratio=0.001+ef", 1 << 24, 4, 1, false},
        {"topk:ratio=0.001+ef", 1 << 24, 8, 1, true},
        {"topk:ratio=0.01+ef", 100000, 8, 1, false},
        {"topk:ratio=0.01+ef", 200000, 8, 1, true},
        {"topk:ratio=0.01+ef", 60000, 256, 1, false},
        {"topk:ratio=0.01", 1 << 24, 8, 1, false},
        {"topk:ratio=0.01", 1 << 24, 256, 1, true},
        {"topk:ratio=0.01+dgc:dense=0", 1 << 24, 8, 1, false},
        {"topk:ratio=0.1+dgc:dense=0", 1 << 24, 64, 1, true},
        {"topk:ratio=0.01+ef", 1 << 24, 1, 1, false},
        {"topk:ratio=0.01+ef", 0, 8, 1, false},
        {"topk:ratio=0.5+ef", 1 << 24, 2, 8, false},
        {"topk:ratio=0.01+ef", 1 << 24, 3, 2, false},
        {"topk:ratio=0.01+ef", 1 << 24, 4, 2, true},
        {"topk:ratio=0.01+ef", 100000, 8, 1 << 10, false},
        {"topk:ratio=0.01+ef", 200000, 8, 2, false},
        {"topk:ratio=0.01+ef", 400000, 8, 2, true},
        {"topk:ratio=0.01", 1 << 24, 8, 32, false},
    };
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const bool              levels = cases[c].here > 1;
        const int               ranks = cases[c].hosts * cases[c].here;
        tacit_topology_t        topology = {.ranks = ranks, .hosts = cases[c].hosts, .rails = cases[c].here};
        tacit_topology_t        flat = {.ranks = ranks, .hosts = ranks, .rails = 1};
        tacit_comm_t            comm = {.ranks = ranks, .topology = &topology, .flat = &flat};
        const tacit_schedule_t *owners = levels ? tacit__schedule_named("two_level_scatter") : schedule();
        tacit_codec_t          *codec;

        tensor.count = cases[c].count;
        tensor.spec = cases[c].spec;
        MUST(tacit__codec_create("w", &tensor, &config, 0, ranks, &codec));
        ck_assert_msg(owners->pays(&comm, codec) == cases[c].pays, "%s, %zu elements, %d hosts, %d ranks", cases[c].spec,
                      cases[c].count, cases[c].hosts, ranks);
        ck_assert_str_eq(tacit__schedule_of(&comm, codec)->name,
                         cases[c].pays ? owners->name : (levels ? "two_level_sparse" : "sparse"));
        tacit_codec_destroy(codec);
    }
}
END_TEST

/* ---- Memory ---- */

enum { TAKEN = 1000, BIG = 7, TAKEN_STEPS = 6 };

typedef struct taken {
    tacit_status_t status[3];
    bool           kept[3];
} taken_t;

/* In the last step the tracker of one element leaves the range of float32, which shows when all owners have chosen again. */
static void taken_body(tacit_comm_t *comm, void *arg)
{
    taken_t      *taken = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", TAKEN, TACIT_FLOAT32, "topk:ratio=0.1+ef21");
    float         x[TAKEN], memory[4 * TAKEN];
    tacit_array_t array;
    size_t        at = 0;

    for (int step = 0; step < TAKEN_STEPS; step++) {
        session_normal(rank, step, TAKEN, x);
        x[BIG] = step + 1 < TAKEN_STEPS ? 0x1p126f : 1.5f * 0x1p126f;
        for (size_t i = at = 0; step + 1 == TAKEN_STEPS && tacit__codec_array(slot->codec, i, &array); i++) {
            memcpy(memory + at, array.values, array.count * sizeof(float));
            at += array.count;
        }
        taken->status[rank] = tacit_allreduce(slot, x, x, TACIT_SUM);
    }
    taken->kept[rank] = at > 2 * TAKEN;
    for (size_t i = at = 0; tacit__codec_array(slot->codec, i, &array); i++) {
        taken->kept[rank] = taken->kept[rank] && memcmp(memory + at, array.values, array.count * sizeof(float)) == 0;
        at += array.count;
    }
}

START_TEST(taken_back)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    taken_t        taken = {.kept = {false}};

    config.strict = 1;
    run_ranks(3, &config, taken_body, &taken);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(taken.status[rank], TACIT_ERR_VALUE);
        ck_assert_msg(taken.kept[rank], "rank %d has other memory than before the error", rank);
    }
}
END_TEST

typedef struct steady {
    const char       *spec;
    pthread_barrier_t barrier;
    tacit_status_t    status[2];
} steady_t;

static void steady_body(tacit_comm_t *comm, void *arg)
{
    steady_t     *steady = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "gradient", 20000, TACIT_FLOAT32, steady->spec);
    float        *x = session_floats(20000);

    for (int step = 0; step < 10; step++) {
        session_normal(rank, step, 20000, x);
        if (step == 9) {
            pthread_barrier_wait(&steady->barrier);
            if (rank == 0) {
                tacit__alloc_fail_after(7); /* three make an operation, on each of two ranks */
            }
            pthread_barrier_wait(&steady->barrier);
        }
        steady->status[rank] = tacit_allreduce(slot, x, x, TACIT_SUM);
    }
    free(x);
}

/* Once buffers are there, no more is asked for. */
START_TEST(steady_state)
{
    static const char *const specs[] = {"topk:ratio=0.1+ef", "topk:ratio=0.1", "topk:ratio=0.1+dgc:dense=0"};

    for (size_t s = 0; s < 2 * sizeof specs / sizeof *specs; s++) {
        steady_t steady = {.spec = specs[s / 2]};

        set_plan(s % 2 == 0 ? plan : "sparse");
        pthread_barrier_init(&steady.barrier, NULL, 2);
        run_ranks(2, NULL, steady_body, &steady);
        pthread_barrier_destroy(&steady.barrier);
        tacit__alloc_fail_after(0);
        ck_assert_msg(steady.status[0] == TACIT_OK && steady.status[1] == TACIT_OK, "%s", steady.spec);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sparse_scatter");
    TCase *results = tcase_create("results"), *volume = tcase_create("volume"), *choice = tcase_create("choice"),
          *faults = tcase_create("faults");
    const int all_ranks = (int)(sizeof many / sizeof *many);

    tcase_add_checked_fixture(results, plan_scatter, NULL);
    tcase_add_loop_test(results, as_in_plain_loops, 0, all_ranks);
    tcase_add_loop_test(results, all_of_the_sum, 0, all_ranks);
    tcase_add_loop_test(results, handed_over, 0, 4);
    tcase_set_timeout(results, 120);
    suite_add_tcase(suite, results);
    tcase_add_checked_fixture(volume, plan_scatter, NULL);
    tcase_add_test(volume, bounded_volume);
    tcase_add_test(volume, bounded_between_hosts);
    tcase_add_test(volume, dense_where_shorter);
    if (getenv("TACIT_TEST_LONG") != NULL) {
        tcase_add_test(volume, many_ranks);
    }
    tcase_set_timeout(volume, 120);
    suite_add_tcase(suite, volume);
    tcase_add_checked_fixture(choice, plan_none, NULL);
    tcase_add_test(choice, lossy_sums);
    tcase_add_test(choice, crossover);
    tcase_add_loop_test(choice, respecified, 0, 2);
    suite_add_tcase(suite, choice);
    tcase_add_checked_fixture(faults, plan_scatter, NULL);
    tcase_add_test(faults, taken_back);
    tcase_add_test(faults, steady_state);
    suite_add_tcase(suite, faults);
    return harness_main(suite);
}
