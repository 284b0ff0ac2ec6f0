/* SPDX-License-Identifier: Apache-2.0 */
/* An MPI program like others, of which preload.sh knows how often it calls what; it ends with the status of its argument. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 1 << 18 };
static float  in[MOST], out[MOST];
static double more[1000];
static int    rank, ranks, wrong;

static void expect(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "rank %d: %s\n", rank, what);
        wrong = 1;
    }
}

/* The rest of a register that carries a handle of 32 bits may hold anything. */
static int sum(const void *from, void *to, int count, MPI_Comm comm)
{
#if MPI_VERSION >= 4
    if (count == MOST) {
        return MPI_Allreduce_c(from, to, count, MPI_FLOAT, MPI_SUM, comm);
    }
#endif
#ifdef OPEN_MPI
    return MPI_Allreduce(from, to, count, MPI_FLOAT, MPI_SUM, comm);
#else
    typedef int         wide_t(const void *, void *, int, unsigned long, unsigned long, unsigned long);
    wide_t             *wide = (wide_t *)MPI_Allreduce;
    const unsigned long rest = (unsigned long)rand() << 32;

    return wide(from, to, count, rest | (unsigned)MPI_FLOAT, rest | (unsigned)MPI_SUM, rest | (unsigned)comm);
#endif
}

static void reduce_floats(MPI_Comm comm, int count, int times)
{
    int size;

    MPI_Comm_size(comm, &size);
    for (int i = 0; i < times; i++) {
        for (int j = 0; j < count; j++) {
            in[j] = out[j] = (float)j;
        }
        /* Some of them in place. */
        expect(sum(i % 2 == 0 ? in : MPI_IN_PLACE, out, count, comm) == 0, "a sum fails");
        for (int j = 0; j < count; j++) {
            expect(out[j] == (float)(size * j), "a sum is wrong");
        }
    }
}

/* The second communicator has the first one's handle, mostly. */
static void reduce_on_duplicates(void)
{
    for (int i = 0; i < 2; i++) {
        MPI_Comm duplicate;

        MPI_Comm_dup(MPI_COMM_WORLD, &duplicate);
        for (int j = 0; j < 4 + i; j++) {
            MPI_Allreduce(MPI_IN_PLACE, more, 1000, MPI_DOUBLE, MPI_MAX, duplicate);
        }
        MPI_Comm_free(&duplicate);
    }
}

static int width;

static void add(void *from, void *to, int *count, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < width * *count; i++) {
        ((float *)to)[i] += ((float *)from)[i];
    }
}

/* The second type has the first one's handle, mostly. */
static void reduce_derived(void)
{
    for (width = 2; width <= 3; width++) {
        MPI_Datatype type;
        MPI_Op       op;

        MPI_Type_contiguous(width, MPI_FLOAT, &type);
        MPI_Type_commit(&type);
        MPI_Op_create(add, 1, &op);
        for (int i = 0; i < 2; i++) {
            MPI_Allreduce(in, out, 50, type, op, MPI_COMM_WORLD);
            expect(out[99] == 99.0f * (float)ranks, "a user's sum is wrong");
        }
        MPI_Op_free(&op);
        MPI_Type_free(&type);
    }
}

static void reduce_meanwhile(void)
{
    for (int i = 0; i < 3; i++) {
        int         mine = rank, highest = -1;
        MPI_Request request;

        MPI_Iallreduce(&mine, &highest, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        expect(highest == ranks - 1, "a maximum is wrong");
    }
}

static void *reduce_in_thread(void *comm)
{
    float values[8] = {1.0f};

    for (int i = 0; i < 100; i++) {
        MPI_Allreduce(MPI_IN_PLACE, values, 8, MPI_FLOAT, MPI_PROD, *(MPI_Comm *)comm);
    }
    expect(values[0] == 1.0f, "a product of a thread's is wrong");
    return NULL;
}

static void reduce_in_threads(void)
{
    MPI_Comm  comms[2];
    pthread_t threads[2];

    for (int i = 0; i < 2; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, reduce_in_thread, &comms[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        MPI_Comm_free(&comms[i]);
    }
}

/* Errors are the program's to see, and are no calls. (An MPI may be built without looking at arguments.) */
#ifdef OPEN_MPI
static void fail(void)
{
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    expect(MPI_Allreduce(in, out, -1, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) != MPI_SUCCESS, "a count of -1 is no error");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}
#else
static void fail(void)
{
}
#endif

int main(int argc, char **argv)
{
    int provided;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    reduce_floats(MPI_COMM_WORLD, 16384, 10);
    reduce_floats(MPI_COMM_WORLD, MOST, 3);
    reduce_floats(MPI_COMM_SELF, 16384, 6);
    reduce_on_duplicates();
    reduce_derived();
    reduce_meanwhile();
    if (provided == MPI_THREAD_MULTIPLE) {
        reduce_in_threads();
    }
    fail();
    if (rank == 0) {
        puts(wrong ? "wrong" : "right");
    }
    MPI_Finalize();
    return wrong || argc < 2 ? wrong : atoi(argv[1]);
}
