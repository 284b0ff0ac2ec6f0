/* SPDX-License-Identifier: Apache-2.0 */
/* Looks at the machine, once, and at the binding of the thread that asks. It stays in memory until the process ends: threads may
   be looking at it. */
#include "machine.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_INTERFACES = 32, PATH_BYTES = 64 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char           interfaces[MOST_INTERFACES][TACIT_ADAPTER_BYTES]; /* those that count, in the order of their names */
static size_t         interface_count;

/* ---- Network interfaces ---- */

/* How likely an interface leads to other hosts, whatever its name. The best kind that there is counts, and no other. */
typedef enum { NO_WAY, SOME_WAY, LIKELY_WAY, HARDWARE } way_t;

static bool has_entry(const char *interface, const char *entry)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "/sys/class/net/%.15s/%s", interface, entry);
    return access(path, F_OK) == 0;
}

/* Containers have no hardware, but an end of a pair; bridges and the other ends of such pairs are on the hosts of containers. */
static way_t way_of(const char *interface, unsigned flags)
{
    if ((flags & IFF_UP) == 0 || (flags & IFF_RUNNING) == 0 || (flags & IFF_LOOPBACK) != 0 || strpbrk(interface, ",:") != NULL) {
        return NO_WAY; /* a name such as eth0:1 is another address of eth0 */
    }
    if (has_entry(interface, "device")) {
        return HARDWARE;
    }
    return has_entry(interface, "bridge") || has_entry(interface, "brport") || (flags & IFF_POINTOPOINT) != 0 ? SOME_WAY
                                                                                                              : LIKELY_WAY;
}

static bool is_listed(const char *interface)
{
    for (size_t i = 0; i < interface_count; i++) {
        if (strcmp(interfaces[i], interface) == 0) {
            return true;
        }
    }
    return false;
}

static int by_name(const void *one, const void *other)
{
    return strverscmp(one, other);
}

/* The system's list has an entry for each address. It is that of this process' network namespace, which /sys may not be. */
static void list_interfaces(void)
{
    struct ifaddrs *all = NULL;
    way_t           best = NO_WAY;

    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *entry = all; entry != NULL; entry = entry->ifa_next) {
        const way_t way = way_of(entry->ifa_name, entry->ifa_flags);

        best = way > best ? way : best;
    }
    for (const struct ifaddrs *entry = all; entry != NULL && best != NO_WAY; entry = entry->ifa_next) {
        if (interface_count < MOST_INTERFACES && way_of(entry->ifa_name, entry->ifa_flags) == best &&
            !is_listed(entry->ifa_name)) {
            snprintf(interfaces[interface_count++], TACIT_ADAPTER_BYTES, "%s", entry->ifa_name);
        }
    }
    freeifaddrs(all);
    qsort(interfaces, interface_count, sizeof *interfaces, by_name);
}

/* ---- Words ---- */

/* Another name of a list; nothing, and false, where it does not fit. */
static bool append_name(const char *key, bool first, const char *name, int distance, char *text, size_t capacity)
{
    const size_t used = strlen(text);
    char         after[16] = "";
    int          bytes;

    if (used >= capacity) {
        return false;
    }
    if (distance > 0) {
        snprintf(after, sizeof after, ":%d", distance);
    }
    bytes = snprintf(text + used, capacity - used, "%s%s%s", first ? key : ",", name, after);
    if (bytes >= 0 && used + (size_t)bytes < capacity) {
        return true;
    }
    text[used] = '\0';
    return false;
}

static void append_interfaces(char *text, size_t capacity)
{
    for (size_t i = 0; i < interface_count && append_name(" nic=", i == 0, interfaces[i], 0, text, capacity); i++) {
    }
}

#if HAVE_HWLOC

enum { MOST_ADAPTERS = 64, FARTHEST = 2, DISPLAY_CLASS = 0x03, NVIDIA = 0x10de, GPU_BYTES = 32 /* kept for them in a text */ };

static hwloc_topology_t machine;                     /* NULL: there is none */
static tacit_adapter_t  adapters[MOST_ADAPTERS + 1]; /* of it, and where it ends */

/* ---- Adapters ---- */

static hwloc_const_bitmap_t beside(hwloc_topology_t topology, hwloc_obj_t device)
{
    const hwloc_obj_t object = hwloc_get_non_io_ancestor_obj(topology, device);

    return object != NULL ? object->cpuset : NULL;
}

static hwloc_const_bitmap_t beside_interface(hwloc_topology_t topology, const char *name)
{
    for (hwloc_obj_t device = NULL; (device = hwloc_get_next_osdev(topology, device)) != NULL;) {
        if (device->name != NULL && strcmp(device->name, name) == 0) {
            return beside(topology, device);
        }
    }
    return NULL;
}

void tacit__machine_adapters(hwloc_topology_t topology, char names[][TACIT_ADAPTER_BYTES], size_t name_count,
                             tacit_adapter_t *list, size_t room)
{
    tacit_adapter_t *next = list, *end = list + room;
    int              gpus = 0;

    for (size_t i = 0; i < name_count && next < end; i++) {
        *next = (tacit_adapter_t){.near = beside_interface(topology, names[i])};
        snprintf(next++->name, TACIT_ADAPTER_BYTES, "%.15s", names[i]);
    }
    for (hwloc_obj_t device = NULL; (device = hwloc_get_next_pcidev(topology, device)) != NULL && next < end;) {
        if (device->attr->pcidev.class_id >> 8 == DISPLAY_CLASS && device->attr->pcidev.vendor_id == NVIDIA) {
            *next = (tacit_adapter_t){.gpu = true, .near = beside(topology, device)};
            snprintf(next++->name, TACIT_ADAPTER_BYTES, "%d", gpus++);
        }
    }
    next->name[0] = '\0';
}

/* ---- Where a thread is ---- */

/* The first object of a kind that has all processors of a set, in words; nothing where there is none. */
static void append_number(hwloc_topology_t topology, const char *key, hwloc_obj_type_t type, hwloc_const_bitmap_t set, char *text,
                          size_t capacity)
{
    for (hwloc_obj_t object = NULL; (object = hwloc_get_next_obj_by_type(topology, type, object)) != NULL;) {
        if (hwloc_bitmap_isincluded(set, object->cpuset)) {
            const size_t used = strlen(text);

            snprintf(text + used, capacity - used, " %s=%u", key, object->logical_index);
            return;
        }
    }
}

/* The first of these kinds that the machine has at all. */
static hwloc_obj_type_t first_kind(hwloc_topology_t topology, const hwloc_obj_type_t *kinds, size_t count)
{
    size_t i = 0;

    while (i + 1 < count && hwloc_get_nbobjs_by_type(topology, kinds[i]) <= 0) {
        i++;
    }
    return kinds[i];
}

/* 0: a thread that is bound so may run beside the adapter, or nobody knows; 1: in its package; 2: elsewhere. */
static int distance_of(hwloc_topology_t topology, const tacit_adapter_t *adapter, hwloc_const_bitmap_t bound)
{
    if (adapter->near == NULL || hwloc_bitmap_intersects(adapter->near, bound)) {
        return 0;
    }
    for (hwloc_obj_t package = NULL; (package = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PACKAGE, package)) != NULL;) {
        if (hwloc_bitmap_intersects(package->cpuset, adapter->near) && hwloc_bitmap_intersects(package->cpuset, bound)) {
            return 1;
        }
    }
    return FARTHEST;
}

/* Interfaces, the nearest first, or the nearest GPUs. */
static void append_adapters(hwloc_topology_t topology, hwloc_const_bitmap_t bound, const tacit_adapter_t *list, bool gpus,
                            char *text, size_t capacity)
{
    bool first = true;

    for (int distance = 0; distance <= FARTHEST && (first || !gpus); distance++) {
        for (const tacit_adapter_t *adapter = list; adapter->name[0] != '\0'; adapter++) {
            if (adapter->gpu == gpus && distance_of(topology, adapter, bound) == distance) {
                if (!append_name(gpus ? " gpu=" : " nic=", first, adapter->name, gpus ? 0 : distance, text, capacity)) {
                    return;
                }
                first = false;
            }
        }
    }
}

void tacit__machine_write(hwloc_topology_t topology, hwloc_const_bitmap_t bound, const tacit_adapter_t *list, char *text,
                          size_t capacity)
{
    static const hwloc_obj_type_t caches[] = {HWLOC_OBJ_L5CACHE, HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L2CACHE,
                                              HWLOC_OBJ_L1CACHE};
    static const hwloc_obj_type_t cores[] = {HWLOC_OBJ_CORE, HWLOC_OBJ_PU};

    text[0] = '\0';
    append_number(topology, "package", HWLOC_OBJ_PACKAGE, bound, text, capacity);
    append_number(topology, "numa", HWLOC_OBJ_NUMANODE, bound, text, capacity);
    append_number(topology, "cache", first_kind(topology, caches, sizeof caches / sizeof *caches), bound, text, capacity);
    append_number(topology, "core", first_kind(topology, cores, sizeof cores / sizeof *cores), bound, text, capacity);
    append_adapters(topology, bound, list, false, text, capacity > GPU_BYTES ? capacity - GPU_BYTES : 0);
    append_adapters(topology, bound, list, true, text, capacity);
}

/* ---- This machine ---- */

/* Those that would start a GPU's runtime or call on a display, which takes long and is not for a library to do; and one that
   binds the calling thread to each processor in turn, for what Linux tells anyway. */
static void leave_out_components(hwloc_topology_t topology)
{
    static const char *const components[] = {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl", "x86"};

    for (size_t i = 0; i < sizeof components / sizeof *components; i++) {
        (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, components[i]);
    }
}

static void look(void)
{
    hwloc_topology_t topology;

    list_interfaces();
    if (hwloc_topology_init(&topology) != 0) {
        return;
    }
    leave_out_components(topology);
    if (hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0 ||
        hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        return;
    }
    tacit__machine_adapters(topology, interfaces, interface_count, adapters, MOST_ADAPTERS);
    machine = topology;
}

hwloc_topology_t tacit__machine(void)
{
    pthread_once(&once, look);
    return machine;
}

void tacit__machine_describe(char *text, size_t capacity)
{
    const hwloc_topology_t topology = tacit__machine();
    hwloc_bitmap_t         bound = topology != NULL ? hwloc_bitmap_alloc() : NULL;

    text[0] = '\0';
    if (bound == NULL) {
        append_interfaces(text, capacity);
        return;
    }
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD) != 0) {
        hwloc_bitmap_fill(bound);
    }
    hwloc_bitmap_and(bound, bound, hwloc_topology_get_topology_cpuset(topology));
    tacit__machine_write(topology, bound, adapters, text, capacity);
    hwloc_bitmap_free(bound);
}

#else

void tacit__machine_describe(char *text, size_t capacity)
{
    pthread_once(&once, list_interfaces);
    text[0] = '\0';
    append_interfaces(text, capacity);
}

#endif
