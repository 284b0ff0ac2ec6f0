/* SPDX-License-Identifier: Apache-2.0 */
/* Rules become slots. A communicator's ranks agree on the rules when they first sum on it, on each site when they first meet it,
   on the period of their steps, and on each sum that has to be known again, whether it is the one that the step has there. */
#include "policy.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cycle.h"
#include "library.h"
#include "rules.h"

enum { PLACES = 1024, MOST_ENTRIES = 768, MOST_INTS = 4 };

/* A tensor. */
typedef struct tensor {
    tacit_slot_t *slot;  /* NULL: it stays dense */
    uint64_t      bytes; /* of state */
    uintptr_t     place; /* where it was last */
} tensor_t;

/* What sums of one count and type have in common. */
typedef struct entry {
    uint64_t        sign; /* 0: an empty place */
    preload_site_t *site; /* NULL: there was no room for it */
    int             rule; /* 0: dense */
    uint64_t        seen;
    tensor_t       *tensors;
    size_t          tensor_count;
} entry_t;

typedef struct plan {
    struct plan     *next;
    preload_group_t *group;
    int              rank;
    bool             dense; /* for good */
    bool             warned;
    bool             steps; /* there is a sum that has to be known again */
    tacit_comm_t    *comm;  /* NULL: not needed yet */
    uint64_t         state_bytes;
    size_t           entry_count;
    preload_cycle_t  cycle;
    int              tensor_at[PRELOAD_HISTORY / 2]; /* by position in the step; -1: nobody can tell */
    entry_t          entries[PLACES];
} plan_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static plan_t         *plans;
static plan_t          no_plan = {.dense = true}; /* where there was no memory for one */

/* ---- Agreement ---- */

/* The largest on any rank, of each. False: MPI reports an error. */
static bool largest(const preload_mpi_t *mpi, uintptr_t comm, int count, int values[MOST_INTS])
{
    int mine[MOST_INTS];

    memcpy(mine, values, (size_t)count * sizeof *mine);
    return mpi->reduce(PRELOAD_MAX_INT, mine, values, count, comm);
}

static bool all_can(const preload_mpi_t *mpi, uintptr_t comm, bool can)
{
    int values[MOST_INTS] = {!can};

    return largest(mpi, comm, 1, values) && values[0] == 0;
}

/* ---- Words ---- */

/* Once in each communicator. */
#define WARN(plan, ...) preload_warn((plan)->group->number, (plan)->rank, &(plan)->warned, __VA_ARGS__)

static void announce(const preload_mpi_t *mpi)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;

    if (mpi->rank(mpi->world()) == 0 && !atomic_flag_test_and_set(&said)) {
        preload_announce("MPI_Allreduce");
    }
}

/* ---- Communicators ---- */

static plan_t *make_plan(const preload_mpi_t *mpi, preload_group_t *group, uintptr_t comm)
{
    const preload_rules_t *rules = preload_rules();
    plan_t                *plan = calloc(1, sizeof *plan);
    int                    values[MOST_INTS] = {(int)rules->hash, -(int)rules->hash, plan == NULL};
    const bool             good = largest(mpi, comm, 3, values);

    if (plan == NULL) {
        return &no_plan;
    }
    plan->group = group;
    plan->rank = mpi->rank(comm);
    plan->dense = !good || values[0] != -values[1] || values[2] != 0 || rules->error[0] != '\0';
    if (values[0] != -values[1]) {
        WARN(plan, "ranks have other rules (TACIT_RULE, TACIT_ALLREDUCE, TACIT_MIN_BYTES, TACIT_STATE_BYTES) than one another: "
                   "nothing is compressed");
    } else if (rules->error[0] != '\0') {
        WARN(plan, "%s: nothing is compressed", rules->error);
    } else if (plan->dense) {
        WARN(plan, "a rank has no memory: nothing is compressed");
    } else {
        announce(mpi);
    }
    pthread_mutex_lock(&lock);
    plan->next = plans;
    plans = plan;
    pthread_mutex_unlock(&lock);
    return plan;
}

/* The library's communicator, if it is there or can be had. */
static bool join(const preload_mpi_t *mpi, plan_t *plan, uintptr_t comm)
{
    const char              *why = "";
    const preload_library_t *tacit = preload_library(&why);
    tacit_config_t           config = TACIT_CONFIG_INIT;

    if (plan->comm != NULL || plan->dense) {
        return !plan->dense;
    }
    if (!all_can(mpi, comm, tacit != NULL)) {
        WARN(plan, "nothing is compressed: %s%s", tacit == NULL ? why : "another rank cannot load ",
             tacit == NULL ? "" : mpi->library);
        plan->dense = true;
        return false;
    }
    config.timeout_ms = preload_timeout();
    config.progress = TACIT_PROGRESS_CALLS; /* a thread's calls would pass for the program's */
    if (!all_can(mpi, comm, tacit->comm_create_mpi(comm, &config, &plan->comm) == TACIT_OK)) {
        WARN(plan, "nothing is compressed: %s", tacit->last_error());
        plan->dense = true;
    }
    return !plan->dense;
}

/* ---- Sites ---- */

static entry_t *place_of(plan_t *plan, uint64_t sign)
{
    size_t place = (size_t)(sign * 0x9e3779b97f4a7c15u >> 54);

    while (plan->entries[place].sign != 0 && plan->entries[place].sign != sign) {
        place = (place + 1) % PLACES;
    }
    return &plan->entries[place];
}

/* Numbers of sites and communicators are each rank's own: those of the communicator's first rank hold. */
static void decide(const preload_mpi_t *mpi, plan_t *plan, entry_t *entry, const preload_sum_t *sum)
{
    const preload_rules_t *rules = preload_rules();
    const preload_target_t target = {
        .site = sum->site != NULL ? sum->site->number : UINT64_MAX,
        .comm = plan->group->number,
        .count = sum->count,
        .bytes = sum->count * preload_dtype_bytes[sum->dtype],
        .dtype = preload_dtype_names[sum->dtype],
    };
    int values[MOST_INTS] = {plan->rank == 0 ? preload_rule_for(rules, &target) : 0, !sum->clear};

    entry->site = sum->site;
    entry->rule = largest(mpi, sum->comm, 2, values) && values[1] == 0 ? values[0] : 0;
    if (entry->rule != 0 && entry->site != NULL) {
        atomic_store(&entry->site->spec, rules->rules[entry->rule - 1].spec);
    }
    if (plan->rank == 0 && preload_explains()) {
        fprintf(stderr, "tacit: communicator %u, site %zu: sums of %zu %s (%" PRIu64 " bytes) go by '%s': %s\n",
                plan->group->number, sum->site != NULL ? sum->site->number : 0, sum->count, target.dtype, target.bytes,
                entry->rule != 0 ? rules->rules[entry->rule - 1].spec : "MPI_Allreduce",
                values[1] != 0     ? "a rank cannot tell whether it is in place"
                : entry->rule != 0 ? "a rule asks for it"
                                   : "no rule fits");
    }
}

/* NULL: there is no more room, and the call stays dense. */
static entry_t *entry_of(const preload_mpi_t *mpi, plan_t *plan, const preload_sum_t *sum)
{
    const uint64_t sign = (uint64_t)sum->count << 2 | (uint64_t)sum->dtype;
    entry_t       *entry = place_of(plan, sign);

    if (entry->sign == 0 && plan->entry_count == MOST_ENTRIES) {
        WARN(plan, "there are more than %d sizes of sums: others stay dense", MOST_ENTRIES);
        return NULL;
    }
    if (entry->sign == 0) {
        entry->sign = sign;
        plan->entry_count++;
        decide(mpi, plan, entry, sum);
    }
    return entry;
}

/* ---- Tensors ---- */

/* What an entry's sums go by; NULL: they are dense. */
static const preload_rule_t *rule_of(const entry_t *entry)
{
    return entry->rule != 0 ? &preload_rules()->rules[entry->rule - 1] : NULL;
}

/* Whether its sums have to be known again. */
static bool remembers(const entry_t *entry)
{
    return entry->rule != 0 && preload_remembers(rule_of(entry)->spec);
}

/* `step`: it is no longer of the step, so that there is one less. */
static void end_tensor(plan_t *plan, const entry_t *entry, tensor_t *tensor, bool step)
{
    const char              *why = "";
    const preload_library_t *tacit = preload_library(&why);
    tacit_norms_t            norms = {0};

    if (tensor->slot != NULL && tacit->slot_norms(tensor->slot, &norms) == TACIT_OK && entry->site != NULL) {
        pthread_mutex_lock(&lock);
        entry->site->kept += norms.memory * norms.memory;
        pthread_mutex_unlock(&lock);
    }
    tacit->slot_destroy(tensor->slot);
    if (step && tensor->slot != NULL && entry->site != NULL) {
        atomic_fetch_sub(&entry->site->slots, 1);
    }
    plan->state_bytes -= tensor->slot != NULL ? tensor->bytes : 0;
    tensor->slot = NULL;
}

static void end_tensors(plan_t *plan, entry_t *entry, bool step)
{
    for (size_t i = 0; i < entry->tensor_count; i++) {
        end_tensor(plan, entry, &entry->tensors[i], step);
    }
    free(entry->tensors);
    entry->tensors = NULL;
    entry->tensor_count = 0;
}

/* ---- Steps ---- */

/* Which tensors a step has that was just found. Others are gone, and what was kept back of them with them. */
static void name_tensors(plan_t *plan)
{
    const preload_cycle_t *cycle = &plan->cycle;

    for (size_t i = 0; i < PLACES; i++) {
        if (remembers(&plan->entries[i])) {
            end_tensors(plan, &plan->entries[i], true);
        }
    }
    for (size_t i = 0; i < cycle->period; i++) {
        const bool clear = preload_cycle_is_clear(cycle, i);

        plan->tensor_at[i] = clear ? (int)preload_cycle_ordinal(cycle, i) : -1;
        if (!clear && remembers(place_of(plan, cycle->signs[i]))) {
            WARN(plan, PRELOAD_UNCLEAR, cycle->signs[i] >> 2);
        }
    }
}

/* A step of the largest period may be one where a smaller one was found, too: a rank may have one buffer for what others have
   several for. Not where places come again by chance. */
static void search(const preload_mpi_t *mpi, plan_t *plan, uintptr_t comm)
{
    preload_cycle_t *cycle = &plan->cycle;
    const int        period = (int)preload_cycle_by_places(cycle);
    int              values[MOST_INTS] = {period, -period};
    size_t           least, most;

    if (!largest(mpi, comm, 2, values)) {
        return;
    }
    least = (size_t)-values[1];
    most = (size_t)values[0];
    if (least != most && least != 0 && most < PRELOAD_HISTORY && !cycle->chance &&
        all_can(mpi, comm, preload_cycle_has(cycle, most))) {
        least = most;
    }
    if (!preload_cycle_agree(cycle, least, most)) {
        return;
    }
    name_tensors(plan);
    if (plan->rank == 0 && preload_explains()) {
        fprintf(stderr, "tacit: communicator %u: a step has %zu sums of floats, as %" PRIu64 " calls have shown\n",
                plan->group->number, cycle->period, cycle->seen);
    }
}

/* Which tensor of its kind this sum is; -1: unknown. Sums that stay dense are part of the step too, wherever they are:
   where tensors are alike, they may be all that tells one step from the next; others of them in between, as of an evaluation, do
   no harm. Of sums that have to be known again, ranks tell each other whether they come from where they should: another tensor's
   memory would spoil them. */
static int tensor_of(const preload_mpi_t *mpi, plan_t *plan, const entry_t *entry, bool known, const preload_sum_t *sum)
{
    const uintptr_t place = known ? 0 : (uintptr_t)sum->in;
    const bool      between = known && preload_cycle_is_between(&plan->cycle, entry->sign);
    const bool      here = known || !preload_cycle_compares(&plan->cycle, entry->sign) ||
                      all_can(mpi, sum->comm, !preload_cycle_is_elsewhere(&plan->cycle, place));
    const int position = between ? -1 : preload_cycle_next(&plan->cycle, entry->sign, !here);

    if (position >= 0) {
        return plan->tensor_at[position];
    }
    if (plan->cycle.period == 0 && preload_cycle_note(&plan->cycle, entry->sign, place)) {
        search(mpi, plan, sum->comm);
    }
    return -1;
}

/* ---- Slots ---- */

static bool grow(entry_t *entry, size_t count)
{
    tensor_t *tensors = realloc(entry->tensors, count * sizeof *tensors);

    if (tensors == NULL) {
        return false;
    }
    for (size_t i = entry->tensor_count; i < count; i++) {
        tensors[i] = (tensor_t){0};
    }
    entry->tensors = tensors;
    return true;
}

static void make_slot(const preload_mpi_t *mpi, plan_t *plan, entry_t *entry, const preload_sum_t *sum, const char *spec)
{
    const char              *why = "";
    const preload_library_t *tacit = preload_library(&why);
    const uint64_t           bytes = preload_state_bytes(spec, sum->count, plan->group->ranks);
    tacit_slot_config_t      config = TACIT_SLOT_CONFIG_INIT;
    tacit_slot_t            *slot = NULL;
    char                     name[64];

    if (plan->state_bytes + bytes > preload_rules()->state_bytes) {
        WARN(plan, "slots remember %" PRIu64 " bytes, as many as they may: other sums stay dense (TACIT_STATE_BYTES)",
             plan->state_bytes);
        return;
    }
    config.count = sum->count;
    config.dtype = (tacit_dtype_t)sum->dtype;
    config.spec = spec;
    snprintf(name, sizeof name, "%zu.%s.%zu", sum->count, preload_dtype_names[sum->dtype], entry->tensor_count);
    if (!all_can(mpi, sum->comm, tacit->slot_create(plan->comm, name, &config, &slot) == TACIT_OK)) {
        WARN(plan, "sums of %zu %s stay dense: %s", sum->count, preload_dtype_names[sum->dtype], tacit->last_error());
        tacit->slot_destroy(slot);
        return;
    }
    plan->state_bytes += bytes;
    entry->tensors[entry->tensor_count] = (tensor_t){.slot = slot, .bytes = bytes};
    if (entry->site != NULL) {
        atomic_fetch_add(&entry->site->slots, 1);
    }
}

/* NULL: the call stays dense. */
static tacit_slot_t *slot_of(const preload_mpi_t *mpi, plan_t *plan, entry_t *entry, size_t number, const preload_sum_t *sum,
                             const char *spec)
{
    if (number >= entry->tensor_count) {
        if (!join(mpi, plan, sum->comm)) {
            return NULL;
        }
        if (!all_can(mpi, sum->comm, grow(entry, number + 1))) {
            WARN(plan, "a rank has no memory: sums of %zu %s stay dense", sum->count, preload_dtype_names[sum->dtype]);
            return NULL;
        }
        while (entry->tensor_count <= number) {
            make_slot(mpi, plan, entry, sum, spec);
            entry->tensor_count++;
        }
    }
    entry->tensors[number].place = (uintptr_t)sum->in;
    return entry->tensors[number].slot;
}

/* ---- Sums ---- */

/* All ranks have the same status. Where the library can go on, nothing has changed, so that MPI can do it; it also knows what to
   make of NaN and infinity. */
static bool end_sum(plan_t *plan, tacit_status_t result, int *status)
{
    const char *why = "";

    switch (result) {
    case TACIT_OK:
        *status = 0;
        return true;
    case TACIT_ERR_TIMEOUT:
    case TACIT_ERR_TRANSPORT:
    case TACIT_ERR_BROKEN:
        fprintf(stderr, "tacit: communicator %u: %s\n", plan->group->number, preload_library(&why)->last_error());
        *status = PRELOAD_RAISES;
        return true;
    case TACIT_ERR_VALUE:
        return false;
    default:
        WARN(plan, "a sum goes by MPI_Allreduce: %s", preload_library(&why)->last_error());
        return false;
    }
}

/* Of a step that is no more, the only tensor that this sum can be, on all ranks; by where it comes from, if that has told for
   long; -1: nobody can tell. */
static int find_tensor(const preload_mpi_t *mpi, const plan_t *plan, const entry_t *entry, const preload_sum_t *sum)
{
    const bool lasting = preload_cycle_is_lasting(&plan->cycle);
    int        values[MOST_INTS] = {-1, 1};
    size_t     found = 0;

    for (size_t i = 0; i < entry->tensor_count; i++) {
        if (lasting ? entry->tensors[i].place == (uintptr_t)sum->in : entry->tensor_count == 1) {
            found++;
            values[0] = found == 1 && entry->tensors[i].slot != NULL ? (int)i : -1;
            values[1] = -values[0];
        }
    }
    return largest(mpi, sum->comm, 2, values) && values[0] == -values[1] ? values[0] : -1;
}

static bool has_slots(const entry_t *entry)
{
    bool any = false;

    for (size_t i = 0; i < entry->tensor_count; i++) {
        any = any || entry->tensors[i].slot != NULL;
    }
    return any;
}

/* While the step is searched for, sums are exact; the first one of each tensor brings along what was kept back. */
static bool pay(const preload_mpi_t *mpi, plan_t *plan, entry_t *entry, const preload_sum_t *sum, int *status)
{
    const char              *why = "";
    const preload_library_t *tacit = preload_library(&why);
    const int                number = find_tensor(mpi, plan, entry, sum);
    tensor_t                *tensor = number >= 0 ? &entry->tensors[number] : NULL;
    bool                     done = false;

    if (tensor != NULL && tacit->slot_set_spec(tensor->slot, "none") == TACIT_OK) {
        done = end_sum(plan, tacit->allreduce(tensor->slot, sum->in, sum->out, TACIT_SUM), status);
    }
    if (done) {
        end_tensor(plan, entry, tensor, true);
        if (!has_slots(entry)) {
            end_tensors(plan, entry, true); /* nobody need ask any more */
        }
    }
    return done;
}

bool preload_reduce(const preload_mpi_t *mpi, preload_group_t *group, const preload_sum_t *sum, int *status)
{
    const preload_rule_t *rule;
    const char           *why = "";
    plan_t               *plan = group->plan;
    entry_t              *entry;
    tacit_slot_t         *slot;
    int                   tensor;
    bool                  early, known, done;

    if (plan == NULL) {
        plan = make_plan(mpi, group, sum->comm);
        group->plan = plan;
    }
    entry = plan->dense ? NULL : entry_of(mpi, plan, sum);
    if (entry == NULL) {
        return false;
    }
    rule = rule_of(entry);
    known = !remembers(entry);
    plan->steps = plan->steps || !known;
    plan->cycle.ordered = plan->cycle.ordered || (rule != NULL && rule->ordered);
    tensor = plan->steps ? tensor_of(mpi, plan, entry, known, sum) : 0;
    if (rule == NULL) {
        return false;
    }
    if (tensor < 0 && !known && plan->cycle.period == 0 && entry->tensor_count > 0) {
        return pay(mpi, plan, entry, sum, status);
    }
    tensor = known ? 0 : tensor; /* what remembers nothing may be any tensor */
    early = entry->seen++ < rule->after;
    slot = !early && tensor >= 0 ? slot_of(mpi, plan, entry, (size_t)tensor, sum, rule->spec) : NULL;
    if (slot == NULL) {
        return false;
    }
    done = end_sum(plan, preload_library(&why)->allreduce(slot, sum->in, sum->out, TACIT_SUM), status);
    if (done && *status == 0 && entry->site != NULL) {
        atomic_fetch_add(&entry->site->taken, 1);
    }
    return done;
}

/* ---- The end ---- */

static void end_plan(plan_t *plan)
{
    const char              *why = "";
    const preload_library_t *tacit = preload_library(&why);

    for (size_t i = 0; plan->comm != NULL && i < PLACES; i++) {
        end_tensors(plan, &plan->entries[i], false);
    }
    if (plan->comm != NULL) {
        tacit->comm_destroy(plan->comm);
    }
    free(plan);
}

void preload_end(preload_group_t *group)
{
    plan_t **link = &plans, *ended = NULL;

    pthread_mutex_lock(&lock);
    while (*link != NULL) {
        plan_t *plan = *link;

        if (group == NULL || plan->group == group) {
            *link = plan->next;
            plan->group->plan = NULL;
            plan->next = ended;
            ended = plan;
        } else {
            link = &plan->next;
        }
    }
    pthread_mutex_unlock(&lock);
    while (ended != NULL) {
        plan_t *plan = ended;

        ended = plan->next;
        end_plan(plan);
    }
}
