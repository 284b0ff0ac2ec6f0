/* SPDX-License-Identifier: Apache-2.0 */
/* The report at the end of the process, by the one that speaks for all. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deliver.h"
#include "nccl_calls.h"
#include "nccl_policy.h"

/* Below, a call takes so little time that nothing is won. */
enum { LEAST_BYTES = 32 << 10 };

bool preload_is_first(int rank)
{
    static const char *const variables[] = {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"};

    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i]);

        if (value != NULL && value[0] != '\0') {
            return strcmp(value, "0") == 0;
        }
    }
    return rank == 0;
}

/* Of all calls but those that are part of graphs, of which only some may have been timed. */
static double seconds_of(const preload_site_t *site)
{
    const uint64_t timed = atomic_load(&site->timed), calls = atomic_load(&site->calls) - atomic_load(&site->captured);

    return timed != 0 ? 1e-9 * (double)atomic_load(&site->nanoseconds) / (double)timed * (double)calls : 0.0;
}

static uint64_t bytes_of(const preload_site_t *site)
{
    return site->key.count * site->key.type_bytes;
}

/* Why Tacit could not take a site's place; NULL: it could. */
static const char *why_not(const preload_site_t *site)
{
    const preload_key_t *key = &site->key;

    if (key->function != preload_all_reduce && key->function != preload_reduce_scatter) {
        return "it reduces nothing";
    }
    if (strcmp(key->type, "float32") != 0 && strcmp(key->type, "float16") != 0 && strcmp(key->type, "bfloat16") != 0) {
        return "not of a type that is compressed";
    }
    if (strcmp(key->op, "sum") != 0 && strcmp(key->op, "avg") != 0) {
        return "not a sum";
    }
    if (key->group->ranks < 2) {
        return "one rank";
    }
    if (atomic_load(&site->captured) == atomic_load(&site->calls)) {
        return "part of graphs";
    }
    return bytes_of(site) < LEAST_BYTES ? "under 32 KiB" : NULL;
}

static void print_site(FILE *out, const preload_site_t *site, double run)
{
    const preload_key_t *key = &site->key;
    const char          *reason = why_not(site);
    const double         seconds = seconds_of(site);

    fprintf(out, "%4zu  %-17s %4u %5d  %-8s %-4s %12" PRIu64 " %8" PRIu64 " %12" PRIu64, site->number, key->function,
            key->group->number, key->group->ranks, key->type, key->op, key->count, atomic_load(&site->calls), bytes_of(site));
    if (atomic_load(&site->timed) != 0) {
        fprintf(out, " %10.4f %5.1f %%", seconds, 100.0 * seconds / run);
    } else {
        fprintf(out, " %10s %7s", "-", "-");
    }
    fprintf(out, "  %s%s\n", reason != NULL ? "no: " : "yes", reason != NULL ? reason : "");
}

static void print_remarks(FILE *out)
{
    const preload_site_t *site;
    uint64_t              captured = 0;

    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        const char *spec = atomic_load(&site->spec);

        captured += atomic_load(&site->captured);
        if (spec != NULL) {
            fprintf(out, "\nSite %zu: %" PRIu64 " of %" PRIu64 " calls were reduced by '%s', as %" PRIu64 " tensors.\n",
                    site->number, atomic_load(&site->taken), atomic_load(&site->calls), spec, atomic_load(&site->slots));
        }
    }
    if (captured != 0) {
        fprintf(out,
                "\n%" PRIu64
                " of the calls are parts of CUDA graphs, whose replays are neither counted nor timed, nor changed by "
                "rules.\n",
                captured);
    }
    if (preload_nccl_lost() != 0) {
        fprintf(out, "\n%" PRIu64 " more calls belong to sites for which there was no room.\n", preload_nccl_lost());
    }
}

static void print_report(FILE *out, int rank, int ranks)
{
    const double          run = preload_run_seconds();
    const preload_site_t *site;

    fprintf(out, "Tacit: NCCL calls of rank %d of %d, whose process ran for %.3f s\n\n", rank, ranks, run);
    fprintf(out, "%4s  %-17s %4s %5s  %-8s %-4s %12s %8s %12s %10s %7s  %s\n", "site", "function", "comm", "ranks", "type", "op",
            "count", "calls", "bytes/call", "seconds", "of run", "could be compressed");
    for (size_t index = 0; (site = preload_site_at(index)) != NULL; index++) {
        if (atomic_load(&site->calls) != 0) {
            print_site(out, site, run);
        }
    }
    print_remarks(out);
    fprintf(out,
            "\nSeconds are the GPU's, from a call's turn on its stream to its end, and so with the waiting for other ranks.\n");
}

void preload_nccl_report(void)
{
    int    rank, ranks;
    char  *text = NULL;
    size_t bytes = 0;
    FILE  *out;

    preload_nccl_largest(&rank, &ranks);
    out = ranks != 0 && preload_is_first(rank) ? open_memstream(&text, &bytes) : NULL;
    if (out != NULL) {
        print_report(out, rank, ranks);
        fclose(out);
        preload_deliver(text, bytes);
        free(text);
    }
}
