/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of compressors by measurement. A tensor that changes from one to another keeps what it owes; one that becomes dense
   pays it in its next operation. */
#include "automatic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codec_memory.h"
#include "operation.h"

/* The error is the most that there can be; of rotq what it is for all values but those that were made for its signs, and a little
   more. */
static const struct {
    const char *spec;
    double      error;
} rungs[] = {
    {"none", 0},           {"bf16", 0x1p-8},      {"qsgd:bits=8", 0.0444}, {"rotq:bits=4", 0.1},
    {"rotq:bits=3", 0.19}, {"rotq:bits=2", 0.35}, {"rotq:bits=1", 0.61},
};
enum { RUNGS = sizeof rungs / sizeof *rungs };

static const double margin = 0.9; /* of what one with a smaller error takes */

/* ---- What there is to choose from ---- */

static bool same_word(const char *one, const char *other)
{
    const size_t bytes = strcspn(one, ":");

    return strncmp(one, other, bytes) == 0 && (other[bytes] == ':' || other[bytes] == '\0');
}

/* Of several that differ in their bits alone, the one with the fewest. A cast of 16 bits to 16 others saves nothing. */
static bool is_offered(size_t rung, double error, tacit_dtype_t dtype)
{
    const size_t next = rung + 1;

    return rungs[rung].error <= error && (dtype == TACIT_FLOAT32 || !same_word("bf16", rungs[rung].spec)) &&
           !(next < RUNGS && rungs[next].error <= error && same_word(rungs[rung].spec, rungs[next].spec));
}

bool tacit__automatic_spec(const tacit_spec_t *automatic, tacit_dtype_t dtype, size_t index, char text[TACIT_SPEC_BYTES])
{
    const char *feedback = strchr(automatic->text, '+');
    size_t      offered = 0;

    for (size_t rung = 0; rung < RUNGS; rung++) {
        if (is_offered(rung, automatic->error, dtype) && offered++ == index) {
            snprintf(text, TACIT_SPEC_BYTES, "%s%s", rungs[rung].spec, index > 0 && feedback != NULL ? feedback : "");
            return true;
        }
    }
    return false;
}

void tacit__automatic_smallest(const tacit_spec_t *automatic, tacit_dtype_t dtype, char text[TACIT_SPEC_BYTES])
{
    size_t index = 0;

    while (tacit__automatic_spec(automatic, dtype, index, text)) {
        index++;
    }
}

/* ---- Codecs ---- */

static tacit_status_t make_codec(const tacit_slot_t *slot, const char *spec, tacit_codec_t **codec_out)
{
    const tacit_comm_t *comm = slot->comm;
    tacit_slot_config_t tensor = slot->codec->tensor;

    tensor.spec = spec;
    return tacit__codec_create(slot->codec->name, &tensor, &comm->config, comm->rank, comm->ranks, codec_out);
}

static bool remembers(const tacit_codec_t *codec)
{
    return codec->feedback != NULL;
}

/* Whether one codec can go on with what another one remembers. */
static bool follows(const tacit_codec_t *codec, const tacit_codec_t *former)
{
    return remembers(codec) && codec->precision == former->precision;
}

/* What is in a state: memory that goes by the elements alone, whatever compresses them. */
static void swap_states(tacit_state_t *one, tacit_state_t *other)
{
    const tacit_state_t state = *one;
    const void         *config = other->config;

    *one = *other;
    one->config = state.config;
    *other = state;
    other->config = config;
}

/* What one codec remembers becomes the other's, which remembers nothing yet, and follows it. */
static void hand_over(tacit_codec_t *from, tacit_codec_t *to)
{
    tacit__codec_settle(from);
    swap_states(&from->memory, &to->memory);
    swap_states(&from->owner, &to->owner);
    to->owner.config = to->memory.config;
    to->owner_first = from->owner_first;
    to->owner_is_mean = from->owner_is_mean;
    for (size_t i = 0; i < TACIT_STATE_ARRAYS; i++) {
        uint8_t *const packed = to->packed[i], *const next = to->packed_next[i];

        to->packed[i] = from->packed[i];
        to->packed_next[i] = from->packed_next[i];
        from->packed[i] = packed;
        from->packed_next[i] = next;
    }
}

static uint32_t leaders_of(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__schedule_of(comm, codec)->levels ? tacit__topology_hash(comm->topology) : 0;
}

/* What was kept back of ranks is not there for their hosts' leaders; what leaders have, is there for ranks. */
static const tacit_schedule_t *schedule_after(const tacit_slot_t *slot, const tacit_codec_t *codec)
{
    const bool anywhere = slot->schedule->levels || !remembers(slot->codec) || !remembers(codec);

    return anywhere ? tacit__schedule_of(slot->comm, codec) : tacit__schedule_of_first(slot->comm, codec, slot->schedule);
}

void tacit__automatic_adopt(tacit_slot_t *slot, tacit_codec_t *codec, tacit_codec_t *dense)
{
    const tacit_schedule_t *schedule = schedule_after(slot, codec);

    tacit__fused_dissolve(slot->fused);
    tacit_codec_destroy(slot->codec);
    tacit_codec_destroy(slot->dense);
    slot->codec = codec;
    slot->dense = dense;
    tacit__slot_go_by(slot, schedule);
}

void tacit__automatic_paid(tacit_slot_t *slot)
{
    if (slot->dense != NULL) {
        tacit_codec_t *dense = slot->dense;

        slot->dense = NULL;
        tacit__automatic_adopt(slot, dense, NULL);
    }
}

/* ---- The choice ---- */

static double seconds_of(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return tacit__cost_seconds(comm, codec, tacit__schedule_of(comm, codec));
}

/* Where nothing is known, as on a network of one's own, bytes are what counts. */
static bool pays(const tacit_comm_t *comm, const tacit_codec_t *codec, const tacit_codec_t *best)
{
    const double other = seconds_of(comm, best);

    return isnan(other) || seconds_of(comm, codec) < other * margin;
}

/* All of them by turns, so that there is memory for two at most. */
static tacit_status_t find_fastest(tacit_slot_t *slot, const char *what, const tacit_spec_t *automatic, tacit_codec_t **best_out)
{
    tacit_comm_t  *comm = slot->comm;
    tacit_codec_t *codec = NULL;
    char           spec[TACIT_SPEC_BYTES], text[TACIT_AGREEMENT_BYTES], reason[TACIT_TEXT_BYTES] = "";
    tacit_status_t status = TACIT_OK, mine;
    size_t         used = 0;

    for (size_t i = 0; tacit__automatic_spec(automatic, slot->codec->tensor.dtype, i, spec); i++) {
        mine = make_codec(slot, spec, &codec);
        snprintf(text, sizeof text, "slot '%s', spec %s for %s", slot->codec->name, spec, automatic->canonical);
        TRY(tacit__comm_agree(
            comm, what, text, mine,
            mine == TACIT_OK ? tacit__slot_message_bytes(comm, codec->tensor.device, &codec->spec, codec->tensor.count) : 0));
        if (comm->ranks == 1 || !tacit__cost_matters(comm, codec)) {
            snprintf(reason, sizeof reason, ", %s", comm->ranks == 1 ? "nobody to send to" : "too small for others to pay");
            *best_out = codec;
            codec = NULL;
            break;
        }
        TRY(tacit__cost_learn(comm, codec, true));
        if (used < sizeof reason && seconds_of(comm, codec) > 0) {
            used += (size_t)snprintf(reason + used, sizeof reason - used, ", %s %.3g ms", spec, 1e3 * seconds_of(comm, codec));
        }
        if (*best_out == NULL || pays(comm, codec, *best_out)) {
            tacit_codec_destroy(*best_out);
            *best_out = codec;
        } else {
            tacit_codec_destroy(codec);
        }
        codec = NULL;
    }
    if (comm->rank == 0) {
        tacit__log(TACIT_LOG_INFO, 0, "plan: slot '%s' (%zu KiB, %s): %s%s", slot->codec->name,
                   (slot->codec->tensor.count * sizeof(float) + 1023) / 1024, automatic->text, (*best_out)->spec.text,
                   reason[0] != '\0' ? reason : ", nothing was measured");
    }
out:
    tacit_codec_destroy(codec);
    return status;
}

tacit_status_t tacit__automatic_choose(tacit_slot_t *slot, const char *what, const tacit_spec_t *automatic)
{
    tacit_codec_t *codec = NULL, *dense = NULL;
    char           text[TACIT_SPEC_BYTES];
    const bool     owes = remembers(slot->codec);
    tacit_status_t status, mine = TACIT_OK;

    TRY(find_fastest(slot, what, automatic, &codec));
    if (owes && !follows(codec, slot->codec)) {
        dense = codec;
        codec = NULL;
        snprintf(text, sizeof text, "none%s", strchr(slot->codec->spec.text, '+'));
        mine = tacit__codec_parse_given(dense, automatic->text);
        mine = mine == TACIT_OK ? make_codec(slot, text, &codec) : mine;
        tacit__codec_settle(slot->codec);
        if (mine == TACIT_OK && !tacit__codec_is_blockwise(slot->codec)) { /* whose owners have other parts */
            mine = tacit__codec_own_part(slot->codec, slot->step, 0, 0, false);
        }
    }
    mine = mine == TACIT_OK ? tacit__codec_parse_given(codec, automatic->text) : mine;
    status = tacit__comm_agree(slot->comm, what, automatic->canonical, mine, 0);
    if (status != TACIT_OK) {
        tacit__codec_disown(slot->codec);
        goto out;
    }
    if (owes) {
        hand_over(slot->codec, codec);
    }
    tacit__automatic_adopt(slot, codec, dense);
    codec = dense = NULL; /* now the slot's */
out:
    tacit_codec_destroy(codec);
    tacit_codec_destroy(dense);
    return status;
}

/* ---- Loading ---- */

static bool is_of(const tacit_codec_t *codec, const char *compressor, bool remembered)
{
    return strcmp(codec->compressor->name, compressor) == 0 && remembers(codec) == remembered;
}

tacit_status_t tacit__automatic_restore(const tacit_slot_t *slot, const char *compressor, const char *feedback,
                                        tacit_codec_t **codec_out, tacit_codec_t **dense_out)
{
    const tacit_codec_t *own = slot->codec;
    const bool           remembered = feedback[0] != '\0';
    const bool           is_none = own->given.feedback == NULL && strcmp(own->given.text, "none") == 0; /* that may owe still */
    char                 spec[TACIT_SPEC_BYTES];
    tacit_status_t       status = TACIT_OK;
    size_t               index = 0;

    if (!(own->given.automatic || is_none) || slot->comm->environment.disable != 0 || is_of(own, compressor, remembered)) {
        return TACIT_OK;
    }
    while (tacit__automatic_spec(&own->given, own->tensor.dtype, index, spec) &&
           !same_word(index == 0 ? tacit__codec_cast(own->tensor.dtype) : spec, compressor)) {
        index++;
    }
    if (!tacit__automatic_spec(&own->given, own->tensor.dtype, index, spec)) {
        return TACIT_OK; /* the file is of another spec, as will be found */
    }
    if (index == 0 && remembered) {
        TRY(make_codec(slot, spec, dense_out));
        TRY(tacit__codec_parse_given(*dense_out, own->given.text));
        snprintf(spec, sizeof spec, "none+%.*s", (int)strcspn(feedback, ";"), feedback);
    }
    TRY(make_codec(slot, spec, codec_out));
    TRY(tacit__codec_parse_given(*codec_out, own->given.text));
    (*codec_out)->leaders = leaders_of(slot->comm, *codec_out);
out:
    return status;
}
