/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of schedules by measurement. What a slot goes by where nothing is known stays, unless another schedule is faster,
   and than a native call by far: so noise changes little there. */
#include "cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "operation.h"
#include "rates_file.h"

/* Bytes from which on anything but the usual may pay: of fewer its verdicts are too much, and where all ranks share memory a
   native call is at least twice as fast. */
static const size_t worthwhile = 32 << 10, worthwhile_inside = 1 << 20;
static const float  margin = 0.9f; /* of what a native call takes, which has no verdicts and no limits */
/* The size for which all schedules together take more seconds is the last one to be measured, if it took so much longer than the
   one before that bytes are what counts. */
static const double patience = 0.05, growth = 2;

/* ---- Curves ---- */

size_t tacit__cost_bytes(size_t size)
{
    return (size_t)1024 << 2 * size;
}

/* On the line through the times of two sizes. */
static tacit_times_t on_line(const tacit_times_t *low, size_t low_size, const tacit_times_t *high, size_t high_size, size_t bytes)
{
    const double from = (double)tacit__cost_bytes(low_size), to = (double)tacit__cost_bytes(high_size);
    const float  part = (float)(((double)bytes - from) / (to - from));

    return (tacit_times_t){.usual = low->usual + part * (high->usual - low->usual),
                           .mean = low->mean + part * (high->mean - low->mean),
                           .least = low->least + part * (high->least - low->least)};
}

tacit_times_t tacit__curve_at(const tacit_times_t times[TACIT_SIZES], size_t known, size_t bytes)
{
    tacit_times_t before = {NAN, NAN, NAN}, at = {NAN, NAN, NAN};
    size_t        size = 0;

    if (known == 0 || times[0].usual == 0) {
        return at;
    }
    at = times[0];
    for (; size + 1 < known && bytes > tacit__cost_bytes(size); size++) {
        before = at;
        at.usual = fmaxf(at.usual, times[size + 1].usual);
        at.mean = fmaxf(at.mean, times[size + 1].mean);
        at.least = fmaxf(at.least, times[size + 1].least);
    }
    if (size == 0) {
        return at;
    }
    return bytes <= tacit__cost_bytes(size) ? on_line(&before, size - 1, &at, size, bytes) : on_line(times, 0, &at, size, bytes);
}

/* Sizes to be measured for a tensor: those that are not larger. */
static size_t sizes_for(size_t bytes)
{
    size_t sizes = 1;

    while (sizes < TACIT_SIZES && tacit__cost_bytes(sizes) <= bytes) {
        sizes++;
    }
    return sizes;
}

/* ---- Kinds ---- */

enum { KEY_BYTES = TACIT_SPEC_BYTES + 64 };

/* Kinds of which one size alone is measured, where TACIT_PLAN asks for it, are of that number of elements. */
static void write_key(const tacit_codec_t *codec, bool exact, char key[KEY_BYTES])
{
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"};
    static const char *const forms[] = {"", ", flat", ", matrix"}; /* of compressors that go by it */
    const size_t             form = codec->compressor->linear != NULL ? tacit__min((size_t)codec->tensor.ndim, 2) : 0;
    char                     count[32] = "";

    if (exact) {
        snprintf(count, sizeof count, ", %zu elements", codec->tensor.count);
    }
    snprintf(key, KEY_BYTES, "%s, %s%s%s", codec->spec.canonical, dtypes[codec->tensor.dtype], forms[form], count);
}

static tacit_curves_t *find_curves(const tacit_comm_t *comm, const tacit_codec_t *codec, bool exact)
{
    tacit_curves_t *curves = comm->cost.curves;
    char            key[KEY_BYTES];

    if (curves != NULL) {
        write_key(codec, exact, key);
    }
    while (curves != NULL && strcmp(curves->key, key) != 0) {
        curves = curves->next;
    }
    return curves;
}

static void free_curves(tacit_curves_t *curves)
{
    if (curves != NULL) {
        tacit__free(curves->key);
        tacit__free(curves);
    }
}

void tacit__cost_fini(tacit_cost_t *cost)
{
    while (cost->curves != NULL) {
        tacit_curves_t *curves = cost->curves;

        cost->curves = curves->next;
        free_curves(curves);
    }
}

static tacit_status_t make_curves(const tacit_comm_t *comm, const tacit_codec_t *codec, bool exact, tacit_curves_t **curves_out)
{
    tacit_curves_t *curves = *curves_out = tacit__alloc(1, sizeof *curves);
    char            key[KEY_BYTES];

    write_key(codec, exact, key);
    if (curves != NULL) {
        curves->key = tacit__strdup(key);
    }
    return curves != NULL && curves->key != NULL
               ? TACIT_OK
               : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory to note what reductions take", comm->rank);
}

/* Rank 0's numbers to all. */
static tacit_status_t share(tacit_comm_t *comm, tacit_curves_t *curves, tacit_status_t mine)
{
    enum { WORDS = 2 + sizeof curves->times / sizeof(float) };
    float          own[WORDS] = {0};
    float         *all = tacit__alloc((size_t)comm->ranks * WORDS, sizeof *all);
    tacit_status_t status;

    if (mine == TACIT_OK) {
        own[0] = (float)curves->known;
        own[1] = curves->whole;
        memcpy(own + 2, curves->times, sizeof curves->times);
    }
    TRY(tacit__probe_gather(comm, own, WORDS, mine, all));
    curves->known = (size_t)all[0];
    curves->whole = all[1] != 0;
    memcpy(curves->times, all + 2, sizeof curves->times);
out:
    tacit__free(all);
    return status;
}

/* ---- Learning ---- */

static void tell_curves(const tacit_comm_t *comm, const tacit_curves_t *curves, const char *how)
{
    char   text[TACIT_TEXT_BYTES] = "";
    size_t used = 0;

    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        for (size_t size = 0; size < curves->known && curves->times[way][0].usual > 0 && used < sizeof text; size++) {
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s%s %.3g", size == 0 ? "; " : "",
                                 size == 0 ? tacit__schedule_at(way)->name : "", 1e3 * (double)curves->times[way][size].usual);
        }
    }
    tacit__log(TACIT_LOG_INFO, comm->rank, "cost: '%s' %s, ms for 1 KiB, 4 KiB, 16 KiB ...%s", curves->key, how, text);
}

static tacit_status_t measure(tacit_comm_t *comm, const tacit_codec_t *codec, tacit_curves_t *curves, size_t count)
{
    const size_t   capacity = tacit__slot_message_bytes(comm, TACIT_CPU, &codec->spec, count);
    tacit_times_t  times[TACIT_WAYS];
    double         round;
    tacit_status_t status;

    if (capacity > comm->exchange.capacity) { /* the same on all ranks */
        TRY(tacit__comm_agree(comm, "tacit_slot_create", curves->key, TACIT_OK, capacity));
    }
    TRY(tacit__probe(comm, codec, count, times, &round));
    for (size_t way = 0; way < TACIT_WAYS; way++) {
        curves->times[way][curves->known] = times[way];
    }
    curves->known++;
    curves->whole = curves->known == TACIT_SIZES || (round > patience && round > growth * curves->round);
    curves->round = round;
out:
    return status;
}

static tacit_status_t learn(tacit_comm_t *comm, const tacit_codec_t *codec, bool exact)
{
    const size_t    wanted = exact ? 1 : sizes_for(codec->tensor.count * sizeof(float));
    tacit_curves_t *curves = find_curves(comm, codec, exact), *made = NULL;
    tacit_status_t  status = TACIT_OK;
    bool            measured = false;

    if (curves == NULL) {
        status = make_curves(comm, codec, exact, &made);
        if (status == TACIT_OK && comm->rank == 0 && !exact) {
            tacit__rates_load(comm, made);
        }
        TRY(share(comm, made, status));
        curves = made;
        if (curves->known != 0 && comm->rank == 0) {
            tell_curves(comm, curves, "as measured before");
        }
    }
    while (curves->known < wanted && !curves->whole) {
        TRY(measure(comm, codec, curves, exact ? codec->tensor.count : tacit__cost_bytes(curves->known) / sizeof(float)));
        measured = true;
    }
    if (measured && comm->rank == 0) {
        tell_curves(comm, curves, "measured");
        if (!exact) {
            tacit__rates_save(comm, curves);
        }
    }
    if (made != NULL) {
        made->next = comm->cost.curves;
        comm->cost.curves = made;
        made = NULL; /* now the communicator's */
    }
out:
    free_curves(made);
    return status;
}

static size_t count_carriers(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    size_t carriers = 0;

    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        carriers += tacit__schedule_carries(tacit__schedule_at(way), comm, codec);
    }
    return carriers;
}

static const tacit_schedule_t *asked_for(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    const char             *plan = comm->environment.plan;
    const tacit_schedule_t *asked = plan != NULL ? tacit__schedule_named(plan) : NULL;

    return asked != NULL && tacit__schedule_carries(asked, comm, codec) ? asked : NULL;
}

bool tacit__cost_matters(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return codec->tensor.count * sizeof(float) >= (comm->topology->hosts == 1 ? worthwhile_inside : worthwhile);
}

/* A transport without a native call is one for tests, or knows better. On a GPU there is nothing to choose from. */
static bool can_measure(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return comm->ranks > 1 && codec->tensor.device == TACIT_CPU && comm->transport.allreduce_wait != NULL &&
           comm->environment.disable == 0;
}

/* TACIT_PLAN=measured: with the slot's own number of elements. */
static bool measures_exactly(const tacit_comm_t *comm)
{
    return comm->environment.plan != NULL && strcmp(comm->environment.plan, TACIT_PLAN_MEASURED) == 0;
}

/* Where something is lost, schedules lose it each in a way of its own: runs would not have the same bits, nor state files the
   same memory, if measurements chose. */
static bool is_free(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    double factor;

    return measures_exactly(comm) ||
           (codec->feedback == NULL &&
            codec->compressor->quality(codec->spec.compressor_config, codec->tensor.count, &factor) == TACIT_LOSSLESS);
}

tacit_status_t tacit__cost_learn(tacit_comm_t *comm, const tacit_codec_t *codec, bool all)
{
    const bool matters = is_free(comm, codec) && tacit__cost_matters(comm, codec) && count_carriers(comm, codec) > 1 &&
                         asked_for(comm, codec) == NULL;

    return can_measure(comm, codec) && codec->tensor.count != 0 && (all || matters) ? learn(comm, codec, measures_exactly(comm))
                                                                                    : TACIT_OK;
}

/* ---- The choice ---- */

static tacit_times_t times_of(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule)
{
    const bool            exact = measures_exactly(comm);
    const tacit_curves_t *curves = find_curves(comm, codec, exact);

    for (size_t way = 0; curves != NULL && tacit__schedule_at(way) != NULL; way++) {
        if (tacit__schedule_at(way) == schedule) {
            return tacit__curve_at(curves->times[way], curves->known,
                                   exact ? tacit__cost_bytes(0) : codec->tensor.count * sizeof(float));
        }
    }
    return (tacit_times_t){NAN, NAN, NAN};
}

double tacit__cost_seconds(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule)
{
    return (double)times_of(comm, codec, schedule).usual;
}

/* Whatever else a machine does only adds to a time: the shortest times tell which schedule of ours is the fastest. What takes the
   place of a native call must take less by far on the whole, since MPI's own time may be one of two by chance, and may not be
   much slower than that at its best. */
const tacit_schedule_t *tacit__cost_choose(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *usual)
{
    const tacit_schedule_t *best = usual;
    tacit_times_t           limit = {.mean = INFINITY};

    if (comm->cost.curves == NULL || usual == NULL || !is_free(comm, codec) || !tacit__cost_matters(comm, codec)) {
        return usual;
    }
    limit.least = times_of(comm, codec, usual).least;
    if (!usual->framed) {
        limit.least /= margin;
        limit.mean = times_of(comm, codec, usual).mean * margin;
    }
    for (size_t way = 0; tacit__schedule_at(way) != NULL; way++) {
        const tacit_schedule_t *schedule = tacit__schedule_at(way);
        const tacit_times_t     times = times_of(comm, codec, schedule);

        if (schedule->framed && tacit__schedule_carries(schedule, comm, codec) &&
            (schedule->levels == usual->levels || codec->feedback == NULL) && times.least < limit.least &&
            times.mean < limit.mean) {
            best = schedule;
            limit.least = times.least;
        }
    }
    return best;
}

/* ---- The reason ---- */

const char *tacit__cost_reason(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule, char *text,
                               size_t capacity)
{
    const double seconds = tacit__cost_seconds(comm, codec, schedule);
    size_t       used;

    if (asked_for(comm, codec) == schedule) {
        return "TACIT_PLAN asks for it";
    }
    if (count_carriers(comm, codec) == 1) {
        return "no other carries it";
    }
    if (!is_free(comm, codec)) {
        return "which loses the same in every run";
    }
    if (!tacit__cost_matters(comm, codec)) {
        return "too small for another to pay";
    }
    if (!(seconds > 0)) {
        return "nothing was measured";
    }
    used = (size_t)snprintf(text, capacity, "%.3g ms predicted", 1e3 * seconds);
    for (size_t way = 0; tacit__schedule_at(way) != NULL && used < capacity; way++) {
        const double other = tacit__cost_seconds(comm, codec, tacit__schedule_at(way));

        if (tacit__schedule_at(way) != schedule && other > 0) {
            used += (size_t)snprintf(text + used, capacity - used, ", %s %.3g ms", tacit__schedule_at(way)->name, 1e3 * other);
        }
    }
    return text;
}

void tacit__cost_tell(tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_schedule_t *schedule)
{
    const size_t bytes = codec->tensor.count * sizeof(float), memory = sizeof comm->cost.told / sizeof *comm->cost.told;
    char         key[KEY_BYTES], text[TACIT_TEXT_BYTES];
    uint64_t     hash;

    if (comm->rank != 0) {
        return;
    }
    write_key(codec, false, key);
    hash = tacit__hash_text(key) + sizes_for(bytes);
    for (size_t i = 0; i < memory; i++) {
        if (comm->cost.told[i] == hash) {
            return;
        }
    }
    comm->cost.told[comm->cost.told_count++ % memory] = hash;
    tacit__log(TACIT_LOG_INFO, 0, "plan: slot '%s' (%zu KiB, %s): %s, %s", codec->name, (bytes + 1023) / 1024, codec->given.text,
               schedule->name, tacit__cost_reason(comm, codec, schedule, text, sizeof text));
}
