/* SPDX-License-Identifier: Apache-2.0 */
/* All-reduce of small factors that may be summed before they are decoded (randk, powersgd). Each round's factors of all items
   are reduced, as plain float32, by the blockwise schedule, or on two levels. */
#include <string.h>

#include "blockwise.h"
#include "codec_unit.h"

/* A frame that came before this rank had its own part to add to it. */
typedef struct tacit_early {
    struct tacit_early *next;
    tacit_buffer_t      memory; /* of this, and of the payload behind it */
    tacit_frame_t       frame;
} tacit_early_t;
enum { EARLY_BYTES = 128 };
_Static_assert(sizeof(tacit_early_t) <= EARLY_BYTES && EARLY_BYTES % 64 == 0, "what goes before a payload leaves it aligned");

/* The factors of one round, as items of an inner leg. */
typedef struct tacit_round {
    tacit_leg_t    leg;   /* of schedule blockwise, or two_level where hosts have several ranks */
    tacit_item_t  *items; /* one an outer item that has this round */
    tacit_item_t **order;
    size_t        *outer; /* the outer item of each */
    tacit_early_t *early; /* in the order in which they came */
    bool           started;
} tacit_round_t;

/* What one outer item keeps through the rounds. */
typedef struct tacit_factors {
    const float *a;
    float       *own[TACIT_LINEAR_ROUNDS], *mean[TACIT_LINEAR_ROUNDS];
    bool         gathered, rebuilt;
} tacit_factors_t;

typedef struct tacit_linear_leg {
    tacit_round_t    rounds[TACIT_LINEAR_ROUNDS];
    int              round_count, round; /* how many; which one runs */
    tacit_factors_t *factors;            /* one an outer item */
    tacit_buffer_t   sums;               /* one unit of the largest codec */
} tacit_linear_leg_t;

static bool carries(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    (void)comm;
    return codec->compressor->linear != NULL;
}

static int rounds_of(const tacit_item_t *item)
{
    return item->codec->compressor->linear->rounds(item->codec->spec.compressor_config, &item->codec->tensor);
}

static size_t factor_count(const tacit_item_t *item, int round)
{
    return item->codec->compressor->linear->factor_count(item->codec->spec.compressor_config, &item->codec->tensor, round);
}

static tacit_status_t no_memory(const tacit_leg_t *leg)
{
    return tacit__fail(TACIT_ERR_MEMORY, "rank %d: %s: no memory for the factors of %zu slots", leg->comm->rank,
                       leg->operation->what, leg->item_count);
}

/* The first of the rounds that frames of one round of factors have. */
static uint32_t frames_of(const tacit_leg_t *leg, int round)
{
    return leg->round + TACIT_LEVELS_ROUNDS * (uint32_t)round;
}

/* The inner item that reduces one factor. */
static tacit_status_t factor_item(const tacit_leg_t *leg, size_t i, int round, tacit_item_t *item_out)
{
    tacit_status_t      status;
    tacit_item_t       *item = leg->items[i];
    tacit_factors_t    *factors = &((tacit_linear_leg_t *)leg->state)->factors[i];
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;

    tensor.count = factor_count(item, round);
    tensor.spec = "none";
    factors->own[round] = tacit__alloc(tensor.count, sizeof(float));
    factors->mean[round] = tacit__alloc(tensor.count, sizeof(float));
    if (factors->own[round] == NULL || factors->mean[round] == NULL) {
        return no_memory(leg);
    }
    *item_out = *item;
    item_out->in = item_out->input = factors->own[round];
    item_out->out = factors->mean[round];
    item_out->codec = NULL;
    item_out->round = frames_of(leg, round);
    TRY(tacit__codec_create(item->codec->name, &tensor, &leg->comm->config, leg->comm->rank, leg->comm->ranks, &item_out->codec));
out:
    return status;
}

static tacit_status_t prepare_round(tacit_leg_t *leg, int number)
{
    tacit_status_t status = TACIT_OK;
    tacit_round_t *round = &((tacit_linear_leg_t *)leg->state)->rounds[number];
    const bool     levels = tacit__topology_has_levels(leg->comm->topology);

    round->items = tacit__alloc(leg->item_count, sizeof *round->items);
    round->order = tacit__alloc(leg->item_count, sizeof *round->order);
    round->outer = tacit__alloc(leg->item_count, sizeof *round->outer);
    if (round->items == NULL || round->order == NULL || round->outer == NULL) {
        return no_memory(leg);
    }
    round->leg = (tacit_leg_t){.schedule = levels ? &tacit__schedule_two_level : &tacit__schedule_blockwise,
                               .comm = leg->comm,
                               .operation = leg->operation,
                               .items = round->order,
                               .round = frames_of(leg, number)};
    for (size_t i = 0; i < leg->item_count; i++) {
        if (number < rounds_of(leg->items[i])) {
            size_t inner = round->leg.item_count++;

            round->order[inner] = &round->items[inner];
            round->outer[inner] = i;
            TRY(factor_item(leg, i, number, &round->items[inner]));
        }
    }
    TRY(round->leg.schedule->prepare(&round->leg));
out:
    return status;
}

/* All rounds at once: a peer may be one ahead. */
static tacit_status_t prepare(tacit_leg_t *leg)
{
    tacit_status_t      status = TACIT_OK;
    tacit_linear_leg_t *linear = leg->state = tacit__alloc(1, sizeof *linear);
    size_t              unit = 0;

    if (linear == NULL || (linear->factors = tacit__alloc(leg->item_count, sizeof *linear->factors)) == NULL) {
        return no_memory(leg);
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        TRY(tacit__codec_expand(leg->items[i]->codec));
        linear->round_count = rounds_of(leg->items[i]) > linear->round_count ? rounds_of(leg->items[i]) : linear->round_count;
        unit = unit > leg->items[i]->codec->unit ? unit : leg->items[i]->codec->unit;
    }
    for (int round = 0; round < linear->round_count; round++) {
        TRY(prepare_round(leg, round));
    }
    TRY(tacit__buffer_take(&leg->comm->exchange, unit * sizeof(float), &linear->sums));
out:
    return status;
}

static void release_round(tacit_exchange_t *exchange, tacit_round_t *round)
{
    while (round->early != NULL) {
        tacit_buffer_t memory = round->early->memory;

        round->early = round->early->next;
        tacit__buffer_give(exchange, &memory);
    }
    if (round->leg.schedule != NULL) {
        tacit__leg_release(&round->leg);
    }
    for (size_t i = 0; i < round->leg.item_count; i++) {
        tacit_codec_destroy(round->items[i].codec);
    }
    tacit__free(round->items);
    tacit__free(round->order);
    tacit__free(round->outer);
}

static void release(tacit_leg_t *leg)
{
    tacit_linear_leg_t *linear = leg->state;

    if (linear == NULL) {
        return;
    }
    for (size_t i = 0; i < leg->item_count; i++) {
        tacit__codec_collapse(leg->items[i]->codec);
    }
    for (int round = 0; round < TACIT_LINEAR_ROUNDS; round++) {
        release_round(&leg->comm->exchange, &linear->rounds[round]);
        for (size_t i = 0; linear->factors != NULL && i < leg->item_count; i++) {
            tacit__free(linear->factors[i].own[round]);
            tacit__free(linear->factors[i].mean[round]);
        }
    }
    tacit__buffer_give(&leg->comm->exchange, &linear->sums);
    tacit__free(linear->factors);
    tacit__free(linear);
    leg->state = NULL;
}

/* The factors from which an item is rebuilt: reduced ones, and in the last round the own one instead if `own`. */
static void pick_factors(const tacit_item_t *item, const tacit_factors_t *factors, bool own, const float **picked)
{
    int rounds = rounds_of(item);

    for (int round = 0; round < rounds; round++) {
        picked[round] = own && round == rounds - 1 ? factors->own[round] : factors->mean[round];
    }
}

/* ---- The rounds ---- */

static tacit_status_t take_early(tacit_round_t *round)
{
    tacit_status_t status = TACIT_OK;

    for (const tacit_early_t *early = round->early; early != NULL && status == TACIT_OK; early = early->next) {
        status = round->leg.schedule->arrived(&round->leg, &early->frame);
    }
    return status;
}

static tacit_status_t keep_early(tacit_exchange_t *exchange, tacit_round_t *round, const tacit_frame_t *frame)
{
    tacit_early_t **last = &round->early, *early;
    tacit_buffer_t  memory = {0};
    tacit_status_t  status;

    TRY(tacit__buffer_take(exchange, EARLY_BYTES + frame->payload_bytes, &memory));
    early = (tacit_early_t *)(void *)memory.data;
    *early = (tacit_early_t){.memory = memory, .frame = *frame};
    early->frame.payload = memory.data + EARLY_BYTES;
    if (frame->payload_bytes != 0) {
        memcpy(memory.data + EARLY_BYTES, frame->payload, frame->payload_bytes);
    }
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = early;
out:
    return status;
}

/* Own factors of a round, from what the earlier rounds have agreed on; after the last one, memory learns what was sent. */
static tacit_status_t start_round(tacit_leg_t *leg, int number)
{
    tacit_linear_leg_t *linear = leg->state;
    tacit_round_t      *round = &linear->rounds[number];

    for (size_t inner = 0; inner < round->leg.item_count; inner++) {
        tacit_item_t    *item = leg->items[round->outer[inner]];
        tacit_factors_t *factors = &linear->factors[round->outer[inner]];
        tacit_block_t    block = tacit__codec_block(item->codec, item->step, 0, item->codec->tensor.count);
        const float     *picked[TACIT_LINEAR_ROUNDS];
        double           began = tacit__seconds();

        if (number == 0 && tacit__codec_gather(item->codec, item->in, &factors->a) != 0) {
            return tacit__item_fault(item);
        }
        factors->gathered = true;
        item->codec->compressor->linear->make_factor(&block, &item->codec->tensor, number, factors->a, item->codec->work,
                                                     factors->mean, factors->own[number]);
        if (number == rounds_of(item) - 1) {
            const size_t count = factor_count(item, number);

            if (item->codec->nonfinite != TACIT_NONFINITE_PASS && !tacit__unit_is_finite(factors->own[number], count)) {
                return tacit__item_fault(item); /* memory could not take back what that stands for */
            }
            pick_factors(item, factors, true, picked);
            tacit__codec_rebuilt(item->codec, item->step, item->in, factors->a, picked);
            factors->rebuilt = true;
        }
        tacit__item_worked(item, TACIT_TRACE_ENCODE, began, item->codec->tensor.count, -1);
    }
    round->started = true;
    return take_early(round);
}

static tacit_status_t advance(tacit_leg_t *leg)
{
    tacit_linear_leg_t *linear = leg->state;
    tacit_round_t      *round = &linear->rounds[linear->round];

    if (linear->round == linear->round_count) {
        return TACIT_PENDING;
    }
    if (!round->started) {
        return start_round(leg, linear->round);
    }
    if (!round->leg.schedule->done(&round->leg)) {
        return round->leg.schedule->advance(&round->leg);
    }
    round->leg.schedule->commit(&round->leg); /* into the factors: nothing of the caller's is written */
    for (size_t inner = 0; inner < round->leg.item_count; inner++) {
        leg->items[round->outer[inner]]->sent_bytes += round->items[inner].sent_bytes;
    }
    linear->round++;
    return TACIT_OK;
}

static bool done(const tacit_leg_t *leg)
{
    const tacit_linear_leg_t *linear = leg->state;

    return linear->round == linear->round_count;
}

static tacit_status_t arrived(tacit_leg_t *leg, const tacit_frame_t *frame)
{
    tacit_linear_leg_t *linear = leg->state;
    uint32_t            number = (frame->round - leg->round) / TACIT_LEVELS_ROUNDS;

    tacit_round_t *round;

    if (number >= (uint32_t)linear->round_count) {
        return tacit__leg_unexpected(leg, frame);
    }
    round = &linear->rounds[number];
    return round->started || frame->round != round->leg.round + TACIT_LEVELS_INPUTS
               ? round->leg.schedule->arrived(&round->leg, frame)
               : keep_early(&leg->comm->exchange, round, frame);
}

/* ---- The end ---- */

static void commit(tacit_leg_t *leg)
{
    tacit_linear_leg_t *linear = leg->state;
    float              *sums = (float *)(void *)linear->sums.data;

    for (size_t i = 0; i < leg->item_count; i++) {
        tacit_item_t         *item = leg->items[i];
        const tacit_linear_t *table = item->codec->compressor->linear;
        const float          *picked[TACIT_LINEAR_ROUNDS];
        double                began = tacit__seconds();
        size_t                units = 0;

        pick_factors(item, &linear->factors[i], false, picked);
        tacit__codec_conclude(item->codec, item->op);
        for (size_t at = 0; at < item->codec->tensor.count; at += units) {
            tacit_block_t block = tacit__codec_block(item->codec, item->step, at,
                                                     units = tacit__min(item->codec->tensor.count - at, item->codec->unit));

            table->reconstruct(&block, &item->codec->tensor, picked, sums);
            tacit__codec_store(item->codec, sums, at, units, item->out);
        }
        if (table->keep != NULL) {
            tacit_block_t block = tacit__codec_block(item->codec, item->step, 0, item->codec->tensor.count);

            table->keep(&block, &item->codec->tensor, picked, item->codec->work);
        }
        tacit__codec_commit(item->codec, item->step);
        tacit__item_worked(item, TACIT_TRACE_DECODE, began, item->codec->tensor.count, -1);
    }
}

static void undo(tacit_leg_t *leg)
{
    tacit_linear_leg_t *linear = leg->state;

    for (size_t i = 0; linear->factors != NULL && i < leg->item_count; i++) {
        tacit_item_t          *item = leg->items[i];
        const tacit_factors_t *factors = &linear->factors[i];
        const float           *picked[TACIT_LINEAR_ROUNDS];

        if (factors->rebuilt) {
            pick_factors(item, factors, true, picked);
            tacit__codec_unbuilt(item->codec, item->step, item->in, picked);
        } else if (factors->gathered) {
            tacit__codec_ungather(item->codec, item->in);
        }
    }
}

const tacit_schedule_t tacit__schedule_linear = {
    .name = "linear",
    .summary = "all-reduce of small factors, as float32",
    .framed = true,
    .round = 13,
    .rounds = TACIT_LINEAR_ROUNDS * TACIT_LEVELS_ROUNDS,
    .carries = carries,
    .prepare = prepare,
    .advance = advance,
    .done = done,
    .arrived = arrived,
    .commit = commit,
    .undo = undo,
    .release = release,
};
