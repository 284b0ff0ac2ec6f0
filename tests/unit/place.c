/* SPDX-License-Identifier: Apache-2.0 */
/* Lines about where ranks run: reading them, finding the own one, and what TACIT_TOPOLOGY says instead, right and wrong. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm.h"
#include "harness.h"
#include "ranks.h"

static tacit_place_t place;

/* What is wrong with a line, in words; NULL: nothing. */
static const char *wrong(const char *line)
{
    static char text[300];
    const char *word, *reason = tacit__place_read(line, &place, &word);

    if (reason == NULL) {
        return NULL;
    }
    snprintf(text, sizeof text, "%.*s: %s", word != NULL ? (int)strcspn(word, " ") : 0, word != NULL ? word : "", reason);
    return text;
}

START_TEST(whole_line)
{
    ck_assert_ptr_null(wrong("host=a.b-c package=1 numa=2 cache=3 core=40 nic=eth0,eth1:2 gpu=0,1"));
    ck_assert_str_eq(place.host, "a.b-c");
    ck_assert(place.package == 1 && place.numa == 2 && place.cache == 3 && place.core == 40);
    ck_assert_str_eq(place.nics, "eth0,eth1:2 gpu=0,1");
    ck_assert_str_eq(place.gpus, "0,1");
}
END_TEST

START_TEST(parts_of_a_line)
{
    ck_assert_ptr_null(wrong("gpu=3   new=7\thost=x # package=1"));
    ck_assert_str_eq(place.host, "x");
    ck_assert(place.package == -1 && place.numa == -1 && place.cache == -1 && place.core == -1);
    ck_assert_str_eq(place.nics, "");
    ck_assert_ptr_null(wrong("host="));
    ck_assert_str_eq(place.host, "");
}
END_TEST

START_TEST(names)
{
    const char *list = "eth0,x:12,y z";
    int         distance;

    ck_assert_uint_eq(tacit__name_bytes(list), 4);
    list = tacit__name_next(list, &distance);
    ck_assert(distance == 0 && tacit__name_bytes(list) == 1 && *list == 'x');
    list = tacit__name_next(list, &distance);
    ck_assert(distance == 12 && tacit__name_bytes(list) == 1 && *list == 'y');
    ck_assert_ptr_null(tacit__name_next(list, &distance));
    ck_assert_int_eq(distance, 0);
}
END_TEST

START_TEST(wrong_lines)
{
    static const char *const lines[][2] = {
        {"", ": there is no host=NAME"},
        {"package=1", ": there is no host=NAME"},
        {"host=a package=one", "package=one: gives no number"},
        {"host=a package=", "package=: gives no number"},
        {"host=a numa=-1", "numa=-1: gives no number"},
        {"host=a core=1x", "core=1x: gives no number"},
        {"host=a core=99999999999", "core=99999999999: gives no number"},
        {"host=a nic=", "nic=: gives no names such as eth0,eth1:2"},
        {"host=a nic=eth0,", "nic=eth0,: gives no names such as eth0,eth1:2"},
        {"host=a nic=eth0:far", "nic=eth0:far: gives no names such as eth0,eth1:2"},
        {"host=a gpu=,1", "gpu=,1: gives no names such as eth0,eth1:2"},
        {"a host=a", "a: is not of the form KEY=VALUE"},
        {"host=a package =1", "package: is not of the form KEY=VALUE"},
    };
    char line[TACIT_PLACE_BYTES];

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *text = wrong(lines[i][0]);

        ck_assert_ptr_nonnull(text);
        ck_assert_str_eq(text, lines[i][1]);
    }
    snprintf(line, sizeof line, "host=%0*d", TACIT_HOST_BYTES - 1, 0);
    ck_assert_ptr_null(wrong(line));
    snprintf(line, sizeof line, "host=%0*d", TACIT_HOST_BYTES, 0);
    ck_assert_ptr_nonnull(wrong(line));
}
END_TEST

/* Hosts that differ only where their names are cut stay different. */
START_TEST(host_names)
{
    char line[TACIT_PLACE_BYTES], other[TACIT_PLACE_BYTES], name[201] = "";

    MUST(tacit__place_find(NULL, NULL, 0, 2, line));
    ck_assert_str_eq(line, "host=");
    MUST(tacit__place_find(NULL, "a b", 0, 1, line));
    ck_assert_str_eq(line, "host=a_b");
    memset(name, 'n', 200);
    MUST(tacit__place_find(NULL, name, 0, 1, line));
    name[199] = 'm';
    MUST(tacit__place_find(NULL, name, 0, 1, other));
    ck_assert(wrong(line) == NULL && wrong(other) == NULL);
    ck_assert_str_ne(line, other);
    MUST(tacit__place_find(NULL, name, 0, 2, line)); /* with what else there is */
    ck_assert_ptr_null(wrong(line));
    ck_assert_int_eq(strncmp(line, other, strlen(other)), 0);
}
END_TEST

START_TEST(counts)
{
    static const char *const hosts[] = {"host=host0", "host=host0", "host=host1", "host=host2", "host=host2"};
    static const char *const hosts_of_2[] = {"host=host0", "host=host0", "host=host1", "host=host1", "host=host2"};
    static const char *const bad[] = {"4,4", "2,x", "2,,1", "0,3", "-1,4", "3,", "0", " ", "2;1", "two"};
    char                     line[TACIT_PLACE_BYTES];

    for (int rank = 0; rank < 5; rank++) {
        MUST(tacit__place_find("2,1,2", NULL, rank, 5, line));
        ck_assert_str_eq(line, hosts[rank]);
    }
    for (int rank = 0; rank < 5; rank++) {
        MUST(tacit__place_find("2", NULL, rank, 5, line));
        ck_assert_str_eq(line, hosts_of_2[rank]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_int_eq(tacit__place_find(bad[i], NULL, 1, 3, line), TACIT_ERR_ARGUMENT);
        ck_assert_msg(strncmp(tacit_last_error(), "rank 1: TACIT_TOPOLOGY=", 23) == 0, "'%s'", tacit_last_error());
        ck_assert_ptr_nonnull(strstr(tacit_last_error(), "such as 4,4,3, 3 in all"));
    }
}
END_TEST

/* ---- Files ---- */

static const char good[] = "# two hosts\n"
                           "host=a package=0   nic=eth0,eth1:2 later=what # the first\r\n"
                           "\n"
                           "  host=b\n"
                           "host=a package=1\tgpu=4";

/* Writes the text to a file of its own and has ranks make a communicator with it. */
typedef struct attempt {
    int            ranks;
    tacit_loop_t  *loop;
    tacit_status_t status[4];
    char           text[4][TACIT_TEXT_BYTES];
    char           lines[4][4 * TACIT_PLACE_BYTES];
} attempt_t;

static attempt_t *attempt;

static void *live(void *arg)
{
    const int         rank = (int)(intptr_t)arg;
    tacit_transport_t transport;
    tacit_comm_t     *comm;

    MUST(tacit_loop_transport(attempt->loop, rank, &transport));
    attempt->status[rank] = tacit_comm_create(&transport, NULL, &comm);
    if (attempt->status[rank] == TACIT_OK) {
        memcpy(attempt->lines[rank], comm->topology->lines, (size_t)attempt->ranks * TACIT_PLACE_BYTES);
        tacit_comm_destroy(comm);
    } else {
        snprintf(attempt->text[rank], TACIT_TEXT_BYTES, "%s", tacit_last_error());
    }
    return NULL;
}

static void try(attempt_t *with, const char *topology)
{
    pthread_t threads[4];

    attempt = with;
    setenv("TACIT_TOPOLOGY", topology, 1);
    MUST(tacit_loop_create(with->ranks, &with->loop));
    for (int rank = 0; rank < with->ranks; rank++) {
        ck_assert_int_eq(pthread_create(&threads[rank], NULL, live, (void *)(intptr_t)rank), 0);
    }
    for (int rank = 0; rank < with->ranks; rank++) {
        pthread_join(threads[rank], NULL);
    }
    tacit_loop_release(with->loop);
    unsetenv("TACIT_TOPOLOGY");
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

START_TEST(file)
{
    attempt_t by_path = {.ranks = 3}, by_at = {.ranks = 3};
    char      path[HARNESS_PATH_BYTES], given[HARNESS_PATH_BYTES + 1];

    write_file(harness_path(path, "topology"), good);
    snprintf(given, sizeof given, "@%s", path);
    try(&by_path, path);
    try(&by_at, given);
    unlink(path);
    for (int rank = 0; rank < 3; rank++) {
        const char *lines = by_path.lines[rank];

        ck_assert_msg(by_path.status[rank] == TACIT_OK, "%s", by_path.text[rank]);
        ck_assert_str_eq(lines, "host=a package=0 nic=eth0,eth1:2 later=what");
        ck_assert_str_eq(lines + TACIT_PLACE_BYTES, "host=b");
        ck_assert_str_eq(lines + 2 * TACIT_PLACE_BYTES, "host=a package=1 gpu=4");
        ck_assert_int_eq(memcmp(lines, by_at.lines[rank], sizeof by_at.lines[rank]), 0);
    }
}
END_TEST

/* All ranks get the same status and the same text, which names file, line and fault. */
static void fails(const char *given, const char *path, const char *expected)
{
    attempt_t with = {.ranks = 3};
    char      text[TACIT_TEXT_BYTES];

    snprintf(text, sizeof text, expected, path);
    try(&with, given);
    for (int rank = 0; rank < 3; rank++) {
        ck_assert_int_eq(with.status[rank], TACIT_ERR_ARGUMENT);
        ck_assert_msg(strstr(with.text[rank], text) != NULL, "'%s' is not in '%s'", text, with.text[rank]);
        ck_assert_str_eq(with.text[rank], with.text[0]);
    }
}

START_TEST(wrong_files)
{
    static const char *const files[][2] = {
        {"host=a\nhost=a\n", "TACIT_TOPOLOGY: %s describes 2 ranks, one a line; there are 3"},
        {"host=a\nhost=a\nhost=b\nhost=b\n", "TACIT_TOPOLOGY: %s describes 4 ranks, one a line; there are 3"},
        {"# nothing\n", "TACIT_TOPOLOGY: %s describes 0 ranks"},
        {"host=a\n\nhost=b core=x\nhost=c\n", "TACIT_TOPOLOGY: %s, line 3: core=x gives no number"},
        {"host=a\npackage=1\nhost=c\n", "TACIT_TOPOLOGY: %s, line 2: there is no host=NAME"},
        {"host=a\nhost=b\nhost c\n", "TACIT_TOPOLOGY: %s, line 3: host is not of the form KEY=VALUE"},
    };
    char path[HARNESS_PATH_BYTES], long_text[700];

    harness_path(path, "topology");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(path, files[i][0]);
        fails(path, path, files[i][1]);
    }
    for (int bytes = 250; bytes < 650; bytes += 350) { /* once more than a rank may say, once more than is read at a time */
        snprintf(long_text, sizeof long_text, "host=a\nhost=b x=%0*d\nhost=c\n", bytes, 0);
        write_file(path, long_text);
        fails(path, path, "TACIT_TOPOLOGY: %s, line 2: it has more than 255 bytes");
    }
    unlink(path);
    fails(path, path, "TACIT_TOPOLOGY: cannot open %s: ");
    fails("@nowhere", "nowhere", "TACIT_TOPOLOGY: cannot open %s: ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("place");
    TCase *tests = tcase_create("place");

    tcase_add_test(tests, whole_line);
    tcase_add_test(tests, parts_of_a_line);
    tcase_add_test(tests, names);
    tcase_add_test(tests, wrong_lines);
    tcase_add_test(tests, host_names);
    tcase_add_test(tests, counts);
    tcase_add_test(tests, file);
    tcase_add_test(tests, wrong_files);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
