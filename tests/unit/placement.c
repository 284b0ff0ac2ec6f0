/* SPDX-License-Identifier: Apache-2.0 */
/* Which processor a progress thread gets, on machines that are made up. */
#include <check.h>
#include <stdio.h>

#include "harness.h"
#include "placement.h"

#if HAVE_HWLOC

/* The processor that a rank bound to `near` gets where `taken`, and near, are taken; -1: none. */
static int choice(const char *machine, const char *taken, const char *near)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t   set = hwloc_bitmap_alloc(), own = hwloc_bitmap_alloc();
    hwloc_obj_t      pu;
    int              found;

    ck_assert(hwloc_topology_init(&topology) == 0 && hwloc_topology_set_synthetic(topology, machine) == 0);
    ck_assert(hwloc_topology_load(topology) == 0 && hwloc_bitmap_list_sscanf(set, taken) == 0);
    ck_assert(hwloc_bitmap_list_sscanf(own, near) == 0);
    hwloc_bitmap_or(set, set, own);
    pu = tacit__place_choose(topology, set, own);
    found = pu != NULL ? (int)pu->os_index : -1;
    hwloc_topology_destroy(topology);
    hwloc_bitmap_free(set);
    hwloc_bitmap_free(own);
    return found;
}

/* Two nodes of two caches of two cores, each with two threads: processors 0-3, 4-7, 8-11, 12-15 share caches. */
static const char large[] = "numa:2 l3:2 core:2 pu:2";

START_TEST(near_first)
{
    ck_assert_int_eq(choice(large, "", "0-1"), 2);    /* the cache's other core */
    ck_assert_int_eq(choice(large, "2-3", "0-1"), 4); /* another cache of the node */
    ck_assert_int_eq(choice(large, "2-7", "0-1"), 8); /* another node */
    ck_assert_int_eq(choice(large, "0-7", "12-13"), 14);
}
END_TEST

START_TEST(whole_cores_first)
{
    ck_assert_int_eq(choice(large, "", "0"), 2);
    ck_assert_int_eq(choice(large, "2", "0"), 4);
    ck_assert_int_eq(choice(large, "2,4,6", "0"), 8);                /* a core that is free, on the other node, … */
    ck_assert_int_eq(choice(large, "2,4,6,8,10,12,14", "0"), 1);     /* … or the own one's other thread */
    ck_assert_int_eq(choice(large, "1,2,3,4,6,8,10,12,14", "0"), 5); /* … or another one's */
}
END_TEST

START_TEST(nothing_is_free)
{
    ck_assert_int_eq(choice(large, "1-15", "0"), -1);
    ck_assert_int_eq(choice("core:2 pu:1", "1", "0"), -1);
    ck_assert_int_eq(choice("core:2 pu:1", "", "1"), 0); /* without a cache of the third level */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("placement");
    TCase *tests = tcase_create("placement");

    tcase_add_test(tests, near_first);
    tcase_add_test(tests, whole_cores_first);
    tcase_add_test(tests, nothing_is_free);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}

#else

int main(void)
{
    puts("skipped: there is no hwloc");
    return 77;
}

#endif
