/* SPDX-License-Identifier: Apache-2.0 */
/* Where a thread runs, on machines that are made up. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "machine.h"

#if HAVE_HWLOC

enum { ROOM = 176 };

static hwloc_topology_t topology;
static tacit_adapter_t  adapters[16];
static char             text[ROOM];

static void load(const char *synthetic)
{
    ck_assert(hwloc_topology_init(&topology) == 0 && hwloc_topology_set_synthetic(topology, synthetic) == 0);
    ck_assert_int_eq(hwloc_topology_load(topology), 0);
    memset(adapters, 0, sizeof adapters);
}

/* An adapter beside the index-th object of a kind; HWLOC_OBJ_MISC: beside nothing that is known. */
static void add(const char *name, bool gpu, hwloc_obj_type_t type, unsigned index)
{
    tacit_adapter_t *adapter = adapters;

    while (adapter->name[0] != '\0') {
        adapter++;
    }
    snprintf(adapter->name, sizeof adapter->name, "%s", name);
    adapter->gpu = gpu;
    adapter->near = type != HWLOC_OBJ_MISC ? hwloc_get_obj_by_type(topology, type, index)->cpuset : NULL;
}

/* What is said of a thread that is bound to these processors. */
static const char *bound_to(const char *processors, size_t capacity)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();

    ck_assert_int_eq(hwloc_bitmap_list_sscanf(set, processors), 0);
    tacit__machine_write(topology, set, adapters, text, capacity);
    hwloc_bitmap_free(set);
    return text;
}

START_TEST(numbers)
{
    load("package:2 numanode:2 l3:1 core:4 pu:2");
    ck_assert_str_eq(bound_to("0-1", ROOM), " package=0 numa=0 cache=0 core=0");
    ck_assert_str_eq(bound_to("31", ROOM), " package=1 numa=3 cache=3 core=15");
    ck_assert_str_eq(bound_to("16-19", ROOM), " package=1 numa=2 cache=2");
    ck_assert_str_eq(bound_to("16-31", ROOM), " package=1");
    ck_assert_str_eq(bound_to("15-16", ROOM), "");
    hwloc_topology_destroy(topology);
}
END_TEST

/* The outermost caches that there are; processors where cores are not known. */
START_TEST(poor_machines)
{
    load("numanode:1 l2:2 l1:2 core:1 pu:1");
    ck_assert_str_eq(bound_to("2", ROOM), " numa=0 cache=1 core=2");
    hwloc_topology_destroy(topology);
    load("pu:4");
    ck_assert_str_eq(bound_to("3", ROOM), " numa=0 core=3");
    ck_assert_str_eq(bound_to("0-3", ROOM), " numa=0");
    hwloc_topology_destroy(topology);
}
END_TEST

START_TEST(distances)
{
    load("package:2 numanode:2 l3:1 core:2 pu:1");
    add("far", false, HWLOC_OBJ_PACKAGE, 1);
    add("next", false, HWLOC_OBJ_NUMANODE, 1);
    add("here", false, HWLOC_OBJ_NUMANODE, 0);
    add("anywhere", false, HWLOC_OBJ_MISC, 0);
    ck_assert_str_eq(bound_to("0", ROOM), " package=0 numa=0 cache=0 core=0 nic=here,anywhere,next:1,far:2");
    ck_assert_str_eq(bound_to("2", ROOM), " package=0 numa=1 cache=1 core=2 nic=next,anywhere,here:1,far:2");
    ck_assert_str_eq(bound_to("6", ROOM), " package=1 numa=3 cache=3 core=6 nic=far,anywhere,next:2,here:2");
    ck_assert_str_eq(bound_to("0-7", ROOM), " nic=far,next,here,anywhere");
    hwloc_topology_destroy(topology);
}
END_TEST

/* Of GPUs only the nearest. */
START_TEST(gpus)
{
    load("package:2 numanode:1 core:4 pu:1");
    add("0", true, HWLOC_OBJ_PACKAGE, 0);
    add("1", true, HWLOC_OBJ_PACKAGE, 0);
    add("2", true, HWLOC_OBJ_PACKAGE, 1);
    add("eth0", false, HWLOC_OBJ_PACKAGE, 1);
    ck_assert_str_eq(bound_to("1", ROOM), " package=0 numa=0 core=1 nic=eth0:2 gpu=0,1");
    ck_assert_str_eq(bound_to("4-5", ROOM), " package=1 numa=1 nic=eth0 gpu=2");
    hwloc_topology_destroy(topology);
}
END_TEST

/* What does not fit is left out, name by name, and nothing is cut in two. */
START_TEST(little_room)
{
    static const char whole[] = " package=0 numa=0 core=0 nic=eth0,eth1,eth2,eth3 gpu=0,1";

    load("package:1 numanode:1 core:4 pu:1");
    for (int i = 0; i < 4; i++) {
        char name[8];

        snprintf(name, sizeof name, "eth%d", i);
        add(name, false, HWLOC_OBJ_PACKAGE, 0);
    }
    add("0", true, HWLOC_OBJ_PACKAGE, 0);
    add("1", true, HWLOC_OBJ_PACKAGE, 0);
    ck_assert_str_eq(bound_to("0", ROOM), whole);
    ck_assert_str_eq(bound_to("0", 74), " package=0 numa=0 core=0 nic=eth0,eth1 gpu=0,1");
    ck_assert_str_eq(bound_to("0", 35), " package=0 numa=0 core=0 gpu=0,1");
    ck_assert_str_eq(bound_to("0", 32), " package=0 numa=0 core=0 gpu=0");
    hwloc_topology_destroy(topology);
}
END_TEST

/* As hwloc sees a machine of two packages: a network card and a GPU at the first, a display and two GPUs at the second. */
#define OBJECT(type, index, set) "<object type=\"" type "\" os_index=\"" index "\" cpuset=\"" set "\" complete_cpuset=\"" set "\""
#define NODES(set) " nodeset=\"" set "\" complete_nodeset=\"" set "\""
#define BRIDGE(bus) "<object type=\"Bridge\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"0000:[" bus "-" bus "]\">"
#define PCI(bus, slot, class, vendor)                                                                                            \
    "<object type=\"PCIDev\" pci_busid=\"0000:" bus ":" slot ".0\" pci_type=\"" class " [" vendor ":1234] [0000:0000] 00\""      \
                                                                                      " pci_link_speed=\"0\""
#define OS(name, type) "<object type=\"OSDev\" name=\"" name "\" osdev_type=\"" type "\"/>"
#define HALF(index, set)                                                                                                         \
    OBJECT("Package", index, set)                                                                                                \
    NODES(set) ">" OBJECT("NUMANode", index, set) NODES(set) " local_memory=\"1000\"/>" OBJECT("PU", index, set) NODES(set) "/>"

static const char two_packages[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><!DOCTYPE topology SYSTEM \"hwloc2.dtd\"><topology version=\"2.0\">"
    "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x3\" complete_cpuset=\"0x3\" allowed_cpuset=\"0x3\" nodeset=\"0x3\""
    " complete_nodeset=\"0x3\" allowed_nodeset=\"0x3\">" HALF("0", "0x1") BRIDGE("01")
        PCI("01", "00", "0200", "15b3") ">" OS("ib0", "2") "</object>" PCI(
            "01", "01", "0302", "10de") "/>"
                                        "</object></object>" HALF("1", "0x2") BRIDGE("02")
                                            PCI("02", "00", "0300", "1a03") "/>" PCI("02", "01", "0302", "10de") "/>" PCI(
                                                "02", "02", "0300", "10de") "/>"
                                                                            "</object></object>"
                                                                            "</object></topology>";

START_TEST(adapters_of_a_machine)
{
    char names[2][TACIT_ADAPTER_BYTES] = {"eth0", "ib0"};

    ck_assert_int_eq(hwloc_topology_init(&topology), 0);
    ck_assert_int_eq(hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL), 0);
    ck_assert_int_eq(hwloc_topology_set_xmlbuffer(topology, two_packages, sizeof two_packages), 0);
    ck_assert_int_eq(hwloc_topology_load(topology), 0);
    tacit__machine_adapters(topology, names, 2, adapters, 15);
    ck_assert_str_eq(bound_to("0", ROOM), " package=0 numa=0 core=0 nic=eth0,ib0 gpu=0");
    ck_assert_str_eq(bound_to("1", ROOM), " package=1 numa=1 core=1 nic=eth0,ib0:2 gpu=1,2");
    tacit__machine_adapters(topology, names, 2, adapters, 3);
    ck_assert_str_eq(bound_to("1", ROOM), " package=1 numa=1 core=1 nic=eth0,ib0:2 gpu=0");
    tacit__machine_adapters(topology, names, 2, adapters, 1);
    ck_assert_str_eq(bound_to("1", ROOM), " package=1 numa=1 core=1 nic=eth0");
    hwloc_topology_destroy(topology);
}
END_TEST

/* Binds this process to the first processor that it may use; returns its number. */
static int bind_to_first(void)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    int            first;

    ck_assert(hwloc_topology_init(&topology) == 0 && hwloc_topology_load(topology) == 0);
    ck_assert_int_eq(hwloc_get_cpubind(topology, set, HWLOC_CPUBIND_THREAD), 0);
    first = hwloc_bitmap_first(set);
    hwloc_bitmap_only(set, (unsigned)first);
    ck_assert_int_eq(hwloc_set_cpubind(topology, set, HWLOC_CPUBIND_THREAD), 0);
    hwloc_topology_destroy(topology);
    hwloc_bitmap_free(set);
    return first;
}

/* What a process says of itself where hwloc's own variables describe another machine, whose bindings are those of this one or
   not known; %d is the processor's number over 64. */
static void describes(const char *synthetic, bool bound, const char *format)
{
    char        expected[ROOM];
    int         status;
    const pid_t child = fork();

    if (child == 0) { /* where nobody has looked at the machine yet */
        snprintf(expected, sizeof expected, format, bind_to_first() / 64);
        setenv("HWLOC_SYNTHETIC", synthetic, 1);
        setenv("HWLOC_THISSYSTEM", bound ? "1" : "0", 1);
        tacit__machine_describe(text, sizeof text);
        text[strcspn(text, "n")] = '\0'; /* only the package */
        if (strcmp(text, expected) != 0) {
            fprintf(stderr, "'%s' where '%s' is right\n", text, expected);
        }
        _exit(strcmp(text, expected) != 0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}

START_TEST(variables_of_hwloc)
{
    describes("package:16 core:64 pu:1", true, " package=%d ");
    describes("package:16 core:64 pu:1", false, " ");
    describes("package:1 core:64 pu:1", false, " package=0 ");
}
END_TEST

/* This machine, whatever it is: the same words again, in any thread, and the same machine. */
START_TEST(this_machine)
{
    char again[ROOM];

    tacit__machine_describe(text, sizeof text);
    tacit__machine_describe(again, sizeof again);
    ck_assert_str_eq(text, again);
    ck_assert_ptr_nonnull(tacit__machine());
    ck_assert_ptr_eq(tacit__machine(), tacit__machine());
    ck_assert_ptr_null(strstr(text, "nic=lo"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("machine");
    TCase *tests = tcase_create("machine");

    tcase_add_test(tests, numbers);
    tcase_add_test(tests, poor_machines);
    tcase_add_test(tests, distances);
    tcase_add_test(tests, gpus);
    tcase_add_test(tests, little_room);
    tcase_add_test(tests, adapters_of_a_machine);
    tcase_add_test(tests, variables_of_hwloc);
    tcase_add_test(tests, this_machine);
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
