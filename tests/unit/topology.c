/* SPDX-License-Identifier: Apache-2.0 */
/* Who shares a host and who leads: of ranks whose lines are made up, or come from machines that are. */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "machine.h"
#include "ranks.h"
#include "topology.h"

enum { TEXT_BYTES = 2048 };

static tacit_topology_t *made;
static int               made_lines;

static void start(int ranks)
{
    MUST(tacit__topology_create(ranks, &made));
    made_lines = 0;
}

/* The next rank's line. */
static __attribute__((format(printf, 1, 2))) void line(const char *format, ...)
{
    va_list arguments;

    ck_assert_int_lt(made_lines, made->ranks);
    va_start(arguments, format);
    vsnprintf(made->lines + made_lines++ * TACIT_PLACE_BYTES, TACIT_PLACE_BYTES, format, arguments);
    va_end(arguments);
}

/* What holds of every topology. */
static void is_sound(void)
{
    const int ranks = made->ranks, hosts = made->hosts;
    int       fewest = ranks, leaders = 0;

    ck_assert_int_eq(made->begin[0], 0);
    ck_assert_int_eq(made->begin[hosts], ranks);
    for (int host = 0; host < hosts; host++) {
        const int here = made->begin[host + 1] - made->begin[host];

        fewest = here < fewest ? here : fewest;
        ck_assert_int_gt(here, 0);
        for (int i = made->begin[host]; i < made->begin[host + 1]; i++) {
            ck_assert_int_eq(made->host_of[made->members[i]], host);
            ck_assert(i == made->begin[host] || made->members[i] > made->members[i - 1]);
        }
        ck_assert(host == 0 || made->members[made->begin[host]] > made->members[made->begin[host - 1]]);
        for (int rail = 0; rail < made->rails; rail++) {
            const int leader = made->leaders[rail * hosts + host];

            ck_assert_int_eq(made->host_of[leader], host);
            ck_assert_int_eq(made->rail_of[leader], rail);
        }
    }
    ck_assert_int_eq(made->rails, fewest);
    for (int rank = 0; rank < ranks; rank++) {
        leaders += made->rail_of[rank] >= 0;
    }
    ck_assert_int_eq(leaders, made->rails * hosts);
}

/* The topology in words: "2 hosts of 2 ranks; 1 rail; 0 by ranks 0 2 (eth0)". */
static void becomes(const char *expected)
{
    char text[TEXT_BYTES], rail_text[TEXT_BYTES / 2];

    ck_assert_int_eq(made_lines, made->ranks);
    tacit__topology_fill(made);
    is_sound();
    tacit__topology_describe(made, text, sizeof text);
    for (int rail = 0; rail < made->rails; rail++) {
        tacit__topology_describe_rail(made, rail, made->hosts, rail_text, sizeof rail_text);
        snprintf(text + strlen(text), sizeof text - strlen(text), "; %s", rail_text);
    }
    ck_assert_str_eq(text, expected);
    tacit__topology_destroy(made);
}

/* ---- Hosts ---- */

START_TEST(hosts)
{
    start(5);
    for (int rank = 0; rank < 5; rank++) {
        line("host=%c", "abacb"[rank]);
    }
    tacit__topology_fill(made);
    ck_assert_int_eq(made->hosts, 3);
    ck_assert(memcmp(made->host_of, (const int[]){0, 1, 0, 2, 1}, 5 * sizeof(int)) == 0);
    ck_assert(memcmp(made->members, (const int[]){0, 2, 1, 4, 3}, 5 * sizeof(int)) == 0);
    ck_assert(memcmp(made->begin, (const int[]){0, 2, 4, 5}, 4 * sizeof(int)) == 0);
    ck_assert(tacit__topology_has_levels(made));
    becomes("3 hosts of 1 to 2 ranks; 1 rail; 0 by ranks 0 1 3");
}
END_TEST

/* A host without a name is nobody else's. */
START_TEST(unknown_hosts)
{
    start(4);
    line("host=a");
    line("host=");
    line("host=");
    line("host=a");
    becomes("3 hosts of 1 to 2 ranks; 1 rail; 0 by ranks 0 1 2");
    start(2);
    line(" ");
    line("no line at all");
    becomes("2 hosts of 1 rank; 1 rail; 0 by ranks 0 1");
}
END_TEST

START_TEST(one_level)
{
    start(1);
    line("host=a");
    tacit__topology_fill(made);
    ck_assert(!tacit__topology_has_levels(made));
    becomes("1 host of 1 rank; 1 rail; 0 by rank 0");
    start(3);
    for (int rank = 0; rank < 3; rank++) {
        line("host=a");
    }
    tacit__topology_fill(made);
    ck_assert(!tacit__topology_has_levels(made));
    becomes("1 host of 3 ranks; 3 rails; 0 by rank 0; 1 by rank 1; 2 by rank 2");
}
END_TEST

/* ---- Leaders ---- */

/* Each package has an interface: its ranks lead by it. */
START_TEST(nearest_leads)
{
    start(8);
    for (int rank = 0; rank < 8; rank++) {
        line("host=%d package=%d numa=%d nic=%s", rank / 4, rank / 2 % 2, rank / 2 % 2,
             rank / 2 % 2 == 0 ? "x1,x2:2" : "x2,x1:2");
    }
    becomes("2 hosts of 4 ranks; 4 rails; 0 by ranks 0 4 (x1); 1 by ranks 2 6 (x2); 2 by ranks 1 5 (x1); 3 by ranks 3 7 (x2)");
}
END_TEST

/* One rail, and the only interface is at the second package: the lowest rank is too far. */
START_TEST(second_package)
{
    start(5);
    for (int rank = 0; rank < 4; rank++) {
        line("host=a package=%d numa=%d nic=eth0%s", rank / 2, rank, rank == 3 ? "" : rank == 2 ? ":1" : ":2");
    }
    line("host=b nic=eth0");
    becomes("2 hosts of 1 to 4 ranks; 1 rail; 0 by ranks 3 4 (eth0)");
    start(4);
    line("host=a nic=eth0:2");
    line("host=a nic=eth0:2");
    line("host=a nic=eth0:1");
    line("host=b");
    becomes("2 hosts of 1 to 3 ranks; 1 rail; 0 by ranks 2 (eth0) 3");
}
END_TEST

/* Of ranks that are equally near one in each package leads, then one under each cache, then the lowest. */
START_TEST(spread)
{
    start(12);
    for (int rank = 0; rank < 8; rank++) {
        line("host=a package=%d cache=%d nic=eth0", rank / 4, rank / 2);
    }
    for (int rank = 8; rank < 12; rank++) {
        line("host=b nic=eth0");
    }
    becomes("2 hosts of 4 to 8 ranks; 4 rails; 0 by ranks 0 8 (eth0); 1 by ranks 4 9 (eth0); 2 by ranks 2 10 (eth0); "
            "3 by ranks 6 11 (eth0)");
    start(5);
    for (int rank = 0; rank < 3; rank++) {
        line("host=a package=0 cache=%d", rank / 2);
    }
    line("host=b");
    line("host=b");
    becomes("2 hosts of 2 to 3 ranks; 2 rails; 0 by ranks 0 3; 1 by ranks 2 4");
}
END_TEST

/* Rails have the same interface on all hosts, in whatever order ranks name them: that of the names, numbers by their size. */
START_TEST(order_of_interfaces)
{
    start(6);
    line("host=a nic=eth10,eth2,eth1:2");
    line("host=a nic=eth1,eth10:2");
    line("host=a nic=eth10,eth2,eth1:2");
    line("host=b nic=eth2,eth1,eth10");
    line("host=b nic=eth2,eth1,eth10");
    line("host=b nic=eth2,eth1,eth10");
    becomes("2 hosts of 3 ranks; 3 rails; 0 by ranks 1 3 (eth1); 1 by ranks 0 4 (eth2); 2 by ranks 2 5 (eth10)");
}
END_TEST

START_TEST(different_hosts)
{
    start(7);
    line("host=a nic=ib0");
    line("host=a nic=ib0");
    line("host=b nic=eth0");
    line("host=b nic=eth0");
    line("host=b nic=eth0,eth1");
    line("host=c package=1");
    line("host=c package=0");
    becomes("3 hosts of 2 to 3 ranks; 2 rails; 0 by ranks 0 (ib0) 2 (eth0) 5; 1 by ranks 1 (ib0) 4 (eth1) 6");
}
END_TEST

START_TEST(many_interfaces)
{
    char list[TACIT_PLACE_BYTES] = "";

    for (int i = 0; i < 70; i++) {
        snprintf(list + strlen(list), sizeof list - strlen(list), ",%02d", i);
    }
    start(2);
    line("host=a nic=%s", list + 1);
    line("host=b nic=x%s", list);
    tacit__topology_fill(made);
    is_sound();
    ck_assert_int_eq(strncmp(made->nics[0], "00,", 3), 0);
    ck_assert_int_eq(strncmp(made->nics[1], "00,", 3), 0);
    tacit__topology_destroy(made);
}
END_TEST

START_TEST(cut)
{
    char text[128], small[24];

    start(40);
    for (int rank = 0; rank < 40; rank++) {
        line("host=%d nic=eth0", rank);
    }
    tacit__topology_fill(made);
    tacit__topology_describe_rail(made, 0, 4, text, sizeof text);
    ck_assert_str_eq(text, "0 by ranks 0 1 2 3 and 36 more (eth0)");
    tacit__topology_describe_rail(made, 0, 40, small, sizeof small);
    ck_assert_str_eq(small, "0 by ranks 0 1 2 3 4 5 ");
    tacit__topology_destroy(made);
}
END_TEST

/* ---- Machines ---- */

#if HAVE_HWLOC

/* Lines of a host's ranks, each bound to `cores` cores, one after the other, on a machine with interfaces that are beside
   packages: "01": the first one's is beside package 0, … */
static void host_lines(const char *host, const char *machine, const char *packages, int ranks, int cores)
{
    tacit_adapter_t  adapters[8] = {0};
    hwloc_topology_t topology;
    hwloc_bitmap_t   bound = hwloc_bitmap_alloc();
    char             text[TACIT_PLACE_BYTES];

    ck_assert(hwloc_topology_init(&topology) == 0 && hwloc_topology_set_synthetic(topology, machine) == 0);
    ck_assert_int_eq(hwloc_topology_load(topology), 0);
    for (size_t i = 0; packages[i] != '\0'; i++) {
        snprintf(adapters[i].name, sizeof adapters[i].name, "ib%zu", i);
        adapters[i].near = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, (unsigned)(packages[i] - '0'))->cpuset;
    }
    for (int rank = 0; rank < ranks; rank++) {
        hwloc_bitmap_zero(bound);
        for (int core = rank * cores; core < (rank + 1) * cores; core++) {
            hwloc_bitmap_or(bound, bound, hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)core)->cpuset);
        }
        tacit__machine_write(topology, bound, adapters, text, sizeof text);
        line("host=%s%s", host, text);
    }
    hwloc_bitmap_free(bound);
    hwloc_topology_destroy(topology);
}

/* Nodes of two packages of four GPUs, a rank for each GPU, an interface at each package. */
START_TEST(eight_nodes)
{
    char name[8];

    start(64);
    for (int node = 0; node < 8; node++) {
        snprintf(name, sizeof name, "n%d", node);
        host_lines(name, "package:2 numanode:1 l3:1 core:16 pu:2", "01", 8, 4);
    }
    becomes("8 hosts of 8 ranks; 8 rails"
            "; 0 by ranks 0 8 16 24 32 40 48 56 (ib0); 1 by ranks 4 12 20 28 36 44 52 60 (ib1)"
            "; 2 by ranks 1 9 17 25 33 41 49 57 (ib0); 3 by ranks 5 13 21 29 37 45 53 61 (ib1)"
            "; 4 by ranks 2 10 18 26 34 42 50 58 (ib0); 5 by ranks 6 14 22 30 38 46 54 62 (ib1)"
            "; 6 by ranks 3 11 19 27 35 43 51 59 (ib0); 7 by ranks 7 15 23 31 39 47 55 63 (ib1)");
}
END_TEST

/* Three nodes that have nothing in common, the first with two NUMA nodes a package and its only interface at the last package. */
START_TEST(odd_nodes)
{
    start(9);
    host_lines("a", "package:2 numanode:2 l3:1 core:2 pu:1", "1", 4, 2);
    host_lines("b", "package:1 core:3 pu:1", "", 3, 1);
    host_lines("c", "package:3 l3:2 core:2 pu:2", "202", 2, 5);
    becomes("3 hosts of 2 to 4 ranks; 2 rails; 0 by ranks 2 (ib0) 4 8 (ib0); 1 by ranks 3 (ib0) 5 7 (ib1)");
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("topology");
    TCase *tests = tcase_create("topology");

    tcase_add_test(tests, hosts);
    tcase_add_test(tests, unknown_hosts);
    tcase_add_test(tests, one_level);
    tcase_add_test(tests, nearest_leads);
    tcase_add_test(tests, second_package);
    tcase_add_test(tests, spread);
    tcase_add_test(tests, order_of_interfaces);
    tcase_add_test(tests, different_hosts);
    tcase_add_test(tests, many_interfaces);
    tcase_add_test(tests, cut);
#if HAVE_HWLOC
    tcase_add_test(tests, eight_nodes);
    tcase_add_test(tests, odd_nodes);
#endif
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
