/* SPDX-License-Identifier: Apache-2.0 */
/* This machine, and where in it the calling thread runs: by hwloc, where that is there, and by the system's list of network
   interfaces. Found out once a process. */
#ifndef TACIT_MACHINE_H
#define TACIT_MACHINE_H

#include "internal.h"

/* Of a network interface's name, as the system has it; its end included. */
enum { TACIT_ADAPTER_BYTES = 16 };

/* Writes words about the calling thread, such as " package=0 numa=0 cache=1 core=3 nic=eth0,eth1:2 gpu=0": place.h says what they
   mean. What is not known is left out, and so are names that do not fit. */
void tacit__machine_describe(char *text, size_t capacity);

#if HAVE_HWLOC
#include <hwloc.h>

/* A network interface or a GPU. */
typedef struct tacit_adapter {
    char                 name[TACIT_ADAPTER_BYTES]; /* of a GPU: its number, in the order of PCI addresses */
    bool                 gpu;
    hwloc_const_bitmap_t near; /* the processors beside it; NULL: not known */
} tacit_adapter_t;

/* The machine, with its adapters; the same one for all threads, who only read it. NULL: hwloc cannot look at it. */
hwloc_topology_t tacit__machine(void);

/* What the others are made of; tests have machines of their own. Finds where network interfaces of these names are, and GPUs; the
   list, of `room` adapters at most, ends with an empty name. */
void tacit__machine_adapters(hwloc_topology_t topology, char names[][TACIT_ADAPTER_BYTES], size_t name_count,
                             tacit_adapter_t *list, size_t room);
/* As tacit__machine_describe(), of a thread that is bound so. */
void tacit__machine_write(hwloc_topology_t topology, hwloc_const_bitmap_t bound, const tacit_adapter_t *list, char *text,
                          size_t capacity);
#endif

#endif
