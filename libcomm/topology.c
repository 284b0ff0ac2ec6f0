/* SPDX-License-Identifier: Apache-2.0 */
/* Orders ranks by host, and chooses those that lead: each host has as many leaders as any other, one for each rail. Rails are
   dealt out to a host's network interfaces, and the ranks nearest to these lead them. */
#include "topology.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MOST_NICS = 32, NAME_BYTES = 32, TOLD_RANKS = 8, TOLD_RAILS = 4, FARTHER_THAN_ALL = INT_MAX };

/* ---- Hosts ---- */

static bool share_host(const tacit_topology_t *topology, int one, int other)
{
    const char *host = topology->places[one].host;

    return host[0] != '\0' && strcmp(host, topology->places[other].host) == 0;
}

/* leaders[host] is each host's lowest rank here. Ranks of a host mostly follow each other; one without a host has its own. */
static void find_hosts(tacit_topology_t *topology)
{
    topology->hosts = 0;
    for (int rank = 0; rank < topology->ranks; rank++) {
        int host = rank > 0 && share_host(topology, rank, rank - 1) ? topology->host_of[rank - 1] : 0;

        host = topology->places[rank].host[0] == '\0' ? topology->hosts : host;
        while (host < topology->hosts && !share_host(topology, rank, topology->leaders[host])) {
            host++;
        }
        if (host == topology->hosts) {
            topology->leaders[topology->hosts++] = rank;
        }
        topology->host_of[rank] = host;
    }
}

static void order_by_host(tacit_topology_t *topology)
{
    int *next = topology->rail_of; /* not in use yet */

    memset(topology->begin, 0, ((size_t)topology->hosts + 1) * sizeof *topology->begin);
    for (int rank = 0; rank < topology->ranks; rank++) {
        topology->begin[topology->host_of[rank] + 1]++;
    }
    topology->most_here = 0;
    topology->rails = topology->ranks;
    for (int host = 0; host < topology->hosts; host++) {
        const int here = topology->begin[host + 1];

        topology->most_here = here > topology->most_here ? here : topology->most_here;
        topology->rails = here < topology->rails ? here : topology->rails;
        topology->begin[host + 1] += topology->begin[host];
        next[host] = topology->begin[host];
    }
    for (int rank = 0; rank < topology->ranks; rank++) {
        topology->members[next[topology->host_of[rank]]++] = rank;
    }
}

/* ---- Leaders ---- */

static bool is_same_name(const char *one, const char *other)
{
    const size_t bytes = tacit__name_bytes(one);

    return bytes == tacit__name_bytes(other) && memcmp(one, other, bytes) == 0;
}

/* eth2 comes before eth10. */
static bool comes_before(const char *one, const char *other)
{
    char names[2][NAME_BYTES];

    snprintf(names[0], NAME_BYTES, "%.*s", (int)tacit__min(tacit__name_bytes(one), NAME_BYTES - 1), one);
    snprintf(names[1], NAME_BYTES, "%.*s", (int)tacit__min(tacit__name_bytes(other), NAME_BYTES - 1), other);
    return strverscmp(names[0], names[1]) < 0;
}

/* All interfaces of which ranks of a host know, in the order of their names. */
static int list_nics(const tacit_topology_t *topology, int host, const char *nics[MOST_NICS])
{
    int count = 0;

    for (int i = topology->begin[host]; i < topology->begin[host + 1]; i++) {
        const char *name = topology->places[topology->members[i]].nics;

        for (int distance; name != NULL && *name != '\0'; name = tacit__name_next(name, &distance)) {
            int at = 0, to = count;

            while (at < count && !is_same_name(nics[at], name)) {
                at++;
            }
            if (at < count || count == MOST_NICS) {
                continue;
            }
            for (; to > 0 && comes_before(name, nics[to - 1]); to--) {
                nics[to] = nics[to - 1];
            }
            nics[to] = name;
            count++;
        }
    }
    return count;
}

static int distance_to(const tacit_place_t *place, const char *nic)
{
    for (const char *name = place->nics, *next; name != NULL && *name != '\0'; name = next) {
        int distance;

        next = tacit__name_next(name, &distance);
        if (is_same_name(name, nic)) {
            return distance;
        }
    }
    return FARTHER_THAN_ALL;
}

/* Nearest to the interface; then where fewest lead so far, in the package and under the cache; then lowest. */
static int choose_leader(const tacit_topology_t *topology, int host, const char *nic)
{
    int best = -1, best_distance = 0;

    for (int i = topology->begin[host]; i < topology->begin[host + 1]; i++) {
        const int  rank = topology->members[i];
        const int *crowd = topology->crowd + 2 * rank;
        const int  distance = nic != NULL ? distance_to(&topology->places[rank], nic) : 0;
        int        order;

        if (topology->rail_of[rank] >= 0) {
            continue;
        }
        order = best >= 0 ? (distance > best_distance) - (distance < best_distance) : -1;
        for (int k = 0; k < 2 && order == 0; k++) {
            const int other = topology->crowd[2 * best + k];

            order = (crowd[k] > other) - (crowd[k] < other);
        }
        if (order < 0) {
            best = rank;
            best_distance = distance;
        }
    }
    return best;
}

static void choose_leaders(tacit_topology_t *topology, int host)
{
    const char *nics[MOST_NICS];
    const int   nic_count = list_nics(topology, host, nics);

    for (int rail = 0; rail < topology->rails; rail++) {
        const char          *nic = nic_count > 0 ? nics[rail % nic_count] : NULL;
        const int            leader = choose_leader(topology, host, nic);
        const tacit_place_t *place = &topology->places[leader];

        topology->rail_of[leader] = rail;
        topology->leaders[rail * topology->hosts + host] = leader;
        topology->nics[rail * topology->hosts + host] = nic != NULL ? nic : "";
        for (int i = topology->begin[host]; i < topology->begin[host + 1]; i++) {
            const int            rank = topology->members[i];
            const tacit_place_t *other = &topology->places[rank];

            topology->crowd[2 * rank] += other->package == place->package;
            topology->crowd[2 * rank + 1] += other->package == place->package && other->cache == place->cache;
        }
    }
}

/* ---- Create and destroy ---- */

void tacit__topology_fill(tacit_topology_t *topology)
{
    const char *word;

    for (int rank = 0; rank < topology->ranks; rank++) {
        (void)tacit__place_read(topology->lines + (size_t)rank * TACIT_PLACE_BYTES, &topology->places[rank], &word);
    }
    find_hosts(topology);
    order_by_host(topology);
    for (int rank = 0; rank < topology->ranks; rank++) {
        topology->rail_of[rank] = -1;
        topology->crowd[2 * rank] = topology->crowd[2 * rank + 1] = 0;
    }
    for (int host = 0; host < topology->hosts; host++) {
        choose_leaders(topology, host);
    }
}

tacit_status_t tacit__topology_create(int ranks, tacit_topology_t **topology_out)
{
    const size_t      count = (size_t)ranks;
    tacit_topology_t *topology = tacit__alloc(1, sizeof *topology);

    if (topology != NULL) {
        topology->ranks = ranks;
        topology->lines = tacit__alloc(count, TACIT_PLACE_BYTES);
        topology->places = tacit__alloc(count, sizeof *topology->places);
        topology->nics = tacit__alloc(count, sizeof *topology->nics);
        topology->host_of = tacit__alloc(7 * count + 1, sizeof *topology->host_of);
    }
    if (topology == NULL || topology->lines == NULL || topology->places == NULL || topology->nics == NULL ||
        topology->host_of == NULL) {
        tacit__topology_destroy(topology);
        return tacit__fail(TACIT_ERR_MEMORY, "no memory for the topology of %d ranks", ranks);
    }
    topology->rail_of = topology->host_of + count;
    topology->members = topology->rail_of + count;
    topology->leaders = topology->members + count;
    topology->crowd = topology->leaders + count;
    topology->begin = topology->crowd + 2 * count;
    *topology_out = topology;
    return TACIT_OK;
}

void tacit__topology_destroy(tacit_topology_t *topology)
{
    if (topology != NULL) {
        tacit__free(topology->lines);
        tacit__free(topology->places);
        tacit__free(topology->nics);
        tacit__free(topology->host_of);
        tacit__free(topology);
    }
}

/* ---- In words ---- */

/* Adds to a text, as far as there is room. */
static TACIT_PRINTF(3, 4) void append(char *text, size_t capacity, const char *format, ...)
{
    const size_t used = strlen(text);
    va_list      arguments;

    va_start(arguments, format);
    vsnprintf(text + used, capacity - used, format, arguments);
    va_end(arguments);
}

static const char *plural(int count)
{
    return count == 1 ? "" : "s";
}

uint32_t tacit__topology_hash(const tacit_topology_t *topology)
{
    const size_t   leaders = (size_t)(topology->rails * topology->hosts);
    const uint64_t hash = tacit__hash(TACIT_HASH_START, topology->host_of, (size_t)topology->ranks * sizeof *topology->host_of);

    return (uint32_t)tacit__hash(hash, topology->leaders, leaders * sizeof *topology->leaders);
}

void tacit__topology_describe(const tacit_topology_t *topology, char *text, size_t capacity)
{
    const int least = topology->rails, most = topology->most_here;

    text[0] = '\0';
    append(text, capacity, "%d host%s of %d", topology->hosts, plural(topology->hosts), least);
    if (most > least) {
        append(text, capacity, " to %d", most);
    }
    append(text, capacity, " rank%s; %d rail%s", plural(most), topology->rails, plural(topology->rails));
}

void tacit__topology_describe_rail(const tacit_topology_t *topology, int rail, int most, char *text, size_t capacity)
{
    const int   *leaders = topology->leaders + rail * topology->hosts;
    const char **nics = topology->nics + rail * topology->hosts;
    const int    told = topology->hosts < most ? topology->hosts : most;
    bool         alike = true;

    for (int host = 1; host < topology->hosts; host++) {
        alike = alike && is_same_name(nics[host], nics[0]);
    }
    text[0] = '\0';
    append(text, capacity, "%d by rank%s", rail, plural(topology->hosts));
    for (int host = 0; host < told; host++) {
        append(text, capacity, " %d", leaders[host]);
        if (!alike && nics[host][0] != '\0') {
            append(text, capacity, " (%.*s)", (int)tacit__name_bytes(nics[host]), nics[host]);
        }
    }
    if (told < topology->hosts) {
        append(text, capacity, " and %d more", topology->hosts - told);
    }
    if (alike && nics[0][0] != '\0') {
        append(text, capacity, " (%.*s)", (int)tacit__name_bytes(nics[0]), nics[0]);
    }
}

void tacit__topology_tell(const tacit_topology_t *topology, int rank)
{
    char      text[TACIT_TEXT_BYTES], rail_text[TACIT_TEXT_BYTES / TOLD_RAILS];
    const int told = topology->hosts == 1 ? 0 : topology->rails < TOLD_RAILS ? topology->rails : TOLD_RAILS;

    if (rank != 0 || topology->ranks == 1) {
        return;
    }
    tacit__topology_describe(topology, text, sizeof text);
    for (int rail = 0; rail < told; rail++) {
        tacit__topology_describe_rail(topology, rail, TOLD_RANKS, rail_text, sizeof rail_text);
        append(text, sizeof text, "%s %s", rail == 0 ? ":" : ",", rail_text);
    }
    if (told > 0 && told < topology->rails) {
        append(text, sizeof text, ", and %d more", topology->rails - told);
    }
    tacit__log(TACIT_LOG_INFO, rank, "topology: %s", text);
}
