/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info --summary: counts what tacit_slot_counters() counts, and takes no file for a trace that is none, whatever was done
   to it. */
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "json_reader.h"
#include "ranks.h"
#include "summary.h"

enum { RANKS = 3, SLOTS = 3, COUNT = 5000 };

static const char *const names[SLOTS] = {"a \"\xc3\xa4\"\n", "b", "c"};
static const char *const specs[SLOTS] = {"onebit:block=64+ef", "topk:ratio=0.1+ef", "fp16"};

static tacit_counters_t counters[RANKS][SLOTS];

/* ---- As the API counts ---- */

static void body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t  *slots[SLOTS];
    float         *x = calloc(COUNT, sizeof *x), *y[SLOTS];
    const int      rank = tacit_comm_rank(comm);
    tacit_status_t status;

    (void)arg;
    harness_fill(x, COUNT, (uint64_t)rank, 1.0f);
    for (size_t s = 0; s < SLOTS; s++) {
        slots[s] = slot_of(comm, names[s], COUNT, TACIT_FLOAT32, specs[s]);
        y[s] = calloc(COUNT, sizeof *y[s]);
        for (size_t i = 0; i <= s; i++) {
            MUST(tacit_allreduce(slots[s], x, y[s], TACIT_AVERAGE));
        }
    }
    for (size_t i = 0; i < 2; i++) {
        MUST(tacit_group_begin(comm));
        for (size_t s = 0; s < SLOTS; s++) {
            MUST(tacit_allreduce(slots[s], x, y[s], TACIT_AVERAGE));
        }
        MUST(tacit_group_end(comm, NULL));
    }
    x[0] = rank == 1 ? NAN : 0;
    status = tacit_allreduce(slots[1], x, y[1], TACIT_AVERAGE);
    if (status != TACIT_ERR_VALUE) {
        fprintf(stderr, "%s\n", tacit_strerror(status));
        abort();
    }
    for (size_t s = 0; s < SLOTS; s++) {
        MUST(tacit_slot_counters(slots[s], &counters[rank][s]));
        free(y[s]);
    }
    free(x);
}

static void run(void)
{
    char path[HARNESS_PATH_BYTES];

    ck_assert_int_eq(setenv("TACIT_TRACE", harness_path(path, "trace"), 1), 0);
    run_ranks(RANKS, NULL, body, NULL);
    ck_assert_int_eq(unsetenv("TACIT_TRACE"), 0);
}

static void remove_all(void)
{
    char path[HARNESS_PATH_BYTES];

    for (int rank = 0; rank < RANKS; rank++) {
        ck_assert_int_eq(unlink(harness_path(path, "trace.%d", rank)), 0);
    }
}

static const summary_row_t *row_of(const summary_t *summary, const char *slot)
{
    const summary_row_t *found = NULL;

    for (size_t i = 0; i < summary->row_count; i++) {
        if (strcmp(summary_text(summary, summary->rows[i].slot), slot) == 0) {
            ck_assert_ptr_null(found);
            found = &summary->rows[i];
        }
    }
    ck_assert_msg(found != NULL, "no row of %s", slot);
    return found;
}

/* Times are read from microseconds with three digits, which are cut off. */
static void is_near(double micros, double seconds, const char *what)
{
    ck_assert_msg(fabs(micros - 1e6 * seconds) < 1, "%s: %g us, counted %g", what, micros, 1e6 * seconds);
}

static void check_row(const summary_t *summary, size_t s, int first, int last)
{
    const summary_row_t *row = row_of(summary, names[s]);
    double               calls = 0, bytes = 0, wire = 0, dense = 0, encode = 0, decode = 0, waiting = 0;

    for (int rank = first; rank <= last; rank++) {
        const tacit_counters_t *of = &counters[rank][s];

        calls += (double)of->calls;
        bytes += (double)of->bytes_in;
        wire += (double)of->wire_bytes;
        dense += (double)of->dense_bytes;
        encode += of->encode_seconds;
        decode += of->decode_seconds;
        waiting += of->wire_seconds;
    }
    ck_assert_str_eq(summary_text(summary, row->spec), specs[s]);
    ck_assert_str_eq(summary_text(summary, row->schedule), s == 1 ? "sparse" : "blockwise");
    ck_assert_double_eq(row->calls, calls);
    ck_assert_double_eq(row->calls, (double)(s + 3) * (last - first + 1));
    ck_assert_double_eq(row->failed, s == 1 ? last - first + 1 : 0);
    ck_assert_double_eq(row->bytes, bytes);
    ck_assert_double_eq(row->wire_bytes, wire);
    ck_assert_double_eq(row->dense_bytes, dense);
    ck_assert(row->payload_bytes > 0 && row->payload_bytes < row->wire_bytes);
    is_near(row->encode, encode, "encode");
    is_near(row->add + row->decode, decode, "add and decode");
    is_near(row->wire, waiting, "wire");
    ck_assert_msg(row->wait >= 0 && row->wait <= row->wire, "%g of %g", row->wait, row->wire);
}

START_TEST(as_counters)
{
    const int first = _i < RANKS ? _i : 0, last = _i < RANKS ? _i : RANKS - 1; /* of one rank, or of all */
    char      paths[RANKS][HARNESS_PATH_BYTES];
    summary_t summary = {0};

    run();
    for (int rank = last; rank >= first; rank--) {
        ck_assert(summary_read(&summary, harness_path(paths[rank], "trace.%d", rank)));
    }
    summary_count(&summary);
    ck_assert_uint_eq(summary.rank_count, (size_t)(last - first + 1));
    ck_assert_uint_eq(summary.row_count, SLOTS);
    for (size_t i = 0; i < summary.rank_count; i++) {
        ck_assert_int_eq(summary.ranks[i].number, first + (int)i);
    }
    for (size_t s = 0; s < SLOTS; s++) {
        check_row(&summary, s, first, last);
    }
    summary_release(&summary);
    remove_all();
}
END_TEST

static void changing_body(tacit_comm_t *comm, void *arg)
{
    float         x[COUNT] = {1};
    tacit_slot_t *slot = slot_of(comm, "w", COUNT, TACIT_FLOAT32, "qsgd:bits=4+ef");

    (void)arg;
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    MUST(tacit_slot_set_spec(slot, "qsgd:bits=2+ef"));
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
    MUST(tacit_allreduce(slot, x, x, TACIT_AVERAGE));
}

/* A slot whose spec changes has a row for each. */
START_TEST(changing)
{
    char      path[HARNESS_PATH_BYTES];
    summary_t summary = {0};

    ck_assert_int_eq(setenv("TACIT_TRACE", harness_path(path, "trace"), 1), 0);
    run_ranks(RANKS, NULL, changing_body, NULL);
    ck_assert_int_eq(unsetenv("TACIT_TRACE"), 0);
    ck_assert(summary_read(&summary, harness_path(path, "trace.0")));
    summary_count(&summary);
    ck_assert_uint_eq(summary.row_count, 2);
    ck_assert_str_eq(summary_text(&summary, summary.rows[0].spec), "qsgd:bits=4+ef");
    ck_assert_str_eq(summary_text(&summary, summary.rows[1].spec), "qsgd:bits=2+ef");
    ck_assert_double_eq(summary.rows[0].calls, 1);
    ck_assert_double_eq(summary.rows[1].calls, 2);
    ck_assert_double_gt(summary.rows[0].payload_bytes, summary.rows[1].payload_bytes / 2);
    summary_release(&summary);
    remove_all();
}
END_TEST

/* ---- What is no trace ---- */

/* All of a rank's trace, with a 0 behind it. */
static char *trace_of(int rank, size_t *bytes_out)
{
    char  path[HARNESS_PATH_BYTES], *text = calloc(1, 1 << 20);
    FILE *file = fopen(harness_path(path, "trace.%d", rank), "r");

    ck_assert_ptr_nonnull(file);
    *bytes_out = fread(text, 1, (1 << 20) - 1, file);
    ck_assert_uint_lt(*bytes_out, (1 << 20) - 1);
    (void)fclose(file);
    return text;
}

/* Reads it from memory of just that size, counts and draws. Returns what is wrong with it. */
static const char *faults_of(const char *text, size_t bytes, size_t *at_out)
{
    char       *copy = malloc(bytes + 1);
    summary_t   summary = {0};
    const char *fault;

    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    fault = summary_parse(&summary, "trace", copy, bytes, at_out);
    ck_assert_uint_le(*at_out, bytes);
    if (fault == NULL) {
        summary_count(&summary);
        summary_print(&summary);
        summary_print_json(&summary);
    }
    summary_release(&summary);
    free(copy);
    return fault;
}

/* What is printed meanwhile is lost. */
static int mute(void)
{
    const int output = dup(STDOUT_FILENO), nowhere = open("/dev/null", O_WRONLY);

    fflush(stdout);
    ck_assert(output >= 0 && nowhere >= 0 && dup2(nowhere, STDOUT_FILENO) >= 0);
    close(nowhere);
    return output;
}

static void unmute(int output)
{
    fflush(stdout);
    ck_assert_int_ge(dup2(output, STDOUT_FILENO), 0);
    close(output);
}

/* The end of a file is missing: that is said, with the byte where it ends. */
START_TEST(cut)
{
    size_t bytes, at;
    char  *text;

    run();
    text = trace_of(0, &bytes);
    for (size_t kept = 0; kept + 1 < bytes; kept += kept < 4096 ? 1 : 61) {
        const char *fault = faults_of(text, kept, &at);

        ck_assert_msg(fault != NULL, "%zu of %zu bytes are a trace", kept, bytes);
        ck_assert_str_eq(fault, "the end of the file, in the middle of it");
        ck_assert_uint_eq(at, kept);
    }
    free(text);
    remove_all();
}
END_TEST

/* Anything may be in its place: an error, or other numbers. */
START_TEST(damaged)
{
    const int        output = mute();
    harness_random_t random = {7};
    size_t           bytes, at, faults = 0;
    char            *text;

    run();
    text = trace_of(0, &bytes);
    ck_assert_ptr_null(faults_of(text, bytes, &at));
    for (int i = 0; i < 2000; i++) {
        const size_t place = harness_next(&random) % bytes, first = harness_next(&random) % 4096;
        const char   was = text[place], as = text[first % bytes];

        text[place] = (char)(harness_next(&random) & 0xff);
        text[first % bytes] ^= (char)(1 << i % 8);
        faults += faults_of(text, bytes, &at) != NULL;
        text[first % bytes] = as;
        text[place] = was;
    }
    ck_assert_ptr_null(faults_of(text, bytes, &at));
    ck_assert_uint_gt(faults, 500);
    free(text);
    remove_all();
    unmute(output);
}
END_TEST

#define HEAD "{\"name\":\"n\",\"cat\":\"operation\",\"ph\":\"X\",\"ts\":1.5,\"dur\":2,\"pid\":0,\"tid\":0,\"args\":"
#define GOOD HEAD "{\"operation\":1,\"slot\":\"s\",\"bytes\":4}}"

static const struct {
    const char *text, *fault; /* NULL: none */
    size_t      at;
} files[] = {
    {"[" GOOD "]", NULL, 0},
    {"\t[\r\n" GOOD " , " GOOD "\n] ", NULL, 0},
    {"[{\"more\":[1,{\"a\":[true,false,null]},-0.5e+3],\"args\":{},\"ph\":\"M\",\"name\":\"\\u00e4\\n\",\"pid\":0}]", NULL, 0},
    {"[]", NULL, 0},
    {"", "the end of the file, in the middle of it", 0},
    {"\x7f"
     "ELF",
     "not JSON", 0},
    {"{\"traceEvents\":[]}", "not a list of events, as TACIT_TRACE writes it", 0},
    {"[1]", "no event where one belongs", 1},
    {"[[]]", "no event where one belongs", 1},
    {"[]]", "something behind the end", 2},
    {"[" GOOD GOOD "]", "no comma where one belongs", sizeof("[" GOOD) - 1},
    {"[" GOOD ",]", "not JSON", sizeof("[" GOOD ",") - 1},
    {"[{\"ts\":\"1\"}]", "a number belongs here", 7},
    {"[{\"ts\":-1}]", "a number out of range", 7},
    {"[{\"ts\":1e999}]", "a number out of range", 7},
    {"[{\"pid\":1e18}]", "a number out of range", 8},
    {"[{\"name\":7}]", "a text belongs here", 9},
    {"[{\"args\":[]}]", "an object belongs here", 9},
    {"[{\"ts\" 1}]", "no colon behind a key", 7},
    {"[{ts:1}]", "no key where one belongs", 2},
    {"[{\"ts\":01}]", "no comma where one belongs", 8},
    {"[{\"ts\":.5}]", "not JSON", 7},
    {"[{\"ts\":5.}]", "a number without a digit", 9},
    {"[{\"name\":\"\\x\"}]", "an escape that there is not", 11},
    {"[{\"name\":\"a\nb\"}]", "a control character in a string", 11},
    {"[{\"ph\":\"B\",\"pid\":0}]", "an event of a kind that TACIT_TRACE does not write", 1},
    {"[{\"ph\":\"X\",\"pid\":0}]", "an event that lacks what TACIT_TRACE writes", 1},
    {"[" HEAD "{\"operation\":1,\"slot\":\"s\"}}]", "an event that lacks what TACIT_TRACE writes", 1},
    {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "no event where one belongs", 1},
    {"[{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "too many brackets within each other", 36},
};

START_TEST(file)
{
    const int   output = mute();
    size_t      at = 0;
    const char *fault = faults_of(files[_i].text, strlen(files[_i].text), &at);

    unmute(output);
    ck_assert_msg((fault == NULL) == (files[_i].fault == NULL), "%s: %s", files[_i].text,
                  fault != NULL ? fault : "nothing wrong");
    if (fault != NULL) {
        ck_assert_str_eq(fault, files[_i].fault);
        ck_assert_msg(at == files[_i].at, "%s: %s at %zu", files[_i].text, fault, at);
    }
}
END_TEST

/* Two files of one rank are no run; the same bytes of two ranks are. */
START_TEST(twice)
{
    static const char text[] = "[" GOOD "]", paths[2][8] = {"x", "x"};
    summary_t         summary = {0};
    size_t            at;

    ck_assert_ptr_null(summary_parse(&summary, paths[0], text, strlen(text), &at));
    ck_assert_str_eq(summary_parse(&summary, paths[1], text, strlen(text), &at),
                     "an event of a rank that an earlier file has; one file of each rank, please");
    summary_release(&summary);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("summary");
    TCase *tests = tcase_create("summary");

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, as_counters, 0, RANKS + 1);
    tcase_add_test(tests, changing);
    tcase_add_test(tests, cut);
    tcase_add_test(tests, damaged);
    tcase_add_loop_test(tests, file, 0, sizeof files / sizeof *files);
    tcase_add_test(tests, twice);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
