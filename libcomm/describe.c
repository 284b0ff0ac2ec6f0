/* SPDX-License-Identifier: Apache-2.0 */
/* What specs may name, and what there is to compute on, for tools and manuals. */
#include "cuda_module.h"
#include "environment.h"
#include "isa.h"
#include "optimizer.h"
#include "schedule.h"
#include "spec.h"

static const tacit_param_t no_params[] = {
    {NULL, TACIT_PARAM_INT, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

/* Of a device that cannot be used the text says why. */
static tacit_status_t describe_device(tacit_device_t device, tacit_module_t *module)
{
    *module = (tacit_module_t){device == TACIT_CPU ? "cpu" : "cuda", tacit_isa(), no_params};
    return device == TACIT_CPU ? TACIT_OK : tacit__cuda_summary(&module->summary);
}

tacit_status_t tacit_module(tacit_kind_t kind, size_t index, tacit_module_t *module_out)
{
    tacit_module_t module = {NULL, NULL, NULL};
    tacit_status_t status = TACIT_OK;

    if (kind == TACIT_COMPRESSORS && tacit__compressor_at(index) != NULL) {
        const tacit_compressor_t *compressor = tacit__compressor_at(index);

        module = (tacit_module_t){compressor->name, compressor->summary, compressor->params};
    } else if (kind == TACIT_COMPRESSORS && index > 0 && tacit__compressor_at(index - 1) != NULL) {
        module = (tacit_module_t){"auto", "what is measured to be the fastest within an error; without one, what loses nothing",
                                  tacit__automatic_params};
    } else if (kind == TACIT_FEEDBACKS && tacit__feedback_at(index) != NULL) {
        const tacit_feedback_t *feedback = tacit__feedback_at(index);

        module = (tacit_module_t){feedback->name, feedback->summary, feedback->params};
    } else if (kind == TACIT_SCHEDULES && tacit__schedule_at(index) != NULL) {
        module = (tacit_module_t){tacit__schedule_at(index)->name, tacit__schedule_at(index)->summary, no_params};
    } else if (kind == TACIT_OPTIMIZERS && tacit__optimizer_at(index) != NULL) {
        const tacit_optimizer_t *optimizer = tacit__optimizer_at(index);

        module = (tacit_module_t){optimizer->name, optimizer->summary, optimizer->params};
    } else if (kind == TACIT_ENVIRONMENT && index == 0) {
        module = (tacit_module_t){"environment", "variables, read when a communicator or a codec is made",
                                  tacit__environment_params()};
    } else if (kind == TACIT_DEVICES && index <= TACIT_CUDA && module_out != NULL) {
        status = describe_device((tacit_device_t)index, &module);
    }
    if (module.name == NULL || module_out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "kind %d has no module %zu", (int)kind, index);
    }
    if (status == TACIT_OK) {
        *module_out = module;
    }
    return status;
}

const char *tacit_isa(void)
{
    return tacit__isa_name(tacit__isa());
}
