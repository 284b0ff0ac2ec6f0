/* SPDX-License-Identifier: Apache-2.0 */
/* Adam, and AdamW where there is weight decay: the gradients are reduced, then come the moments, the same on all ranks. */
#include "moments.h"

enum { M, V };

static tacit_status_t init(tacit_optim_t *optim)
{
    tacit_status_t status = TACIT_OK;

    for (size_t i = 0; i < optim->tensor_count; i++) {
        TRY(tacit__adam_check_slot(optim, optim->tensors[i].slot));
        TRY(tacit__optim_room(optim, &optim->tensors[i], 1u << M | 1u << V));
    }
out:
    return status;
}

static tacit_status_t prepare(tacit_optim_t *optim, const tacit_step_t *step)
{
    tacit__optim_clip_before(optim, step, TACIT_CLIP_MEAN);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit__optim_send_gradient(optim, step, i, TACIT_AVERAGE);
    }
    return TACIT_OK;
}

static void apply(tacit_optim_t *optim, const tacit_step_t *step)
{
    const tacit_adam_t adam = tacit__adam(optim->config, step->rate, optim->steps + 1, optim->steps + 1);

    tacit__optim_clip_after(optim);
    for (size_t i = 0; i < optim->tensor_count; i++) {
        tacit_tensor_t *tensor = &optim->tensors[i];

        tacit__adam_dense(adam, (float)optim->factors[i], tensor->count, tensor->work, tensor->array[M], tensor->array[V],
                          step->values[i]);
    }
}

static const tacit_param_t params[] = {TACIT_PARAMS_MOMENTS, {.key = NULL}};

const tacit_optimizer_t tacit__optimizer_adam = {
    .name = "adam",
    .summary = "Adam with decoupled weight decay (AdamW): gradients are reduced, then come the moments",
    .config_bytes = sizeof(tacit_moments_t),
    .params = params,
    .arrays = {"m", "v", NULL},
    .init = init,
    .prepare = prepare,
    .apply = apply,
};
