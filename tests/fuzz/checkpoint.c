/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the reader of state files: a file that is refused changes nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { COUNT = 40 };

static void must(tacit_status_t status)
{
    if (status != TACIT_OK) {
        fprintf(stderr, "%s\n", tacit_last_error());
        abort();
    }
}

static void add_slot(tacit_comm_t *comm, const char *name, const char *spec)
{
    tacit_slot_config_t config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t       *slot;
    float               values[COUNT];

    config.count = COUNT;
    config.spec = spec;
    must(tacit_slot_create(comm, name, &config, &slot));
    for (int i = 0; i < COUNT; i++) {
        values[i] = (float)i * 0.1f;
    }
    must(tacit_allreduce(slot, values, values, TACIT_SUM));
}

/* Two slots that have memory. */
static tacit_comm_t *make_comm(void)
{
    tacit_loop_t     *loop;
    tacit_transport_t transport;
    tacit_comm_t     *comm;

    must(tacit_loop_create(1, &loop));
    must(tacit_loop_transport(loop, 0, &transport));
    must(tacit_comm_create(&transport, NULL, &comm));
    tacit_loop_release(loop);
    add_slot(comm, "a", "onebit:block=64+ef");
    add_slot(comm, "b", "topk:ratio=0.1+ef");
    return comm;
}

static uint64_t hash_memory(const tacit_comm_t *comm)
{
    uint64_t      hash = TACIT_HASH_START;
    tacit_array_t array;

    for (const tacit_slot_t *slot = comm->slots; slot != NULL; slot = slot->next) {
        hash = tacit__hash(hash, &slot->step, sizeof slot->step);
        for (size_t i = 0; tacit__codec_array(slot->codec, i, &array); i++) {
            hash = tacit__hash(hash, array.values, array.count * sizeof *array.values);
        }
    }
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tacit_comm_t *comm = make_comm();
    uint64_t      before = hash_memory(comm);
    FILE         *file = tmpfile();
    char          path[64];

    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fflush(file) != 0) {
        abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(file));
    if (tacit_load(comm, path) != TACIT_OK && hash_memory(comm) != before) {
        abort();
    }
    (void)hash_memory(comm);
    fclose(file);
    tacit_comm_destroy(comm);
    return 0;
}
