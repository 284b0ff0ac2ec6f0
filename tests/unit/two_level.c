/* SPDX-License-Identifier: Apache-2.0 */
/* Two levels, on hosts that the environment names: the leaders' part is what one level does with the hosts' sums; nothing is
   lost, whatever the hosts; a value that cannot be reduced is found where it was given; and less leaves a host. */
#include <unistd.h>

#include "bits.h"
#include "parts.h"
#include "session.h"

static const char *const remembering[] = {"none+ef",
                                          "bf16+ef",
                                          "onebit:block=64+ef",
                                          "onebit:block=64,own=coded+ef",
                                          "onebit:block=0,own=coded+ef",
                                          "qsgd:bits=4,block=32+ef",
                                          "rotq:bits=2+ef",
                                          "topk:ratio=0.05+ef",
                                          "topk:ratio=0.1,values=fp16,index=u16+ef",
                                          "topk:ratio=0.05+ef by two_level_scatter",
                                          "topk:ratio=0.9,values=fp16,index=u32+ef by two_level_scatter", /* dense */
                                          "topk:ratio=0.1,select=sampled+ef"};
enum { REMEMBERING = sizeof remembering / sizeof *remembering };
enum { WITHOUT_RANDOM = REMEMBERING - 1 }; /* the first of them do not depend on a rank's number */

/* Nothing of it is a host's: factors of each rank are added up. */
static const char *const linear[] = {"randk:ratio=0.2+ef", "powersgd:rank=2+ef"};
enum { LINEAR = sizeof linear / sizeof *linear };

/* ---- Of hosts' sums ---- */

/* Hosts of these many ranks, of which as many lead as the smallest has. */
typedef struct hosts {
    const char *list;
    int         count, rails, ranks[8];
} hosts_t;

static const hosts_t uneven[] = {
    {"2,1", 2, 1, {2, 1}}, {"1,2,1", 3, 1, {1, 2, 1}}, {"3,1", 2, 1, {3, 1}}, {"1,4,1,2", 4, 1, {1, 4, 1, 2}}};
enum { UNEVEN = sizeof uneven / sizeof *uneven };

/* A rail as sum_of_host() and what compares see it. */
static struct {
    const hosts_t *hosts;
    int            number;
    size_t         of; /* elements, of which it has … */
    tacit_range_t  range;
} present;

static void set_rail(const hosts_t *hosts, int number, size_t count)
{
    const tacit_codec_t codec = {.tensor.count = count, .key.slot = tacit__hash_text("gradient")};

    present.hosts = hosts;
    present.number = number;
    present.of = count;
    present.range = tacit__rail_range(&codec, number, hosts->rails);
}

/* What a host gives: the sum of its ranks' tensors, from the one behind the rail's leader on. */
static void sum_of_host(int host, int step, size_t count, float *x)
{
    int    first = 0;
    float *one = session_floats(present.of);

    for (int before = 0; before < host; before++) {
        first += present.hosts->ranks[before];
    }
    for (int i = 1; i <= present.hosts->ranks[host]; i++) {
        session_normal(first + (present.number + i) % present.hosts->ranks[host], step, present.of, one);
        for (size_t e = 0; e < count; e++) {
            x[e] = i == 1 ? one[present.range.begin + e] : x[e] + one[present.range.begin + e];
        }
    }
    free(one);
}

/* Not what may pay there. */
static const char *between_hosts(const char *spec, char text[SPEC_BYTES])
{
    const char *by = strncmp(spec, "topk", 4) != 0 ? "blockwise" : strstr(spec, " by ") != NULL ? "sparse-scatter" : "sparse";

    snprintf(text, SPEC_BYTES, "%.*s by %s", (int)strcspn(spec, " "), spec, by);
    return text;
}

static void rail_as_hosts(const session_t *of_ranks)
{
    const size_t first = present.range.begin, count = present.range.end - first;
    session_t    of_hosts = *of_ranks;
    char         text[SPEC_BYTES];
    int          leader = present.number;

    of_hosts.spec = between_hosts(of_ranks->spec, text);
    of_hosts.ranks = present.hosts->count;
    of_hosts.count = count;
    of_hosts.input = sum_of_host;
    session_run(&of_hosts);
    for (int step = 0; step < of_ranks->steps; step++) {
        same_floats(of_ranks->out + (size_t)step * present.of + first, of_hosts.out + (size_t)step * count, count,
                    of_ranks->spec);
    }
    same_floats(of_ranks->owner + first, of_hosts.owner, count, of_ranks->spec);
    for (int host = 0; host < present.hosts->count; leader += present.hosts->ranks[host++]) {
        same_floats(of_ranks->memory[leader] + first, of_hosts.memory[host], count, of_ranks->spec);
        memset(of_ranks->memory[leader] + first, 0, count * sizeof(float));
    }
    session_free(&of_hosts);
}

static void as_hosts(const char *spec, const hosts_t *hosts, size_t count)
{
    session_t of_ranks = {.spec = spec, .steps = 3, .count = count, .op = TACIT_SUM, .config = TACIT_CONFIG_INIT};

    of_ranks.config.chunk_bytes = 1024;
    for (int host = 0; host < hosts->count; host++) {
        of_ranks.ranks += hosts->ranks[host];
    }
    name_hosts(hosts->list);
    session_run(&of_ranks);
    name_hosts(NULL);
    for (int number = 0; number < hosts->rails; number++) {
        set_rail(hosts, number, count);
        rail_as_hosts(&of_ranks);
    }
    for (int rank = 0; rank < of_ranks.ranks; rank++) { /* nobody else remembers anything */
        ck_assert_float_eq(largest_of(of_ranks.memory[rank], count), 0);
    }
    session_free(&of_ranks);
}

START_TEST(hosts_as_ranks)
{
    static const size_t counts[] = {1, 63, 700, 20000};

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        as_hosts(remembering[_i / UNEVEN], &uneven[_i % UNEVEN], counts[i]);
    }
}
END_TEST

/* Where hosts choose twice, or all of their sum goes out; and on several rails, each of which is a tensor of its own. */
START_TEST(owners_as_ranks)
{
    static const hosts_t     several[] = {{"2", 2, 2, {2, 2}},
                                          {"2", 3, 2, {2, 2, 2}},
                                          {"3,2,2,1,1", 5, 1, {3, 2, 2, 1, 1}},
                                          {"3,2,3,2", 4, 2, {3, 2, 3, 2}},
                                          {"2", 8, 2, {2, 2, 2, 2, 2, 2, 2, 2}}};
    static const char *const specs[] = {"topk:ratio=0.05+ef by two_level_scatter",
                                        "topk:ratio=0.3 by two_level_scatter",
                                        "topk:ratio=0.1+dgc:dense=0 by two_level_scatter",
                                        "topk:ratio=0.1+econtrol:eta=0.1,init=gradient by two_level_scatter",
                                        "topk:ratio=0.1,values=fp16+ef21:average=0.5 by two_level_scatter",
                                        "onebit:block=64+ef"};
    const hosts_t           *hosts = &several[_i];

    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        as_hosts(specs[s], hosts, s % 2 == 0 ? 9000 : 20001);
    }
}
END_TEST

static const char *const tracking[] = {"bf16+ef21:init=zero",
                                       "onebit:block=64+ef21:average=0.5",
                                       "onebit:block=64+econtrol:init=gradient",
                                       "qsgd:bits=4,block=32+econtrol",
                                       "topk:ratio=0.1+ef21:init=gradient",
                                       "topk:ratio=0.1+ef21:average=0.5",
                                       "topk:ratio=0.1+ef21:average=0.5,init=gradient",
                                       "topk:ratio=0.1,values=fp16+econtrol:init=gradient",
                                       "topk:ratio=0.1+econtrol",
                                       "topk:ratio=0.1+dgc:dense=0",
                                       "topk:ratio=0.1"};
enum { TRACKING = sizeof tracking / sizeof *tracking };

/* Trackers too: of a host's sums, and of the mean, which every rank has; and momentum. */
START_TEST(trackers)
{
    as_hosts(tracking[_i / UNEVEN], &uneven[_i % UNEVEN], 5000);
}
END_TEST

/* A dense first operation leaves memory with those who keep it: where every rank remembers by itself, its own gradient. */
START_TEST(dense_start)
{
    static const char *const specs[] = {"randk:ratio=0.1+econtrol:init=gradient", "randk:ratio=0.1+ef21:init=gradient"};
    session_t                session = {.spec = specs[_i], .ranks = 4, .steps = 1, .count = 5000, .op = TACIT_AVERAGE};
    float                   *x = session_floats(session.count);

    name_hosts("2");
    session_run(&session);
    name_hosts(NULL);
    for (int rank = 0; rank < session.ranks; rank++) {
        session_normal(rank, 0, session.count, x);
        same_floats(session.memory[rank], x, session.count, session.spec);
    }
    session_free(&session);
    free(x);
}
END_TEST

/* Every element is on one rail, whatever a slot's name hashes to. */
START_TEST(no_rail_twice)
{
    tacit_codec_t codec = {.tensor.count = 20001, .key.slot = _i == 0 ? 7 : UINT64_MAX - 1};

    for (int rails = 1; rails <= 10; rails++) {
        size_t elements = 0;

        for (int rail = 0; rail < rails; rail++) {
            const tacit_range_t range = tacit__rail_range(&codec, rail, rails);

            elements += range.end - range.begin;
            for (int other = 0; other < rail; other++) {
                ck_assert_uint_ne(tacit__rail_range(&codec, other, rails).begin, range.begin);
            }
        }
        ck_assert_uint_eq(elements, codec.tensor.count);
    }
}
END_TEST

/* ---- Whatever the hosts ---- */

static const struct {
    int         ranks;
    const char *list;
} any[] = {{3, "2,1"}, {4, "2"}, {4, "1,2,1"}, {5, "2"}, {6, "3"}, {8, "3,3,2"}, {8, "2"}, {7, "2,5"}};
enum { ANY = sizeof any / sizeof *any };

START_TEST(nothing_is_lost)
{
    static const size_t counts[] = {0, 5, 2049, 30000};

    const int spec = _i / (ANY / 2), hosts = 2 * (_i % (ANY / 2)) + spec % 2; /* each with half of them */

    name_hosts(any[hosts].list);
    for (size_t i = 0; i < 2 * sizeof counts / sizeof *counts; i++) {
        session_t session = {.spec = spec < LINEAR ? linear[spec] : remembering[spec - LINEAR],
                             .ranks = any[hosts].ranks,
                             .steps = 3,
                             .count = counts[i / 2],
                             .op = i % 2 == 0 ? TACIT_SUM : TACIT_AVERAGE,
                             .in_place = i % 2 != 0,
                             .lazy = i % 3 == 0};

        session.config = (tacit_config_t)TACIT_CONFIG_INIT;
        session.config.chunk_bytes = i % 2 == 0 ? 1024 : 0;
        session.config.strict = i % 4 > 1;
        session_run(&session);
        session_conserves(&session);
        session_free(&session);
    }
    name_hosts(NULL);
}
END_TEST

/* With other blocks from time to time: one rank of a host remembers what has not been sent of an element, and always the same. */
static void change_blocks(tacit_slot_t *slot, int step)
{
    if (step % 2 == 0) {
        MUST(tacit_slot_set_spec(slot, step % 4 == 0 ? "onebit:block=96+ef" : "onebit:block=512+ef"));
    }
}

START_TEST(changes)
{
    session_t session = {
        .spec = "onebit:block=96+ef", .ranks = 6, .steps = 8, .count = 20001, .op = TACIT_SUM, .before = change_blocks};
    const int here = _i == 0 ? 2 : 3;

    name_hosts(_i == 0 ? "2" : "3,3");
    session.config = (tacit_config_t)TACIT_CONFIG_INIT;
    session_run(&session);
    session_conserves(&session);
    for (size_t i = 0; i < session.count; i++) {
        for (int first = 0; first < session.ranks; first += here) {
            int remember = 0;

            for (int rank = first; rank < first + here; rank++) {
                remember += session.memory[rank][i] != 0;
            }
            ck_assert_int_le(remember, 1);
        }
    }
    session_free(&session);
    name_hosts(NULL);
}
END_TEST

/* Finite values whose sum in a host is not. */
START_TEST(sum_overflows)
{
    name_hosts("2");
    session_overflow(4, _i / 2 == 0 ? "fp8" : "topk:ratio=0.5+ef", _i % 2 == 0 ? TACIT_NONFINITE_ERROR : TACIT_NONFINITE_SKIP,
                     "the sum of its host's ranks");
    name_hosts(NULL);
}
END_TEST

/* Where trackers begin with a dense operation: with leaders if they are those of leaders, also where another way is asked for.
   Then no more ranks than there are hosts have some of an element; else all have. What they have is what all agree on, and what
   owners have not told yet. */
START_TEST(dense_at_first)
{
    static const struct {
        const char *plan; /* NULL: none */
        bool        leaders;
    } plans[] = {{NULL, true}, {"two_level_sparse", true}, {"two_level_scatter", true}, {"blockwise", true}, {"sparse", false}};
    enum { COUNT = 9000, STEPS = 3 };
    session_t session = {.spec = _i % 2 == 0 ? "topk:ratio=0.1+ef21:init=gradient" : "topk:ratio=0.1+econtrol:init=gradient",
                         .ranks = 7,
                         .steps = STEPS,
                         .count = COUNT,
                         .op = TACIT_SUM,
                         .config = TACIT_CONFIG_INIT};

    name_hosts("3,2,2");
    if (plans[_i / 2].plan != NULL) {
        setenv("TACIT_PLAN", plans[_i / 2].plan, 1);
    }
    session_run(&session);
    unsetenv("TACIT_PLAN");
    name_hosts(NULL);
    for (size_t i = 0; i < COUNT; i++) {
        double sum = -(double)session.out[(STEPS - 1) * COUNT + i] - (double)session.owner[i];
        int    have = 0;

        for (int rank = 0; rank < session.ranks; rank++) {
            sum += (double)session.memory[rank][i];
            have += session.memory[rank][i] != 0;
        }
        ck_assert_int_eq(have, plans[_i / 2].leaders ? 3 : session.ranks);
        ck_assert_double_le(fabs(sum), 1e-4); /* 3 steps of 8 sums, of numbers below 100 */
    }
    session_free(&session);
}
END_TEST

/* ---- Several tensors at once ---- */

enum { SLOTS = 6, MOST = 40000 };

typedef struct many {
    bool     grouped;
    uint64_t sparse[8], blockwise[8]; /* hashes of results */
} many_t;

static void many_body(tacit_comm_t *comm, void *arg)
{
    static const char *const specs[SLOTS] = {"topk:ratio=0.05+ef", "onebit:block=64+ef", "topk:ratio=0.1+dgc:dense=0",
                                             "topk:ratio=0.1",     "topk:ratio=0.02+ef", "topk:ratio=0.1+ef21:init=gradient"};
    static const size_t      counts[SLOTS] = {MOST, 5000, 3, 0, 12289, 4097};
    many_t                  *many = arg;
    const int                rank = tacit_comm_rank(comm);
    tacit_slot_t            *slots[SLOTS];
    float                   *x = session_floats((size_t)SLOTS * MOST);

    for (int i = 0; i < SLOTS; i++) {
        const char name[] = {(char)('a' + i), '\0'};

        slots[i] = slot_of(comm, name, counts[i], TACIT_FLOAT32, specs[i]);
    }
    for (int step = 0; step < 3; step++) {
        if (many->grouped) {
            MUST(tacit_group_begin(comm));
        }
        for (int i = 0; i < SLOTS; i++) {
            float *own = x + (size_t)i * MOST;

            session_normal(rank, SLOTS * step + i, counts[i], own);
            MUST(tacit_allreduce(slots[i], own, own, TACIT_AVERAGE));
        }
        if (many->grouped) {
            MUST(tacit_group_end(comm, NULL));
        }
        for (int i = 0; i < SLOTS; i++) {
            uint64_t *hash = i == 1 ? &many->blockwise[rank] : &many->sparse[rank];

            *hash = 31 * *hash + harness_hash(x + (size_t)i * MOST, counts[i] * sizeof *x);
        }
    }
    free(x);
}

/* The same as one by one: a sparse tensor's bits do not depend on its neighbours, as those of a blockwise one do, whose owner
   changes. */
START_TEST(in_groups)
{
    static const struct {
        int         ranks;
        const char *list;
    } hosts[] = {{4, "2"}, {7, "2,5"}, {8, "3,3,2"}};
    tacit_config_t config = TACIT_CONFIG_INIT;
    many_t         alone = {.grouped = false}, grouped = {.grouped = true};

    config.chunk_bytes = _i % 2 == 0 ? 1024 : 0;
    ask_for(_i / 6 == 0 ? NULL : "topk by two_level_scatter");
    name_hosts(hosts[_i / 2 % 3].list);
    run_ranks(hosts[_i / 2 % 3].ranks, &config, many_body, &alone);
    run_ranks_lazily(hosts[_i / 2 % 3].ranks, &config, many_body, &grouped);
    name_hosts(NULL);
    ask_for(NULL);
    for (int rank = 0; rank < hosts[_i / 2 % 3].ranks; rank++) {
        ck_assert(alone.sparse[rank] == alone.sparse[0] && grouped.sparse[rank] == alone.sparse[0]);
        ck_assert(alone.blockwise[rank] == alone.blockwise[0] && grouped.blockwise[rank] == grouped.blockwise[0]);
    }
}
END_TEST

/* ---- What is given ---- */

typedef struct given {
    const char *spec;
    bool        passes;
} given_t;

/* Ranks give their number and 1, rank 1 also NaN. */
static void check_given(float sum, size_t i, bool passes)
{
    if (passes && i % 100 == 0) {
        ck_assert(isnan(sum));
    } else {
        ck_assert_float_eq(sum, i % 100 == 0 ? 13.0f : 15.0f);
    }
}

static void given_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 5000 };
    const given_t *given = arg;
    const int      rank = tacit_comm_rank(comm);
    tacit_slot_t  *wide = slot_of(comm, "wide", COUNT, TACIT_FLOAT32, given->spec);
    tacit_slot_t  *narrow = slot_of(comm, "narrow", COUNT, TACIT_BFLOAT16, given->spec);
    float         *x = session_floats(COUNT);
    uint16_t      *y = calloc(COUNT, sizeof *y);

    for (size_t i = 0; i < COUNT; i++) {
        x[i] = rank == 1 && i % 100 == 0 ? NAN : (float)(rank + 1);
        y[i] = (uint16_t)(tacit__float_bits(x[i]) >> 16);
    }
    MUST(tacit_allreduce(wide, x, x, TACIT_SUM));
    MUST(tacit_allreduce(narrow, y, y, TACIT_SUM));
    for (size_t i = 0; i < COUNT; i++) {
        check_given(x[i], i, given->passes);
        check_given(tacit__bits_float((uint32_t)y[i] << 16), i, given->passes);
    }
    tacit__memory_read(wide->codec, 0, 0, COUNT, x);
    for (size_t i = 0; i < COUNT; i++) {
        ck_assert_float_eq(x[i], 0); /* NaN is not */
    }
    free(x);
    free(y);
}

/* Tensors of 16 bits, and NaN that is to be passed over, or on. */
START_TEST(not_finite)
{
    given_t        given = {_i / 2 == 0 ? "topk:ratio=1+ef" : "fp16+ef", _i % 2 == 1};
    tacit_config_t config = TACIT_CONFIG_INIT;

    config.nonfinite = given.passes ? TACIT_NONFINITE_PASS : TACIT_NONFINITE_SKIP;
    name_hosts("3,2");
    run_ranks(5, &config, given_body, &given);
    name_hosts(NULL);
}
END_TEST

/* ---- Which slots, and what leaves a host ---- */

enum { RANKS = 6, LARGE = 1 << 20 };

typedef struct way {
    const char *plan[RANKS][5];
    uint64_t    wire[RANKS], network[RANKS], sparse[RANKS]; /* the last: what leaves a host of a sparse tensor */
    bool        right[RANKS];
} way_t;

static void way_body(tacit_comm_t *comm, void *arg)
{
    way_t        *way = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slots[] = {slot_of(comm, "a", LARGE, TACIT_FLOAT32, "onebit+ef"), slot_of(comm, "b", 9, TACIT_FLOAT32, "fp8"),
                             slot_of(comm, "c", 9, TACIT_BFLOAT16, "none"), slot_of(comm, "d", 9, TACIT_BFLOAT16, "onebit+ef"),
                             slot_of(comm, "e", LARGE, TACIT_FLOAT32, "topk:ratio=0.01+ef")};
    float        *x = session_floats(LARGE);
    tacit_counters_t counters;

    for (int i = 0; i < 5; i++) {
        way->plan[rank][i] = slots[i]->schedule->name;
    }
    for (size_t i = 0; i < LARGE; i++) {
        x[i] = (float)(rank + 1);
    }
    MUST(tacit_allreduce(slots[0], x, x, TACIT_SUM));
    way->right[rank] = x[0] == 21 && x[LARGE - 1] == 21; /* one sign and magnitude: nothing is lost */
    MUST(tacit_slot_counters(slots[0], &counters));
    way->wire[rank] = counters.wire_bytes;
    way->network[rank] = counters.network_bytes;
    session_normal(rank, 0, LARGE, x);
    MUST(tacit_allreduce(slots[4], x, x, TACIT_SUM));
    MUST(tacit_slot_counters(slots[4], &counters));
    way->sparse[rank] = counters.network_bytes;
    free(x);
}

static uint64_t total(const uint64_t bytes[RANKS])
{
    uint64_t sum = 0;

    for (int rank = 0; rank < RANKS; rank++) {
        sum += bytes[rank];
    }
    return sum;
}

START_TEST(leaves_less)
{
    static const char *const two[] = {"two_level", "two_level", "blockwise", "two_level", "two_level_sparse"};
    static way_t             one_level, one_sparse, two_levels, one_host;

    name_hosts("3");
    run_ranks(RANKS, NULL, way_body, &two_levels);
    ask_for("onebit by blockwise");
    run_ranks(RANKS, NULL, way_body, &one_level);
    ask_for("topk by sparse");
    run_ranks(RANKS, NULL, way_body, &one_sparse);
    ask_for(NULL);
    name_hosts("6");
    run_ranks(RANKS, NULL, way_body, &one_host);
    name_hosts(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        for (int i = 0; i < 5; i++) {
            ck_assert_str_eq(two_levels.plan[rank][i], two[i]);
            ck_assert_str_eq(one_level.plan[rank][i], i < 4 ? "blockwise" : "two_level_sparse");
            ck_assert_str_eq(one_sparse.plan[rank][i], i < 4 ? two[i] : "sparse");
            ck_assert(strncmp(one_host.plan[rank][i], "two_level", 9) != 0);
        }
        ck_assert(two_levels.right[rank] && one_level.right[rank] && one_host.right[rank]);
        ck_assert_uint_eq(one_host.network[rank], 0);
        ck_assert_uint_eq(one_host.sparse[rank], 0);
        ck_assert_uint_lt(one_level.network[rank], one_level.wire[rank]);
    }
    /* A third of it, as three ranks share a host, headers and verdicts included; of pairs a ninth, as each rank would send its
       own to each of three, with the same headers and verdicts. */
    ck_assert_uint_le(3 * total(two_levels.network), total(one_level.network) * 102 / 100);
    ck_assert_uint_le(9 * total(two_levels.sparse), total(one_sparse.sparse) * 103 / 100);
}
END_TEST

/* Where compression is off, 16-bit tensors are added up as they are, whatever spec they were given. */
static void disabled_body(tacit_comm_t *comm, void *arg)
{
    static const uint16_t bfloat16[] = {0x4380, 0x3f80, 0xc380, 0x0000}; /* 256, 1, -256, 0 */
    uint16_t             *sums = arg, x = bfloat16[tacit_comm_rank(comm)];

    MUST(tacit_allreduce(slot_of(comm, "slot", 1, TACIT_BFLOAT16, "onebit+ef"), &x, &x, TACIT_SUM));
    sums[tacit_comm_rank(comm)] = x;
}

START_TEST(disabled)
{
    uint16_t sums[4];

    setenv("TACIT_DISABLE", "1", 1);
    name_hosts("2");
    run_ranks(4, NULL, disabled_body, sums);
    name_hosts(NULL);
    unsetenv("TACIT_DISABLE");
    for (int rank = 0; rank < 4; rank++) {
        ck_assert_uint_eq(sums[rank], 0x3f80); /* 257 is no bfloat16 */
    }
}
END_TEST

/* ---- Faults ---- */

typedef struct fault {
    const char    *spec;
    int            at;
    tacit_op_t     op;
    tacit_status_t status[RANKS], after[RANKS];
    char           text[RANKS][TACIT_TEXT_BYTES];
    bool           kept[RANKS];
} fault_t;

static void fault_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 10000 };
    fault_t      *fault = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, fault->spec);
    float        *x = session_floats(COUNT), *before = session_floats(COUNT), *memory = session_floats(COUNT), good;

    session_normal(rank, 0, COUNT, x);
    MUST(tacit_allreduce(slot, x, memory, TACIT_AVERAGE));
    tacit__memory_read(slot->codec, 0, 0, COUNT, before);
    good = x[7000];
    x[7000] = rank == fault->at ? NAN : good;
    fault->status[rank] = tacit_allreduce(slot, x, memory, TACIT_AVERAGE);
    snprintf(fault->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    x[7000] = good;
    tacit__memory_read(slot->codec, 0, 0, COUNT, memory);
    fault->kept[rank] = true;
    for (size_t i = 0; i < COUNT; i++) {
        fault->kept[rank] = fault->kept[rank] && fabsf(memory[i] - before[i]) <= 1e-5f;
    }
    fault->after[rank] = tacit_allreduce(slot, x, memory, TACIT_AVERAGE);
    free(x);
    free(before);
    free(memory);
}

static const char *const failing[] = {"onebit:block=64+ef",          "topk:ratio=0.01+ef",
                                      "topk:ratio=0.01+dgc:dense=0", "topk:ratio=0.01+ef21",
                                      "topk:ratio=0.01+econtrol",    "topk:ratio=0.01+ef by two_level_scatter"};
enum { FAILING = sizeof failing / sizeof *failing };

START_TEST(of_one_rank)
{
    fault_t fault = {.spec = failing[_i / RANKS], .at = _i % RANKS};
    char    rank_text[64];

    ask_for(fault.spec);
    name_hosts("2,1,3");
    tacit__channels_refuse(_i % 2 == 0 ? 0 : UINT64_MAX);
    run_ranks(RANKS, NULL, fault_body, &fault);
    tacit__channels_refuse(0);
    name_hosts(NULL);
    ask_for(NULL);
    snprintf(rank_text, sizeof rank_text, "rank %d: slot 'slot' at step 1 holds NaN", fault.at);
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(fault.status[rank], TACIT_ERR_VALUE);
        ck_assert_msg(strstr(fault.text[rank], rank_text) != NULL, "%s", fault.text[rank]);
        ck_assert(fault.kept[rank]);
        ck_assert_int_eq(fault.after[rank], TACIT_OK);
    }
}
END_TEST

/* ---- What is saved ---- */

typedef struct saved {
    const char    *spec;
    bool           loads;
    tacit_status_t status[RANKS];
    char           text[RANKS][TACIT_TEXT_BYTES];
    uint64_t       hash[RANKS]; /* of the second call's result */
} saved_t;

static void saved_body(tacit_comm_t *comm, void *arg)
{
    enum { COUNT = 5000 };
    saved_t      *saved = arg;
    const int     rank = tacit_comm_rank(comm);
    tacit_slot_t *slot = slot_of(comm, "slot", COUNT, TACIT_FLOAT32, saved->spec);
    float        *x = session_floats(COUNT);
    char          path[HARNESS_PATH_BYTES];

    harness_path(path, "two_level.%d", rank);
    if (saved->loads) {
        saved->status[rank] = tacit_load(comm, path);
        snprintf(saved->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
        (void)unlink(path);
    } else {
        session_normal(rank, 0, COUNT, x);
        MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
        MUST(tacit_save(comm, path));
    }
    session_normal(rank, 1, COUNT, x);
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    saved->hash[rank] = harness_hash(x, COUNT * sizeof *x);
    free(x);
}

START_TEST(resumes)
{
    static const char *const lists[] = {"2", "2,2,1,1", NULL, "2,1,3"};
    static const char *const specs[] = {"onebit:block=64+ef", "topk:ratio=0.1+dgc:dense=0", "topk:ratio=0.1+ef"};
    saved_t                  whole = {.spec = specs[_i / 4]}, rest = whole;

    rest.loads = true;
    ask_for(_i / 4 == 2 ? "topk by two_level_scatter" : NULL);
    name_hosts("2");
    run_ranks(RANKS, NULL, saved_body, &whole);
    name_hosts(lists[_i % 4]);
    run_ranks(RANKS, NULL, saved_body, &rest);
    name_hosts(NULL);
    ask_for(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        if (_i % 4 == 0) {
            ck_assert(rest.status[rank] == TACIT_OK && rest.hash[rank] == whole.hash[rank]);
        } else {
            ck_assert_int_eq(rest.status[rank], TACIT_ERR_MISMATCH);
            ck_assert_msg(strstr(rest.text[rank], "set TACIT_TOPOLOGY or TACIT_PLAN as it was") != NULL, "%s", rest.text[rank]);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("two_level");
    TCase *hosts = tcase_create("hosts"), *owners = tcase_create("owners"), *sums = tcase_create("sums"),
          *faults = tcase_create("faults");

    tcase_add_loop_test(hosts, hosts_as_ranks, 0, WITHOUT_RANDOM * UNEVEN);
    tcase_add_loop_test(hosts, trackers, 0, TRACKING * UNEVEN);
    tcase_add_loop_test(owners, owners_as_ranks, 0, 5);
    tcase_add_loop_test(sums, dense_start, 0, 2);
    tcase_add_loop_test(sums, no_rail_twice, 0, 2);
    tcase_add_loop_test(sums, changes, 0, 2);
    tcase_add_loop_test(sums, dense_at_first, 0, 10);
    tcase_add_loop_test(sums, in_groups, 0, 12);
    tcase_add_test(sums, leaves_less);
    tcase_add_test(sums, disabled);
    tcase_add_loop_test(sums, nothing_is_lost, 0, (LINEAR + REMEMBERING) * (ANY / 2));
    tcase_add_loop_test(faults, sum_overflows, 0, 4);
    tcase_add_loop_test(faults, not_finite, 0, 4);
    tcase_add_loop_test(faults, of_one_rank, 0, FAILING * RANKS);
    tcase_add_loop_test(faults, resumes, 0, 12);
    tcase_set_timeout(hosts, 60);
    tcase_set_timeout(owners, 60);
    tcase_set_timeout(sums, 60);
    tcase_set_timeout(faults, 60);
    suite_add_tcase(suite, hosts);
    suite_add_tcase(suite, owners);
    suite_add_tcase(suite, sums);
    suite_add_tcase(suite, faults);
    return harness_main(suite);
}
