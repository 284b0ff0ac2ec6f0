/* SPDX-License-Identifier: Apache-2.0 */
/* Three families: the divergence example of compressed gradient descent, quadratics with a center for each client, and logistic
   regression on digits sorted by label. */
#include "problem.h"

#include "layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SOLVE_STEPS = 100000 };

/* Of logistic: weight of |x|^2 / 2. It makes f strongly convex, and so f - f* <= |gradient|^2 / (2 RIDGE). */
static const double RIDGE = 0.01;

/* p0   Beznosikov et al., "On Biased Compression for Distributed Learning" (2020), example 1
   p1   Fixed centers far apart: feedback alone stalls.
   p2   Gao, Islamov and Stich, "EControl" (ICLR 2024), the synthetic family: differing clients and noise.
   p3   The same, fewer clients, without noise. */
static const problem_kind_t kinds[] = {
    {"p0", "3 clients, 3 parameters: descent with top-1 diverges", 3, 3, 0.01, 0.0, 0.0, 1000},
    {"p1", "4 clients, 8 parameters, no random numbers: top-1 with feedback stalls", 4, 8, 0.1, 0.0, 0.0, 1000},
    {"p2", "16 clients, 50 parameters, noise: tracking alone does not average it", 16, 50, 0.001, 100.0, 10.0, 15000},
    {"p3", "10 clients, 50 parameters, no noise: where feedback stalls depends on the rate", 10, 50, 0.003, 100.0, 0.0, 20000},
    {"logistic", "8 clients, regression on digits, client i sees digits i and i + 1 only", 8, 0, 0.1, 0.0, 0.0, 2000},
};

const problem_kind_t *problem_kind_at(size_t index)
{
    return index < sizeof kinds / sizeof *kinds ? &kinds[index] : NULL;
}

static double square(double number)
{
    return number * number;
}

/* ---- Quadratics ---- */

static void make_p0(problem_t *problem)
{
    for (size_t i = 0; i < problem->clients; i++) {
        problem->scales[i] = 0.5;
        for (size_t j = 0; j < problem->count; j++) {
            problem->directions[i * problem->count + j] = i == j ? -3.0 : 2.0;
        }
    }
}

static void make_p1(problem_t *problem)
{
    for (size_t i = 0; i < problem->clients; i++) {
        problem->scales[i] = 1.0;
        for (size_t j = 0; j < problem->count; j++) {
            problem->centers[i * problem->count + j] = (double)((3 * i + 5 * j + i * j) % 7) - 3.0 + (i % 2 == 0 ? 10.0 : -10.0);
        }
    }
}

/* f_i = |A_i x - b_i|^2 / 2 with A_i = i / sqrt(n) I and b_i ~ N(0, zeta^2 / i^2 I), i = 1 ... n. */
static void make_random(problem_t *problem, double zeta)
{
    uint64_t state = problem->seed;

    for (size_t i = 0; i < problem->clients; i++) {
        const double number = (double)i + 1.0, factor = number / sqrt((double)problem->clients);

        problem->scales[i] = square(factor);
        for (size_t j = 0; j < problem->count; j++) {
            problem->centers[i * problem->count + j] = zeta / number * random_normal(&state) / factor;
        }
    }
}

/* Where there is a direction, the centers are 0. */
static void solve_quadratic(problem_t *problem)
{
    double sum = 0.0;

    for (size_t i = 0; i < problem->clients; i++) {
        sum += problem->scales[i];
        for (size_t j = 0; j < problem->count; j++) {
            problem->optimum[j] += problem->scales[i] * problem->centers[i * problem->count + j];
        }
    }
    for (size_t j = 0; j < problem->count; j++) {
        problem->optimum[j] /= sum;
    }
    for (size_t i = 0; i < problem->clients; i++) {
        for (size_t j = 0; j < problem->count; j++) {
            problem->least += problem->scales[i] / 2.0 * square(problem->optimum[j] - problem->centers[i * problem->count + j]) /
                              (double)problem->clients;
        }
    }
}

static double quadratic_gradient(const problem_t *problem, size_t client, const double *x, double *gradient)
{
    const double *center = problem->centers + client * problem->count;
    const double *direction = problem->directions + client * problem->count;
    double        along = 0.0, loss = 0.0;

    for (size_t j = 0; j < problem->count; j++) {
        along += direction[j] * x[j];
    }
    for (size_t j = 0; j < problem->count; j++) {
        loss += problem->scales[client] / 2.0 * square(x[j] - center[j]);
        gradient[j] = problem->scales[client] * (x[j] - center[j]) + 2.0 * along * direction[j];
    }
    return loss + square(along);
}

/* f(x) - f* without a difference of large numbers: half the Hessian's form at x - x*. */
static double quadratic_gap(const problem_t *problem, const double *x)
{
    double gap = 0.0;

    for (size_t i = 0; i < problem->clients; i++) {
        double along = 0.0;

        for (size_t j = 0; j < problem->count; j++) {
            const double difference = x[j] - problem->optimum[j];

            along += problem->directions[i * problem->count + j] * difference;
            gap += problem->scales[i] / 2.0 * square(difference);
        }
        gap += square(along);
    }
    return gap / (double)problem->clients;
}

static int make_quadratic(problem_t *problem, double zeta)
{
    const size_t values = problem->clients * problem->count;

    problem->scales = calloc(problem->clients, sizeof *problem->scales);
    problem->centers = calloc(values, sizeof *problem->centers);
    problem->directions = calloc(values, sizeof *problem->directions);
    problem->optimum = calloc(problem->count, sizeof *problem->optimum);
    if (!problem->scales || !problem->centers || !problem->directions || !problem->optimum) {
        return -1;
    }
    if (strcmp(problem->kind->name, "p0") == 0) {
        make_p0(problem);
    } else if (strcmp(problem->kind->name, "p1") == 0) {
        make_p1(problem);
    } else {
        make_random(problem, zeta);
    }
    solve_quadratic(problem);
    return 0;
}

/* ---- Logistic regression ----

   x is 10 rows of a weight for each pixel and one for the constant. */

static bool is_logistic(const problem_t *problem)
{
    return problem->digits.pixels > 0;
}

/* Writes the probabilities of the digits and returns the loss. */
static double classify(const problem_t *problem, const double *x, const float *image, size_t answer, double *odds)
{
    const size_t pixels = problem->digits.pixels;
    double       top = -INFINITY, sum = 0.0, chosen;

    for (size_t k = 0; k < DIGITS_CLASSES; k++) {
        const double *row = x + k * (pixels + 1);

        odds[k] = row[pixels];
        for (size_t j = 0; j < pixels; j++) {
            odds[k] += row[j] * (double)image[j];
        }
        top = fmax(top, odds[k]);
    }
    chosen = odds[answer] - top;
    for (size_t k = 0; k < DIGITS_CLASSES; k++) {
        odds[k] = exp(odds[k] - top);
        sum += odds[k];
    }
    for (size_t k = 0; k < DIGITS_CLASSES; k++) {
        odds[k] /= sum;
    }
    return log(sum) - chosen;
}

static double logistic_gradient(const problem_t *problem, size_t client, const double *x, double *gradient)
{
    const size_t pixels = problem->digits.pixels, first = problem->ends[client], end = problem->ends[client + 1];
    double       loss = 0.0, norm = 0.0;

    memset(gradient, 0, problem->count * sizeof *gradient);
    for (size_t i = first; i < end; i++) {
        const float *image = problem->digits.train.images + problem->images[i] * pixels;
        const size_t answer = problem->digits.train.classes[problem->images[i]];
        double       odds[DIGITS_CLASSES];

        loss += classify(problem, x, image, answer, odds);
        odds[answer] -= 1.0;
        for (size_t k = 0; k < DIGITS_CLASSES; k++) {
            double *row = gradient + k * (pixels + 1);

            for (size_t j = 0; j < pixels; j++) {
                row[j] += odds[k] * (double)image[j];
            }
            row[pixels] += odds[k];
        }
    }
    for (size_t j = 0; j < problem->count; j++) {
        gradient[j] = gradient[j] / (double)(end - first) + RIDGE * x[j];
        norm += square(x[j]);
    }
    return loss / (double)(end - first) + RIDGE / 2.0 * norm;
}

/* Client i has digits i and i + 1; the images of a digit that two clients have are dealt to them in turn. Nobody has the last. */
static int deal_images(problem_t *problem)
{
    const digits_set_t *train = &problem->digits.train;
    size_t              used = 0;

    problem->images = malloc(train->count * sizeof *problem->images);
    if (!problem->images) {
        return -1;
    }
    for (size_t client = 0; client < problem->clients; client++) {
        size_t seen[DIGITS_CLASSES] = {0};

        for (size_t i = 0; i < train->count; i++) {
            const size_t digit = train->classes[i], turn = seen[digit]++;
            const bool   alone = digit == 0 || digit == problem->clients;

            if ((digit == client && (alone || turn % 2 == 0)) || (digit == client + 1 && (alone || turn % 2 == 1))) {
                problem->images[used++] = (uint32_t)i;
            }
        }
        problem->ends[client + 1] = used;
        if (used == problem->ends[client]) {
            return -1;
        }
    }
    return 0;
}

static double mean_gradient(const problem_t *problem, const double *x, double *gradient, double *part)
{
    double loss = 0.0;

    memset(gradient, 0, problem->count * sizeof *gradient);
    for (size_t i = 0; i < problem->clients; i++) {
        loss += problem_gradient(problem, i, UINT64_MAX, x, part) / (double)problem->clients;
        for (size_t j = 0; j < problem->count; j++) {
            gradient[j] += part[j] / (double)problem->clients;
        }
    }
    return loss;
}

/* No second derivative exceeds this: half the largest eigenvalue of the images' second moments, for which their Frobenius norm
   stands in, and RIDGE. Below 0: no memory. */
static double steepest(const problem_t *problem)
{
    const size_t pixels = problem->digits.pixels, inputs = pixels + 1;
    double      *moments = calloc(inputs * inputs, sizeof *moments), sum = 0.0;

    if (!moments) {
        return -1.0;
    }
    for (size_t client = 0; client < problem->clients; client++) {
        const size_t first = problem->ends[client], end = problem->ends[client + 1];
        const double weight = 1.0 / (double)(problem->clients * (end - first));

        for (size_t i = first; i < end; i++) {
            const float *image = problem->digits.train.images + problem->images[i] * pixels;

            for (size_t j = 0; j < inputs; j++) {
                for (size_t k = 0; k < inputs; k++) {
                    moments[j * inputs + k] +=
                        weight * (j < pixels ? (double)image[j] : 1.0) * (k < pixels ? (double)image[k] : 1.0);
                }
            }
        }
    }
    for (size_t j = 0; j < inputs * inputs; j++) {
        sum += square(moments[j]);
    }
    free(moments);
    return sqrt(sum) / 2.0 + RIDGE;
}

/* Accelerated descent until f - f* <= |gradient|^2 / (2 RIDGE) is below what float64 can tell.
   Source: Nesterov, "Introductory Lectures on Convex Optimization" (2004), scheme 2.2.11 with constant step. */
static int solve_logistic(problem_t *problem, double *room)
{
    const size_t count = problem->count;
    const double steep = steepest(problem), root = sqrt(RIDGE / steep), momentum = (1.0 - root) / (1.0 + root);
    double      *ahead = room, *gradient = room + count, *part = room + 2 * count, *x = problem->optimum;

    for (size_t step = 0; steep > 0.0 && step < SOLVE_STEPS; step++) {
        double norm = 0.0;

        problem->least = mean_gradient(problem, ahead, gradient, part);
        for (size_t j = 0; j < count; j++) {
            const double before = x[j];

            norm += square(gradient[j]);
            x[j] = ahead[j] - gradient[j] / steep;
            ahead[j] = x[j] + momentum * (x[j] - before);
        }
        if (norm / (2.0 * RIDGE) < 1e-16) {
            problem->least = mean_gradient(problem, x, gradient, part);
            return 0;
        }
    }
    return -1;
}

static int make_logistic(problem_t *problem, const char *data, bool solve, char *error, size_t error_bytes)
{
    double *room;
    int     failed;

    if (digits_load(data, &problem->digits, error, error_bytes) != 0) {
        return -1;
    }
    problem->count = DIGITS_CLASSES * (problem->digits.pixels + 1);
    problem->optimum = calloc(problem->count, sizeof *problem->optimum);
    room = calloc(3 * problem->count, sizeof *room);
    failed = !problem->optimum || !room || deal_images(problem) != 0 || (solve && solve_logistic(problem, room) != 0);
    if (failed) {
        (void)snprintf(error, error_bytes, "logistic: no memory, no optimum, or a client without images");
    }
    free(room);
    return failed ? -1 : 0;
}

double problem_test(const problem_t *problem, const double *x, double *loss_out)
{
    const digits_set_t *test = &problem->digits.test;
    size_t              right = 0, used = 0;
    double              loss = 0.0;

    for (size_t i = 0; i < test->count; i++) {
        double odds[DIGITS_CLASSES];
        size_t best = 0;

        if (test->classes[i] > problem->clients) {
            continue;
        }
        loss += classify(problem, x, test->images + i * problem->digits.pixels, test->classes[i], odds);
        for (size_t k = 1; k < DIGITS_CLASSES; k++) {
            best = odds[k] > odds[best] ? k : best;
        }
        right += best == test->classes[i];
        used++;
    }
    *loss_out = loss / (double)used;
    return (double)right / (double)used;
}

/* ---- All of them ---- */

int problem_init(problem_t *problem, const problem_options_t *options, bool solve, char *error, size_t error_bytes)
{
    const problem_kind_t *kind;
    int                   failed;

    *problem = (problem_t){0};
    for (size_t i = 0; (kind = problem_kind_at(i)) != NULL && strcmp(kind->name, options->name) != 0; i++) {
    }
    if (!kind) {
        (void)snprintf(error, error_bytes, "no problem is called '%s'", options->name);
        return -1;
    }
    problem->kind = kind;
    problem->clients = kind->clients;
    problem->count = kind->count;
    problem->seed = options->seed;
    problem->sigma = options->sigma < 0.0 ? kind->sigma : options->sigma;
    if (strcmp(kind->name, "logistic") == 0) {
        return make_logistic(problem, options->data, solve, error, error_bytes);
    }
    failed = make_quadratic(problem, options->zeta < 0.0 ? kind->zeta : options->zeta);
    if (failed) {
        (void)snprintf(error, error_bytes, "%s: no memory", kind->name);
    }
    return failed;
}

void problem_fini(problem_t *problem)
{
    free(problem->optimum);
    free(problem->scales);
    free(problem->centers);
    free(problem->directions);
    free(problem->images);
    digits_free(&problem->digits);
}

void problem_start(const problem_t *problem, double *x_out)
{
    for (size_t j = 0; j < problem->count; j++) {
        x_out[j] = strcmp(problem->kind->name, "p0") == 0 ? 1.0 : 0.0;
    }
}

double problem_gradient(const problem_t *problem, size_t client, uint64_t step, const double *x, double *gradient_out)
{
    const double loss = is_logistic(problem) ? logistic_gradient(problem, client, x, gradient_out)
                                             : quadratic_gradient(problem, client, x, gradient_out);

    if (problem->sigma > 0.0 && step != UINT64_MAX) {
        const double deviation = problem->sigma / sqrt((double)problem->count);
        uint64_t     state = problem->seed;

        /* Every client and step draws from a stream of its own, wherever the client lives. */
        state = random_next(&state) + client;
        state = random_next(&state) + step;
        for (size_t j = 0; j < problem->count; j++) {
            gradient_out[j] += deviation * random_normal(&state);
        }
    }
    return loss;
}

double problem_gap(const problem_t *problem, const double *x, double loss)
{
    return is_logistic(problem) ? loss - problem->least : quadratic_gap(problem, x);
}

double problem_distance_squared(const problem_t *problem, const double *x)
{
    double sum = 0.0;

    for (size_t j = 0; j < problem->count; j++) {
        sum += square(x[j] - problem->optimum[j]);
    }
    return sum;
}
