/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles on all ranks of one machine, in turns, on the CPU and on a GPU: what they send, return and remember is compared. */
#ifndef TACIT_TEST_NETS_H
#define TACIT_TEST_NETS_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "gpu.h"
#include "half.h"
#include "harness.h"
#include "internal.h"
#include "tacit_bundle.h"

enum { TENSORS = sizeof counts / sizeof *counts };
static size_t      columns[TENSORS]; /* of those that are matrices; else 0 */
static const char *others[TENSORS];  /* specs of those that have another one; else NULL */

#ifdef TACIT_EMULATED
const tacit_cuda_module_t *tacit_cuda_module(uint32_t module_bytes);
enum { OTHER_NAN = false };
#else
enum { OTHER_NAN = true }; /* a GPU's have other bits than a processor's, and so have messages and their checksums */
#endif

#define SUCCEEDS(call) ck_assert_msg((call) == TACIT_OK, "%s: %s", #call, tacit_last_error())

enum { MOST_RANKS = 4, MOST_TENSORS = 16, STEPS = 3 };

static const tacit_cuda_module_t *module;

/* ---- Tensors ---- */

typedef struct setup {
    const char       *spec;
    tacit_dtype_t     dtype;
    tacit_op_t        op;
    int               ranks, strict;
    tacit_nonfinite_t nonfinite;
    uint8_t           kind; /* a tacit_bundle_kind_t; where it is sharded, tensor t belongs to rank t modulo ranks */
} setup_t;

static inline size_t bytes_of(tacit_dtype_t dtype, size_t count)
{
    return count * (dtype == TACIT_FLOAT32 ? 4 : 2);
}

/* Normal numbers; of every eighth tensor's blocks some are zero, tiny, huge or all alike. */
static inline void fill(tacit_dtype_t dtype, size_t count, uint64_t seed, void *tensor)
{
    float *x = malloc((count + 1) * sizeof *x);

    harness_fill(x, count, seed, 1.0f);
    for (size_t i = 0; i < count; i++) {
        switch (i / 64 % 16) {
        case 3:
            x[i] = 0.0f * x[i];
            break;
        case 5:
            x[i] *= 0x1p-130f;
            break;
        case 7:
            x[i] *= dtype == TACIT_FLOAT16 ? 0x1p10f : 0x1p90f;
            break;
        case 9:
            x[i] = -1.5f;
            break;
        default:
            break;
        }
    }
    if (dtype == TACIT_FLOAT16) {
        tacit__float16_narrow(x, tensor, count);
    } else if (dtype == TACIT_BFLOAT16) {
        tacit__bfloat16_narrow(x, tensor, count);
    } else {
        memcpy(tensor, x, count * sizeof *x);
    }
    free(x);
}

static inline void spoil(tacit_dtype_t dtype, void *tensor, size_t element, float value)
{
    if (dtype == TACIT_FLOAT32) {
        ((float *)tensor)[element] = value;
    } else {
        ((uint16_t *)tensor)[element] =
            dtype == TACIT_FLOAT16 ? tacit__to_float16(value, 0x7c00) : tacit__to_bfloat16(value, 0x7f80);
    }
}

/* ---- All ranks of one device, in turns ---- */

typedef struct node {
    tacit_codec_t  *codecs[MOST_TENSORS];
    tacit_bundle_t *bundle;
    void           *in[MOST_TENSORS], *out[MOST_TENSORS];
    uint8_t        *sent, *received, *own, *gathered;
    size_t          sent_bytes, received_bytes, gather_bytes;
} node_t;

typedef struct net {
    setup_t        setup;
    tacit_device_t device;
    node_t         nodes[MOST_RANKS];
} net_t;

static inline void *get(tacit_device_t device, size_t bytes)
{
    void *memory = tacit__cuda_alloc_shared(device == TACIT_CUDA ? module : NULL, bytes + 1, 1);

    ck_assert_ptr_nonnull(memory);
    return memory;
}

static inline void give(tacit_device_t device, void *memory)
{
    tacit__cuda_free_shared(device == TACIT_CUDA ? module : NULL, memory);
}

static inline void make_bundle(const setup_t *setup, node_t *node)
{
    int owners[TENSORS];

    for (int t = 0; t < TENSORS; t++) {
        owners[t] = t % setup->ranks;
    }
    if (setup->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        SUCCEEDS(tacit_bundle_create_reduce_scatter(node->codecs, owners, TENSORS, setup->op, &node->bundle));
    } else if (setup->kind == TACIT_BUNDLE_ALLGATHER) {
        SUCCEEDS(tacit_bundle_create_allgather(node->codecs, owners, TENSORS, &node->bundle));
    } else {
        SUCCEEDS(tacit_bundle_create(node->codecs, TENSORS, setup->op, &node->bundle));
    }
}

static inline void make_tensors(const setup_t *setup, tacit_device_t device, int rank, node_t *node)
{
    for (int t = 0; t < TENSORS; t++) {
        tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
        tacit_config_t      config = TACIT_CONFIG_INIT;
        char                name[24];

        snprintf(name, sizeof name, "tensor %d", t);
        tensor.count = counts[t];
        if (columns[t] != 0) {
            tensor.ndim = 2;
            tensor.shape[0] = counts[t] / columns[t];
            tensor.shape[1] = columns[t];
        }
        tensor.dtype = setup->dtype;
        tensor.device = device;
        tensor.spec = others[t] != NULL ? others[t] : setup->spec;
        config.strict = setup->strict;
        config.nonfinite = (int)setup->nonfinite;
        SUCCEEDS(tacit_codec_create(name, &tensor, &config, rank, setup->ranks, &node->codecs[t]));
        node->in[t] = get(device, bytes_of(setup->dtype, counts[t]) + 16);
        node->out[t] = get(device, bytes_of(setup->dtype, counts[t]) + 16);
    }
}

static inline void free_tensors(tacit_device_t device, node_t *node)
{
    for (int t = 0; t < TENSORS; t++) {
        tacit_codec_destroy(node->codecs[t]);
        give(device, node->in[t]);
        give(device, node->out[t]);
    }
}

static inline void net_init(net_t *net, const setup_t *setup, tacit_device_t device)
{
    *net = (net_t){.setup = *setup, .device = device};
    for (int rank = 0; rank < setup->ranks; rank++) {
        node_t *node = &net->nodes[rank];

        make_tensors(setup, device, rank, node);
        make_bundle(setup, node);
        for (int other = 0; other < setup->ranks; other++) {
            node->sent_bytes += tacit_bundle_scatter_bytes(node->bundle, rank, other);
            node->received_bytes += tacit_bundle_scatter_bytes(node->bundle, other, rank);
        }
        node->gather_bytes = tacit_bundle_gather_bytes(node->bundle);
        node->sent = get(device, node->sent_bytes);
        node->received = get(device, node->received_bytes);
        node->own = get(device, node->gather_bytes);
        node->gathered = get(device, node->gather_bytes * (size_t)setup->ranks);
    }
}

static inline void net_free(net_t *net)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        node_t *node = &net->nodes[rank];

        tacit_bundle_destroy(node->bundle);
        free_tensors(net->device, node);
        give(net->device, node->sent);
        give(net->device, node->received);
        give(net->device, node->own);
        give(net->device, node->gathered);
    }
}

static inline void settle(const net_t *net)
{
    if (net->device == TACIT_CUDA) {
        ck_assert_int_eq(module->synchronize(), 0);
    }
}

static inline void all_to_all(net_t *net)
{
    for (int to = 0; to < net->setup.ranks; to++) {
        uint8_t *at = net->nodes[to].received;

        for (int from = 0; from < net->setup.ranks; from++) {
            const tacit_bundle_t *bundle = net->nodes[from].bundle;
            const uint8_t        *message = net->nodes[from].sent;

            for (int before = 0; before < to; before++) {
                message += tacit_bundle_scatter_bytes(bundle, from, before);
            }
            memcpy(at, message, tacit_bundle_scatter_bytes(bundle, from, to));
            at += tacit_bundle_scatter_bytes(bundle, from, to);
        }
    }
}

static inline void all_gather(net_t *net)
{
    for (int to = 0; to < net->setup.ranks; to++) {
        for (int from = 0; from < net->setup.ranks; from++) {
            memcpy(net->nodes[to].gathered + (size_t)from * net->nodes[to].gather_bytes, net->nodes[from].own,
                   net->nodes[to].gather_bytes);
        }
    }
}

static inline void inputs_of(const setup_t *setup, int rank, node_t *node, uint64_t step)
{
    for (int t = 0; t < TENSORS; t++) {
        fill(setup->dtype, counts[t], 1000 * step + (uint64_t)(100 * rank + t), node->in[t]);
        memset(node->out[t], 0x55, bytes_of(setup->dtype, counts[t]));
    }
}

static inline void inputs(net_t *net, uint64_t step)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        inputs_of(&net->setup, rank, &net->nodes[rank], step);
    }
}

static inline void encode(net_t *net, uint64_t step)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        node_t *node = &net->nodes[rank];

        memset(node->sent, 0xee, node->sent_bytes);
        memset(node->own, 0xee, node->gather_bytes);
        SUCCEEDS(tacit_bundle_encode(node->bundle, step, (const void *const *)node->in,
                                     net->setup.kind == TACIT_BUNDLE_ALLGATHER ? node->own : node->sent));
    }
    settle(net);
    if (net->setup.kind == TACIT_BUNDLE_ALLGATHER) {
        all_gather(net);
    } else {
        all_to_all(net);
    }
}

static inline void reduce(net_t *net)
{
    for (int rank = 0; rank < net->setup.ranks; rank++) {
        SUCCEEDS(tacit_bundle_reduce(net->nodes[rank].bundle, net->nodes[rank].received, net->nodes[rank].own));
    }
    settle(net);
    all_gather(net);
}

/* What finish() or, on a GPU, poll() returns: the same on all ranks. */
static inline tacit_status_t finish(net_t *net)
{
    tacit_status_t all = TACIT_OK;

    for (int rank = 0; rank < net->setup.ranks; rank++) {
        node_t        *node = &net->nodes[rank];
        const void    *messages = net->setup.kind == TACIT_BUNDLE_REDUCE_SCATTER ? node->received : node->gathered;
        tacit_status_t status = tacit_bundle_finish(node->bundle, messages, node->out);

        if (net->device == TACIT_CUDA) {
            ck_assert_int_eq(status, TACIT_OK);
            status = tacit_bundle_poll(node->bundle, 0);
        }
        ck_assert(rank == 0 || status == all);
        all = status;
    }
    settle(net);
    return all;
}

/* ---- Comparison ---- */

static inline void same(const void *one, const void *other, size_t bytes, const setup_t *setup, const char *what, int rank,
                        int tensor)
{
    const uint8_t *a = one, *b = other;

    for (size_t i = 0; i < bytes; i++) {
        ck_assert_msg(a[i] == b[i],
                      "'%s' of dtype %d, %d ranks: %s of rank %d, tensor %d: byte %zu of %zu is %02x on the CPU, %02x on "
                      "the GPU",
                      setup->spec, (int)setup->dtype, setup->ranks, what, rank, tensor, i, bytes, a[i], b[i]);
    }
}

/* Whether there may be no NaN in what is compared, or it has the bits of the other device's. */
static inline bool is_exact(const setup_t *setup)
{
    return !OTHER_NAN || setup->nonfinite != TACIT_NONFINITE_PASS;
}

static inline void same_memory_of(const setup_t *setup, int rank, const node_t *cpu, const node_t *gpu)
{
    for (int t = 0; t < TENSORS; t++) {
        size_t   bytes, other;
        uint8_t *one, *two;

        SUCCEEDS(tacit_codec_save(cpu->codecs[t], NULL, 0, &bytes));
        SUCCEEDS(tacit_codec_save(gpu->codecs[t], NULL, 0, &other));
        ck_assert_uint_eq(bytes, other);
        one = malloc(bytes);
        two = malloc(bytes);
        SUCCEEDS(tacit_codec_save(cpu->codecs[t], one, bytes, &bytes));
        SUCCEEDS(tacit_codec_save(gpu->codecs[t], two, bytes, &bytes));
        same(one, two, bytes, setup, "the state", rank, t);
        free(one);
        free(two);
    }
}

static inline void same_memory(net_t *cpu, net_t *gpu)
{
    for (int rank = 0; rank < cpu->setup.ranks; rank++) {
        same_memory_of(&cpu->setup, rank, &cpu->nodes[rank], &gpu->nodes[rank]);
    }
}

static inline void nets_init(net_t *cpu, net_t *gpu, const setup_t *setup)
{
    net_init(cpu, setup, TACIT_CPU);
    net_init(gpu, setup, TACIT_CUDA);
}

/* What both remember is the same at the end. */
static inline void nets_end(net_t *cpu, net_t *gpu)
{
    if (is_exact(&cpu->setup)) {
        same_memory(cpu, gpu);
    }
    net_free(cpu);
    net_free(gpu);
}

static inline void same_numbers(const float *one, const float *other, size_t count, const setup_t *setup, int rank, int tensor)
{
    for (size_t i = 0; i < count; i++) {
        if (!isnan(one[i]) || !isnan(other[i])) {
            same(one + i, other + i, sizeof *one, setup, "what comes out", rank, tensor);
        }
    }
}

/* A step on both, of which every byte is compared; or, where NaN may be other ones, all numbers that come out. */
static inline void step_both(net_t *cpu, net_t *gpu, uint64_t step)
{
    const setup_t *setup = &cpu->setup;

    encode(cpu, step);
    encode(gpu, step);
    for (int rank = 0; rank < setup->ranks && is_exact(setup); rank++) {
        same(cpu->nodes[rank].sent, gpu->nodes[rank].sent, cpu->nodes[rank].sent_bytes, setup, "what is sent", rank, -1);
    }
    if (setup->kind == TACIT_BUNDLE_ALLREDUCE) {
        reduce(cpu);
        reduce(gpu);
    }
    for (int rank = 0; rank < setup->ranks && is_exact(setup); rank++) {
        same(cpu->nodes[rank].own, gpu->nodes[rank].own, cpu->nodes[rank].gather_bytes, setup, "the result", rank, -1);
    }
    SUCCEEDS(finish(cpu));
    SUCCEEDS(finish(gpu));
    for (int rank = 0; rank < setup->ranks; rank++) {
        for (int t = 0; t < TENSORS; t++) {
            const void *one = cpu->nodes[rank].out[t], *other = gpu->nodes[rank].out[t];

            if (is_exact(setup)) {
                same(one, other, bytes_of(setup->dtype, counts[t]), setup, "what comes out", rank, t);
            } else {
                ck_assert(setup->dtype == TACIT_FLOAT32);
                same_numbers(one, other, counts[t], setup, rank, t);
            }
        }
    }
}

static inline void run_both(const setup_t *setup)
{
    net_t cpu, gpu;

    nets_init(&cpu, &gpu, setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        inputs(&cpu, step);
        inputs(&gpu, step);
        step_both(&cpu, &gpu, step);
    }
    nets_end(&cpu, &gpu);
}

/* The same with some NaN and infinities, which pass, or count as zero. */
static inline void run_spoiled(const setup_t *setup)
{
    net_t nets[2]; /* CPU, GPU */

    nets_init(&nets[0], &nets[1], setup);
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int device = 0; device < 2; device++) {
            net_t *net = &nets[device];

            inputs(net, step);
            spoil(setup->dtype, net->nodes[0].in[0], 100 + step, NAN);
            spoil(setup->dtype, net->nodes[0].in[0], 200 + step, NAN);
            spoil(setup->dtype, net->nodes[1].in[0], 4000, INFINITY);
            spoil(setup->dtype, net->nodes[1].in[3], 700, -INFINITY);
            for (size_t i = step; i < counts[5]; i += 23) {
                spoil(setup->dtype, net->nodes[0].in[5], i, INFINITY);
            }
        }
        step_both(&nets[0], &nets[1], step);
    }
    nets_end(&nets[0], &nets[1]);
}

/* Finds the module. False: there is none, as has been said. */
static inline bool nets_begin(void)
{
#ifdef TACIT_EMULATED
    tacit__cuda_use(tacit_cuda_module(sizeof(tacit_cuda_module_t)));
#endif
    return !gpu_is_missing() && tacit__cuda_module(&module) == TACIT_OK;
}

#endif
