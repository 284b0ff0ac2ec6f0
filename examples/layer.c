/* SPDX-License-Identifier: Apache-2.0 */
/* Dense layers by BLAS and their gradients, the softmax's loss, and numbers to begin with. */
#include "layer.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* OpenBLAS only; elsewhere the addresses are NULL and the environment decides. */
extern void  openblas_set_num_threads(int threads) __attribute__((weak));
extern char *openblas_get_corename(void) __attribute__((weak));

uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t random_below(uint64_t *state, uint64_t limit)
{
    const uint64_t whole = UINT64_MAX - UINT64_MAX % limit; /* above it, small results would be likelier */
    uint64_t       number;

    do {
        number = random_next(state);
    } while (number >= whole);
    return number % limit;
}

/* Above 0, at most 1. */
static double random_unit(uint64_t *state)
{
    return (double)((random_next(state) >> 11) + 1) * 0x1p-53;
}

/* Box and Muller's method. The second number of the pair is not kept: a stream has no state but its seed. */
double random_normal(uint64_t *state)
{
    const double radius = sqrt(-2.0 * log(random_unit(state)));

    return radius * cos(6.283185307179586 * random_unit(state));
}

void random_permutation(uint64_t seed, size_t count, uint32_t *order_out)
{
    for (size_t i = 0; i < count; i++) {
        order_out[i] = (uint32_t)i;
    }
    for (size_t i = count; i > 1; i--) {
        const size_t   j = (size_t)random_below(&seed, i);
        const uint32_t swap = order_out[i - 1];

        order_out[i - 1] = order_out[j];
        order_out[j] = swap;
    }
}

static void place(tensors_t *tensors, const tensor_t *list)
{
    size_t first = 0;

    for (size_t i = 0; i < tensors->count; i++) {
        tensors->list[i] = list[i];
        tensors->list[i].values = tensors->values + first;
        tensors->list[i].gradients = tensors->gradients + first;
        first += list[i].rows * list[i].cols;
    }
}

int tensors_init(tensors_t *tensors, const tensor_t *list, size_t count)
{
    *tensors = (tensors_t){.count = count};
    if (openblas_set_num_threads) {
        openblas_set_num_threads(1);
    }
    for (size_t i = 0; i < count; i++) {
        tensors->elements += list[i].rows * list[i].cols;
    }
    tensors->list = malloc(count * sizeof *list);
    tensors->values = calloc(tensors->elements, sizeof *tensors->values);
    tensors->gradients = calloc(tensors->elements, sizeof *tensors->gradients);
    if (!tensors->list || !tensors->values || !tensors->gradients) {
        tensors_fini(tensors);
        return -1;
    }
    place(tensors, list);
    return 0;
}

int tensors_elsewhere(const tensors_t *tensors, float *values, float *gradients, tensors_t *elsewhere_out)
{
    tensors_t elsewhere = {tensors->count, malloc(tensors->count * sizeof *tensors->list), tensors->elements, values, gradients};

    if (!elsewhere.list) {
        return -1;
    }
    place(&elsewhere, tensors->list);
    *elsewhere_out = elsewhere;
    return 0;
}

void tensors_fini(tensors_t *tensors)
{
    free(tensors->list);
    free(tensors->values);
    free(tensors->gradients);
    *tensors = (tensors_t){0};
}

const char *blas_core_advice(void)
{
#if defined(__x86_64__)
    if (openblas_get_corename && strcmp(openblas_get_corename(), "Prescott") == 0 && __builtin_cpu_supports("avx2")) {
        return __builtin_cpu_supports("avx512f") ? "SkylakeX" : "Haswell";
    }
#endif
    return NULL;
}

void tensor_randomize(const tensor_t *tensor, double deviation, uint64_t *seed)
{
    for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
        tensor->values[i] = (float)(deviation * random_normal(seed));
    }
}

void dense_forward(const tensor_t *weight, const tensor_t *bias, const float *inputs, size_t rows, float *outputs)
{
    const int ins = (int)weight->cols, outs = (int)weight->rows;

    for (size_t i = 0; i < rows; i++) {
        memcpy(outputs + i * weight->rows, bias->values, weight->rows * sizeof *outputs);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, outs, ins, 1.0f, inputs, ins, weight->values, ins, 1.0f,
                outputs, outs);
}

void dense_backward(const tensor_t *weight, const tensor_t *bias, const float *inputs, const float *output_deltas, size_t rows,
                    float *input_deltas)
{
    const int ins = (int)weight->cols, outs = (int)weight->rows;

    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, outs, ins, (int)rows, 1.0f, output_deltas, outs, inputs, ins, 0.0f,
                weight->gradients, ins);
    memset(bias->gradients, 0, weight->rows * sizeof *bias->gradients);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < weight->rows; j++) {
            bias->gradients[j] += output_deltas[i * weight->rows + j];
        }
    }
    if (input_deltas) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, ins, outs, 1.0f, output_deltas, outs, weight->values,
                    ins, 0.0f, input_deltas, ins);
    }
}

/* With the largest score taken off first, no exponential overflows. */
double cross_entropy(const float *scores, size_t classes, size_t answer)
{
    float  top = scores[0];
    double sum = 0.0;

    for (size_t c = 1; c < classes; c++) {
        top = scores[c] > top ? scores[c] : top;
    }
    for (size_t c = 0; c < classes; c++) {
        sum += exp((double)scores[c] - (double)top);
    }
    return log(sum) - ((double)scores[answer] - (double)top);
}

double cross_entropy_gradient(const float *scores, size_t classes, size_t answer, double scale, float *deltas)
{
    const double loss = cross_entropy(scores, classes, answer);

    for (size_t c = 0; c < classes; c++) {
        const double probability = exp((double)scores[c] - (double)scores[answer] - loss);

        deltas[c] = (float)(scale * (probability - (c == answer ? 1.0 : 0.0)));
    }
    return loss;
}
