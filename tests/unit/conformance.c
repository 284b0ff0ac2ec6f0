/* SPDX-License-Identifier: Apache-2.0 */
/* What every compressor promises, for every entry of the registry: default parameters, then each parameter at its ends and each
   word, with and without feedback, over sizes, patterns, cuts and addresses. A new compressor is covered unasked. */
#include "compress.h"
#include "isa.h"

enum {
    GUARD_BYTES = 32,
    GUARD = 0xa5,
    MOST_SPECS = 256,
    MOST_COUNT = 65536 + 77 /* elements: one of the largest block and a part of the next */
};

/* ---- All specs ---- */

static char   specs[MOST_SPECS][96];
static size_t spec_count;

/* With feedback only where the parameters then come out otherwise ("auto"). Some pairs are refused; their own tests say which. */
static void add_spec(const char *name, const char *key, const char *value)
{
    tacit_spec_t plain = {0}, spec = {0};

    for (int feedback = 0; feedback < 2; feedback++) {
        char *text = specs[spec_count];
        if (spec_count == MOST_SPECS) {
            fprintf(stderr, "conformance: more than %d specs\n", MOST_SPECS);
            exit(1);
        }
        snprintf(text, sizeof specs[0], "%s%s%s%s%s%s", name, key ? ":" : "", key ? key : "", key ? "=" : "", key ? value : "",
                 feedback ? "+ef" : "");
        if (tacit__spec_parse(text, feedback ? &spec : &plain) != TACIT_OK) {
            continue;
        }
        if (!feedback || !plain.compressor ||
            memcmp(plain.compressor_config, spec.compressor_config, spec.compressor->config_bytes) != 0) {
            spec_count++;
        }
    }
    tacit__spec_release(&plain);
    tacit__spec_release(&spec);
}

static void add_param(const char *name, const tacit_param_t *param)
{
    char values[64];

    if (param->type == TACIT_PARAM_WORD) {
        snprintf(values, sizeof values, "%s", param->words);
        for (char *word = strtok(values, " "); word; word = strtok(NULL, " ")) {
            add_spec(name, param->key, word);
        }
        return;
    }
    for (int end = 0; end < 3; end++) {
        const double step = param->multiple > 1 ? (double)param->multiple : 1;
        const double middle =
            param->type == TACIT_PARAM_INT ? fmin(param->low + 3 * step, param->high) : (param->low + param->high) / 2;
        snprintf(values, sizeof values, "%.9g", end == 0 ? param->low : end == 1 ? param->high : middle);
        add_spec(name, param->key, values);
    }
}

static void add_all_specs(void)
{
    const tacit_compressor_t *compressor;

    for (size_t i = 0; (compressor = tacit__compressor_at(i)) != NULL; i++) {
        add_spec(compressor->name, NULL, NULL);
        for (const tacit_param_t *param = compressor->params; param->key; param++) {
            add_param(compressor->name, param);
        }
    }
}

/* ---- All inputs ---- */

enum { PATTERNS = 12, FIRST_EXTREME = 8, FIRST_OVERFLOW = 10 };

static float normal[MOST_COUNT];

static float element(size_t i, size_t count, int pattern)
{
    switch (pattern) {
    case 0:
        return normal[i];
    case 1: /* zeros */
        return 0;
    case 2: /* one-hot */
        return i == count / 2 ? 3 : 0;
    case 3: /* constant */
        return -0.75f;
    case 4: /* ramp */
        return (float)i - (float)count / 4;
    case 5: /* both zeros */
        return i % 2 ? 0.0f : -0.0f;
    case 6: /* equal magnitudes */
        return i % 3 ? 1 : -1;
    case 7: /* spikes */
        return i % 100 ? normal[i] * 1e-3f : normal[i];
    case 8: /* subnormal */
        return normal[i] * 1e-42f;
    case 9: /* far apart */
        return normal[i] * (i * 7 % 16 < 8 ? 1e-39f : 1e37f);
    case 10: /* largest: what is lost of them may be larger */
        return i % 5 ? FLT_MAX : FLT_MAX / 2;
    default: /* largest, both signs: a range overflows */
        return i % 2 ? FLT_MAX : -FLT_MAX;
    }
}

static void fill(float *a, size_t count, int pattern)
{
    for (size_t i = 0; i < count; i++) {
        a[i] = element(i, count, pattern);
    }
}

static size_t sizes_of(const tacit_spec_t *spec, size_t *sizes)
{
    static const size_t fixed[] = {0, 1, 7, 8, 9, 31, 33, 63, 64, 65, 1023};
    const size_t        grain = spec->compressor->grain ? spec->compressor->grain(spec->compressor_config) : 0;

    memcpy(sizes, fixed, sizeof fixed);
    sizes[COUNT_OF(fixed)] = grain == 0 ? 5001 : grain > 4096 ? grain + 77 : 2 * grain + 77;
    return COUNT_OF(fixed) + 1;
}

/* ---- Blockwise ---- */

typedef struct buffers {
    size_t   count, bytes;
    float   *a, *decoded, *other, *sums;
    uint8_t *payload, *again; /* each with guards on both sides; `again` lies at an odd address */
} buffers_t;

static float *floats(size_t count)
{
    float *values = malloc(count * sizeof *values + GUARD_BYTES);

    memset(values, GUARD, count * sizeof *values + GUARD_BYTES);
    return values;
}

static uint8_t *guarded(size_t bytes, size_t shift)
{
    uint8_t *memory = malloc(2 * GUARD_BYTES + bytes + shift);

    memset(memory, GUARD, 2 * GUARD_BYTES + bytes + shift);
    return memory + GUARD_BYTES + shift;
}

static void guards_stand(const uint8_t *memory, size_t bytes, bool before, const char *what)
{
    uint8_t guard[GUARD_BYTES];

    memset(guard, GUARD, sizeof guard);
    same_bytes(memory + bytes, guard, sizeof guard, what);
    if (before) {
        same_bytes(memory - GUARD_BYTES, guard, sizeof guard, what);
    }
}

static buffers_t make_buffers(const tacit_spec_t *spec, size_t count)
{
    const size_t bytes = spec->compressor->bound(spec->compressor_config, count);

    return (buffers_t){count,         bytes,         floats(count),     floats(count),
                       floats(count), floats(count), guarded(bytes, 0), guarded(bytes, 1)};
}

static void free_buffers(buffers_t *b)
{
    free(b->a);
    free(b->decoded);
    free(b->other);
    free(b->sums);
    free(b->payload - GUARD_BYTES);
    free(b->again - GUARD_BYTES - 1);
}

/* Payload and decoded values are the same from any address, in place, and in pieces of whole grains. */
static void check_same_bytes(const tacit_spec_t *spec, const tacit_kernels_t *kernels, const buffers_t *b, const char *what)
{
    const size_t  grain = spec->compressor->grain(spec->compressor_config);
    tacit_block_t block = block_of(spec, 8 * grain, b->count);
    uint8_t      *at = b->again;

    memcpy(b->other, b->a, b->count * sizeof *b->a);
    memset(b->again, 0, b->bytes);
    kernels->encode(&block, b->other, b->again, b->other);
    same_bytes(b->again, b->payload, b->bytes, what);
    same_floats(b->other, b->decoded, b->count, what);
    if (grain == 0) {
        return;
    }
    memset(b->again, 0, b->bytes);
    for (size_t i = 0, pieces = 1; i < b->count; i += block.count, pieces = 3 - pieces) {
        block.first = 8 * grain + i;
        block.count = b->count - i < pieces * grain ? b->count - i : pieces * grain;
        kernels->encode(&block, b->a + i, at, b->other + i);
        kernels->decode(&block, at, b->sums + i, false);
        at += spec->compressor->bound(spec->compressor_config, block.count);
    }
    ck_assert_msg((size_t)(at - b->again) == b->bytes, "%s: pieces have %td bytes, not %zu", what, at - b->again, b->bytes);
    same_bytes(b->again, b->payload, b->bytes, what);
    same_floats(b->other, b->decoded, b->count, what);
    same_floats(b->sums, b->decoded, b->count, what);
}

/* What is decoded is what the encoder said, stored or added. */
static void check_decoding(const tacit_spec_t *spec, const tacit_kernels_t *kernels, const buffers_t *b, const char *what)
{
    const tacit_block_t block = block_of(spec, 8 * spec->compressor->grain(spec->compressor_config), b->count);

    kernels->decode(&block, b->payload, b->other, false);
    same_floats(b->other, b->decoded, b->count, what);
    memcpy(b->sums, normal, b->count * sizeof *b->sums);
    for (size_t i = 0; i < b->count; i++) {
        b->other[i] = b->sums[i] + b->decoded[i];
    }
    kernels->decode(&block, b->payload, b->sums, true);
    for (size_t i = 0; i < b->count; i++) {
        ck_assert_msg(harness_ulps(b->sums[i], b->other[i]) == 0, "%s: sum %zu is %a, not %a", what, i, (double)b->sums[i],
                      (double)b->other[i]);
        i = memcmp(b->sums + i, b->other + i, (b->count - i) * sizeof *b->sums) == 0 ? b->count : i;
    }
}

/* What is kept back and what is sent make up what was there, to one ulp of the larger: added in float64, since half an ulp more
   than the largest float32 is infinity. */
static bool conserved(float a, float decoded)
{
    const float  larger = fmaxf(fabsf(a), fabsf(decoded)), kept = a - decoded;
    const double sum = (double)decoded + (double)kept;

    return fabs(sum - (double)a) <= fmax((double)(larger - nextafterf(larger, 0)), 0x1p-149);
}

/* For every element; and nothing at all is kept back where nothing is lost. */
static void check_conservation(const tacit_spec_t *spec, const buffers_t *b, const char *what)
{
    double                factor;
    const tacit_quality_t quality = spec->compressor->quality(spec->compressor_config, b->count, &factor);

    for (size_t i = 0; i < b->count; i++) {
        const uint32_t kept = tacit__float_bits(b->a[i] - b->decoded[i]);
        if (!conserved(b->a[i], b->decoded[i]) || (quality == TACIT_LOSSLESS && kept != 0)) {
            ck_abort_msg("%s: element %zu was %a and became %a", what, i, (double)b->a[i], (double)b->decoded[i]);
        }
    }
}

/* The promised error. An unbiased compressor promises it on average; one draw of a rounding is off by twice its root at most
   in each element, which is what is checked here. */
static void check_quality(const tacit_spec_t *spec, const buffers_t *b, const char *what)
{
    double                factor, error = 0, square = 0;
    const tacit_quality_t quality = spec->compressor->quality(spec->compressor_config, b->count, &factor);

    for (size_t i = 0; i < b->count; i++) {
        error += pow((double)b->decoded[i] - (double)b->a[i], 2);
        square += pow((double)b->a[i], 2);
    }
    factor = quality == TACIT_UNBIASED ? 4 * factor : factor;
    ck_assert_msg(error <= factor * square * (1 + 1e-5), "%s: the error is %g of %g, not %g", what, error, square, factor);
}

static void check_pattern(const tacit_spec_t *spec, const tacit_kernels_t *kernels, const buffers_t *b, int pattern,
                          const char *what)
{
    const tacit_block_t block = block_of(spec, 8 * spec->compressor->grain(spec->compressor_config), b->count);
    uint32_t            faults;

    fill(b->a, b->count, pattern);
    faults = kernels->encode(&block, b->a, b->payload, b->decoded);
    ck_assert_msg(faults == 0 || (pattern >= FIRST_OVERFLOW && faults == TACIT_FAULT_NONFINITE), "%s: faults %u", what, faults);
    check_same_bytes(spec, kernels, b, what);
    check_decoding(spec, kernels, b, what);
    if (faults == 0) {
        check_conservation(spec, b, what);
    }
    if (pattern < FIRST_EXTREME) {
        check_quality(spec, b, what);
    }
    guards_stand(b->payload, b->bytes, true, what);
    guards_stand(b->again, b->bytes, true, what);
    guards_stand((uint8_t *)(b->a + b->count), 0, false, what);
    guards_stand((uint8_t *)(b->decoded + b->count), 0, false, what);
    guards_stand((uint8_t *)(b->other + b->count), 0, false, what);
    guards_stand((uint8_t *)(b->sums + b->count), 0, false, what);
}

/* NaN and infinity at any place are a fault, and do not come back as finite numbers. */
static void check_not_finite(const tacit_spec_t *spec, const tacit_kernels_t *kernels, const buffers_t *b, const char *what)
{
    static const float  values[] = {NAN, INFINITY, -INFINITY};
    const tacit_block_t block = block_of(spec, 0, b->count);

    for (size_t i = 0; i < b->count; i = 2 * i + 1) {
        fill(b->a, b->count, 0);
        b->a[i] = values[i % 3];
        ck_assert_msg(kernels->encode(&block, b->a, b->payload, b->decoded) == TACIT_FAULT_NONFINITE, "%s: no fault", what);
        ck_assert_msg(!isfinite(b->decoded[i]), "%s: element %zu becomes %g", what, i, (double)b->decoded[i]);
        kernels->decode(&block, b->payload, b->other, false);
        same_floats(b->other, b->decoded, b->count, what);
    }
}

/* Any bytes decode to something, within bounds: the allocations are exact, for sanitizers to see. */
static void check_hostile(const tacit_spec_t *spec, const tacit_kernels_t *kernels, size_t count, const char *what)
{
    const tacit_block_t block = block_of(spec, 0, count);
    const size_t        bytes = spec->compressor->bound(spec->compressor_config, count);
    uint8_t            *payload = malloc(bytes + !bytes);
    float              *out = malloc(count * sizeof *out + !count);
    harness_random_t    random = {count};

    ck_assert_msg(payload && out, "%s: no memory", what);
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < bytes; i++) {
            payload[i] = round == 0 ? 0xff : (uint8_t)harness_next(&random);
        }
        kernels->decode(&block, payload, out, false);
        kernels->decode(&block, payload, out, true);
    }
    free(payload);
    free(out);
}

static void check_blockwise(const tacit_spec_t *spec, const char *text, const tacit_kernels_t *kernels, const char *isa)
{
    size_t       sizes[16];
    const size_t size_count = sizes_of(spec, sizes);
    char         what[160];

    for (size_t s = 0; s < size_count; s++) {
        buffers_t b = make_buffers(spec, sizes[s]);
        for (int pattern = 0; pattern < PATTERNS; pattern++) {
            snprintf(what, sizeof what, "%s (%s), %zu elements, pattern %d", text, isa, sizes[s], pattern);
            check_pattern(spec, kernels, &b, pattern, what);
        }
        check_not_finite(spec, kernels, &b, what);
        check_hostile(spec, kernels, sizes[s], what);
        free_buffers(&b);
    }
}

/* The same payload, values and faults as the scalar kernels'. */
static void check_as_scalar(const tacit_spec_t *spec, const tacit_kernels_t *kernels, const char *what)
{
    const tacit_kernels_t *scalar = spec->compressor->kernels[TACIT_ISA_SCALAR];
    size_t                 sizes[16];
    const size_t           size_count = sizes_of(spec, sizes);

    for (size_t i = 0; i < size_count * PATTERNS; i++) {
        buffers_t           b = make_buffers(spec, sizes[i / PATTERNS]);
        const tacit_block_t block = block_of(spec, 8 * spec->compressor->grain(spec->compressor_config), b.count);
        uint32_t            faults;
        fill(b.a, b.count, (int)(i % PATTERNS));
        faults = scalar->encode(&block, b.a, b.payload, b.decoded);
        ck_assert_msg(kernels->encode(&block, b.a, b.again, b.other) == faults, "%s: other faults", what);
        same_bytes(b.again, b.payload, b.bytes, what);
        same_floats(b.other, b.decoded, b.count, what);
        for (int add = 0; add < 2; add++) {
            fill(b.other, b.count, (int)(i % FIRST_EXTREME));
            fill(b.decoded, b.count, (int)(i % FIRST_EXTREME));
            scalar->decode(&block, b.payload, b.decoded, add != 0);
            kernels->decode(&block, b.payload, b.other, add != 0);
            same_floats(b.other, b.decoded, b.count, what);
        }
        free_buffers(&b);
    }
}

START_TEST(blockwise)
{
    tacit_spec_t spec = spec_of(specs[_i]);

    for (int isa = TACIT_ISA_SCALAR; isa <= (int)tacit__isa() && !spec.compressor->select && !spec.compressor->linear; isa++) {
        const tacit_kernels_t *kernels = spec.compressor->kernels[isa];
        if (!kernels) {
            continue;
        }
        check_blockwise(&spec, specs[_i], kernels, tacit__isa_name((tacit_isa_t)isa));
        if (isa != TACIT_ISA_SCALAR) {
            check_as_scalar(&spec, kernels, specs[_i]);
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* ---- Sparse ---- */

/* Cuts the tensor into ranges, and finds in their payloads every value that was chosen. */
static void check_ranges(const tacit_spec_t *spec, const float *a, size_t count, const uint32_t *indices, size_t entries,
                         size_t range, const char *what)
{
    const tacit_select_t *select = spec->compressor->select;
    size_t                done = 0;

    for (size_t first = 0; first < count || first == 0; first += range) {
        const tacit_block_t block = block_of(spec, first, count - first < range ? count - first : range);
        size_t              here = 0, bound, bytes;
        while (done + here < entries && indices[done + here] < first + block.count) {
            here++;
        }
        bound = select->bound(spec->compressor_config, block.count, here);
        uint8_t  *payload = guarded(bound, 1), *exact;
        float    *decoded = floats(here), *values = floats(here);
        uint32_t *found = (uint32_t *)floats(here);
        bytes = encode_of(spec, &block, a, indices + done, here, payload, decoded);
        ck_assert_msg(bytes <= bound, "%s: %zu bytes, bound %zu", what, bytes, bound);
        guards_stand(payload, bound, true, what);
        exact = malloc(bytes);
        memcpy(exact, payload, bytes);
        ck_assert_msg(select->decode(&block, exact, bytes, found, values, here) == here, "%s: entries are lost", what);
        same_floats(values, decoded, here, what);
        guards_stand((uint8_t *)(decoded + here), 0, false, what);
        guards_stand((uint8_t *)(values + here), 0, false, what);
        guards_stand((uint8_t *)(found + here), 0, false, what);
        for (size_t i = 0; i < here; i++) {
            ck_assert_msg(found[i] + first == indices[done + i], "%s: entry %zu is at %u", what, done + i, found[i]);
            ck_assert_msg(conserved(a[indices[done + i]], decoded[i]), "%s: entry %zu loses something", what, done + i);
        }
        free(payload - GUARD_BYTES - 1);
        free(exact);
        free(decoded);
        free(values);
        free(found);
        done += here;
    }
    ck_assert_msg(done == entries, "%s: %zu of %zu entries are in the ranges", what, done, entries);
}

/* Flips every bit, and cuts and extends: an error, or entries that are in order and in range. */
static void check_hostile_sparse(const tacit_spec_t *spec, const float *a, size_t count, const uint32_t *indices, size_t entries,
                                 const char *what)
{
    const tacit_select_t *select = spec->compressor->select;
    const tacit_block_t   block = block_of(spec, 0, count);
    const size_t          capacity = select->limit(spec->compressor_config, count);
    uint8_t              *payload = calloc(1, select->bound(spec->compressor_config, count, entries) + 8);
    float                *values = malloc(capacity * sizeof *values + !capacity), *decoded = floats(entries);
    uint32_t             *found = malloc(capacity * sizeof *found + !capacity);
    const size_t          bytes = encode_of(spec, &block, a, indices, entries, payload, decoded);

    for (size_t bit = 0; bit < 8 * bytes + bytes + 8; bit++) {
        const size_t cut = bit < 8 * bytes ? bytes : bit - 8 * bytes; /* then all shorter and some longer lengths */
        uint8_t     *exact = malloc(cut + !cut);
        size_t       got;
        memcpy(exact, payload, cut);
        if (bit < 8 * bytes) {
            exact[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        got = select->decode(&block, exact, cut, found, values, capacity);
        ck_assert_msg(got == SIZE_MAX || got <= capacity, "%s: %zu entries", what, got);
        ck_assert_msg(cut == bytes || got == SIZE_MAX, "%s: %zu bytes for %zu are accepted", what, cut, bytes);
        for (size_t i = 0; got != SIZE_MAX && i < got; i++) {
            if (found[i] >= count || (i > 0 && found[i] <= found[i - 1])) {
                ck_abort_msg("%s: bit %zu puts entry %zu at %u", what, bit, i, found[i]);
            }
        }
        free(exact);
    }
    free(payload);
    free(values);
    free(decoded);
    free(found);
}

static void check_sparse(const tacit_spec_t *spec, const char *text, size_t count, int pattern)
{
    const tacit_select_t *select = spec->compressor->select;
    const tacit_block_t   block = block_of(spec, 0, count);
    const size_t          limit = select->limit(spec->compressor_config, count);
    const float           tiny = strstr(text, "values=fp16") != NULL ? 0x1p-25f : 0; /* magnitudes that are zero as float16 */
    float                *a = floats(count);
    uint32_t             *indices = (uint32_t *)floats(limit);
    double                factor, lost = 0, square = 0;
    size_t                entries;
    char                  what[160];

    snprintf(what, sizeof what, "%s, %zu elements, pattern %d", text, count, pattern);
    fill(a, count, pattern);
    entries = choose_from(spec, &block, a, indices);
    ck_assert_msg(entries <= limit && limit <= count, "%s: %zu entries, limit %zu", what, entries, limit);
    guards_stand((uint8_t *)(indices + limit), 0, false, what);
    for (size_t i = 0, entry = 0; i < count; i++) {
        const bool sent = entry < entries && indices[entry] == i;
        entry += sent;
        if (sent && fabsf(a[i]) <= tiny) {
            ck_abort_msg("%s: a zero is chosen", what);
        }
        lost += sent || fabsf(a[i]) <= tiny ? 0 : pow((double)a[i], 2);
        square += pow((double)a[i], 2);
        ck_assert_msg(i + 1 < count || entry == entries, "%s: indices do not ascend", what);
    }
    spec->compressor->quality(spec->compressor_config, count, &factor);
    ck_assert_msg(lost <= factor * square * (1 + 1e-12), "%s: %g of %g is lost, not %g", what, lost, square, factor);
    check_ranges(spec, a, count, indices, entries, count + !count, what);
    check_ranges(spec, a, count, indices, entries, (count / 24 + 1) * 8, what);
    if (entries <= 64 && pattern % 4 == 0) {
        check_hostile_sparse(spec, a, count, indices, entries, what);
    }
    free(a);
    free(indices);
}

START_TEST(sparse)
{
    tacit_spec_t spec = spec_of(specs[_i]);
    size_t       sizes[16];
    const size_t size_count = sizes_of(&spec, sizes);

    for (size_t s = 0; s < size_count && spec.compressor->select; s++) {
        for (int pattern = 0; pattern < PATTERNS; pattern++) {
            check_sparse(&spec, specs[_i], sizes[s], pattern);
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* ---- Linear ---- */

/* Runs all rounds as one rank would alone: what is reduced is the own factor. Returns the factors, to be freed one by one. */
static int run_rounds(const tacit_spec_t *spec, const tacit_slot_config_t *tensor, const float *a, const float *work,
                      float **factors)
{
    const tacit_linear_t *linear = spec->compressor->linear;
    const tacit_block_t   block = block_of(spec, 0, tensor->count);
    const int             rounds = linear->rounds(spec->compressor_config, tensor);

    for (int round = 0; round < rounds; round++) {
        const size_t count = linear->factor_count(spec->compressor_config, tensor, round);
        factors[round] = floats(count);
        linear->make_factor(&block, tensor, round, a, work, factors, factors[round]);
        guards_stand((uint8_t *)(factors[round] + count), 0, false, "factor");
    }
    return rounds;
}

/* Without a shape, or with that of a matrix as close to a square as there is. */
static tacit_slot_config_t tensor_of(size_t count, bool matrix)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    size_t              rows = (size_t)sqrt((double)count);

    tensor.count = count;
    while (rows > 1 && count % rows != 0) {
        rows--;
    }
    if (matrix) {
        tensor.ndim = 2;
        tensor.shape[0] = rows;
        tensor.shape[1] = rows > 0 ? count / rows : 3;
    }
    return tensor;
}

static void check_linear(const tacit_spec_t *spec, const char *text, size_t count, bool matrix, int pattern)
{
    const tacit_linear_t *linear = spec->compressor->linear;
    tacit_slot_config_t   tensor = tensor_of(count, matrix);
    tacit_block_t         block = block_of(spec, 0, count);
    float                *a = floats(count), *whole = floats(count), *part = floats(count), *factors[8];
    const size_t          work_count = linear->work_count ? linear->work_count(spec->compressor_config, &tensor) : 0;
    float                *work;
    const float          *reduced[8];
    int                   rounds;
    char                  what[160];

    snprintf(what, sizeof what, "%s, %zu elements%s, pattern %d", text, count, matrix ? " in rows" : "", pattern);
    fill(a, count, pattern);
    work = floats(work_count);
    memset(work, 0, work_count * sizeof *work);
    rounds = run_rounds(spec, &tensor, a, work, factors);
    ck_assert_msg(rounds >= 1 && rounds <= 8, "%s: %d rounds", what, rounds);
    memcpy(reduced, factors, (size_t)rounds * sizeof *reduced);
    linear->reconstruct(&block, &tensor, reduced, whole);
    guards_stand((uint8_t *)(whole + count), 0, false, what);
    for (size_t step = count / 3 + 1, first = 0; first < count; first += step) { /* any cut gives the same */
        block.first = first;
        block.count = count - first < step ? count - first : step;
        linear->reconstruct(&block, &tensor, reduced, part + first);
    }
    same_floats(part, whole, count, what);
    guards_stand((uint8_t *)(part + count), 0, false, what);
    if (linear->keep) {
        block = block_of(spec, 0, count);
        linear->keep(&block, &tensor, reduced, work);
    }
    guards_stand((uint8_t *)(work + work_count), 0, false, what);
    for (int round = 0; round < rounds; round++) {
        free(factors[round]);
    }
    free(a);
    free(whole);
    free(part);
    free(work);
}

START_TEST(linear)
{
    tacit_spec_t spec = spec_of(specs[_i]);
    size_t       sizes[16];
    const size_t size_count = sizes_of(&spec, sizes);

    for (size_t s = 0; s < size_count && spec.compressor->linear; s++) {
        for (int pattern = 0; pattern < FIRST_EXTREME; pattern++) {
            check_linear(&spec, specs[_i], sizes[s], false, pattern);
            check_linear(&spec, specs[_i], sizes[s], true, pattern);
        }
    }
    tacit__spec_release(&spec);
}
END_TEST

/* ---- The registry ---- */

START_TEST(registry)
{
    const tacit_compressor_t *compressor, *other;

    for (size_t i = 0; (compressor = tacit__compressor_at(i)) != NULL; i++) {
        const bool blocks = compressor->kernels[TACIT_ISA_SCALAR] != NULL;
        ck_assert_msg(blocks + (compressor->select != NULL) + (compressor->linear != NULL) + compressor->tokens == 1,
                      "%s: family", compressor->name);
        ck_assert_msg(!blocks || (compressor->grain && compressor->bound), "%s: sizes", compressor->name);
        ck_assert_msg(compressor->wire_id > 0 && compressor->wire_version > 0, "%s: wire", compressor->name);
        ck_assert_msg(compressor->summary && !compressor->quality == compressor->tokens && compressor->params, "%s: words",
                      compressor->name);
        ck_assert_ptr_eq(tacit__compressor_named(compressor->name), compressor);
        ck_assert_ptr_eq(tacit__compressor_wire(compressor->wire_id), compressor);
        for (size_t j = 0; j < i; j++) {
            other = tacit__compressor_at(j);
            ck_assert_msg(other->wire_id != compressor->wire_id, "%s and %s: one wire id", other->name, compressor->name);
        }
        for (const tacit_param_t *param = compressor->params; param->key; param++) {
            ck_assert_msg(param->help && param->unit && param->offset < compressor->config_bytes, "%s: %s", compressor->name,
                          param->key);
        }
        if (blocks) {
            ck_assert_ptr_nonnull(tacit__compressor_kernels(compressor));
        }
    }
    ck_assert_ptr_null(tacit__compressor_named("nosuch"));
    ck_assert_ptr_null(tacit__compressor_wire(0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("conformance");
    TCase *tests = tcase_create("conformance");

    harness_fill(normal, MOST_COUNT, 77, 1);
    add_all_specs();
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, registry);
    tcase_add_loop_test(tests, blockwise, 0, (int)spec_count);
    tcase_add_loop_test(tests, sparse, 0, (int)spec_count);
    tcase_add_loop_test(tests, linear, 0, (int)spec_count);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
