/* SPDX-License-Identifier: Apache-2.0 */
/* Training on GPUs, one a rank: parameters, gradients, the optimizer's state and what compression remembers stay in a GPU's
   memory. Ranks meet by NCCL, on the stream on which all else is done; a rank alone needs none. */
#include "generation.h"
#include "gpu_optimizer.h"
#include "trainer.h"

#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <tacit_mpi.h>
#include <tacit_nccl.h>
#include <unistd.h>

struct trainer_gpu {
    const gpu_module_t *module;
    gpu_t              *gpu;
    tensors_t           tensors;  /* in the GPU's memory, … */
    float              *state[2]; /* … as is the optimizer's state, of as many elements; NULL where it has none */
    gpu_optimizer_t     optimizer;
    tacit_codec_t     **codecs;
    float             **gradients; /* of each tensor */
    tacit_nccl_t       *nccl;      /* NULL: there is one rank, … */
    tacit_nccl_group_t *group;
    tacit_bundle_t     *bundle; /* … which keeps its message */
    void               *message;
    double              sent[2]; /* bytes of a step by this rank: all, and those of large tensors */
    uint64_t            first;   /* the step that this run begins with */
};

/* Dies of a fault of the GPU's. */
static void must(const trainer_t *trainer, const char *fault)
{
    if (fault) {
        trainer_die(trainer, "GPU: %s", fault);
    }
}

static void need(const trainer_t *trainer, const void *memory)
{
    trainer_agree(trainer, memory ? NULL : "not enough memory for a model on a GPU");
}

/* ---- Options ---- */

const char *trainer_gpu_check(const trainer_t *trainer, char *text)
{
    const trainer_options_t *options = &trainer->options;
    const gpu_module_t      *module;
    gpu_optimizer_t          optimizer;
    tacit_module_t           device;
    char                     reason[TRAINER_TEXT_BYTES / 2];
    const char              *complaint = NULL;
    int                      version;

    if (!trainer->task->use_gpu) {
        complaint = "this program trains on the CPU only";
    } else if (options->adapt) {
        complaint = "--adapt works on the CPU only; leave it out";
    } else {
        complaint = gpu_optimizer_read(trainer->optimizer, options->spec, &optimizer, reason, sizeof reason);
    }
    if (!complaint) {
        complaint = gpu_module_load(&module, reason, sizeof reason);
    }
    if (!complaint && (tacit_module(TACIT_DEVICES, TACIT_CUDA, &device) != TACIT_OK ||
                       (trainer->ranks > 1 && tacit_nccl_version(&version) != TACIT_OK))) {
        complaint = tacit_last_error();
    }
    if (complaint) {
        (void)snprintf(text, TRAINER_TEXT_BYTES, "--device cuda: %.900s", complaint);
    }
    return complaint ? text : NULL;
}

/* ---- Making ---- */

/* A rank of a machine has a GPU of it. */
static void open_gpu(const trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;
    MPI_Comm       machine;
    char           text[TRAINER_TEXT_BYTES];
    int            place;

    trainer_agree(trainer, gpu_module_load(&gpu->module, text, sizeof text));
    (void)MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, trainer->rank, MPI_INFO_NULL, &machine);
    (void)MPI_Comm_rank(machine, &place);
    (void)MPI_Comm_free(&machine);
    must(trainer, gpu->module->open(place, &gpu->gpu));
}

static float *take(const trainer_t *trainer, size_t elements)
{
    void *memory = NULL;

    must(trainer, trainer->gpu->module->alloc(trainer->gpu->gpu, elements * sizeof(float), &memory));
    return memory;
}

static void make_tensors(trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;
    const size_t   elements = trainer->tensors->elements;
    float         *values = take(trainer, elements), *gradients = take(trainer, elements);

    (void)tensors_elsewhere(trainer->tensors, values, gradients, &gpu->tensors);
    need(trainer, gpu->tensors.list);
    must(trainer, gpu->module->copy(gpu->gpu, values, trainer->tensors->values, elements * sizeof *values));
    must(trainer, trainer->task->use_gpu(trainer->own, trainer, gpu->module, gpu->gpu, &gpu->tensors));
}

/* What the optimizer remembers. With TACIT_DISABLE=1 codecs have no feedback, and nobody but it a momentum. */
static void make_state(const trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;
    const char    *disabled = getenv("TACIT_DISABLE");

    gpu->optimizer.owned = gpu->optimizer.owned && !(disabled && strcmp(disabled, "1") == 0);
    for (int i = 0; i < gpu_optimizer_arrays(&gpu->optimizer); i++) {
        gpu->state[i] = take(trainer, gpu->tensors.elements);
    }
}

static void make_codecs(trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;
    tacit_config_t config = TACIT_CONFIG_INIT;

    gpu->codecs = calloc(gpu->tensors.count, sizeof(tacit_codec_t *));
    gpu->gradients = calloc(gpu->tensors.count, sizeof *gpu->gradients);
    need(trainer, gpu->codecs);
    need(trainer, gpu->gradients);
    config.spec = trainer->options.spec;
    config.seed = trainer->options.seed;
    for (size_t i = 0; i < gpu->tensors.count; i++) {
        const tensor_t     *tensor = &gpu->tensors.list[i];
        tacit_slot_config_t slot = trainer_slot(tensor);

        slot.device = TACIT_CUDA;
        trainer_all(trainer, tacit_codec_create(tensor->name, &slot, &config, trainer->rank, trainer->ranks, &gpu->codecs[i]),
                    "tacit_codec_create");
        gpu->gradients[i] = tensor->gradients;
    }
}

static tacit_nccl_group_t *make_group(const trainer_t *trainer, tacit_codec_t *const *codecs, size_t count)
{
    tacit_nccl_group_t *group = NULL;

    trainer_all(trainer, tacit_nccl_group_create(trainer->gpu->nccl, codecs, count, trainer->gpu->optimizer.op, &group),
                "tacit_nccl_group_create");
    return group;
}

/* What large tensors by themselves would send: a group that never runs tells. */
static double sent_by_large(const trainer_t *trainer)
{
    const trainer_gpu_t *gpu = trainer->gpu;
    tacit_codec_t      **large = malloc(gpu->tensors.count * sizeof(tacit_codec_t *));
    tacit_nccl_group_t  *group;
    size_t               count = 0;
    double               bytes = 0.0;

    need(trainer, large);
    for (size_t i = 0; i < gpu->tensors.count; i++) {
        if (gpu->tensors.list[i].rows * gpu->tensors.list[i].cols > TRAINER_LARGE) {
            large[count++] = gpu->codecs[i];
        }
    }
    if (count > 0) {
        group = make_group(trainer, large, count);
        bytes = (double)tacit_nccl_group_wire_bytes(group);
        tacit_nccl_group_destroy(group);
    }
    free(large);
    return bytes;
}

/* With other ranks by NCCL; a rank alone has a bundle without exchanges. */
static void meet(trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;
    const size_t   count = gpu->tensors.count;

    if (trainer->ranks > 1) {
        trainer_all(trainer, tacit_nccl_create_mpi(MPI_COMM_WORLD, NULL, &gpu->nccl), "tacit_nccl_create_mpi");
        gpu->sent[1] = sent_by_large(trainer);
        gpu->group = make_group(trainer, gpu->codecs, count);
        gpu->sent[0] = (double)tacit_nccl_group_wire_bytes(gpu->group);
        return;
    }
    trainer_all(trainer, tacit_bundle_create(gpu->codecs, count, gpu->optimizer.op, &gpu->bundle), "tacit_bundle_create");
    trainer_all(trainer, tacit_bundle_set_stream(gpu->bundle, gpu->module->stream(gpu->gpu)), "tacit_bundle_set_stream");
    must(trainer, gpu->module->alloc(gpu->gpu, tacit_bundle_gather_bytes(gpu->bundle), &gpu->message));
}

static void make(trainer_t *trainer)
{
    char text[TRAINER_TEXT_BYTES];

    trainer->gpu = calloc(1, sizeof *trainer->gpu);
    need(trainer, trainer->gpu);
    trainer_agree(trainer,
                  gpu_optimizer_read(trainer->optimizer, trainer->options.spec, &trainer->gpu->optimizer, text, sizeof text));
    open_gpu(trainer);
    make_tensors(trainer);
    make_codecs(trainer);
    make_state(trainer);
    meet(trainer);
}

/* ---- A step ---- */

/* Of the gradients of all ranks, where this one's are. */
static void reduce(const trainer_t *trainer)
{
    const trainer_gpu_t *gpu = trainer->gpu;
    const void *const   *in = (const void *const *)gpu->gradients;
    void *const         *out = (void *const *)gpu->gradients;

    if (gpu->nccl) {
        trainer_must(trainer, tacit_nccl_group_run(gpu->group, trainer->step, in, out, gpu->module->stream(gpu->gpu)),
                     "tacit_nccl_group_run");
        return;
    }
    trainer_must(trainer, tacit_bundle_encode(gpu->bundle, trainer->step, in, gpu->message), "tacit_bundle_encode");
    trainer_must(trainer, tacit_bundle_reduce(gpu->bundle, gpu->message, gpu->message), "tacit_bundle_reduce");
    trainer_must(trainer, tacit_bundle_finish(gpu->bundle, gpu->message, out), "tacit_bundle_finish");
}

/* Within the limit of time, which nothing else has that waits for the stream: so NCCL is waited for here. */
static void settle(const trainer_t *trainer)
{
    const trainer_gpu_t *gpu = trainer->gpu;

    if (gpu->nccl) {
        trainer_must(trainer, tacit_nccl_wait(gpu->nccl, gpu->module->stream(gpu->gpu)), "tacit_nccl_wait");
        trainer_must(trainer, tacit_nccl_group_poll(gpu->group, 0), "tacit_nccl_group_poll");
    } else {
        trainer_must(trainer, tacit_bundle_poll(gpu->bundle, 0), "tacit_bundle_poll");
    }
}

static void step(trainer_t *trainer, double rate)
{
    const trainer_gpu_t *gpu = trainer->gpu;

    reduce(trainer);
    must(trainer, gpu_optimizer_step(&gpu->optimizer, gpu->module, gpu->gpu, trainer->step, rate, gpu->tensors.elements,
                                     gpu->tensors.gradients, gpu->state, gpu->tensors.values));
    settle(trainer);
}

static bool together(const trainer_t *trainer)
{
    (void)trainer;
    return true;
}

static void sent(const trainer_t *trainer, double bytes_out[2])
{
    const double steps = (double)(trainer->step - trainer->gpu->first);

    bytes_out[0] = steps * trainer->gpu->sent[0];
    bytes_out[1] = steps * trainer->gpu->sent[1];
}

static void fetch(const trainer_t *trainer)
{
    const trainer_gpu_t *gpu = trainer->gpu;
    const size_t         bytes = trainer->tensors->elements * sizeof(float);

    must(trainer, gpu->module->copy(gpu->gpu, trainer->tensors->values, gpu->tensors.values, bytes));
}

/* ---- Files: what the optimizer has, what each codec has behind its length, and a hash of it all ---- */

typedef struct parts {
    FILE    *file;
    bool     right; /* so far */
    uint64_t hash;
} parts_t;

static void put(parts_t *to, const void *data, size_t bytes)
{
    to->right = to->right && fwrite(data, 1, bytes, to->file) == bytes;
    to->hash = program_hash(to->hash, data, bytes);
}

static void get(parts_t *from, void *data, size_t bytes)
{
    from->right = from->right && fread(data, 1, bytes, from->file) == bytes;
    from->hash = from->right ? program_hash(from->hash, data, bytes) : 0;
}

static void *room(const trainer_t *trainer, size_t bytes)
{
    void *memory = malloc(bytes + (bytes == 0));

    if (!memory) {
        trainer_die(trainer, "no memory for %zu bytes of a checkpoint", bytes);
    }
    return memory;
}

static void put_codec(const trainer_t *trainer, const tacit_codec_t *codec, parts_t *to)
{
    size_t   bytes;
    uint64_t length;
    void    *state;

    trainer_must(trainer, tacit_codec_save(codec, NULL, 0, &bytes), "tacit_codec_save");
    state = room(trainer, bytes);
    trainer_must(trainer, tacit_codec_save(codec, state, bytes, &bytes), "tacit_codec_save");
    length = bytes;
    put(to, &length, sizeof length);
    put(to, state, bytes);
    free(state);
}

/* No more than the file has. */
static void get_codec(const trainer_t *trainer, tacit_codec_t *codec, size_t limit, parts_t *from)
{
    uint64_t length = 0;
    void    *state;

    get(from, &length, sizeof length);
    from->right = from->right && length <= limit;
    if (from->right) {
        state = room(trainer, length);
        get(from, state, length);
        from->right = from->right && tacit_codec_load(codec, state, length) == TACIT_OK;
        free(state);
    }
}

static void save(trainer_t *trainer, uint64_t number)
{
    const trainer_gpu_t *gpu = trainer->gpu;
    const size_t         bytes = trainer->tensors->elements * sizeof(float);
    float               *numbers = room(trainer, bytes);
    char                 path[GENERATION_PATH_BYTES];
    parts_t              to = {.right = true, .hash = PROGRAM_HASH_START};

    (void)trainer_path(trainer, number, true, "gpu", path); /* no longer than trainer-R's, which was not too long */
    to.file = fopen(path, "wb");
    if (!to.file) {
        trainer_die(trainer, "cannot write %.400s: %s", path, strerror(errno));
    }
    for (size_t i = 0; i < 2 && gpu->state[i]; i++) {
        must(trainer, gpu->module->copy(gpu->gpu, numbers, gpu->state[i], bytes));
        put(&to, numbers, bytes);
    }
    for (size_t i = 0; i < gpu->tensors.count; i++) {
        put_codec(trainer, gpu->codecs[i], &to);
    }
    to.right = to.right && fwrite(&to.hash, sizeof to.hash, 1, to.file) == 1 && fflush(to.file) == 0;
    to.right = to.right && fsync(fileno(to.file)) == 0;
    if (fclose(to.file) != 0 || !to.right) {
        trainer_die(trainer, "cannot write %.400s: %s", path, strerror(errno));
    }
    free(numbers);
}

/* Returns whether the file is whole. */
static bool read_parts(const trainer_t *trainer, FILE *file)
{
    const trainer_gpu_t *gpu = trainer->gpu;
    const size_t         bytes = trainer->tensors->elements * sizeof(float);
    float               *numbers = room(trainer, bytes);
    parts_t              from = {.file = file, .right = true, .hash = PROGRAM_HASH_START};
    struct stat          status = {0};
    uint64_t             hash = 0;

    (void)fstat(fileno(file), &status);
    for (size_t i = 0; i < 2 && gpu->state[i]; i++) {
        get(&from, numbers, bytes);
        must(trainer, gpu->module->copy(gpu->gpu, gpu->state[i], numbers, bytes));
    }
    for (size_t i = 0; i < gpu->tensors.count; i++) {
        get_codec(trainer, gpu->codecs[i], (size_t)status.st_size, &from);
    }
    must(trainer, gpu->module->copy(gpu->gpu, gpu->tensors.values, trainer->tensors->values, bytes));
    free(numbers);
    return from.right && fread(&hash, sizeof hash, 1, file) == 1 && hash == from.hash && fgetc(file) == EOF;
}

static void load(trainer_t *trainer)
{
    char  path[GENERATION_PATH_BYTES], text[TRAINER_TEXT_BYTES];
    FILE *file;
    bool  whole = false;

    (void)trainer_path(trainer, trainer->generation, false, "gpu", path); /* not longer than when it was written */
    file = fopen(path, "rb");
    (void)snprintf(text, sizeof text, "cannot resume from %.400s: %s", path, file ? "the file is damaged" : strerror(errno));
    if (file) {
        whole = read_parts(trainer, file);
        (void)fclose(file);
    }
    trainer_agree(trainer, whole ? NULL : text);
    trainer->gpu->first = trainer->step;
}

/* ---- The end ---- */

static void release(trainer_t *trainer)
{
    trainer_gpu_t *gpu = trainer->gpu;

    tacit_nccl_destroy(gpu->nccl); /* and the group */
    tacit_bundle_destroy(gpu->bundle);
    for (size_t i = 0; i < gpu->tensors.count; i++) {
        tacit_codec_destroy(gpu->codecs[i]);
    }
    gpu->module->close(gpu->gpu);
    free(gpu->tensors.list);
    free(gpu->codecs);
    free(gpu->gradients);
    free(gpu);
}

const trainer_device_t trainer_on_gpu = {
    .name = "cuda",
    .make = make,
    .step = step,
    .together = together,
    .sent = sent,
    .fetch = fetch,
    .save = save,
    .load = load,
    .release = release,
};
