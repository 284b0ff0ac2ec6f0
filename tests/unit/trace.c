/* SPDX-License-Identifier: Apache-2.0 */
/* TACIT_TRACE: every line is an event that keeps to the format, a known operation has the events that it must have, and what
   cannot be written is told once and does no harm. */
#include <check.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

enum {
    RANKS = 3,
    CHUNK = 512, /* elements in 1024 bytes of fp16 */
    PART = 5,    /* chunks of an owner */
    COUNT = RANKS * PART * CHUNK,
    MOST = 100000 /* events kept */
};

typedef struct event {
    char     name[80], lane[16], slot[80], spec[32], schedule[16]; /* empty: it has none */
    int64_t  began, length;                                        /* nanoseconds */
    int      pid, tid, peer, status;
    unsigned operation;
    size_t   bytes, payload_bytes, wire_bytes, dense_bytes;
} event_t;

typedef struct trace {
    event_t *events;
    size_t   count, names;
} trace_t;

/* ---- Reading ---- */

/* The number behind "KEY": in a line; `otherwise` where there is none. */
static int number_in(const char *line, const char *key, int otherwise)
{
    const char *at = strstr(line, key);

    return at != NULL ? atoi(at + strlen(key)) : otherwise;
}

/* The text behind "KEY":" in a line; empty where there is none. */
static void text_in(const char *line, const char *key, char *text, size_t capacity)
{
    const char *at = strstr(line, key);

    at = at != NULL ? at + strlen(key) : "";
    snprintf(text, capacity, "%.*s", (int)strcspn(at, "\""), at);
}

/* A moment is an event that has no length. */
static bool read_event(const char *line, event_t *event)
{
    int64_t micro[2] = {0, 0};
    int     nano[2] = {0, 0}, phase = 0, start = 0, end = 0;
    bool    whole;

    *event = (event_t){.peer = number_in(line, "\"peer\":", -1),
                       .status = number_in(line, "\"status\":", 0),
                       .payload_bytes = (size_t)number_in(line, "\"payload_bytes\":", 0),
                       .wire_bytes = (size_t)number_in(line, "\"wire_bytes\":", 0),
                       .dense_bytes = (size_t)number_in(line, "\"dense_bytes\":", 0)};
    text_in(line, "\"spec\":\"", event->spec, sizeof event->spec);
    text_in(line, "\"schedule\":\"", event->schedule, sizeof event->schedule);
    if (sscanf(line, "{\"name\":\"%79[^\"]\",\"cat\":\"%15[^\"]\",\"ph\":%n", event->name, event->lane, &phase) != 2 ||
        sscanf(line + phase, strcmp(event->lane, "slot") == 0 ? "\"i\",\"s\":\"t\",%n" : "\"X\",%n", &start) != 0 || start == 0) {
        return false;
    }
    line += phase + start;
    whole = strncmp(line, "\"ts\":", 5) == 0 && sscanf(line, "\"ts\":%" SCNd64 ".%3d%n", &micro[0], &nano[0], &end) == 2;
    line += end;
    if (strcmp(event->lane, "slot") != 0) {
        whole = whole && sscanf(line, ",\"dur\":%" SCNd64 ".%3d%n", &micro[1], &nano[1], &end) == 2;
        line += end;
    }
    if (!whole || sscanf(line, ",\"pid\":%d,\"tid\":%d,\"args\":{\"operation\":%u,\"slot\":\"%79[^\"]\",\"bytes\":%zu%n",
                         &event->pid, &event->tid, &event->operation, event->slot, &event->bytes, &end) != 5) {
        return false;
    }
    event->began = 1000 * micro[0] + nano[0];
    event->length = 1000 * micro[1] + nano[1];
    return strstr(line + end, "}}") != NULL;
}

/* All of a file, which is removed. */
static trace_t read_trace(const char *path)
{
    FILE   *file = fopen(path, "r");
    char    line[512] = "";
    trace_t trace = {.events = calloc(MOST, sizeof *trace.events)};
    bool    more = true;

    ck_assert_msg(file != NULL, "%s is not there", path);
    ck_assert_str_eq(fgets(line, sizeof line, file), "[\n");
    while (fgets(line, sizeof line, file) != NULL && strcmp(line, "]\n") != 0) {
        char *last = strchr(line, '\n') - 1;

        ck_assert_msg(more, "no comma before '%s'", line);
        more = *last == ',';
        ck_assert_msg(strcmp(last + !more, more ? ",\n" : "\n") == 0 && strncmp(line, "{\"name\":\"", 9) == 0, "'%s'", line);
        if (strstr(line, "\"ph\":\"M\"") != NULL) {
            trace.names++;
        } else {
            ck_assert(trace.count < MOST);
            ck_assert_msg(read_event(line, &trace.events[trace.count]), "'%s'", line);
            trace.count++;
        }
    }
    ck_assert_str_eq(line, "]\n");
    ck_assert_ptr_null(fgets(line, sizeof line, file));
    ck_assert(!more);
    (void)fclose(file);
    ck_assert_int_eq(unlink(path), 0);
    return trace;
}

/* What every trace keeps to: a lane has events of one kind, in order, of which none begins before the last one has ended. */
static void check_rules(const trace_t *trace, int rank)
{
    int64_t began[32] = {0}, ended[32] = {0};
    char    lane[32][16] = {""};

    for (size_t i = 0; i < trace->count; i++) {
        const event_t *event = &trace->events[i];

        ck_assert_int_eq(event->pid, rank);
        ck_assert(event->tid >= 0 && event->tid < 32 && event->length >= 0 && event->operation > 0);
        ck_assert(lane[event->tid][0] == '\0' || strcmp(lane[event->tid], event->lane) == 0);
        snprintf(lane[event->tid], sizeof lane[0], "%s", event->lane);
        ck_assert_msg(event->began >= began[event->tid], "%s: %s goes back", event->lane, event->name);
        began[event->tid] = event->began;
        ck_assert_msg(event->began >= ended[event->tid], "%s: %s overlaps", event->lane, event->name);
        ended[event->tid] = event->began + event->length;
        ck_assert_msg((strcmp(event->lane, "send") == 0) == (event->tid >= 9), "%s in %d", event->lane, event->tid);
        ck_assert_int_eq(event->tid >= 9 ? event->peer : rank, event->tid >= 9 ? event->tid - 9 : rank);
    }
}

static size_t count_of(const trace_t *trace, const char *slot, const char *lane, const char *name)
{
    size_t count = 0;

    for (size_t i = 0; i < trace->count; i++) {
        const event_t *event = &trace->events[i];

        count += strcmp(event->slot, slot) == 0 && strcmp(event->lane, lane) == 0 && strcmp(event->name, name) == 0;
    }
    return count;
}

static size_t bytes_of(const trace_t *trace, const char *slot, const char *lane)
{
    size_t bytes = 0;

    for (size_t i = 0; i < trace->count; i++) {
        bytes +=
            strcmp(trace->events[i].slot, slot) == 0 && strcmp(trace->events[i].lane, lane) == 0 ? trace->events[i].bytes : 0;
    }
    return bytes;
}

/* Has communicators traced that are made from now on. */
static void trace_to(const char *name)
{
    char path[HARNESS_PATH_BYTES];

    ck_assert_int_eq(name != NULL ? setenv("TACIT_TRACE", harness_path(path, "%s", name), 1) : unsetenv("TACIT_TRACE"), 0);
}

static trace_t trace_of(const char *name, int rank)
{
    char    path[HARNESS_PATH_BYTES];
    trace_t trace = read_trace(harness_path(path, name, rank));

    check_rules(&trace, rank);
    return trace;
}

/* ---- A known operation ---- */

static void known_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "known", COUNT, TACIT_FLOAT32, "fp16+ef");
    float        *x = calloc(COUNT, sizeof *x), *y = calloc(COUNT, sizeof *y);

    harness_fill(x, COUNT, (uint64_t)tacit_comm_rank(comm), 1.0f);
    MUST(tacit_allreduce(slot, x, *(bool *)arg ? x : y, TACIT_AVERAGE));
    free(x);
    free(y);
}

START_TEST(known)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .chunk_bytes = 1024};
    bool                 in_place = _i != 0;

    trace_to("known");
    run_ranks(RANKS, &config, known_body, &in_place);
    trace_to(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        const size_t  others = RANKS - 1;
        const trace_t trace = trace_of("known.%d", rank);
        const struct {
            const char *lane, *name;
            size_t      count;
        } rows[] = {
            {"operation", "tacit_allreduce", 1},
            {"encode", "encode", others * PART},
            {"add", "add", PART},
            {"decode", "decode", RANKS * PART},
            {"send", "contribution", others * PART},
            {"send", "result", others * PART},
            {"send", "verdict", 2 * others},
            {"receive", "contribution", others * PART},
            {"receive", "result", others * PART},
            {"receive", "verdict", others},
            {"verdict", "verdict", 1},
            {"native", "native", 0},
        };

        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            const size_t count = count_of(&trace, "known", rows[i].lane, rows[i].name);

            ck_assert_msg(count == rows[i].count, "%zu %s %s", count, rows[i].lane, rows[i].name);
        }
        ck_assert_uint_eq(bytes_of(&trace, "known", "operation"), COUNT * sizeof(float));
        ck_assert_uint_eq(bytes_of(&trace, "known", "encode"), COUNT / RANKS * others * sizeof(float));
        ck_assert_uint_eq(bytes_of(&trace, "known", "decode"), COUNT * sizeof(float));
        ck_assert_uint_eq(count_of(&trace, "known", "slot", "known"), 0); /* the operation says it */
        for (size_t i = 0; i < trace.count; i++) {
            const event_t *event = &trace.events[i];
            const bool     ends = strcmp(event->slot, "known") == 0 && strcmp(event->lane, "operation") == 0;

            ck_assert_str_eq(event->spec, ends ? "fp16+ef" : "");
            ck_assert_str_eq(event->schedule, ends ? "blockwise" : "");
            ck_assert_uint_eq(event->payload_bytes, ends ? 2 * others * COUNT / RANKS * sizeof(uint16_t) : 0);
            ck_assert_uint_eq(event->wire_bytes, ends ? bytes_of(&trace, "known", "send") : 0);
            ck_assert_uint_eq(event->dense_bytes, ends ? 2 * others * COUNT / RANKS * sizeof(float) : 0);
        }
        ck_assert_uint_eq(trace.names, 9 + others + 1);
        ck_assert_uint_eq(count_of(&trace, "tacit_slot_create", "send", "agreement"), others);
        free(trace.events);
    }
}
END_TEST

/* ---- Every way ---- */

static const char *const ways[] = {"none by ring", "fp16+ef", "topk:ratio=0.1+ef by sparse",
                                   "topk:ratio=0.1+ef by sparse-scatter", "randk:ratio=0.1+ef"};

static void way_body(tacit_comm_t *comm, void *arg)
{
    enum { SLOTS = 3, ELEMENTS = 20000 };
    tacit_slot_t *slots[SLOTS];
    float        *x = calloc(ELEMENTS, sizeof *x), *y[SLOTS];

    harness_fill(x, ELEMENTS, (uint64_t)tacit_comm_rank(comm), 1.0f);
    for (size_t s = 0; s < SLOTS; s++) {
        char name[] = "s0 \"\\\xc3\xa4\n";

        name[1] = (char)('0' + s);
        slots[s] = slot_of(comm, name, ELEMENTS, TACIT_FLOAT32, arg);
        y[s] = calloc(ELEMENTS, sizeof *y[s]);
        MUST(tacit_allreduce(slots[s], x, y[s], TACIT_SUM));
    }
    MUST(tacit_group_begin(comm));
    for (size_t s = 0; s < SLOTS; s++) {
        MUST(tacit_allreduce(slots[s], x, y[s], TACIT_SUM));
    }
    MUST(tacit_group_end(comm, NULL));
    for (size_t s = 0; s < SLOTS; s++) {
        free(y[s]);
    }
    free(x);
}

START_TEST(every_way)
{
    const char *slot = "s0 \\u0022\\u005c\\u00c3\\u00a4\\u000a", *group = "s0 \\u0022\\u005c\\u00c3\\u00a4\\u000a and 2 more";

    ask_for(ways[_i]);
    trace_to("%r.json");
    run_ranks(RANKS, NULL, way_body, (void *)(uintptr_t)ways[_i]);
    trace_to(NULL);
    ask_for(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        const trace_t trace = trace_of("%d.json", rank);
        char          spec[SPEC_BYTES];
        size_t        sum_payload = 0, sum_wire = 0;

        ck_assert_uint_eq(count_of(&trace, slot, "operation", "tacit_allreduce"), 1);
        ck_assert_uint_eq(count_of(&trace, group, "operation", "tacit_group_end"), 1);
        ck_assert_uint_eq(count_of(&trace, slot, "slot", slot), 1);
        for (size_t i = 0; i < trace.count; i++) {
            const event_t *event = &trace.events[i];

            if (strcmp(event->lane, "slot") == 0) {
                sum_payload += event->payload_bytes;
                sum_wire += event->wire_bytes;
            } else if (strcmp(event->slot, group) == 0 && strcmp(event->lane, "operation") == 0) {
                ck_assert_str_eq(event->spec, spec_in(ways[_i], spec));
                ck_assert_int_ne(event->schedule[0], '\0');
                ck_assert_uint_eq(event->wire_bytes, 0); /* each slot's own */
            }
        }
        ck_assert_uint_gt(sum_payload, 0);
        ck_assert_uint_gt(sum_wire, sum_payload);
        ck_assert_int_le(labs((long)sum_wire - (long)bytes_of(&trace, group, "send")), 2); /* shares are rounded */
        ck_assert_uint_gt(bytes_of(&trace, slot, "encode"), 0);
        ck_assert_uint_gt(bytes_of(&trace, slot, "decode"), 0);
        ck_assert_uint_gt(bytes_of(&trace, slot, "send"), 0);
        ck_assert_uint_gt(bytes_of(&trace, slot, "receive"), 0);
        free(trace.events);
    }
}
END_TEST

/* ---- All-to-all ---- */

static void alltoall_body(tacit_comm_t *comm, void *arg)
{
    float *in = calloc(2 * RANKS * CHUNK, sizeof *in), *out = in + RANKS * CHUNK;

    (void)arg;
    MUST(tacit_alltoall(comm, "fp16", TACIT_FLOAT32, in, CHUNK, out));
    free(in);
}

START_TEST(alltoall)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .chunk_bytes = 1024};

    trace_to("alltoall");
    run_ranks(RANKS, &config, alltoall_body, NULL);
    trace_to(NULL);
    for (int rank = 0; rank < RANKS; rank++) {
        const trace_t trace = trace_of("alltoall.%d", rank);

        ck_assert_uint_eq(count_of(&trace, "tacit_alltoall", "operation", "tacit_alltoall"), 1);
        ck_assert_uint_eq(count_of(&trace, "tacit_alltoall", "send", "rows"), RANKS - 1);
        ck_assert_uint_eq(count_of(&trace, "tacit_alltoall", "receive", "rows"), RANKS - 1);
        free(trace.events);
    }
}
END_TEST

/* ---- More than is kept ---- */

static void long_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "long", 64, TACIT_FLOAT32, "onebit:block=64");
    float         x[64] = {1.0f};

    (void)arg;
    for (int i = 0; i < MOST / 8; i++) {
        MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    }
}

START_TEST(last_ones_kept)
{
    trace_to("long");
    run_ranks(2, NULL, long_body, NULL);
    trace_to(NULL);
    for (int rank = 0; rank < 2; rank++) {
        const trace_t trace = trace_of("long.%d", rank);

        ck_assert_uint_eq(trace.count, MOST);
        ck_assert_uint_gt(trace.events[0].operation, 100);
        ck_assert_uint_eq(trace.events[MOST - 1].operation, MOST / 8 + 2); /* communicator and slot come before */
        free(trace.events);
    }
}
END_TEST

/* ---- Failures ---- */

static void broken_body(tacit_comm_t *comm, void *arg)
{
    tacit_loop_t  *loop = *(tacit_loop_t **)arg;
    tacit_slot_t  *slot = slot_of(comm, "broken", COUNT, TACIT_FLOAT32, "onebit:block=64+ef");
    float         *x = calloc(COUNT, sizeof *x);
    tacit_status_t status;

    if (tacit_comm_rank(comm) == 1) { /* verdicts stay away too */
        MUST(tacit_loop_inject(loop, TACIT_LOOP_DELAY, 1, 0, 0, 3000));
    }
    status = tacit_allreduce(slot, x, x, TACIT_AVERAGE);
    if (status != TACIT_ERR_TIMEOUT) {
        fprintf(stderr, "%s\n", tacit_strerror(status));
        abort();
    }
    free(x);
}

START_TEST(broken)
{
    const tacit_config_t config = {.struct_bytes = sizeof config, .timeout_ms = 200};
    tacit_loop_t        *loop;

    trace_to("broken");
    MUST(tacit_loop_create(2, &loop));
    run_ranks_over(loop, 2, &config, broken_body, &loop);
    tacit_loop_release(loop);
    trace_to(NULL);
    for (int rank = 0; rank < 2; rank++) {
        const trace_t  trace = trace_of("broken.%d", rank);
        const event_t *last = &trace.events[trace.count - 1];

        while (strcmp(last->lane, "operation") != 0) {
            last--;
        }
        ck_assert_str_eq(last->slot, "broken");
        ck_assert_int_eq(last->status, TACIT_ERR_TIMEOUT);
        ck_assert_uint_gt(count_of(&trace, "broken", "wait", "wait"), 0);
        free(trace.events);
    }
}
END_TEST

/* Runs the known operation in a process of its own and returns what it wrote to standard error. */
static const char *words_of(const char *path)
{
    static char text[4096];
    size_t      used = 0;
    ssize_t     got;
    int         ends[2], status;
    pid_t       child;
    bool        in_place = false;

    ck_assert_int_eq(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        const tacit_config_t config = {.struct_bytes = sizeof config, .chunk_bytes = 1024};

        dup2(ends[1], STDERR_FILENO);
        if (path != NULL ? setenv("TACIT_TRACE", path, 1) : unsetenv("TACIT_TRACE")) {
            abort();
        }
        run_ranks(RANKS, &config, known_body, &in_place);
        _exit(0);
    }
    close(ends[1]);
    while ((got = read(ends[0], text + used, sizeof text - 1 - used)) > 0) {
        used += (size_t)got;
    }
    close(ends[0]);
    text[used] = '\0';
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s", text);
    return text;
}

static size_t lines_of(const char *text)
{
    size_t lines = 0;

    for (; *text != '\0'; text++) {
        lines += *text == '\n';
    }
    return lines;
}

/* One warning from each rank, and the operation succeeds all the same. */
START_TEST(cannot_be_written)
{
    char        path[HARNESS_PATH_BYTES], name[1200];
    const char *text = words_of(harness_path(path, "no/such/folder"));

    ck_assert_uint_eq(lines_of(text), RANKS);
    ck_assert_ptr_nonnull(strstr(text, "warn trace: TACIT_TRACE="));
    ck_assert_ptr_nonnull(strstr(text, "No such file or directory; there will be no trace"));
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = '\0';
    text = words_of(name);
    ck_assert_uint_eq(lines_of(text), RANKS);
    ck_assert_ptr_nonnull(strstr(text, "File name too long"));
}
END_TEST

START_TEST(disk_is_full)
{
    char        path[HARNESS_PATH_BYTES];
    const char *text;

    if (access("/dev/full", W_OK) != 0) {
        return;
    }
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(symlink("/dev/full", harness_path(path, "full.%d", rank)), 0);
    }
    text = words_of(harness_path(path, "full"));
    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(unlink(harness_path(path, "full.%d", rank)), 0);
    }
    ck_assert_uint_eq(lines_of(text), RANKS);
    ck_assert_ptr_nonnull(strstr(text, "could not be written: No space left on device"));
}
END_TEST

/* A rank that has no memory for it goes without. */
START_TEST(no_memory)
{
    char   path[HARNESS_PATH_BYTES], file[HARNESS_PATH_BYTES];
    size_t warned = 0;

    harness_path(path, "memory");
    harness_path(file, "memory.0");
    for (uint64_t nth = 1; nth < 12; nth++) {
        /* An allocation of the communicator's own fails it; only those of the trace are looked for. */
        pid_t child = fork();
        int   status;

        if (child == 0) {
            tacit_loop_t     *loop;
            tacit_transport_t transport;
            tacit_comm_t     *comm;

            if (freopen("/dev/null", "w", stderr) == NULL || setenv("TACIT_TRACE", path, 1) != 0) {
                abort();
            }
            MUST(tacit_loop_create(1, &loop));
            MUST(tacit_loop_transport(loop, 0, &transport));
            tacit__alloc_fail_after(nth);
            if (tacit_comm_create(&transport, NULL, &comm) != TACIT_OK) {
                _exit(2);
            }
            tacit__alloc_fail_after(0);
            status = comm->trace != NULL ? 0 : 1;
            tacit_comm_destroy(comm);
            tacit_loop_release(loop);
            _exit(status);
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) <= 2);
        if (WEXITSTATUS(status) != 2) {
            ck_assert_int_eq(access(file, F_OK) == 0, WEXITSTATUS(status) == 0);
        }
        warned += WEXITSTATUS(status) == 1;
        (void)unlink(file);
    }
    ck_assert_uint_eq(warned, 2);
}
END_TEST

/* Without the variable nothing is said and nothing written: the harness finds the folder empty. */
START_TEST(off)
{
    char path[HARNESS_PATH_BYTES];

    harness_path(path, "off");
    ck_assert_str_eq(words_of(NULL), "");
    ck_assert_str_eq(words_of(""), "");
}
END_TEST

/* Communicators of a process have numbers, one after the other. */
START_TEST(numbers)
{
    bool   in_place = false;
    char   path[HARNESS_PATH_BYTES];
    glob_t found;
    int    number[2];

    trace_to("%c of %r");
    for (int i = 0; i < 2; i++) {
        run_ranks(1, NULL, known_body, &in_place);
    }
    trace_to(NULL);
    ck_assert_int_eq(glob(harness_path(path, "* of 0"), 0, NULL, &found), 0);
    ck_assert_uint_eq(found.gl_pathc, 2);
    for (int i = 0; i < 2; i++) {
        trace_t trace;

        number[i] = atoi(strrchr(found.gl_pathv[i], '/') + 1);
        trace = read_trace(found.gl_pathv[i]);
        ck_assert_uint_eq(count_of(&trace, "known", "operation", "tacit_allreduce"), 1);
        free(trace.events);
    }
    ck_assert_int_eq(abs(number[1] - number[0]), 1);
    globfree(&found);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace");
    TCase *tests = tcase_create("trace");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, known, 0, 2);
    tcase_add_loop_test(tests, every_way, 0, sizeof ways / sizeof *ways);
    tcase_add_test(tests, alltoall);
    tcase_add_test(tests, last_ones_kept);
    tcase_add_test(tests, broken);
    tcase_add_test(tests, cannot_be_written);
    tcase_add_test(tests, disk_is_full);
    tcase_add_test(tests, no_memory);
    tcase_add_test(tests, off);
    tcase_add_test(tests, numbers);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
