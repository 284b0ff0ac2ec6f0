/* SPDX-License-Identifier: Apache-2.0 */
/* Rules become codecs and groups of Tacit's, one a tensor of the step. Nothing is agreed on call by call, since no call of NCCL's
   waits for other ranks: they compare what each has found of the step, and where all have found the same, meet to make Tacit's
   own communicator. Since a rank may have waited too long for that, each then says whether it goes on, and only if all do, they
   start to compress. From then on each step carries whether a rank had a tensor elsewhere, which all look at a step later. */
#include "nccl_policy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cycle.h"
#include "nccl_agreement.h"
#include "nccl_companion.h"
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
enum { RULES, RULES_NEGATED, PERIOD, PERIOD_NEGATED, CHOICE, CHOICE_NEGATED, CANNOT, SEVERAL, ID /* rank 0's; to the end */ };
enum { GIVES_UP };
enum { ELSEWHERE };

/* Whether findings are under way, or verdicts on them. */
typedef enum { SEARCHES, COMPARES, JUDGES } phase_t;

typedef struct plan {
    bool                dense; /* for good */
    bool                warned, told_elsewhere;
    uint64_t            state_bytes;
    preload_cycle_t     cycle;
    tensor_t           *tensors; /* by position in the step; NULL: it is not known */
    size_t              tensor_count;
    preload_companion_t companion; /* Tacit's communicator */
    preload_agreement_t findings;  /* what was found; a rank that gives up leaves it alone */
    preload_agreement_t agreement; /* verdicts on it; whether tensors were elsewhere */
    phase_t             phase;
    bool                remembers;                        /* some tensor does */
    bool                due, judges, step_ended, forgets; /* to be done after the round */
    bool                gives_up;                         /* this rank's verdict */
    bool                elsewhere;                        /* some tensor was, of this rank, since that was told */
    uint64_t            missed_signs[PRELOAD_HISTORY];    /* calls since ranks began to compare */
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

/* 0: none. Without a site, calls cannot be counted, as others may do. */
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
    int number;

    number = preload_rule_for(preload_rules(), &target);
    return number == 0 || site != NULL || preload_rules()->rules[number - 1].after == 0 ? number : 0;
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

/* Of the step's sum there. NULL: it stays dense. */
static const preload_rule_t *rule_at(preload_clique_t *clique, plan_t *plan, size_t position)
{
    const uint64_t        sign = plan->cycle.signs[position];
    const int             number = rule_of(clique, sign);
    const preload_rule_t *rule = number != 0 ? &preload_rules()->rules[number - 1] : NULL;

    if (rule != NULL && preload_remembers(rule->spec) && !preload_cycle_is_clear(&plan->cycle, position)) {
        SAY(clique, &plan->warned, PRELOAD_UNCLEAR, (uint64_t)count_of(sign));
        return NULL;
    }
    return rule;
}

static void make_tensors(preload_clique_t *clique, plan_t *plan)
{
    const char            *why;
    const preload_tacit_t *tacit = preload_tacit(&why);
    const size_t           count = plan->tensor_count;

    for (size_t i = 0; i < count; i++) {
        const uint64_t sign = plan->cycle.signs[i];
        tensor_t      *tensor = &plan->tensors[i];

        tensor->rule = rule_at(clique, plan, i);
        if (tensor->rule != NULL) {
            tensor->site = site_of(clique, sign);
            plan->remembers = plan->remembers || preload_remembers(tensor->rule->spec);
            tensor->rule = make_tensor(clique, plan, tacit, i) ? tensor->rule : NULL;
        }
        if (clique->rank == 0 && preload_explains()) {
            fprintf(stderr, "tacit: communicator %u: sum %zu of a step of %zu, of %zu %s, goes by '%s'\n", clique->group.number,
                    i + 1, count, count_of(sign), preload_dtype_names[sign_dtype(sign)],
                    tensor->rule != NULL ? tensor->rule->spec : function_of(sign));
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

    if (plan->phase != SEARCHES) {
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

/* Of a group that could not be made, whether that is not agreed upon: ranks did not meet, and none will hear of another. */
static bool is_alone(tacit_status_t status)
{
    return status == TACIT_ERR_TIMEOUT || status == TACIT_ERR_TRANSPORT || status == TACIT_ERR_BROKEN;
}

/* Collective. False: these tensors stay dense from now on, on all ranks. */
static bool make_group(preload_clique_t *clique, plan_t *plan, const preload_tacit_t *tacit, void *const *tensors, size_t count,
                       int op)
{
    tensor_t        *first = tensors[0];
    const size_t     parts = count * first->parts;
    const tacit_op_t by = op == NCCL_AVG ? TACIT_AVERAGE : TACIT_SUM;
    tacit_nccl_t    *nccl = clique->nccl;
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
    /* Ranks meet here, but not for ever. Without codecs it fails on all ranks, since each has to say what it has. */
    status = tacit->nccl_set_timeout(nccl, 0);
    if (status == TACIT_OK) {
        status = first->parts > 1
                     ? tacit->nccl_group_create_reduce_scatter(nccl, good ? codecs : NULL, owners, parts, by, &first->group)
                     : tacit->nccl_group_create(nccl, good ? codecs : NULL, parts, by, &first->group);
    }
    plan->dense = is_alone(status) || is_alone(tacit->nccl_set_timeout(nccl, preload_timeout()));
    if (status == TACIT_OK) {
        memcpy(first->members, tensors, count * sizeof *first->members);
    } else {
        SAY(clique, &plan->warned, "%s: %s", plan->dense ? "sums stay dense from now on" : "some sums stay dense",
            tacit->last_error());
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
        *taken_out = !plan->dense &&
                     (has_group(tensors[0], tensors, count) || make_group(clique, plan, tacit, tensors, count, calls[0]->op));
        status = *taken_out ? run_group(clique, tacit, tensors, calls, count) : TACIT_OK;
        if (atomic_load(&clique->aborted)) { /* NCCL's own is about to go */
            *taken_out = true;
            status = TACIT_ERR_BROKEN;
        }
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
    const char            *why;
    const preload_tacit_t *tacit = preload_tacit(&why);
    const int32_t          hash = (int32_t)preload_rules()->hash, period = (int32_t)preload_cycle_by_places(&plan->cycle);
    const int32_t          choice = choice_of(clique, &plan->cycle);

    numbers_out[RULES] = hash;
    numbers_out[RULES_NEGATED] = -hash;
    numbers_out[PERIOD] = period;
    numbers_out[PERIOD_NEGATED] = -period;
    numbers_out[CHOICE] = choice;
    numbers_out[CHOICE_NEGATED] = -choice;
    numbers_out[CANNOT] = tacit == NULL || (clique->rank == 0 && !preload_find_id(clique, &plan->companion, &plan->warned));
    numbers_out[SEVERAL] = preload_has_several_devices();
    for (size_t i = ID; i < PRELOAD_NUMBERS; i++) {
        numbers_out[i] = INT32_MIN;
    }
    if (plan->companion.has_id) {
        memcpy(numbers_out + ID, plan->companion.id.bytes, sizeof plan->companion.id.bytes);
    }
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
        return true;
    }
    return false;
}

/* Whether this rank goes on with what all have found; if it is a step, with a communicator for it. */
static bool compare(preload_clique_t *clique, plan_t *plan, const int32_t numbers[PRELOAD_NUMBERS])
{
    bool joins = false;

    if (!may_compress(clique, plan, numbers)) {
        return false;
    }
    for (size_t i = 0; i < plan->cycle.count; i++) {
        const int rule = rule_of(clique, plan->cycle.signs[i]);

        plan->cycle.ordered = plan->cycle.ordered || (rule != 0 && preload_rules()->rules[rule - 1].ordered);
    }
    if (preload_cycle_agree(&plan->cycle, (size_t)-numbers[PERIOD_NEGATED], (size_t)numbers[PERIOD])) {
        for (size_t i = 0; i < plan->cycle.period; i++) {
            joins = joins || rule_at(clique, plan, i) != NULL;
        }
        plan->tensors = calloc(plan->cycle.period, sizeof *plan->tensors);
        if (plan->tensors == NULL) {
            SAY(clique, &plan->warned, "nothing is compressed: no memory");
            return false;
        }
        plan->tensor_count = plan->cycle.period;
    }
    memcpy(plan->companion.id.bytes, numbers + ID, sizeof plan->companion.id.bytes);
    return !joins || preload_join(clique, &plan->companion, &plan->warned);
}

/* Of a step that all have found, the calls since then are part; of one that they look for, they may be. */
static void start(preload_clique_t *clique, plan_t *plan)
{
    const size_t missed = plan->missed;

    plan->missed = 0;
    announce(clique);
    if (missed > PRELOAD_HISTORY) {
        forget_tensors(plan);
        preload_cycle_restart(&plan->cycle);
        return;
    }
    make_tensors(clique, plan);
    for (size_t i = 0; i < missed; i++) {
        (void)follow(plan, plan->missed_signs[i], plan->missed_places[i]);
    }
}

static void hear_findings(preload_clique_t *clique, plan_t *plan)
{
    int32_t               numbers[PRELOAD_NUMBERS];
    const preload_heard_t heard = preload_hear(&plan->findings, clique, PRELOAD_A_MINUTE, numbers);

    if (heard == PRELOAD_LATE) {
        SAY(clique, &plan->warned,
            "nothing is compressed: ranks wait too long for one another to compare what they have found (TACIT_TIMEOUT_MS)");
    }
    plan->dense = heard == PRELOAD_FAILED; /* NCCL tells the program */
    plan->gives_up = heard != PRELOAD_HEARD || !compare(clique, plan, numbers);
    plan->judges = true;
}

/* False: others are too late. */
static bool hear(preload_clique_t *clique, plan_t *plan)
{
    int32_t               numbers[PRELOAD_NUMBERS];
    const preload_heard_t heard = preload_hear(&plan->agreement, clique, PRELOAD_AS_PROGRAM, numbers);
    const bool            judged = plan->phase == JUDGES;

    plan->phase = SEARCHES;
    if (heard != PRELOAD_HEARD) {
        plan->dense = true;
        return heard == PRELOAD_FAILED; /* NCCL tells the program */
    }
    if (judged && numbers[GIVES_UP] == 0) {
        start(clique, plan);
    } else if (judged) {
        SAY(clique, &plan->warned, "nothing is compressed: a rank cannot take part, or others have waited for it too long");
        plan->dense = true;
        preload_give_up(clique);
    } else if (numbers[ELSEWHERE] != 0 && plan->tensors != NULL) {
        SAY(clique, &plan->told_elsewhere,
            "on some rank sums come from elsewhere than a step ago: what was kept back of tensors is dropped, and the step is "
            "looked for again");
        plan->forgets = true;
        preload_cycle_restart(&plan->cycle);
    }
    return true;
}

/* False: others are too late. */
static bool settle(preload_clique_t *clique, plan_t *plan)
{
    bool good = true;

    if (plan->phase == COMPARES) {
        hear_findings(clique, plan);
    } else if (plan->phase == JUDGES || (plan->agreement.runs && (plan->step_ended || plan->due))) {
        good = hear(clique, plan);
    }
    if (plan->forgets) {
        forget_tensors(plan);
    }
    plan->step_ended = plan->step_ended && plan->cycle.placed && plan->remembers;
    return good;
}

bool preload_nccl_settle(preload_clique_t *clique, void *stream, bool *tells_out)
{
    const preload_driver_t *driver = preload_driver();
    preload_visit_t         visit;
    plan_t                 *plan;
    bool                    good = true, visits;

    *tells_out = false;
    if (clique == NULL) {
        return true;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL && !plan->dense) {
        visits = driver != NULL && preload_visit(driver, stream, &visit); /* for what is made here */
        good = settle(clique, plan);
        *tells_out = !plan->dense && (plan->judges || plan->due || plan->step_ended);
        if (atomic_load(&clique->aborted)) { /* by a thread that has not waited */
            preload_nccl_end_plan(clique);
            *tells_out = false;
        }
        if (visits) {
            preload_leave_visit(driver, &visit);
        }
    }
    pthread_mutex_unlock(&clique->lock);
    return good;
}

/* A rank that gives up has nothing to hear any more. */
static bool tell(preload_clique_t *clique, plan_t *plan, void *stream)
{
    preload_agreement_t *agreement = &plan->agreement;
    int32_t              numbers[PRELOAD_NUMBERS] = {0};

    plan->phase = SEARCHES;
    if (plan->judges) {
        numbers[GIVES_UP] = plan->gives_up;
        plan->phase = JUDGES;
        if (plan->gives_up) {
            plan->dense = true;
            preload_give_up(clique);
        }
    } else if (plan->due) {
        tell_findings(clique, plan, numbers);
        agreement = &plan->findings;
        plan->phase = COMPARES;
    } else {
        numbers[ELSEWHERE] = plan->elsewhere;
        plan->elsewhere = false;
    }
    plan->judges = plan->due = plan->step_ended = false;
    return preload_tell(agreement, clique, stream, numbers);
}

bool preload_nccl_tell(preload_clique_t *clique, void *stream)
{
    plan_t *plan;
    bool    told = true;

    if (clique == NULL) {
        return true;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL && !plan->dense && !plan->agreement.runs && (plan->judges || plan->due || plan->step_ended)) {
        told = tell(clique, plan, stream);
        plan->dense = plan->dense || !told;
    }
    pthread_mutex_unlock(&clique->lock);
    return told;
}

bool preload_nccl_told(preload_clique_t *clique, void *stream, bool sent)
{
    plan_t *plan;
    bool    told = true;

    if (clique == NULL) {
        return true;
    }
    pthread_mutex_lock(&clique->lock);
    plan = clique->group.plan;
    if (plan != NULL) {
        told = preload_told(&plan->findings, clique, stream, sent) && preload_told(&plan->agreement, clique, stream, sent);
        plan->dense = plan->dense || !told;
    }
    pthread_mutex_unlock(&clique->lock);
    return told;
}

/* ---- The end ---- */

void preload_nccl_end_plan(preload_clique_t *clique)
{
    plan_t       *plan = clique->group.plan;
    const char   *why;
    tacit_nccl_t *nccl;

    if (plan == NULL || plan->companion.joins) { /* the thread that joins comes here again */
        return;
    }
    forget_tensors(plan);
    nccl = preload_take(clique);
    if (nccl != NULL) {
        preload_tacit(&why)->nccl_destroy(nccl);
    }
    preload_end_agreement(&plan->findings, clique);
    preload_end_agreement(&plan->agreement, clique);
    free(plan);
    clique->group.plan = NULL;
}
