/* SPDX-License-Identifier: Apache-2.0 */
/* Rules become codecs and groups of Tacit's, one a tensor of the step. Nothing is agreed on call by call, since no call of NCCL's
   waits for other ranks: they compare what each has found of the step, and start to compress when all have found the same; then
   each step carries whether a rank had a tensor elsewhere, which all look at a step later. */
#include "nccl_policy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cycle.h"
#include "nccl_agreement.h"
#include "nccl_tacit.h"
#include "rules.h"

const char preload_all_reduce[] = "ncclAllReduce", preload_reduce_scatter[] = "ncclReduceScatter";

static const int nccl_types[PRELOAD_DTYPES] = {NCCL_FLOAT32, NCCL_FLOAT16, NCCL_BFLOAT16}; /* by tacit_dtype_t */

typedef struct tensor {
    const preload_rule_t *rule; /* NULL: it stays dense */
    preload_site_t       *site;
    tacit_codec_t       **codecs;  /* of its parts; NULL, or NULLs: they could not be made */
    size_t                parts;   /* 1; of a reduce-scatter as many as ranks, each of which owns one */
    bool                  strange; /* it comes from elsewhere: what this rank has kept back may be another one's */
    tacit_nccl_group_t   *group;   /* that it is the first of; NULL: none yet */
    struct tensor       **members; /* of the group */
    size_t                member_count;
    void                **places; /* of all parts of all members: where they come from, then where they go */
} tensor_t;

/* What ranks tell each other. */
enum { RULES, RULES_NEGATED, PERIOD, PERIOD_NEGATED, CHOICE, CHOICE_NEGATED, CANNOT, SEVERAL };
enum { ELSEWHERE };

typedef struct plan {
    bool                dense; /* for good */
    bool                warned, told_elsewhere;
    tacit_nccl_t       *nccl; /* NULL: not needed yet */
    uint64_t            state_bytes;
    preload_cycle_t     cycle;
    tensor_t           *tensors; /* by position in the step; NULL: it is not known */
    size_t              tensor_count;
    preload_agreement_t agreement;
    bool                remembers;                     /* some tensor does */
    bool                compares;                      /* what is told is what was found */
    bool                due, step_ended, forgets;      /* to be done after the round */
    bool                elsewhere;                     /* some tensor was, of this rank, since that was told */
    uint64_t            missed_signs[PRELOAD_HISTORY]; /* calls since ranks began to compare */
    uintptr_t           missed_places[PRELOAD_HISTORY];
    size_t              missed;
} plan_t;

/* ---- Words ---- */

#define SAY(clique, said, ...) preload_warn((clique)->group.number, (clique)->rank, said, __VA_ARGS__)

static void announce(const preload_clique_t *clique)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;

    if (preload_is_first(clique->rank) && !atomic_flag_test_and_set(&said)) {
        preload_announce(preload_all_reduce);
    }
}

/* ---- Signs: what calls have in common on all ranks ---- */

static int dtype_of(int nccl_type)
{
    for (int dtype = 0; dtype < PRELOAD_DTYPES; dtype++) {
        if (nccl_types[dtype] == nccl_type) {
            return dtype;
        }
    }
    return -1;
}

bool preload_nccl_is_sum(const preload_nccl_call_t *call)
{
    return (call->function == preload_all_reduce || call->function == preload_reduce_scatter) &&
           (call->op == NCCL_SUM || call->op == NCCL_AVG) && dtype_of(call->dtype) >= 0 && call->count > 0 &&
           call->count < UINT32_MAX;
}

static uint64_t sign_of(const preload_nccl_call_t *call)
{
    return (uint64_t)call->count << 4 | (uint64_t)(call->function == preload_reduce_scatter) << 3 |
           (uint64_t)dtype_of(call->dtype) << 1 | (call->op == NCCL_AVG);
}

/* Of a reduce-scatter, of a part. */
static size_t count_of(uint64_t sign)
{
    return (size_t)(sign >> 4);
}

static const char *function_of(uint64_t sign)
{
    return (sign >> 3 & 1) != 0 ? preload_reduce_scatter : preload_all_reduce;
}

static int sign_dtype(uint64_t sign)
{
    return (int)(sign >> 1 & 3);
}

static size_t parts_of(const preload_clique_t *clique, uint64_t sign)
{
    return function_of(sign) == preload_reduce_scatter ? (size_t)clique->group.ranks : 1;
}

static preload_site_t *site_of(preload_clique_t *clique, uint64_t sign)
{
    const preload_nccl_call_t call = {.function = function_of(sign),
                                      .count = count_of(sign),
                                      .dtype = nccl_types[sign_dtype(sign)],
                                      .op = (sign & 1) != 0 ? NCCL_AVG : NCCL_SUM};

    return preload_nccl_site(clique, &call);
}

/* 0: none. */
static int rule_of(preload_clique_t *clique, uint64_t sign)
{
    const preload_site_t  *site = site_of(clique, sign);
    const preload_target_t target = {
        .site = site != NULL ? site->number : UINT64_MAX,
        .comm = clique->group.number,
        .count = count_of(sign),
        .bytes = count_of(sign) * preload_dtype_bytes[sign_dtype(sign)],
        .dtype = preload_dtype_names[sign_dtype(sign)],
        .scatters = function_of(sign) == preload_reduce_scatter,
    };

    return preload_rule_for(preload_rules(), &target);
}

/* ---- Tensors ---- */

static void forget_tensors(plan_t *plan)
{
    const char            *why;
    const preload_tacit_t *tacit = plan->tensors != NULL ? preload_tacit(&why) : NULL;

    for (size_t i = 0; tacit != NULL && i < plan->tensor_count; i++) {
        tacit->nccl_group_destroy(plan->tensors[i].group);
        free(plan->tensors[i].members);
        free(plan->tensors[i].places);
    }
    for (size_t i = 0; tacit != NULL && i < plan->tensor_count; i++) {
        for (size_t part = 0; plan->tensors[i].codecs != NULL && part < plan->tensors[i].parts; part++) {
            tacit->codec_destroy(plan->tensors[i].codecs[part]);
        }
        free(plan->tensors[i].codecs);
    }
    free(plan->tensors);
    plan->tensors = NULL;
    plan->tensor_count = 0;
    plan->state_bytes = 0;
    plan->forgets = plan->elsewhere = plan->step_ended = plan->remembers = false;
}

/* What this rank finds wrong with it, all get to know when it is to be in a group. False: there is no room for it. */
static bool make_tensor(preload_clique_t *clique, plan_t *plan, const preload_tacit_t *tacit, size_t position)
{
    const uint64_t      sign = plan->cycle.signs[position];
    tensor_t           *tensor = &plan->tensors[position];
    tacit_slot_config_t slot = TACIT_SLOT_CONFIG_INIT;
    tacit_config_t      config = TACIT_CONFIG_INIT;
    const uint64_t bytes = preload_state_bytes(tensor->rule->spec, parts_of(clique, sign) * count_of(sign), clique->group.ranks);
    bool           good;
    char           name[64];

    if (plan->state_bytes + bytes > preload_rules()->state_bytes) {
        SAY(clique, &plan->warned,
            "tensors remember %" PRIu64 " bytes, as many as they may: other sums stay dense (TACIT_STATE_BYTES)",
            plan->state_bytes);
        return false;
    }
    plan->state_bytes += bytes;
    slot.count = count_of(sign);
    slot.dtype = (tacit_dtype_t)sign_dtype(sign);
    slot.device = TACIT_CUDA;
    slot.spec = tensor->rule->spec;
    config.nonfinite = TACIT_NONFINITE_PASS; /* the program has to see what NCCL's sum would have shown it */
    tensor->parts = parts_of(clique, sign);
    tensor->codecs = calloc(tensor->parts, sizeof *tensor->codecs);
    good = tensor->codecs != NULL;
    for (size_t part = 0; good && part < tensor->parts; part++) {
        snprintf(name, sizeof name, "%zu.%s.%zu.%zu", slot.count, preload_dtype_names[slot.dtype], position, part);
        good = tacit->codec_create(name, &slot, &config, clique->rank, clique->group.ranks, &tensor->codecs[part]) == TACIT_OK;
    }
    if (!good) {
        SAY(clique, &plan->warned, "some sums stay dense: %s", tensor->codecs != NULL ? tacit->last_error() : "no memory");
    } else if (tensor->site != NULL) {
        atomic_store(&tensor->site->spec, tensor->rule->spec);
        atomic_fetch_add(&tensor->site->slots, 1);
    }
    return true;
}

/* The library's communicator, if it is there or can be had. */
static bool join(preload_clique_t *clique, plan_t *plan, const preload_tacit_t *tacit)
{
    tacit_config_t config = TACIT_CONFIG_INIT;
    tacit_status_t status;

    if (plan->nccl != NULL) {
        return true;
    }
    config.timeout_ms = preload_timeout();
    preload_wait_until_ready(clique);
    status = tacit->nccl_create(clique->comm, &config, &plan->nccl);
    if (status != TACIT_OK) {
        SAY(clique, &plan->warned, "nothing is compressed: %s", tacit->last_error());
        plan->dense = true;
    }
    if (clique->rank != 0 && status != TACIT_OK && status != TACIT_ERR_MISMATCH && status != TACIT_ERR_TIMEOUT) {
        fprintf(stderr, "tacit: communicator %u: %s\n", clique->group.number, tacit->last_error()); /* what rank 0 cannot know */
    }
    return !plan->dense;
}

static void make_tensors(preload_clique_t *clique, plan_t *plan)
{
    const char            *why;
    const preload_tacit_t *tacit = preload_tacit(&why);
    const size_t           count = plan->cycle.period;

    plan->tensors = calloc(count, sizeof *plan->tensors);
    plan->tensor_count = plan->tensors != NULL ? count : 0;
    for (size_t i = 0; i < plan->tensor_count && !plan->dense; i++) {
        const uint64_t sign = plan->cycle.signs[i];
        int            rule = rule_of(clique, sign);

        if (rule != 0 && preload_remembers(preload_rules()->rules[rule - 1].spec) && !preload_cycle_is_clear(&plan->cycle, i)) {
            SAY(clique, &plan->warned, PRELOAD_UNCLEAR, (uint64_t)count_of(sign));
            rule = 0;
        }
        if (rule != 0 && join(clique, plan, tacit)) {
            plan->tensors[i].rule = &preload_rules()->rules[rule - 1];
            plan->tensors[i].site = site_of(clique, sign);
            plan->remembers = plan->remembers || preload_remembers(plan->tensors[i].rule->spec);
            if (!make_tensor(clique, plan, tacit, i)) {
                plan->tensors[i].rule = NULL;
            }
        }
        if (clique->rank == 0 && preload_explains()) {
            fprintf(stderr, "tacit: communicator %u: sum %zu of a step of %zu, of %zu %s, goes by '%s'\n", clique->group.number,
                    i + 1, count, count_of(sign), preload_dtype_names[sign_dtype(sign)],
                    plan->tensors[i].rule != NULL ? plan->tensors[i].rule->spec : function_of(sign));
        }
    }
}

/* ---- Steps ---- */

/* Its place in the step; -1: it is not of it. Of the signs alone, but for what is only noted. */
static int follow(plan_t *plan, uint64_t sign, uintptr_t place)
{
    const size_t at = plan->cycle.position;
    const bool   elsewhere = preload_cycle_compares(&plan->cycle, sign) && preload_cycle_is_elsewhere(&plan->cycle, place);
    const int    position = preload_cycle_next(&plan->cycle, sign, false);

    if (position >= 0) {
        if (elsewhere && plan->tensors != NULL && plan->tensors[at].rule != NULL &&
            preload_remembers(plan->tensors[at].rule->spec)) {
            plan->elsewhere = plan->tensors[at].strange = true;
        }
        plan->step_ended = plan->step_ended || at + 1 == plan->cycle.period;
    } else if (plan->cycle.period == 0) {
        plan->forgets = plan->forgets || plan->tensors != NULL;
        plan->due = preload_cycle_note(&plan->cycle, sign, place) || plan->due;
    }
    return position;
}

static plan_t *plan_of(preload_clique_t *clique)
{
    if (clique->group.plan == NULL && clique->group.ranks > 1 && !atomic_load(&clique->aborted)) {
        clique->group.plan = calloc(1, sizeof(plan_t));
    }
    return clique->group.plan;
}

static tensor_t *decide(plan_t *plan, const preload_nccl_call_t *call)
{
    const uint64_t  sign = sign_of(call);
    const uintptr_t place = (uintptr_t)call->in;
    tensor_t       *tensor;
    int             position;

    if (plan->agreement.runs && plan->compares) {
        if (plan->missed < PRELOAD_HISTORY) {
            plan->missed_signs[plan->missed] = sign;
            plan->missed_places[plan->missed] = place;
        }
        plan->missed++;
        return NULL;
    }
    position = follow(plan, sign, place);
    tensor = position >= 0 && plan->tensors != NULL && !plan->forgets ? &plan->tensors[position] : NULL;
    if (tensor == NULL || tensor->rule == NULL ||
        (tensor->site != NULL && atomic_load(&tensor->site->calls) < tensor->rule->after)) {
        return NULL;
    }
    return tensor;
}

void *preload_nccl_decide(preload_clique_t *clique, const preload_nccl_call_t *call)
{
    tensor_t *tensor = NULL;
    plan_t   *plan;

    if (clique == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&clique->lock);
    plan = plan_of(clique);
    if (plan != NULL && !plan->dense) {
        tensor = decide(plan, call);
    }
    pthread_mutex_unlock(&clique->lock);
    return tensor;
}

static bool has_group(const tensor_t *first, void *const *tensors, size_t count)
{
    return first->group != NULL && first->member_count == count &&
           memcmp(first->members, tensors, count * sizeof *first->members) == 0;
}

/* Its codecs, of all parts of all members, and who owns them; false: there is no memory, or not all could be made. */
static bool list_codecs(void *const *tensors, size_t count, tacit_codec_t **codecs_out, int *owners_out)
{
    for (size_t i = 0; i < count; i++) {
        const tensor_t *tensor = tensors[i];

        for (size_t part = 0; part < tensor->parts; part++) {
            if (tensor->codecs == NULL || tensor->codecs[part] == NULL) {
                return false;
            }
            *codecs_out++ = tensor->codecs[part];
            *owners_out++ = (int)part;
        }
    }
    return true;
}

/* Collective. False: these tensors stay dense from now on, on all ranks. */
static bool make_group(preload_clique_t *clique, plan_t *plan, const preload_tacit_t *tacit, void *const *tensors, size_t count,
                       int op)
{
    tensor_t        *first = tensors[0];
    const size_t     parts = count * first->parts;
    const tacit_op_t by = op == NCCL_AVG ? TACIT_AVERAGE : TACIT_SUM;
    tacit_codec_t  **codecs = malloc(parts * sizeof *codecs);
    int             *owners = malloc(parts * sizeof *owners);
    tacit_status_t   status;
    bool             good;

    tacit->nccl_group_destroy(first->group);
    first->group = NULL;
    free(first->members);
    free(first->places);
    first->members = malloc(count * sizeof *first->members);
    first->places = malloc(2 * parts * sizeof *first->places);
    first->member_count = count;
    good = codecs != NULL && owners != NULL && first->members != NULL && first->places != NULL &&
           list_codecs(tensors, count, codecs, owners);
    /* Without codecs it fails on all ranks, since each has to say what it has. */
    status = first->parts > 1
                 ? tacit->nccl_group_create_reduce_scatter(plan->nccl, good ? codecs : NULL, owners, parts, by, &first->group)
                 : tacit->nccl_group_create(plan->nccl, good ? codecs : NULL, parts, by, &first->group);
    if (status == TACIT_OK) {
        memcpy(first->members, tensors, count * sizeof *first->members);
    } else {
        SAY(clique, &plan->warned, "some sums stay dense: %s", tacit->last_error());
        for (size_t i = 0; i < count; i++) {
            ((tensor_t *)tensors[i])->rule = NULL;
        }
    }
    free(codecs);
    free(owners);
    return status == TACIT_OK;
}

/* Memory of ef and dgc is each rank's own: it may begin again at any time. That of trackers is what all ranks have in common. */
static bool is_private(const char *spec)
{
    const char *feedback = strchr(spec, '+');

    return feedback != NULL && (strncmp(feedback, "+dgc", 4) == 0 || (strncmp(feedback, "+ef", 3) == 0 && feedback[3] != '2'));
}

/* A part of a reduce-scatter goes to its owner, which is the only one that has a place for it. */
static tacit_status_t run_group(const preload_clique_t *clique, const preload_tacit_t *tacit, void *const *tensors,
                                const preload_nccl_call_t *const *calls, size_t count)
{
    tensor_t      *first = tensors[0];
    void         **in = first->places, **out = in + count * first->parts;
    size_t         at = 0;
    tacit_status_t status;

    for (size_t i = 0; i < count; i++) {
        tensor_t    *tensor = tensors[i];
        const size_t bytes = calls[i]->count * preload_dtype_bytes[dtype_of(calls[i]->dtype)];

        for (size_t part = 0; part < tensor->parts; part++, at++) {
            in[at] = (char *)(uintptr_t)calls[i]->in + part * bytes;
            out[at] = tensor->parts == 1 || part == (size_t)clique->rank ? calls[i]->out : NULL;
            if (tensor->strange && is_private(tensor->rule->spec)) {
                tacit->codec_reset(tensor->codecs[part]);
            }
        }
        tensor->strange = false;
    }
    status = tacit->nccl_group_poll(first->group, 1);
    return status == TACIT_OK
               ? tacit->nccl_group_run(first->group, TACIT_STEP_NEXT, (const void *const *)in, out, calls[0]->stream)
               : status;
}

int preload_nccl_run(preload_clique_t *clique, void *const *tensors, const preload_nccl_call_t *const *calls, size_t count,
                     bool *taken_out)
{
    const char             *why;
    const preload_tacit_t  *tacit = preload_tacit(&why);
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;
    tacit_status_t          status = TACIT_ERR_BROKEN;
    plan_t                 *plan;
    bool                    visits;

    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    *taken_out = true;
    if (plan != NULL) { /* else another thread has aborted it */
        visits = preload_visit(driver, calls[0]->stream, &visit);
        *taken_out = has_group(tensors[0], tensors, count) || make_group(clique, plan, tacit, tensors, count, calls[0]->op);
        status = *taken_out ? run_group(clique, tacit, tensors, calls, count) : TACIT_OK;
        if (visits) {
            preload_leave_visit(driver, &visit);
        }
        if (status != TACIT_OK) {
            fprintf(stderr, "tacit: communicator %u: %s\n", clique->group.number, tacit->last_error());
            plan->dense = true;
        }
    }
    pthread_mutex_unlock(&clique->lock);
    return status == TACIT_OK ? NCCL_SUCCESS : NCCL_SYSTEM_ERROR;
}

/* ---- Agreement ---- */

/* What this rank makes of all kinds of sums that it knows. */
static int32_t choice_of(preload_clique_t *clique, const preload_cycle_t *cycle)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < cycle->count; i++) {
        hash = (hash ^ (uint32_t)rule_of(clique, cycle->signs[i])) * 16777619u;
    }
    return (int32_t)(hash & INT32_MAX);
}

static void tell_findings(preload_clique_t *clique, plan_t *plan, int32_t numbers_out[PRELOAD_NUMBERS])
{
    const char   *why;
    const int32_t hash = (int32_t)preload_rules()->hash, period = (int32_t)preload_cycle_by_places(&plan->cycle);
    const int32_t choice = choice_of(clique, &plan->cycle);

    numbers_out[RULES] = hash;
    numbers_out[RULES_NEGATED] = -hash;
    numbers_out[PERIOD] = period;
    numbers_out[PERIOD_NEGATED] = -period;
    numbers_out[CHOICE] = choice;
    numbers_out[CHOICE_NEGATED] = -choice;
    numbers_out[CANNOT] = preload_tacit(&why) == NULL;
    numbers_out[SEVERAL] = preload_has_several_devices();
}

/* Whether all ranks may go on; if not, none does. */
static bool may_compress(preload_clique_t *clique, plan_t *plan, const int32_t numbers[PRELOAD_NUMBERS])
{
    const char *why = "";

    if (numbers[RULES] != -numbers[RULES_NEGATED]) {
        SAY(clique, &plan->warned,
            "ranks have other rules (TACIT_RULE, TACIT_ALLREDUCE, TACIT_MIN_BYTES, TACIT_STATE_BYTES) than one another: nothing "
            "is compressed");
    } else if (preload_rules()->error[0] != '\0') {
        SAY(clique, &plan->warned, "%s: nothing is compressed", preload_rules()->error);
    } else if (numbers[SEVERAL] != 0) {
        SAY(clique, &plan->warned, "a process has several GPUs: nothing is compressed");
    } else if (numbers[CANNOT] != 0) {
        SAY(clique, &plan->warned, "nothing is compressed: %s",
            preload_tacit(&why) == NULL ? why : "another rank cannot load " TACIT_LIBRARY);
    } else if (numbers[CHOICE] != -numbers[CHOICE_NEGATED]) {
        SAY(clique, &plan->warned,
            "ranks number sites or communicators otherwise than one another, so that rules for these numbers mean other calls: "
            "nothing is compressed");
    } else {
        announce(clique);
        return true;
    }
    plan->dense = true;
    return false;
}

/* Of a step that all have found, the calls since then are part; of one that they look for, they may be. */
static void compare(preload_clique_t *clique, plan_t *plan, const int32_t numbers[PRELOAD_NUMBERS])
{
    const size_t missed = plan->missed;

    plan->missed = 0;
    plan->compares = false;
    if (!may_compress(clique, plan, numbers)) {
        return;
    }
    if (missed > PRELOAD_HISTORY) {
        preload_cycle_restart(&plan->cycle);
        return;
    }
    for (size_t i = 0; i < plan->cycle.count; i++) {
        const int rule = rule_of(clique, plan->cycle.signs[i]);

        plan->cycle.ordered = plan->cycle.ordered || (rule != 0 && preload_rules()->rules[rule - 1].ordered);
    }
    if (preload_cycle_agree(&plan->cycle, (size_t)-numbers[PERIOD_NEGATED], (size_t)numbers[PERIOD])) {
        make_tensors(clique, plan);
    }
    for (size_t i = 0; i < missed; i++) {
        (void)follow(plan, plan->missed_signs[i], plan->missed_places[i]);
    }
}

static void hear(preload_clique_t *clique, plan_t *plan)
{
    int32_t numbers[PRELOAD_NUMBERS];

    if (!preload_hear(&plan->agreement, clique, numbers)) {
        plan->dense = true; /* NCCL tells the program */
    } else if (plan->compares) {
        compare(clique, plan, numbers);
    } else if (numbers[ELSEWHERE] != 0 && plan->tensors != NULL) {
        SAY(clique, &plan->told_elsewhere,
            "on some rank sums come from elsewhere than a step ago: what was kept back of tensors is dropped, and the step is "
            "looked for again");
        plan->forgets = true;
        preload_cycle_restart(&plan->cycle);
    }
}

static bool settle(preload_clique_t *clique, plan_t *plan)
{
    if (plan->agreement.runs && (plan->compares || plan->step_ended || plan->due)) {
        hear(clique, plan);
    }
    if (plan->forgets) {
        forget_tensors(plan);
    }
    plan->step_ended = plan->step_ended && plan->cycle.placed && plan->remembers;
    return !plan->dense && (plan->due || plan->step_ended);
}

bool preload_nccl_settle(preload_clique_t *clique, void *stream)
{
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;
    plan_t                 *plan;
    bool                    tells = false, visits;

    if (clique == NULL) {
        return false;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL && !plan->dense) {
        visits = driver != NULL && preload_visit(driver, stream, &visit); /* for what is made here */
        tells = settle(clique, plan);
        if (visits) {
            preload_leave_visit(driver, &visit);
        }
    }
    pthread_mutex_unlock(&clique->lock);
    return tells;
}

bool preload_nccl_tell(preload_clique_t *clique, void *stream)
{
    int32_t numbers[PRELOAD_NUMBERS] = {0};
    plan_t *plan;
    bool    told = true;

    if (clique == NULL) {
        return true;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL && !plan->dense && !plan->agreement.runs && (plan->due || plan->step_ended)) {
        plan->compares = plan->due;
        if (plan->due) {
            tell_findings(clique, plan, numbers);
        } else {
            numbers[ELSEWHERE] = plan->elsewhere;
            plan->elsewhere = false;
        }
        plan->due = plan->step_ended = false;
        told = preload_tell(&plan->agreement, clique, stream, numbers);
        plan->dense = !told;
    }
    pthread_mutex_unlock(&clique->lock);
    return told;
}

void preload_nccl_told(preload_clique_t *clique, void *stream)
{
    plan_t *plan;

    if (clique == NULL) {
        return;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL && !plan->dense) {
        preload_told(&plan->agreement, clique, stream);
    }
    pthread_mutex_unlock(&clique->lock);
}

/* ---- The end ---- */

void preload_nccl_end_plan(preload_clique_t *clique)
{
    plan_t                *plan = clique->group.plan;
    const char            *why;
    const preload_tacit_t *tacit = plan != NULL && plan->nccl != NULL ? preload_tacit(&why) : NULL;

    if (plan == NULL) {
        return;
    }
    if (tacit != NULL && atomic_load(&clique->aborted)) {
        tacit->nccl_abort(plan->nccl);
    }
    forget_tensors(plan);
    if (tacit != NULL) {
        tacit->nccl_destroy(plan->nccl);
    }
    preload_end_agreement(&plan->agreement, clique);
    free(plan);
    clique->group.plan = NULL;
}
