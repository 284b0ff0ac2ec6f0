/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: tensors that are reduced together over NCCL. Those that are compressed are a bundle, whose two exchanges are made here;
   others are NCCL's own to reduce. All of it is put on the caller's stream, and nothing waits for it but poll(). */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "bundle.h"
#include "nccl_comm.h"

struct tacit_nccl_group {
    tacit_nccl_t       *nccl;
    tacit_nccl_group_t *next;
    tacit_bundle_kind_t kind;
    tacit_op_t          op;
    size_t              count, framed; /* tensors; and how many of them are the bundle's */
    tacit_codec_t     **codecs;        /* in the order in which they are given, … */
    int                *owners;        /* … as these are; zero where there are none */
    size_t             *order;         /* the bundle's first, then NCCL's */
    tacit_bundle_t     *bundle;        /* NULL: all are NCCL's */
    const void        **in;            /* of the bundle's, in its order */
    void              **out;
    uint8_t            *memory; /* of the GPU, for messages: … */
    uint8_t            *sent, *received, *own, *gathered;
    size_t              gather_bytes;
    char                title[160]; /* for people */
};

/* ---- Creation ---- */

/* What would be sent is the tensor as it is. */
static bool is_native(const tacit_codec_t *codec)
{
    static const char *const as_it_is[] = {"none", "fp16", "bf16"};

    return codec->feedback == NULL && strcmp(codec->compressor->name, as_it_is[codec->tensor.dtype]) == 0;
}

static tacit_status_t check_codecs(const tacit_nccl_group_t *group, tacit_codec_t *const *codecs, const int *owners)
{
    const tacit_nccl_t *nccl = group->nccl;

    if (codecs == NULL || group->count == 0 || (group->op != TACIT_SUM && group->op != TACIT_AVERAGE) ||
        (group->kind != TACIT_BUNDLE_ALLREDUCE && owners == NULL)) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "group: codecs, at least one of them, %san operator and group_out must be given",
                           group->kind != TACIT_BUNDLE_ALLREDUCE ? "owners, " : "");
    }
    for (size_t i = 0; i < group->count; i++) {
        if (codecs[i] == NULL || codecs[i]->rank != nccl->rank || codecs[i]->ranks != nccl->ranks) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "group: codec %zu is %s", i,
                               codecs[i] == NULL ? "NULL" : "of another rank, or of other ranks, than the communicator");
        }
        if (codecs[i]->module == NULL) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "group: codec '%s' is on the CPU; NCCL takes those of TACIT_CUDA",
                               codecs[i]->name);
        }
        if (owners != NULL && (owners[i] < 0 || owners[i] >= nccl->ranks)) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "group: the owner of codec '%s', rank %d, is none of the %d ranks",
                               codecs[i]->name, owners[i], nccl->ranks);
        }
    }
    return TACIT_OK;
}

static tacit_status_t make_bundle(tacit_nccl_group_t *group)
{
    tacit_codec_t **codecs = tacit__alloc(group->framed, sizeof(tacit_codec_t *));
    int            *owners = tacit__alloc(group->framed, sizeof *owners);
    tacit_status_t  status;

    if (codecs == NULL || owners == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "group: no memory for %zu tensors", group->count);
        goto out;
    }
    for (size_t i = 0; i < group->framed; i++) {
        codecs[i] = group->codecs[group->order[i]];
        owners[i] = group->owners[group->order[i]];
    }
    switch (group->kind) {
    case TACIT_BUNDLE_REDUCE_SCATTER:
        status = tacit_bundle_create_reduce_scatter(codecs, owners, group->framed, group->op, &group->bundle);
        break;
    case TACIT_BUNDLE_ALLGATHER:
        status = tacit_bundle_create_allgather(codecs, owners, group->framed, &group->bundle);
        break;
    default:
        status = tacit_bundle_create(codecs, group->framed, group->op, &group->bundle);
    }
out:
    tacit__free(codecs);
    tacit__free(owners);
    return status;
}

/* The messages, each at a place that the GPU likes. */
static tacit_status_t make_room(tacit_nccl_group_t *group)
{
    const tacit_nccl_t *nccl = group->nccl;
    const size_t        place = 256;
    size_t              sent = 0, received = 0, own, gathered;
    int                 error;

    for (int other = 0; other < nccl->ranks; other++) {
        sent += tacit_bundle_scatter_bytes(group->bundle, nccl->rank, other);
        received += tacit_bundle_scatter_bytes(group->bundle, other, nccl->rank);
    }
    group->gather_bytes = tacit_bundle_gather_bytes(group->bundle);
    sent = tacit__round_up(sent, place);
    received = tacit__round_up(received, place);
    own = tacit__round_up(group->gather_bytes, place);
    gathered = group->gather_bytes * (size_t)nccl->ranks;
    error = nccl->module->alloc((void **)&group->memory, sent + received + own + gathered);
    if (error != 0) {
        return tacit__fail(TACIT_ERR_DEVICE, "group: %zu bytes of the GPU for messages: %s (CUDA error %d)",
                           sent + received + own + gathered, nccl->module->error_text(error), error);
    }
    group->sent = group->memory;
    group->received = group->sent + sent;
    group->own = group->received + received;
    group->gathered = group->own + own;
    return TACIT_OK;
}

static tacit_status_t make(tacit_nccl_group_t *group, tacit_codec_t *const *codecs, const int *owners)
{
    const size_t   count = group->count;
    size_t         first = 0, last;
    tacit_status_t status;

    TRY(check_codecs(group, codecs, owners));
    group->codecs = tacit__alloc(count, sizeof(tacit_codec_t *));
    group->owners = tacit__alloc(count, sizeof *group->owners);
    group->order = tacit__alloc(count, sizeof *group->order);
    group->in = tacit__alloc(count, sizeof *group->in);
    group->out = tacit__alloc(count, sizeof *group->out);
    if (group->codecs == NULL || group->owners == NULL || group->order == NULL || group->in == NULL || group->out == NULL) {
        status = tacit__fail(TACIT_ERR_MEMORY, "group: no memory for %zu tensors", count);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        group->codecs[i] = codecs[i];
        group->owners[i] = owners != NULL ? owners[i] : 0;
        group->framed += !is_native(codecs[i]);
    }
    last = group->framed;
    for (size_t i = 0; i < count; i++) {
        group->order[is_native(codecs[i]) ? last++ : first++] = i;
    }
    if (group->framed != 0) {
        TRY(make_bundle(group));
        TRY(make_room(group));
    }
out:
    return status;
}

/* All that ranks must have in common of a tensor. */
static void describe_tensor(const tacit_nccl_group_t *group, size_t i, char *text, size_t capacity)
{
    const tacit_codec_t *codec = group->codecs[i];
    size_t               used;

    tacit__codec_describe(codec, text, capacity);
    used = strlen(text);
    snprintf(text + used, capacity - used, ", seed %" PRIu64 ", nonfinite %d, strict %d, owner %d", codec->key.seed,
             (int)codec->nonfinite, codec->strict, group->owners[i]);
}

static uint64_t hash_of(const tacit_nccl_group_t *group)
{
    uint64_t hash = TACIT_HASH_START;
    char     text[TACIT_NCCL_TEXT];

    for (size_t i = 0; i < group->count; i++) {
        describe_tensor(group, i, text, sizeof text);
        hash = tacit__hash(hash, text, strlen(text));
    }
    return hash;
}

/* First whether all is the same, by its hash; where it is not, tensor by tensor, to tell which one. */
static tacit_status_t agree(const tacit_nccl_group_t *group, tacit_status_t mine)
{
    static const char *const kinds[] = {"all-reduce", "reduce-scatter", "all-gather"};
    static const char        what[] = "tacit_nccl_group_create";
    char                     text[TACIT_NCCL_TEXT];
    tacit_status_t           status;
    bool                     same = true;

    snprintf(text, sizeof text, "%s of %zu tensors, %s", kinds[group->kind], group->count,
             group->op == TACIT_AVERAGE ? "average" : "sum");
    TRY(tacit__nccl_agree(group->nccl, what, text, mine == TACIT_OK ? hash_of(group) : 0, mine, &same));
    for (size_t i = 0; !same && i < group->count; i++) {
        bool no_matter;

        describe_tensor(group, i, text, sizeof text);
        TRY(tacit__nccl_agree(group->nccl, what, text, 0, TACIT_OK, &no_matter));
    }
out:
    return status;
}

static tacit_status_t create(tacit_bundle_kind_t kind, tacit_nccl_t *nccl, tacit_codec_t *const *codecs, const int *owners,
                             size_t count, tacit_op_t op, tacit_nccl_group_t **group_out)
{
    const tacit_nccl_group_t draft = {.nccl = nccl, .kind = kind, .count = count, .op = op};
    tacit_nccl_group_t      *group = NULL;
    tacit_status_t           status, mine;

    status = tacit__nccl_enter(nccl);
    if (status != TACIT_OK) {
        return status;
    }
    group = tacit__alloc(1, sizeof *group);
    if (group != NULL) {
        *group = draft;
        mine = make(group, group_out != NULL ? codecs : NULL, owners);
    } else {
        mine = tacit__fail(TACIT_ERR_MEMORY, "group: no memory for %zu tensors", count);
    }
    TRY(agree(group != NULL ? group : &draft, mine));
    TRY(agree(group, TACIT_OK)); /* again: one that is late hears what another one told before it gave up */
    snprintf(group->title, sizeof group->title, "a step of %zu tensors, of which the first is '%.80s',", count, codecs[0]->name);
    group->next = nccl->groups;
    nccl->groups = group;
    *group_out = group;
    group = NULL; /* now the communicator's */
out:
    tacit__nccl_group_free(group);
    tacit__nccl_leave(nccl);
    return status;
}

tacit_status_t tacit_nccl_group_create(tacit_nccl_t *nccl, tacit_codec_t *const *codecs, size_t count, tacit_op_t op,
                                       tacit_nccl_group_t **group_out)
{
    return create(TACIT_BUNDLE_ALLREDUCE, nccl, codecs, NULL, count, op, group_out);
}

tacit_status_t tacit_nccl_group_create_reduce_scatter(tacit_nccl_t *nccl, tacit_codec_t *const *codecs, const int *owners,
                                                      size_t count, tacit_op_t op, tacit_nccl_group_t **group_out)
{
    return create(TACIT_BUNDLE_REDUCE_SCATTER, nccl, codecs, owners, count, op, group_out);
}

tacit_status_t tacit_nccl_group_create_allgather(tacit_nccl_t *nccl, tacit_codec_t *const *codecs, const int *owners,
                                                 size_t count, tacit_nccl_group_t **group_out)
{
    return create(TACIT_BUNDLE_ALLGATHER, nccl, codecs, owners, count, TACIT_SUM, group_out);
}

/* Of one tensor. A ring has each rank send all parts but one, in each of an all-reduce's two rounds; of a reduction to a rank, or
   from one, a chain has each rank but the last send all of it: (N-1)/N on average. */
static size_t native_bytes(const tacit_nccl_group_t *group, size_t i)
{
    const size_t ranks = (size_t)group->nccl->ranks, rounds = group->kind == TACIT_BUNDLE_ALLREDUCE ? 2 : 1;
    const size_t width = group->codecs[i]->tensor.dtype == TACIT_FLOAT32 ? 4 : 2;

    return rounds * (ranks - 1) * group->codecs[i]->tensor.count * width / ranks;
}

size_t tacit_nccl_group_wire_bytes(const tacit_nccl_group_t *group)
{
    size_t bytes = 0;

    if (group == NULL) {
        return 0;
    }
    for (int other = 0; group->bundle != NULL && other < group->nccl->ranks; other++) {
        bytes += tacit_bundle_scatter_bytes(group->bundle, group->nccl->rank, other);
        bytes += other != group->nccl->rank ? group->gather_bytes : 0;
    }
    for (size_t n = group->framed; n < group->count; n++) {
        bytes += native_bytes(group, group->order[n]);
    }
    return bytes;
}

void tacit__nccl_group_free(tacit_nccl_group_t *group)
{
    if (group == NULL) {
        return;
    }
    tacit_bundle_destroy(group->bundle);
    (void)group->nccl->module->free(group->memory);
    tacit__free(group->codecs);
    tacit__free(group->owners);
    tacit__free(group->order);
    tacit__free(group->in);
    tacit__free(group->out);
    tacit__free(group);
}

/* ---- A step ---- */

/* The first error of several calls, all of which are made: a group of NCCL's that is begun has to be ended. */
static void note(int *result, int next)
{
    *result = *result == TACIT_NCCL_SUCCESS || *result == TACIT_NCCL_IN_PROGRESS ? next : *result;
}

static int scatter(const tacit_nccl_group_t *group, void *stream)
{
    const tacit_nccl_t         *nccl = group->nccl;
    const tacit_nccl_library_t *library = nccl->library;
    const uint8_t              *sent = group->sent;
    uint8_t                    *received = group->received;
    int                         result = library->group_start();

    for (int other = 0; other < nccl->ranks; other++) {
        const size_t to = tacit_bundle_scatter_bytes(group->bundle, nccl->rank, other);
        const size_t from = tacit_bundle_scatter_bytes(group->bundle, other, nccl->rank);

        if (to != 0) {
            note(&result, library->send(sent, to, TACIT_NCCL_UINT8, other, nccl->comm, stream));
        }
        if (from != 0) {
            note(&result, library->receive(received, from, TACIT_NCCL_UINT8, other, nccl->comm, stream));
        }
        sent += to;
        received += from;
    }
    note(&result, library->group_end());
    return result;
}

static int reduce_native(const tacit_nccl_group_t *group, size_t i, const void *in, void *out, void *stream)
{
    static const int dtypes[] = {TACIT_NCCL_FLOAT32, TACIT_NCCL_FLOAT16, TACIT_NCCL_BFLOAT16};
    static const int ops[] = {TACIT_NCCL_SUM, TACIT_NCCL_AVG};

    const tacit_nccl_t         *nccl = group->nccl;
    const tacit_nccl_library_t *library = nccl->library;
    const size_t                count = group->codecs[i]->tensor.count;
    const int                   dtype = dtypes[group->codecs[i]->tensor.dtype], op = ops[group->op];

    switch (group->kind) {
    case TACIT_BUNDLE_REDUCE_SCATTER:
        return library->reduce(in, out, count, dtype, op, group->owners[i], nccl->comm, stream);
    case TACIT_BUNDLE_ALLGATHER:
        return library->broadcast(group->owners[i] == nccl->rank ? in : out, out, count, dtype, group->owners[i], nccl->comm,
                                  stream);
    default:
        return library->all_reduce(in, out, count, dtype, op, nccl->comm, stream);
    }
}

static int reduce_natives(const tacit_nccl_group_t *group, const void *const *in, void *const *out, void *stream)
{
    int result = group->nccl->library->group_start();

    for (size_t n = group->framed; n < group->count; n++) {
        const size_t i = group->order[n];

        if (group->codecs[i]->tensor.count != 0) {
            note(&result, reduce_native(group, i, in[i], out[i], stream));
        }
    }
    note(&result, group->nccl->library->group_end());
    return result;
}

/* Of NCCL's tensors; the bundle looks at its own. */
static tacit_status_t check_tensors(const tacit_nccl_group_t *group, const void *const *in, void *const *out)
{
    const int rank = group->nccl->rank;

    if (in == NULL || out == NULL) {
        return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: tacit_nccl_group_run(): in and out must be given", rank);
    }
    for (size_t n = group->framed; n < group->count; n++) {
        const size_t i = group->order[n];
        const bool   own = group->owners[i] == rank;
        const bool   needs_in = group->kind != TACIT_BUNDLE_ALLGATHER || own;
        const bool   needs_out = group->kind != TACIT_BUNDLE_REDUCE_SCATTER || own;

        if (group->codecs[i]->tensor.count != 0 && ((needs_in && in[i] == NULL) || (needs_out && out[i] == NULL))) {
            return tacit__fail(TACIT_ERR_ARGUMENT, "rank %d: tacit_nccl_group_run(): tensor %zu, '%s', is NULL", rank, i,
                               group->codecs[i]->name);
        }
    }
    return TACIT_OK;
}

/* The bundle's step, behind tacit_bundle_encode(). */
static tacit_status_t exchange(tacit_nccl_group_t *group, void *stream)
{
    tacit_nccl_t               *nccl = group->nccl;
    const tacit_nccl_library_t *library = nccl->library;
    const uint8_t              *messages = group->gathered;
    tacit_status_t              status = TACIT_OK;

    if (tacit_bundle_scatter_bytes(group->bundle, 0, 1) != 0) { /* from any to any other, or from none */
        TRY(tacit__nccl_complete(nccl, scatter(group, stream), group->title));
    }
    if (group->kind == TACIT_BUNDLE_ALLREDUCE) {
        TRY(tacit_bundle_reduce(group->bundle, group->received, group->own));
    }
    if (group->kind == TACIT_BUNDLE_REDUCE_SCATTER) {
        messages = group->received;
    } else {
        TRY(tacit__nccl_complete(
            nccl, library->all_gather(group->own, group->gathered, group->gather_bytes, TACIT_NCCL_UINT8, nccl->comm, stream),
            group->title));
    }
    TRY(tacit_bundle_finish(group->bundle, messages, group->out));
out:
    return status;
}

static tacit_status_t run(tacit_nccl_group_t *group, uint64_t step, const void *const *in, void *const *out, void *stream)
{
    tacit_nccl_t  *nccl = group->nccl;
    tacit_status_t status;

    TRY(check_tensors(group, in, out));
    for (size_t n = 0; n < group->framed; n++) {
        group->in[n] = in[group->order[n]];
        group->out[n] = out[group->order[n]];
    }
    TRY(tacit__nccl_look(nccl, tacit__seconds(), group->title, NULL));
    if (group->bundle != NULL) {
        TRY(tacit_bundle_set_stream(group->bundle, stream));
        TRY(tacit_bundle_encode(group->bundle, step, group->in,
                                group->kind == TACIT_BUNDLE_ALLGATHER ? group->own : group->sent));
    }
    if (group->framed != group->count) {
        status = tacit__nccl_complete(nccl, reduce_natives(group, in, out, stream), group->title);
    }
    if (status == TACIT_OK && group->bundle != NULL) {
        status = exchange(group, stream);
    }
    if (status != TACIT_OK) { /* others go on with the step that ends here */
        tacit__nccl_break(nccl);
        tacit_bundle_cancel(group->bundle);
        (void)tacit__fail_text(status, nccl->broken_text);
    }
out:
    return status;
}

tacit_status_t tacit_nccl_group_run(tacit_nccl_group_t *group, uint64_t step, const void *const *in, void *const *out,
                                    void *stream)
{
    tacit_status_t status = tacit__nccl_enter(group != NULL ? group->nccl : NULL);

    if (status != TACIT_OK) {
        return status;
    }
    status = run(group, step, in, out, stream);
    tacit__nccl_leave(group->nccl);
    return status;
}

/* ---- What becomes of it ---- */

static tacit_status_t wait_for_steps(tacit_nccl_group_t *group, uint64_t behind)
{
    const double   began = tacit__seconds();
    tacit_status_t status = TACIT_OK;
    bool           runs = group->bundle != NULL;

    while (runs) {
        TRY(tacit__bundle_device_runs(group->bundle, behind, &runs));
        if (runs) {
            TRY(tacit__nccl_look(group->nccl, began, group->title, NULL));
            sched_yield();
        }
    }
out:
    return status;
}

tacit_status_t tacit_nccl_group_poll(tacit_nccl_group_t *group, uint64_t behind)
{
    tacit_status_t status = tacit__nccl_enter(group != NULL ? group->nccl : NULL);

    if (status != TACIT_OK) {
        return status;
    }
    TRY(wait_for_steps(group, behind));
    TRY(tacit__nccl_look(group->nccl, tacit__seconds(), group->title, NULL));
    if (group->bundle != NULL) {
        TRY(tacit_bundle_poll(group->bundle, behind));
    }
out:
    tacit__nccl_leave(group->nccl);
    return status;
}

void tacit_nccl_group_destroy(tacit_nccl_group_t *group)
{
    tacit_nccl_group_t **link;
    char                 error[TACIT_TEXT_BYTES];

    if (group == NULL) {
        return;
    }
    snprintf(error, sizeof error, "%s", tacit_last_error());
    if (!group->nccl->broken) {
        (void)wait_for_steps(group, 0);
    }
    for (link = &group->nccl->groups; *link != group; link = &(*link)->next) {
    }
    *link = group->next;
    tacit__nccl_group_free(group);
    (void)tacit__fail_text(TACIT_OK, error);
}
