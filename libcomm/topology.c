/* SPDX-License-Identifier: Apache-2.0 */
/* Finds out where this rank runs, and orders all ranks by host. */
#include "topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- This rank ---- */

/* "4,4,3": so many ranks on each host, in order; "4": on each, as far as they reach. */
static tacit_status_t host_of_list(const char *list, int rank, int ranks, char host_out[TACIT_HOST_BYTES])
{
    long        before = 0;
    int         found = -1, host = 0;
    const char *at = list;

    if (strchr(list, ',') == NULL && strtol(list, NULL, 10) > 0 && list[strspn(list, "0123456789")] == '\0') {
        snprintf(host_out, TACIT_HOST_BYTES, "host%ld", rank / strtol(list, NULL, 10));
        return TACIT_OK;
    }
    for (; *at != '\0'; host++) {
        char      *end;
        const long here = strtol(at, &end, 10);

        if (end == at || here < 1 || here > ranks || (*end != ',' && *end != '\0')) {
            break;
        }
        found = rank >= before && rank < before + here ? host : found;
        before += here;
        at = *end == ',' && end[1] != '\0' ? end + 1 : end;
    }
    if (*at != '\0' || before != ranks) {
        return tacit__fail(TACIT_ERR_ARGUMENT,
                           "rank %d: TACIT_TOPOLOGY=%.80s does not give each host's ranks, such as 4,4,3, %d in all", rank, list,
                           ranks);
    }
    snprintf(host_out, TACIT_HOST_BYTES, "host%d", found);
    return TACIT_OK;
}

tacit_status_t tacit__place_find(const char *given, const char *host, int rank, int ranks, char line_out[TACIT_PLACE_BYTES])
{
    tacit_place_t  place = {0};
    tacit_status_t status = TACIT_OK;

    line_out[0] = '\0';
    if (given != NULL) {
        TRY(host_of_list(given, rank, ranks, place.host));
    } else if (host != NULL) {
        snprintf(place.host, sizeof place.host, "%s", host);
    }
    snprintf(line_out, TACIT_PLACE_BYTES, "host=%s", place.host);
out:
    return status;
}

static void read_line(const char *line, tacit_place_t *place)
{
    const char *host = strncmp(line, "host=", 5) == 0 ? line + 5 : "";

    snprintf(place->host, sizeof place->host, "%.*s", (int)strcspn(host, " "), host);
}

/* ---- All ranks ---- */

static void find_hosts(tacit_topology_t *topology)
{
    int *next = topology->members;

    for (int rank = 0; rank < topology->ranks; rank++) {
        const char *host = topology->places[rank].host;
        int         first = 0;

        while (first < rank && (host[0] == '\0' || strcmp(topology->places[first].host, host) != 0)) {
            first++;
        }
        topology->host_of[rank] = first < rank ? topology->host_of[first] : topology->hosts++;
    }
    for (int host = 0; host < topology->hosts; host++) {
        topology->begin[host] = (int)(next - topology->members);
        for (int rank = 0; rank < topology->ranks; rank++) {
            if (topology->host_of[rank] == host) {
                *next++ = rank;
            }
        }
    }
    topology->begin[topology->hosts] = topology->ranks;
}

static void choose_leaders(tacit_topology_t *topology)
{
    topology->rails = topology->ranks;
    for (int host = 0; host < topology->hosts; host++) {
        const int here = topology->begin[host + 1] - topology->begin[host];

        topology->rails = here < topology->rails ? here : topology->rails;
    }
    for (int rank = 0; rank < topology->ranks; rank++) {
        topology->rail_of[rank] = -1;
    }
    for (int host = 0; host < topology->hosts; host++) {
        for (int rail = 0; rail < topology->rails; rail++) {
            const int rank = topology->members[topology->begin[host] + rail];

            topology->leaders[rail * topology->hosts + host] = rank;
            topology->rail_of[rank] = rail;
        }
    }
}

void tacit__topology_fill(tacit_topology_t *topology)
{
    for (int rank = 0; rank < topology->ranks; rank++) {
        read_line(topology->lines + (size_t)rank * TACIT_PLACE_BYTES, &topology->places[rank]);
    }
    find_hosts(topology);
    choose_leaders(topology);
}

tacit_status_t tacit__topology_create(int ranks, tacit_topology_t **topology_out)
{
    const size_t      count = (size_t)ranks;
    tacit_topology_t *topology = tacit__alloc(1, sizeof *topology);

    if (topology != NULL) {
        topology->ranks = ranks;
        topology->lines = tacit__alloc(count, TACIT_PLACE_BYTES);
        topology->places = tacit__alloc(count, sizeof *topology->places);
        topology->host_of = tacit__alloc(5 * count + 1, sizeof *topology->host_of);
    }
    if (topology == NULL || topology->lines == NULL || topology->places == NULL || topology->host_of == NULL) {
        tacit__topology_destroy(topology);
        return tacit__fail(TACIT_ERR_MEMORY, "no memory for the topology of %d ranks", ranks);
    }
    topology->rail_of = topology->host_of + count;
    topology->members = topology->rail_of + count;
    topology->leaders = topology->members + count;
    topology->begin = topology->leaders + count;
    *topology_out = topology;
    return TACIT_OK;
}

void tacit__topology_destroy(tacit_topology_t *topology)
{
    if (topology != NULL) {
        tacit__free(topology->lines);
        tacit__free(topology->places);
        tacit__free(topology->host_of);
        tacit__free(topology);
    }
}
