/* SPDX-License-Identifier: Apache-2.0 */
/* It is made of an id, not by ncclCommSplit(), in which a rank would wait for ever for one that does not come. */
#include "nccl_companion.h"

#include <stdio.h>

#include "rules.h"

/* The former one. */
static tacit_nccl_t *exchange(preload_clique_t *clique, tacit_nccl_t *nccl)
{
    tacit_nccl_t *former;

    pthread_mutex_lock(&clique->nccl_lock);
    former = clique->nccl;
    clique->nccl = nccl;
    pthread_mutex_unlock(&clique->nccl_lock);
    return former;
}

tacit_nccl_t *preload_take(preload_clique_t *clique)
{
    return exchange(clique, NULL);
}

void preload_give_up(preload_clique_t *clique)
{
    const char   *why;
    tacit_nccl_t *nccl = exchange(clique, NULL);

    if (nccl != NULL) {
        preload_tacit(&why)->nccl_abort(nccl);
        preload_tacit(&why)->nccl_destroy(nccl);
    }
}

void preload_hurry(preload_clique_t *clique)
{
    const char *why;

    pthread_mutex_lock(&clique->nccl_lock);
    if (clique->nccl != NULL) {
        preload_tacit(&why)->nccl_abort(clique->nccl);
    }
    pthread_mutex_unlock(&clique->nccl_lock);
}

static void say(const preload_clique_t *clique, bool *said, const preload_tacit_t *tacit)
{
    preload_warn(clique->group.number, clique->rank, said, "nothing is compressed: %s", tacit->last_error());
}

bool preload_find_id(preload_clique_t *clique, preload_companion_t *companion, bool *said)
{
    const char            *why;
    const preload_tacit_t *tacit = preload_tacit(&why);

    companion->has_id = companion->has_id || tacit->nccl_unique_id(&companion->id) == TACIT_OK;
    if (!companion->has_id) {
        say(clique, said, tacit);
    }
    return companion->has_id;
}

bool preload_join(preload_clique_t *clique, preload_companion_t *companion, bool *said)
{
    const char            *why;
    const preload_tacit_t *tacit = preload_tacit(&why);
    tacit_config_t         config = TACIT_CONFIG_INIT;
    tacit_nccl_t          *nccl = NULL;
    tacit_status_t         status;

    if (clique->nccl != NULL) {
        return true;
    }
    companion->joins = true;
    pthread_mutex_unlock(&clique->lock);
    status = tacit->nccl_create_from_id(&companion->id, clique->rank, clique->group.ranks, &config, &nccl);
    if (status == TACIT_OK) {
        status = tacit->nccl_set_timeout(nccl, preload_timeout()); /* steps wait as long as the program likes */
        (void)exchange(clique, nccl);
    }
    pthread_mutex_lock(&clique->lock);
    companion->joins = companion->has_id = false;
    if (atomic_load(&clique->aborted)) {
        preload_give_up(clique);
        return false;
    }
    if (status != TACIT_OK) {
        say(clique, said, tacit);
    }
    if (clique->rank != 0 && status != TACIT_OK && status != TACIT_ERR_MISMATCH && status != TACIT_ERR_TIMEOUT) {
        fprintf(stderr, "tacit: communicator %u: %s\n", clique->group.number, tacit->last_error()); /* what rank 0 cannot know */
    }
    return status == TACIT_OK;
}
