/* SPDX-License-Identifier: Apache-2.0 */
/* Small optimization problems whose answer is known: f is the mean of the clients' f_i, each client sees its own only, and their
   gradients at the optimum are not zero. All in float64. */
#ifndef PROBLEM_H
#define PROBLEM_H

#include "digits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROBLEM_CLIENTS = 16 }; /* no problem has more */

typedef struct problem_options {
    const char *name, *data; /* data: of logistic, as digits_load()'s path */
    double      zeta, sigma; /* below 0: the problem's own */
    uint64_t    seed;
} problem_options_t;

/* What is usual with a problem, where the command line says nothing. */
typedef struct problem_kind {
    const char *name, *summary;
    size_t      clients, count; /* parameters; of logistic: without the constant pixel */
    double      rate, zeta, sigma;
    uint64_t    steps;
} problem_kind_t;

/* A client's f_i(x) = s_i/2 |x - c_i|^2 + <a_i, x>^2, or the logistic loss of its images plus a quadratic term. */
typedef struct problem {
    const problem_kind_t *kind;
    size_t                clients, count;
    double                sigma; /* of the noise on a client's gradient, whose covariance is sigma^2 / count I */
    uint64_t              seed;
    double               *optimum;                       /* count */
    double                least;                         /* f there */
    double               *scales, *centers, *directions; /* s: one a client; c and a: count a client */
    digits_t              digits;                        /* logistic only */
    uint32_t             *images;                        /* those of client 0, of client 1, ... */
    size_t                ends[PROBLEM_CLIENTS + 1];     /* client i's are images[ends[i]] to images[ends[i + 1] - 1] */
} problem_t;

/* The index-th kind of problem, NULL past the last. */
const problem_kind_t *problem_kind_at(size_t index);

/* Makes the problem; `solve` also finds the optimum of logistic, which takes seconds and is needed by problem_gap() alone.
   Returns 0, or -1 with a sentence in `error`. */
int  problem_init(problem_t *problem, const problem_options_t *options, bool solve, char *error, size_t error_bytes);
void problem_fini(problem_t *problem);
/* Where every method starts. */
void problem_start(const problem_t *problem, double *x_out);
/* f_i(x) of one client, and its gradient with the noise of `step` (UINT64_MAX: without noise). */
double problem_gradient(const problem_t *problem, size_t client, uint64_t step, const double *x, double *gradient_out);
/* f(x) - f*, given f(x): exact to rounding for quadratics, else to the rounding of f. */
double problem_gap(const problem_t *problem, const double *x, double loss);
double problem_distance_squared(const problem_t *problem, const double *x); /* to the optimum */
/* Of the test images whose digits some client has seen: the part told right, and the mean loss. Logistic only. */
double problem_test(const problem_t *problem, const double *x, double *loss_out);

#endif
