/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses one option for each layer: least total size within a budget of total error, by dynamic programming over steps of the
   budget (Alimohammadi et al., "L-GreCo", MLSys 2024, algorithm 1). Two things differ from the authors' program. Errors are
   rounded up to whole steps, at most one more a layer, so the table has a step more for every layer: without them the reference
   itself may not fit. And where nothing fits, that is an error. */
#include <math.h>

#include "internal.h"
#include "lgreco.h"

enum { STEPS = TACIT_PLAN_STEPS, MOST_OPTIONS = 256 };

typedef struct table {
    const double *errors, *sizes;
    size_t        layers, options;
    size_t        capacity; /* steps that a choice may take together */
    int           exponent; /* errors are taken times 2^-exponent, so that neither their sum nor a step leaves a double's range */
    double        step;
} table_t;

/* The options of one layer that a best choice may hold: no other is as small and takes as few steps. */
typedef struct front {
    size_t  count;
    size_t  steps[MOST_OPTIONS];
    double  size[MOST_OPTIONS];
    uint8_t option[MOST_OPTIONS];
} front_t;

/* Names the first entry that is not a number from 0 upwards, or a sum of sizes that is none. */
static tacit_status_t check_table(const double *errors, const double *sizes, size_t layers, size_t options)
{
    double total = 0.0;

    for (size_t layer = 0; layer < layers; layer++) {
        double largest = 0.0;

        for (size_t option = 0; option < options; option++) {
            const double error = errors[layer * options + option], size = sizes[layer * options + option];

            if (!isfinite(error) || error < 0.0 || !isfinite(size) || size < 0.0) {
                return tacit__fail(TACIT_ERR_ARGUMENT,
                                   "layer %zu, option %zu: error %g and size %g must be finite and not negative", layer, option,
                                   error, size);
            }
            largest = fmax(largest, size);
        }
        total += largest;
    }
    return isfinite(total) ? TACIT_OK
                           : tacit__fail(TACIT_ERR_ARGUMENT, "the sum of the layers' largest sizes is not finite; scale them");
}

static tacit_status_t check(const double *errors, const double *sizes, size_t layers, size_t options, const size_t *reference,
                            double alpha, const size_t *choices_out)
{
    if (options == 0 || options > MOST_OPTIONS) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "%zu options: a plan chooses among 1 to %d", options, MOST_OPTIONS);
    }
    if (!isfinite(alpha) || alpha < 0.0) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "alpha %g must be finite and not negative", alpha);
    }
    if (layers != 0 && (errors == NULL || sizes == NULL || reference == NULL || choices_out == NULL)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "errors, sizes, reference and choices_out must be given");
    }
    for (size_t layer = 0; layer < layers; layer++) {
        if (reference[layer] >= options) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "layer %zu: its reference, %zu, is none of %zu options", layer,
                               reference[layer], options);
        }
    }
    return check_table(errors, sizes, layers, options);
}

/* Errors times 2^-exponent are below 1 in the reference: the same digits at every scale. */
static void set_budget(table_t *table, const size_t *reference, double alpha)
{
    double largest = 0.0, budget = 0.0;

    for (size_t layer = 0; layer < table->layers; layer++) {
        largest = fmax(largest, table->errors[layer * table->options + reference[layer]]);
    }
    (void)frexp(largest, &table->exponent);
    for (size_t layer = 0; layer < table->layers; layer++) {
        budget += ldexp(table->errors[layer * table->options + reference[layer]], -table->exponent);
    }
    table->step = alpha * budget / STEPS;
}

/* Steps that an error takes, at least one; more than the capacity where it does not fit. Without a budget, only no error does. */
static size_t steps_of(const table_t *table, double error)
{
    double steps = 1.0;

    if (error > 0.0 && table->step == 0.0) {
        steps = INFINITY;
    } else if (error > 0.0) {
        steps = fmax(1.0, ceil(ldexp(error, -table->exponent) / table->step));
    }
    return steps <= (double)table->capacity ? (size_t)steps : table->capacity + 1;
}

/* Whether option `a` makes `b` superfluous. Of equal ones the less wrong stays, then the first. */
static bool replaces(const double *errors, const double *sizes, const size_t *steps, size_t a, size_t b)
{
    if (steps[a] != steps[b] || sizes[a] != sizes[b]) {
        return steps[a] <= steps[b] && sizes[a] <= sizes[b];
    }
    return errors[a] != errors[b] ? errors[a] < errors[b] : a < b;
}

static void find_front(const table_t *table, size_t layer, front_t *front)
{
    const double *errors = table->errors + layer * table->options, *sizes = table->sizes + layer * table->options;
    size_t        steps[MOST_OPTIONS];

    for (size_t option = 0; option < table->options; option++) {
        steps[option] = steps_of(table, errors[option]);
    }
    front->count = 0;
    for (size_t option = 0; option < table->options; option++) {
        bool stays = steps[option] <= table->capacity;

        for (size_t other = 0; other < table->options && stays; other++) {
            stays = !replaces(errors, sizes, steps, other, option);
        }
        if (stays) {
            front->steps[front->count] = steps[option];
            front->size[front->count] = sizes[option];
            front->option[front->count++] = (uint8_t)option;
        }
    }
}

/* least[b], the smallest size of the layers up to this one within b steps, from that of the layers before. */
static void add_layer(const front_t *front, size_t capacity, const double *before, double *least, uint8_t *choice)
{
    for (size_t b = 0; b <= capacity; b++) {
        least[b] = INFINITY;
    }
    for (size_t i = 0; i < front->count; i++) {
        const size_t  steps = front->steps[i];
        const double  size = front->size[i];
        const uint8_t option = front->option[i];

        for (size_t b = steps; b <= capacity; b++) {
            const double total = before[b - steps] + size;
            const bool   better = total < least[b];

            least[b] = better ? total : least[b];
            choice[b] = better ? option : choice[b];
        }
    }
}

/* From the fewest steps within which the smallest size is to be had, backwards. */
static tacit_status_t walk_back(const table_t *table, const double *least, const uint8_t *choices, double alpha,
                                size_t *choices_out)
{
    size_t b = table->capacity;

    if (!isfinite(least[b])) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "no choice has an error within alpha = %g of the reference's; raise alpha", alpha);
    }
    while (b > 0 && least[b - 1] == least[b]) {
        b--;
    }
    for (size_t layer = table->layers; layer-- > 0;) {
        const size_t choice = choices[layer * (table->capacity + 1) + b];

        choices_out[layer] = choice;
        b -= steps_of(table, table->errors[layer * table->options + choice]);
    }
    return TACIT_OK;
}

tacit_status_t tacit_lgreco_plan(const double *errors, const double *sizes, size_t layers, size_t options,
                                 const size_t *reference, double alpha, size_t *choices_out)
{
    tacit_status_t status = check(errors, sizes, layers, options, reference, alpha, choices_out);
    table_t        table = {.errors = errors, .sizes = sizes, .layers = layers, .options = options, .capacity = STEPS + layers};
    const size_t   width = table.capacity + 1;
    double        *before = NULL, *least = NULL;
    uint8_t       *choices = NULL;
    front_t        front;

    if (status != TACIT_OK) {
        return status;
    }
    set_budget(&table, reference, alpha);
    before = tacit__alloc(width, sizeof *before);
    least = tacit__alloc(width, sizeof *least); /* no layers: nothing, within any budget */
    choices = tacit__alloc(layers, width);
    if (before == NULL || least == NULL || choices == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "no memory to plan %zu layers", layers);
        goto out;
    }
    for (size_t layer = 0; layer < layers; layer++) {
        double *swapped = before;

        before = least;
        least = swapped;
        find_front(&table, layer, &front);
        add_layer(&front, table.capacity, before, least, choices + layer * width);
    }
    status = walk_back(&table, least, choices, alpha, choices_out);
out:
    tacit__free(before);
    tacit__free(least);
    tacit__free(choices);
    return status;
}
