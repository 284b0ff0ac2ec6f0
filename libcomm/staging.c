/* SPDX-License-Identifier: Apache-2.0 */
/* Makes and ends what lies between a GPU and the wire. */
#include "staging.h"

#include "frame_layout.h"

static const size_t most_bytes = (size_t)1 << 28; /* of a piece: messages have less than 2^31 */

size_t tacit__piece_bytes(size_t chunk_bytes)
{
    return tacit__min(TACIT_PIECE_CHUNKS * chunk_bytes, most_bytes);
}

tacit_status_t tacit__staging_check(const tacit_staging_t *staging, int error, const char *what)
{
    return error == 0 ? TACIT_OK
                      : tacit__fail(TACIT_ERR_DEVICE, "rank %d: %s: %s (CUDA error %d)", staging->rank, what,
                                    staging->module->error_text(error), error);
}

static tacit_status_t make(tacit_staging_t *staging)
{
    const tacit_cuda_module_t *module = staging->module;
    const size_t               cell_bytes = tacit__round_up(TACIT_FRAME_HEADER_BYTES + staging->piece_bytes, 64);
    static const char          what[] = "memory of the host that a GPU copies to and from";
    tacit_status_t             status;

    TRY(tacit__staging_check(staging, module->present(&staging->gpu), "the present GPU"));
    TRY(tacit__staging_check(staging, module->create_stream(&staging->stream), "a stream"));
    TRY(tacit__staging_check(staging, module->create_stream(&staging->arrivals), "a stream"));
    TRY(tacit__staging_check(staging, module->create_event(&staging->event), "an event"));
    TRY(tacit__staging_check(staging, module->alloc_host((void **)&staging->told, sizeof *staging->told), what));
    TRY(tacit__staging_check(staging, module->alloc_host((void **)&staging->memory, 2 * TACIT_CELLS * cell_bytes), what));
    for (size_t i = 0; i < TACIT_CELLS; i++) {
        staging->out[i].message = staging->memory + 2 * i * cell_bytes;
        staging->in[i].message = staging->out[i].message + cell_bytes;
        TRY(tacit__staging_check(staging, module->create_event(&staging->out[i].copied), "an event"));
        TRY(tacit__staging_check(staging, module->create_event(&staging->in[i].copied), "an event"));
    }
out:
    return status;
}

tacit_status_t tacit__staging_create(int rank, size_t chunk_bytes, tacit_staging_t **staging_out)
{
    tacit_staging_t *staging = tacit__alloc(1, sizeof *staging);
    tacit_status_t   status;

    if (staging == NULL) {
        return tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to stage messages of a GPU", rank);
    }
    staging->rank = rank;
    staging->piece_bytes = tacit__piece_bytes(chunk_bytes);
    TRY(tacit__cuda_module(&staging->module));
    TRY(make(staging));
    *staging_out = staging;
    staging = NULL; /* now the caller's */
out:
    tacit__staging_destroy(staging, false);
    return status;
}

void tacit__staging_destroy(tacit_staging_t *staging, bool leaked)
{
    if (staging == NULL) {
        return;
    }
    if (staging->module != NULL) {
        const tacit_cuda_module_t *module = staging->module;

        (void)module->synchronize();
        for (size_t i = 0; i < TACIT_CELLS; i++) {
            (void)module->destroy_event(staging->out[i].copied);
            (void)module->destroy_event(staging->in[i].copied);
        }
        (void)module->destroy_event(staging->event);
        (void)module->destroy_stream(staging->stream);
        (void)module->destroy_stream(staging->arrivals);
        (void)module->free_host(staging->told);
        (void)(leaked ? 0 : module->free_host(staging->memory));
    }
    tacit__free(staging);
}

tacit_status_t tacit__staging_is_here(const tacit_staging_t *staging)
{
    int            gpu = -1;
    tacit_status_t status;

    TRY(tacit__staging_check(staging, staging->module->present(&gpu), "the present GPU"));
    if (gpu != staging->gpu) {
        status = tacit__fail(TACIT_ERR_ARGUMENT,
                             "rank %d: GPU %d is present, but slots of this communicator are on GPU %d: call cudaSetDevice(), or "
                             "make a communicator for each",
                             staging->rank, gpu, staging->gpu);
    }
out:
    return status;
}

tacit_status_t tacit__staging_note(const tacit_staging_t *staging, void *event, void *stream)
{
    const tacit_cuda_module_t *module = staging->module;
    bool                       capturing = false;
    tacit_status_t             status;

    TRY(tacit__staging_check(staging, module->capturing(stream, &capturing), "the stream of 'in'"));
    if (capturing) {
        status = tacit__fail(TACIT_ERR_STATE,
                             "rank %d: the communicator's stream is being captured: this cannot be part of a CUDA graph",
                             staging->rank);
        goto out;
    }
    TRY(tacit__staging_check(staging, module->follow(stream, event), "the stream of 'in'")); /* for one that has not begun */
    TRY(tacit__staging_check(staging, module->record(event, stream), "the stream of 'in'"));
out:
    return status;
}

void tacit__staging_enter(const tacit_staging_t *staging)
{
    (void)staging->module->set_present(staging->gpu); /* an error comes back from the next call */
}
