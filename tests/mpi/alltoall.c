/* SPDX-License-Identifier: Apache-2.0 */
/* All-to-all over MPI: by its own call and in frames, of every type, of parts of any number of elements; beside reductions; and
   what happens where ranks do not make the same call. */
#include "world.h"

enum { MOST = 20000, RANKS = 8 };

static uint8_t in[(size_t)RANKS * MOST * sizeof(float)], out[sizeof in];
static size_t  sends[RANKS], receives[RANKS];

static size_t element_of(tacit_dtype_t dtype)
{
    return dtype == TACIT_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

/* Elements from one rank to another: none, few, or several messages; the same of all where they are to be even. */
static size_t part_of(int from, int to, bool even)
{
    static const size_t sizes[] = {0, 1, 777, MOST, 256, 12345, 0};

    return even ? 515 : sizes[(from * 3 + to * 5) % 7];
}

static void fill(int from, int to, bool even, tacit_dtype_t dtype, void *part)
{
    static float values[MOST];
    const size_t count = part_of(from, to, even);

    harness_fill(values, count, (uint64_t)(100 * from + to), 1.0f);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;

        memcpy(&bits, values + i, sizeof bits);
        if (dtype == TACIT_FLOAT32) {
            ((float *)part)[i] = values[i];
        } else { /* halves that are finite */
            ((uint16_t *)part)[i] = (uint16_t)(dtype == TACIT_BFLOAT16 ? bits >> 16 : 0x3000u + bits % 0x1000u);
        }
    }
}

/* Makes `in` and the counts, and clears `out`. */
static void prepare(bool even, tacit_dtype_t dtype)
{
    size_t sent = 0;

    for (int rank = 0; rank < world_ranks(); rank++) {
        fill(world_rank(), rank, even, dtype, in + sent);
        sends[rank] = part_of(world_rank(), rank, even);
        receives[rank] = part_of(rank, world_rank(), even);
        sent += sends[rank] * element_of(dtype);
    }
    memset(out, 0xee, sizeof out);
}

/* What the codec, of which other tests are, makes of a part. */
static void encode(const char *spec, tacit_dtype_t dtype, size_t count, void *part)
{
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t      *codec;
    uint8_t            *frame;
    size_t              bytes;

    tensor.count = count;
    tensor.dtype = dtype;
    tensor.spec = spec;
    MUST(tacit_codec_create("t", &tensor, NULL, 0, 2, &codec));
    frame = malloc(tacit_codec_capacity(codec, count));
    MUST(tacit_encode(codec, 0, part, 0, count, frame, tacit_codec_capacity(codec, count), &bytes));
    MUST(tacit_decode(codec, 0, frame, bytes, part, NULL, NULL));
    free(frame);
    tacit_codec_destroy(codec);
}

static void check(const char *spec, bool even, tacit_dtype_t dtype)
{
    static float part[MOST];
    size_t       at = 0;

    for (int from = 0; from < world_ranks(); from++) {
        const size_t bytes = receives[from] * element_of(dtype);

        fill(from, world_rank(), even, dtype, part);
        if (from != world_rank() && spec != NULL && strcmp(spec, "none") != 0) {
            encode(spec, dtype, receives[from], part);
        }
        REQUIRE(memcmp(part, out + at, bytes) == 0, "%s, type %d: from rank %d", spec != NULL ? spec : "NULL", (int)dtype, from);
        at += bytes;
    }
    REQUIRE(out[at] == 0xee, "%s: more than was expected", spec != NULL ? spec : "NULL");
}

/* Whether the last call was MPI's own, which adds no header. */
static bool was_native(const tacit_comm_t *comm)
{
    static uint64_t  dense, wire;
    tacit_counters_t counters;
    bool             native;

    MUST(tacit_alltoall_counters(comm, &counters));
    native = counters.wire_bytes - wire == counters.dense_bytes - dense;
    wire = counters.wire_bytes;
    dense = counters.dense_bytes;
    return native;
}

static void every_type(tacit_comm_t *comm, bool checked)
{
    static const char *const specs[] = {NULL, "none", "bf16", "fp8", "fp16", "onebit:block=64"};

    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        for (int variant = 0; variant < 6; variant++) {
            const bool          even = variant % 2 != 0;
            const tacit_dtype_t dtype = (tacit_dtype_t)(variant / 2);

            prepare(even, dtype);
            if (even) {
                MUST(tacit_alltoall(comm, specs[s], dtype, in, sends[0], out));
            } else {
                MUST(tacit_alltoallv(comm, specs[s], dtype, in, sends, out, receives));
            }
            check(specs[s], even, dtype);
            REQUIRE(was_native(comm) == (world_ranks() == 1 || (s < 2 && !checked)), "spec %zu", s);
        }
    }
}

/* Requests beside reductions by MPI and by frames; a native call then waits for all of them, on every rank. */
static void beside_reductions(tacit_comm_t *comm)
{
    tacit_slot_t    *slots[] = {slot_of(comm, "none", MOST, TACIT_FLOAT32, "none"),
                                slot_of(comm, "fp16", MOST, TACIT_FLOAT32, "fp16")};
    tacit_request_t *requests[4];
    static float     ones[MOST], sums[2][MOST], more[2][RANKS];
    const float      ranks = (float)world_ranks();

    for (size_t i = 0; i < MOST; i++) {
        ones[i] = 1;
    }
    for (int rank = 0; rank < world_ranks(); rank++) {
        more[0][rank] = (float)(10 * world_rank() + rank);
    }
    prepare(false, TACIT_FLOAT32);
    MUST(tacit_iallreduce(slots[0], ones, sums[0], TACIT_SUM, &requests[0]));
    MUST(tacit_ialltoallv(comm, "none", TACIT_FLOAT32, in, sends, out, receives, &requests[1]));
    MUST(tacit_iallreduce(slots[1], ones, sums[1], TACIT_SUM, &requests[2]));
    if (world_rank() % 2 != 0) {
        MUST(tacit_wait(&requests[2]));
    }
    MUST(tacit_alltoall(comm, NULL, TACIT_FLOAT32, more[0], 1, more[1]));
    MUST(tacit_ialltoall(comm, "bf16", TACIT_FLOAT32, more[1], 1, more[0], &requests[3]));
    for (int i = 3; i >= 0; i--) {
        MUST(tacit_wait(&requests[i]));
    }
    check("none", false, TACIT_FLOAT32);
    for (int rank = 0; rank < world_ranks(); rank++) {
        REQUIRE(more[1][rank] == (float)(10 * rank + world_rank()), "%g", (double)more[1][rank]);
        REQUIRE(more[0][rank] == (float)(10 * world_rank() + rank), "%g", (double)more[0][rank]);
    }
    for (size_t i = 0; i < MOST; i++) {
        REQUIRE(sums[0][i] == ranks && sums[1][i] == ranks, "%g, %g", (double)sums[0][i], (double)sums[1][i]);
    }
    tacit_slot_destroy(slots[0]);
    tacit_slot_destroy(slots[1]);
    (void)was_native(comm);
}

/* What one rank does wrong in a native call it alone is told, and can mend; in frames, all are told. */
static void mistakes(tacit_comm_t *comm, bool checked)
{
    const bool     last = world_rank() == world_ranks() - 1;
    tacit_status_t status = TACIT_ERR_ARGUMENT;

    prepare(true, TACIT_FLOAT32);
    if (last || checked) {
        status = tacit_alltoall(comm, NULL, TACIT_FLOAT32, last ? NULL : in, 515, out);
    }
    REQUIRE(status == TACIT_ERR_ARGUMENT && (world_ranks() == 1 || !checked || strstr(tacit_last_error(), "in or out is NULL")),
            "%d", (int)status);
    MUST(tacit_alltoall(comm, NULL, TACIT_FLOAT32, in, 515, out));
    check(NULL, true, TACIT_FLOAT32);
    MUST(tacit_alltoall(comm, "bf16", TACIT_FLOAT32, in, 515, out));
    check("bf16", true, TACIT_FLOAT32);

    if (world_ranks() > 1) {
        prepare(false, TACIT_FLOAT32);
        receives[0] -= world_rank() == 1;
        REQUIRE(tacit_alltoallv(comm, "bf16", TACIT_FLOAT32, in, sends, out, receives) == TACIT_ERR_MISMATCH, "one less");
        REQUIRE(strstr(tacit_last_error(), "rank 0 sends rank 1 12345 elements") != NULL, "whose?");
        receives[0] += world_rank() == 1;
        MUST(tacit_alltoallv(comm, "bf16", TACIT_FLOAT32, in, sends, out, receives));
        check("bf16", false, TACIT_FLOAT32);
    }
    (void)was_native(comm);
}

/* The last rank makes its calls in another order than the others, which MPI cannot tell: it sends nothing for no elements. */
static void different(tacit_comm_t *comm, bool checked)
{
    tacit_slot_t *nothing = slot_of(comm, "nothing", 0, TACIT_FLOAT32, "none");
    const bool    last = world_rank() == world_ranks() - 1;

    prepare(true, TACIT_FLOAT32);
    if (checked) {
        tacit_status_t status =
            last ? tacit_allreduce(nothing, NULL, NULL, TACIT_SUM) : tacit_alltoall(comm, NULL, TACIT_FLOAT32, in, 515, out);

        REQUIRE(status == TACIT_ERR_MISMATCH && strstr(tacit_last_error(), "all-to-all") != NULL, "%d", (int)status);
        REQUIRE(tacit_alltoall(comm, NULL, last ? TACIT_FLOAT16 : TACIT_BFLOAT16, in, 515, out) == TACIT_ERR_MISMATCH, "types");
        MUST(tacit_alltoall(comm, NULL, TACIT_FLOAT32, in, 515, out));
        check(NULL, true, TACIT_FLOAT32);
        return;
    }
    for (int call = 0; call < 2; call++) {
        if (last == (call == 0)) {
            MUST(tacit_allreduce(nothing, NULL, NULL, TACIT_SUM));
        } else {
            MUST(tacit_alltoall(comm, NULL, TACIT_FLOAT32, in, 515, out));
        }
    }
    check(NULL, true, TACIT_FLOAT32);
    REQUIRE(tacit_alltoall(comm, "bf16", TACIT_FLOAT32, in, 515, out) == TACIT_ERR_MISMATCH, "nothing was noticed");
    REQUIRE(strstr(tacit_last_error(), "TACIT_CHECK=1") != NULL, "what to do");
}

int main(int argc, char **argv)
{
    tacit_comm_t *comm;

    MPI_Init(&argc, &argv);
    for (int checked = 0; checked < 2; checked++) {
        setenv("TACIT_CHECK", checked ? "1" : "0", 1);
        MUST(tacit_comm_create_mpi(MPI_COMM_WORLD, NULL, &comm));
        every_type(comm, checked != 0);
        beside_reductions(comm);
        mistakes(comm, checked != 0);
        if (world_ranks() > 1) {
            different(comm, checked != 0);
        }
        tacit_comm_destroy(comm);
    }
    MPI_Finalize();
    return 0;
}
