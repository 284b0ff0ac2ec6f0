/* SPDX-License-Identifier: Apache-2.0 */
/* `topk`: which elements. The tensor goes through a sieve once. Its threshold is a guess, from what the last step has chosen and
   from how this one begins; what stays is about as many as are wanted, and of these the largest are found. A guess that is too
   high is found out at the end, and the tensor goes through again. One that is too low lets the sieve fill up; then the smaller
   ones leave it and the threshold rises. So no guess changes what is chosen. */
#include <math.h>

#include "sieve.h"
#include "topk.h"

enum {
    MAGNITUDE_BITS = 31,
    MAGNITUDE_MOST = 0x7fffffff,
    LARGEST = 0x7f7fffff, /* bits of the largest finite number */
    STEP = 16,            /* elements looked at together */
    DIGIT_VALUES = 2048,  /* of the widest radix digit: its counts, 8 KiB, are the one large thing on the stack */
    SLACK = 4096,         /* entries that a sieve holds at least beyond what is wanted */
    ENOUGH = 8192,        /* of what is wanted: when that is seen, the rest is known to a hundredth */
    EARLY = 16,           /* or where one in so many elements is seen */
};

static inline uint32_t magnitude_bits(float value)
{
    return tacit__float_bits(value) & 0x7fffffffu; /* ascends with |value| */
}

/* ---- The keep-th largest ---- */

/* Of STEP elements, whether any magnitude's bits above `shift` are `prefix`. Few are: to look first, with vectors, is quicker
   than to look at each. */
static inline bool any_equal(const float *a, unsigned shift, uint32_t prefix)
{
    uint32_t any = 0;

    for (size_t j = 0; j < STEP; j++) {
        any |= magnitude_bits(a[j]) >> shift == prefix;
    }
    return any != 0;
}

/* Counts the magnitudes by the `width` bits above `shift`, among those whose bits above these are `prefix`. */
static void count_digits(const float *a, size_t count, unsigned shift, unsigned width, uint32_t prefix, uint32_t *counts)
{
    const uint32_t mask = (1u << width) - 1;
    const bool     all = shift + width == MAGNITUDE_BITS; /* there is nothing above */

    memset(counts, 0, DIGIT_VALUES * sizeof *counts);
    for (size_t i = 0, part; i < count; i += part) {
        part = count - i < STEP ? count - i : STEP;
        if (part == STEP && !all && !any_equal(a + i, shift + width, prefix)) {
            continue;
        }
        for (size_t j = i; j < i + part; j++) {
            const uint32_t bits = magnitude_bits(a[j]) >> shift;
            if (bits >> width == prefix) {
                counts[bits & mask]++;
            }
        }
    }
}

/* The keep-th largest magnitude's bits; *equal_out is how many elements with exactly these bits are among the `keep`. A radix
   select: each pass fixes 11 or 10 more bits. 1 <= keep <= count. */
static uint32_t threshold(const float *a, size_t count, size_t keep, size_t *equal_out)
{
    static const struct {
        unsigned shift, width;
    } passes[] = {{20, 11}, {10, 10}, {0, 10}};
    uint32_t counts[DIGIT_VALUES];
    uint32_t prefix = 0;

    for (size_t pass = 0; pass < sizeof passes / sizeof *passes; pass++) {
        uint32_t digit = (1u << passes[pass].width) - 1;
        count_digits(a, count, passes[pass].shift, passes[pass].width, prefix, counts);
        while (counts[digit] < keep) {
            keep -= counts[digit--];
        }
        prefix = prefix << passes[pass].width | digit;
    }
    *equal_out = keep;
    return prefix;
}

/* Those of a[0..count) that are below `high` but not below `low` go to between[], which has room for so many; *above_out is how
   many are not below `high`. Returns how many there are, or SIZE_MAX where room is short. */
static size_t split_loop(const float *a, size_t count, uint32_t low, uint32_t high, float *between, size_t room,
                         size_t *above_out, tacit_isa_t isa)
{
    size_t above = 0, found = 0;

    for (size_t i = 0; i < count; i += TACIT_LANES) {
        const uint64_t all = count - i < TACIT_LANES ? (UINT64_C(1) << (count - i)) - 1 : UINT64_MAX;
        const uint64_t over = tacit__at_least(a + i, high, isa) & all;

        above += (size_t)__builtin_popcountll(over);
        if (room - found < TACIT_LANES) {
            return SIZE_MAX;
        }
        for (uint64_t left = tacit__at_least(a + i, low, isa) & all & ~over; left != 0; left &= left - 1) {
            between[found++] = a[i + (size_t)__builtin_ctzll(left)];
        }
    }
    *above_out = above;
    return found;
}

TACIT_EACH_ISA_KNOWN(size_t, split,
                     (const float *a, size_t count, uint32_t low, uint32_t high, float *between, size_t room, size_t *above_out),
                     a, count, low, high, between, room, above_out)

static uint32_t scaled(uint32_t bits, float factor)
{
    return tacit__float_bits(tacit__bits_float(bits) * factor);
}

/* threshold() in the sieve. Where it was foretold, a look at what is near is enough, for which there is room behind the rest. */
static uint32_t sieve_threshold(const tacit_selection_t *selection, size_t keep, size_t *equal_out)
{
    const tacit_sieve_t *sieve = &selection->sieve;
    const size_t         start = (sieve->used + TACIT_LANES) / TACIT_LANES * TACIT_LANES;
    size_t               above, found;

    for (float near = 1.0f / 256; near < 0.1f; near *= 8) {
        const uint32_t low = scaled(selection->foretold, 1 - near), high = scaled(selection->foretold, 1 + near);

        if (low == 0 || high > LARGEST) {
            break;
        }
        found = split(sieve->values, sieve->used, low, high, sieve->values + start, selection->room - start, &above);
        if (found != SIZE_MAX && above < keep && keep - above <= found) {
            return threshold(sieve->values + start, found, keep - above, equal_out);
        }
    }
    return threshold(sieve->values, sieve->used, keep, equal_out);
}

/* ---- In the sieve ---- */

/* Elements on their way to a[], where each is far from the last: memory is told of many before the first is waited for. */
typedef struct tacit_puts {
    uint32_t indices[TACIT_LANES];
    float    values[TACIT_LANES];
    size_t   count;
} tacit_puts_t;

static void put_all(float *a, tacit_puts_t *puts)
{
    for (size_t i = 0; i < puts->count; i++) {
        __builtin_prefetch(a + puts->indices[i], 1);
    }
    for (size_t i = 0; i < puts->count; i++) {
        a[puts->indices[i]] = puts->values[i];
    }
    puts->count = 0;
}

/* Elements of a group, or 0 in their place. */
static inline void put_group(float *a, tacit_puts_t *puts, const float *values, const uint32_t *indices, uint64_t elements,
                             bool zero)
{
    for (; elements != 0; elements &= elements - 1) {
        const size_t j = (size_t)__builtin_ctzll(elements);
        if (puts->count == TACIT_LANES) {
            put_all(a, puts);
        }
        puts->indices[puts->count] = indices[j];
        puts->values[puts->count++] = zero ? 0.0f : values[j];
    }
}

#ifdef TACIT_ON_X86
TACIT_TARGET_AVX512 static inline void move_avx512(tacit_sieve_t *sieve, const float *values, const uint32_t *indices,
                                                   uint64_t stays)
{
    for (unsigned j = 0; j < TACIT_LANES; j += 16) {
        const __mmask16 part = (__mmask16)(stays >> j);
        const __m512i   index = _mm512_loadu_si512(indices + j);
        const __m512    value = _mm512_loadu_ps(values + j);
        _mm512_storeu_si512(sieve->indices + sieve->used, _mm512_maskz_compress_epi32(part, index));
        _mm512_storeu_ps(sieve->values + sieve->used, _mm512_maskz_compress_ps(part, value));
        sieve->used += (size_t)__builtin_popcount(part);
    }
}
#endif

/* Appends elements of a group of the sieve to what comes before them. Writes some too many, but none before it is read. */
static inline void move(tacit_sieve_t *sieve, const float *values, const uint32_t *indices, uint64_t stays, tacit_isa_t isa)
{
    const size_t used = sieve->used + (size_t)__builtin_popcountll(stays);

    TACIT_X86(if (isa == TACIT_ISA_AVX512) {
        move_avx512(sieve, values, indices, stays);
        return;
    })
    (void)isa;
    while (stays != 0) {
        for (int i = 0; i < 8; i++) {
            const size_t j = (size_t)__builtin_ctzll(stays | UINT64_C(1) << 63);
            sieve->values[sieve->used] = values[j];
            sieve->indices[sieve->used++] = indices[j];
            stays &= stays - 1;
        }
    }
    sieve->used = used;
}

/* Of a group, the elements that are above `least`, and the first *equal of those that are equal. */
static inline uint64_t stay(const float *group, uint64_t all, uint32_t least, size_t *equal, tacit_isa_t isa)
{
    const uint64_t above = least < MAGNITUDE_MOST ? tacit__at_least(group, least + 1, isa) & all : 0;
    uint64_t       ties = tacit__at_least(group, least, isa) & all & ~above;

    while ((size_t)__builtin_popcountll(ties) > *equal) {
        ties &= ~(UINT64_C(1) << (63 - __builtin_clzll(ties)));
    }
    *equal -= (size_t)__builtin_popcountll(ties);
    return above | ties;
}

/* Leaves in the sieve, in order, what is above `least` and the first `equal` that are equal to it. What leaves it goes back into
   a[]; what stays at the end is taken out of it. */
static void cut_loop(tacit_selection_t *selection, uint32_t least, size_t equal, bool end, tacit_isa_t isa)
{
    tacit_sieve_t *sieve = &selection->sieve;
    const size_t   used = sieve->used, from = selection->taken_from;
    float         *a = selection->taken ? selection->a : NULL;
    tacit_puts_t   puts;

    puts.count = 0;
    sieve->used = 0;
    for (size_t i = 0; i < used; i += TACIT_LANES) {
        const uint64_t  all = used - i < TACIT_LANES ? (UINT64_C(1) << (used - i)) - 1 : UINT64_MAX;
        const uint64_t  late = from <= i ? all : from - i < TACIT_LANES ? all & UINT64_MAX << (from - i) : 0;
        const float    *group = sieve->values + i;
        const uint32_t *indices = sieve->indices + i;
        const uint64_t  stays = stay(group, all, least, &equal, isa);

        if (a != NULL) {
            const uint64_t taken = late != 0 ? tacit__at_least(group, sieve->sure, isa) & late : 0;
            put_group(a, &puts, group, indices, taken & ~stays, false);
            put_group(a, &puts, group, indices, end ? stays & ~taken : 0, true);
        }
        if (from >= i && from - i < TACIT_LANES) {
            selection->taken_from = sieve->used + (size_t)__builtin_popcountll(stays & ~late);
        }
        move(sieve, group, indices, stays, isa);
    }
    put_all(a, &puts);
    if (from >= used) {
        selection->taken_from = from == SIZE_MAX ? from : sieve->used;
    }
}

TACIT_EACH_ISA_KNOWN(void, cut, (tacit_selection_t * selection, uint32_t least, size_t equal, bool end), selection, least, equal,
                     end)

/* Elements of the tensor after which the thresholds are set for the rest. */
static size_t learning_end(const tacit_selection_t *selection)
{
    const double enough = (double)ENOUGH * (double)selection->count / (double)selection->keep;
    const double early = (double)(selection->count / EARLY), least = fmin(enough, early);

    return least > TACIT_SIEVE_MOST ? (size_t)least : TACIT_SIEVE_MOST;
}

static void raise_guess(tacit_selection_t *selection, uint32_t least)
{
    if (least > selection->sieve.least && least <= LARGEST) {
        selection->sieve.least = selection->guess = least;
    }
}

/* Sets thresholds by what has been seen: the tensor goes on as it begins, or, after a first step, as it went on in the last one.
   Six standard deviations more than are expected are seldom too few. */
static void learn(tacit_selection_t *selection, size_t done)
{
    tacit_sieve_t *sieve = &selection->sieve;
    const size_t   end = learning_end(selection);
    const double   expected = (double)selection->keep * ((double)done / (double)selection->count);
    const double   spare = selection->sample_keep != 0 ? 1 + 4 / sqrt((double)selection->sample_keep) : 1;
    const size_t   middle = (size_t)expected + 1, rank = (size_t)((expected + 6 * sqrt(expected)) * spare) + 1;
    float          factor = 1;
    size_t         equal;

    selection->learn_at = 2 * done < end ? 2 * done : end;
    if (done >= end) {
        selection->learn_at = SIZE_MAX;
        selection->foretold = tacit__float_bits(selection->last);
        if (middle <= sieve->used) {
            selection->early = tacit__bits_float(threshold(sieve->values, sieve->used, middle, &equal));
            factor = selection->last > 0 && selection->last_early > 0 ? selection->last / selection->last_early : 1;
            selection->foretold = tacit__float_bits(selection->early * factor);
        }
    }
    if (rank <= sieve->used) {
        raise_guess(selection, scaled(threshold(sieve->values, sieve->used, rank, &equal), factor));
    }
    if (done >= end && selection->taken && selection->foretold > 0 && selection->foretold <= LARGEST) {
        sieve->sure = selection->foretold > sieve->least ? selection->foretold : sieve->least; /* else it would be lost */
        selection->taken_from = sieve->used;
    }
}

/* ---- A selection ---- */

size_t tacit__topk_room(size_t count, size_t keep)
{
    const size_t most = keep + (keep > SLACK ? keep : SLACK);

    return (most < count ? most : count) + TACIT_SIEVE_MOST + TACIT_SIEVE_PAD;
}

void tacit__topk_begin(tacit_selection_t *selection, size_t count, size_t keep, bool taken)
{
    tacit_sieve_t *sieve = &selection->sieve;

    selection->count = count;
    selection->keep = keep;
    selection->taken = taken && selection->a != NULL;
    selection->taken_from = SIZE_MAX;
    selection->sample_keep = 0;
    selection->guess = selection->foretold = 0;
    selection->rounds = selection->lowered = 0;
    selection->threshold = 0;
    selection->early = 0;
    selection->learn_at = SIZE_MAX;
    sieve->least = 1;
    sieve->sure = TACIT_SURE_NONE;
    sieve->a = selection->a;
    sieve->used = sieve->samples = 0;
    sieve->sample_at = SIZE_MAX;
    sieve->stride = 1;
    if (count > keep + SLACK) { /* else there is room for all */
        selection->learn_at = selection->last > 0 ? learning_end(selection) : TACIT_SIEVE_MOST;
        raise_guess(selection, scaled(tacit__float_bits(selection->last), 0.85f));
    }
}

void tacit__topk_pause(tacit_selection_t *selection, size_t done)
{
    tacit_sieve_t *sieve = &selection->sieve;
    size_t         equal;

    if (sieve->used > selection->room - TACIT_SIEVE_MOST - TACIT_SIEVE_PAD) {
        const uint32_t least = sieve_threshold(selection, selection->keep, &equal);
        if (least >= sieve->sure) { /* of what follows, nothing is to be taken that does not stay in the sieve */
            tacit__selection_put_back(selection);
        }
        cut(selection, least, equal, false);
        if (least >= sieve->least) { /* a later one must be larger */
            sieve->least = least < MAGNITUDE_MOST ? least + 1 : least;
        }
    }
    if (done >= selection->learn_at && done < selection->count) {
        learn(selection, done);
    }
}

/* ---- By a sample, as published ---- */

static size_t ceiling(double value)
{
    return (size_t)ceil(value);
}

/* As the authors of Deep Gradient Compression have it (the paper leaves it open); all products are float64. Strides
   are odd, so that they do not keep step with layouts in powers of two. */
tacit_geometry_t tacit__topk_geometry(size_t count, double density, double sample)
{
    const size_t     part = ceiling((double)count * sample), need = ceiling(2 / density), least = part > need ? part : need;
    tacit_geometry_t geometry = {.stride = 1, .samples = count};

    if (sample < 1 && count > need) {
        geometry.stride = ceiling((double)count / (double)least / 32) * 32 + 1;
        while ((geometry.samples = count / geometry.stride) < least) {
            geometry.stride -= 8;
        }
    }
    geometry.sample_keep = ceiling((double)geometry.samples * density);
    geometry.keep = ceiling((double)count * density);
    return geometry;
}

bool tacit__topk_is_sampled(const tacit_geometry_t *geometry, size_t count)
{
    return geometry->stride > 1 && geometry->keep <= count / 2;
}

void tacit__topk_sample(tacit_selection_t *selection, const tacit_geometry_t *geometry, size_t start)
{
    if (tacit__topk_is_sampled(geometry, selection->count)) {
        selection->sample_keep = geometry->sample_keep;
        selection->sieve.stride = geometry->stride;
        selection->sieve.sample_at = start;
    }
}

/* The threshold that the sample gives, and 0 without one. Where less than 0.8 of what is wanted is not below it, it falls to 0.8
   of itself, ten times at most. (The authors re-select where there are over 1.3 times too many, and otherwise cut by index; to
   keep the largest serves both.) `least` is the keep-th largest in the sieve; 0: there are not so many. False: something that
   counts may not be there. */
static bool settle_threshold(tacit_selection_t *selection, uint32_t least)
{
    tacit_sieve_t *sieve = &selection->sieve;
    const size_t   enough = ceiling(0.8 * (double)selection->keep);
    size_t         above, equal;

    if (selection->sample_keep != 0 && selection->rounds == 0) {
        const size_t keep = selection->sample_keep < sieve->samples ? selection->sample_keep : sieve->samples;
        selection->threshold = threshold(sieve->sample, sieve->samples, keep, &equal);
        selection->threshold = selection->threshold < LARGEST ? selection->threshold : LARGEST;
    }
    for (;; selection->lowered++) {
        const uint32_t from = selection->threshold > 1 ? selection->threshold : 1;
        if (least >= from && least >= selection->guess) {
            return true; /* there are as many as are wanted */
        }
        if (from < selection->guess) {
            return false;
        }
        (void)split(sieve->values, sieve->used, from, from, NULL, SIZE_MAX, &above);
        if (above >= enough || selection->threshold == 0 || selection->lowered == 10) {
            return true;
        }
        selection->threshold = scaled(selection->threshold, 0.8f);
    }
}

/* All goes through again, from a threshold on that is low enough, if there is one; or from a lower one, or from the lowest. */
static bool again(tacit_selection_t *selection, uint32_t least)
{
    if (least == 0) {
        least = selection->sample_keep != 0 ? selection->threshold : selection->rounds == 0 ? scaled(selection->guess, 0.5f) : 1;
    }
    tacit__selection_put_back(selection);
    selection->learn_at = SIZE_MAX;
    selection->rounds++;
    selection->guess = 0;
    selection->sieve.least = 1;
    selection->sieve.used = 0;
    selection->sieve.sample_at = SIZE_MAX;
    selection->sieve.a = NULL;
    raise_guess(selection, least);
    return false;
}

bool tacit__topk_finish(tacit_selection_t *selection)
{
    tacit_sieve_t *sieve = &selection->sieve;
    size_t         equal = sieve->used;
    uint32_t       least = 0, from;

    if (sieve->used >= selection->keep && selection->keep > 0) {
        least = sieve_threshold(selection, selection->keep, &equal);
    }
    if (!settle_threshold(selection, least)) {
        return again(selection, least);
    }
    from = selection->threshold > 1 ? selection->threshold : 1;
    if (least >= from) {
        cut(selection, least, equal, true);
    } else {
        cut(selection, from, sieve->used, true);
    }
    selection->taken_from = sieve->sure = 0; /* all */
    selection->last = tacit__bits_float(least > selection->threshold ? least : selection->threshold);
    selection->last_early = selection->early;
    return true;
}
