/* SPDX-License-Identifier: Apache-2.0 */
/* tacit-info --topology: where the ranks of a communicator run. */
#include "info.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "comm.h"
#include "json.h"
#include "machine.h"

enum { TEXT_BYTES = 1024, SHOWN_RANKS = 64 };

static const char *line_of(const tacit_topology_t *topology, int rank)
{
    return topology->lines + (size_t)rank * TACIT_PLACE_BYTES;
}

/* ---- For people, and for TACIT_TOPOLOGY ---- */

static void print_text(const tacit_topology_t *topology)
{
    char text[TEXT_BYTES];

    tacit__topology_describe(topology, text, sizeof text);
    printf("# %s\n", text);
    for (int rail = 0; rail < topology->rails && topology->hosts > 1; rail++) {
        tacit__topology_describe_rail(topology, rail, SHOWN_RANKS, text, sizeof text);
        printf("# rail %s\n", text);
    }
    for (int rank = 0; rank < topology->ranks; rank++) {
        puts(line_of(topology, rank));
    }
}

/* ---- For programs ---- */

static void write_number(json_t *json, const char *key, int number)
{
    json_number(json, key, number >= 0 ? number : (double)NAN);
}

static void write_name(json_t *json, const char *key, const char *name)
{
    char text[TACIT_PLACE_BYTES];

    snprintf(text, sizeof text, "%.*s", (int)tacit__name_bytes(name), name);
    json_text(json, key, text);
}

static void write_names(json_t *json, const char *key, const char *names)
{
    int distance;

    json_open(json, key, '[');
    for (const char *name = names[0] != '\0' ? names : NULL; name != NULL; name = tacit__name_next(name, &distance)) {
        write_name(json, NULL, name);
    }
    json_close(json, ']');
}

static void print_json(const tacit_topology_t *topology)
{
    for (int rank = 0; rank < topology->ranks; rank++) {
        const tacit_place_t *place = &topology->places[rank];
        const int            rail = topology->rail_of[rank], host = topology->host_of[rank];
        json_t               json = {0};

        json_open(&json, NULL, '{');
        json_text(&json, "mode", "topology");
        json_count(&json, "rank", (uint64_t)rank);
        json_text(&json, "host", place->host);
        json_count(&json, "host_index", (uint64_t)host);
        write_number(&json, "package", place->package);
        write_number(&json, "numa", place->numa);
        write_number(&json, "cache", place->cache);
        write_number(&json, "core", place->core);
        write_names(&json, "nics", place->nics);
        write_names(&json, "gpus", place->gpus);
        write_number(&json, "rail", rail);
        write_name(&json, "rail_nic", rail >= 0 ? topology->nics[rail * topology->hosts + host] : "");
        json_text(&json, "line", line_of(topology, rank));
        json_close(&json, '}');
        json_end(&json);
    }
}

/* A communicator of one rank has not looked, since nobody would ask it. */
static void look_after_all(tacit_topology_t *topology)
{
    char        *line = topology->lines;
    const size_t used = strlen(line);

    tacit__machine_describe(line + used, TACIT_PLACE_BYTES - used);
    tacit__topology_fill(topology);
}

void print_topology(const tacit_comm_t *comm, bool json)
{
    if (comm->ranks == 1 && comm->environment.topology == NULL) {
        look_after_all(comm->topology);
    }
    (json ? print_json : print_text)(comm->topology);
}
