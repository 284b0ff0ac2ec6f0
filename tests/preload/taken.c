/* SPDX-License-Identifier: Apache-2.0 */
/* Which sums are inexact under --rule min=4K,max=8K:onebit, and that all others are exact: of preload.sh. */
#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 4096 };
static int rank, ranks, wrong;

static void expect(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "rank %d: %s\n", rank, what);
        wrong = 1;
    }
}

/* Small integers, whose sums are exact in any order. */
static float value_of(int i, int of_rank)
{
    return (float)((i * 7 + of_rank * 3) % 16 - 5);
}

/* Whether a sum differs from the exact one anywhere. */
static int is_lossy(MPI_Comm comm, int count, int in_place)
{
    float in[MOST], out[MOST];
    int   mine, others, lossy = 0;

    MPI_Comm_rank(comm, &mine);
    MPI_Comm_size(comm, &others);
    for (int i = 0; i < count; i++) {
        in[i] = out[i] = value_of(i, mine);
    }
    expect(MPI_Allreduce(in_place ? MPI_IN_PLACE : in, out, count, MPI_FLOAT, MPI_SUM, comm) == MPI_SUCCESS, "a sum fails");
    for (int i = 0; i < count; i++) {
        float exact = 0.0f;

        for (int other = 0; other < others; other++) {
            exact += value_of(i, other);
        }
        lossy = lossy || out[i] != exact;
        expect(in[i] == value_of(i, mine), "a sum writes into what is to be summed");
    }
    return lossy;
}

static void by_size(void)
{
    for (int in_place = 0; in_place < 2; in_place++) {
        expect(is_lossy(MPI_COMM_WORLD, 2048, in_place) == (ranks > 1), "8 KiB are not taken");
        expect(is_lossy(MPI_COMM_WORLD, 1024, in_place) == (ranks > 1), "4 KiB are not taken");
        expect(!is_lossy(MPI_COMM_WORLD, 2049, in_place), "more than 8 KiB are taken");
        expect(!is_lossy(MPI_COMM_WORLD, 1023, in_place), "less than 4 KiB are taken");
        expect(!is_lossy(MPI_COMM_WORLD, 0, in_place), "nothing is taken");
        expect(!is_lossy(MPI_COMM_SELF, 2048, in_place), "a single rank's sum is taken");
    }
}

/* One value is NaN: that is MPI's to make something of. */
static void with_nan(void)
{
    float values[2048];

    for (int i = 0; i < 2048; i++) {
        values[i] = i == 77 && rank == 0 ? NAN : value_of(i, 0);
    }
    MPI_Allreduce(MPI_IN_PLACE, values, 2048, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < 2048; i++) {
        expect(i == 77 ? isnan(values[i]) : values[i] == (float)ranks * value_of(i, 0), "a sum with NaN is inexact");
    }
}

static void of_other_kinds(void)
{
    float        in[2048], out[2048];
    double       more[1024];
    MPI_Request  request;
    MPI_Datatype pair;

    for (int i = 0; i < 2048; i++) {
        in[i] = value_of(i, rank);
        more[i / 2] = 0.1;
    }
    MPI_Allreduce(in, out, 2048, MPI_FLOAT, MPI_MAX, MPI_COMM_WORLD);
    for (int i = 0; i < 2048; i++) {
        float most = value_of(i, 0);

        for (int other = 1; other < ranks; other++) {
            most = fmaxf(most, value_of(i, other));
        }
        expect(out[i] == most, "a maximum is inexact");
        in[i] = 1.0f + (float)(i % 3);
    }
    MPI_Allreduce(MPI_IN_PLACE, more, 1024, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Iallreduce(in, out, 2048, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    for (int i = 0; i < 2048; i++) {
        expect(fabs(more[i / 2] - 0.1 * ranks) < 1e-12, "a sum of doubles is inexact");
        expect(out[i] == (float)ranks * in[i], "a sum that does not block is inexact");
    }
    MPI_Type_contiguous(2, MPI_FLOAT, &pair);
    MPI_Type_commit(&pair);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    (void)MPI_Allreduce(in, out, 1024, pair, MPI_SUM, MPI_COMM_WORLD); /* wrong, and MPI's to say so */
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    MPI_Type_free(&pair);
}

static int copies;

static int copy(MPI_Comm comm, int keyval, void *extra, void *value, void *value_out, int *flag)
{
    (void)comm, (void)keyval, (void)extra;
    copies++;
    *(void **)value_out = value;
    *flag = 1;
    return MPI_SUCCESS;
}

/* Attributes of the program's are copied when it duplicates a communicator, and not before. */
static void with_attributes(void)
{
    MPI_Comm one, other;
    int      keyval;

    MPI_Comm_create_keyval(copy, MPI_COMM_NULL_DELETE_FN, &keyval, NULL);
    MPI_Comm_dup(MPI_COMM_WORLD, &one);
    MPI_Comm_set_attr(one, keyval, &copies);
    expect(is_lossy(one, 2048, 0) == (ranks > 1) && copies == 0, "a program's attribute is copied");
    MPI_Comm_dup(one, &other);
    expect(copies == 1, "a program's attribute is not copied");
    expect(is_lossy(other, 2048, 0) == (ranks > 1), "a duplicate's sums are not taken");
    MPI_Comm_free(&one);
    MPI_Comm_free(&other);
    MPI_Comm_free_keyval(&keyval);
}

/* What is wrong is MPI's to say, once, and breaks nothing. (Some MPIs look at no arguments.) */
#ifdef OPEN_MPI
static int told;

static void tell(MPI_Comm *comm, int *status, ...)
{
    (void)comm, (void)status;
    told++;
}

static void with_errors(void)
{
    float          in[2048], out[2048];
    MPI_Errhandler handler;

    for (int i = 0; i < 2048; i++) {
        in[i] = value_of(i, rank);
    }
    MPI_Comm_create_errhandler(tell, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    expect(MPI_Allreduce(in, MPI_IN_PLACE, 2048, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) == MPI_ERR_BUFFER && told == 1,
           "MPI_IN_PLACE for a result is no error");
    expect(MPI_Allreduce(in, in, 2048, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) == MPI_ERR_BUFFER && told == 2,
           "one buffer for both is no error");
    expect(MPI_Allreduce(in, out, 2048, MPI_FLOAT, MPI_SUM, (MPI_Comm)0) == MPI_ERR_COMM && told == 3,
           "no communicator is no error, or more than one");
    expect(MPI_Allreduce(in, out, -1, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) == MPI_ERR_COUNT && told == 4,
           "a count of -1 is no error");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    MPI_Errhandler_free(&handler);
}
#else
static void with_errors(void)
{
}
#endif

/* Each has its own sequence of sums; communicators end, and their handles come again. */
static void on_rows(void)
{
    for (int i = 0; i < 6; i++) {
        MPI_Comm row;
        int      size;

        MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &row);
        MPI_Comm_size(row, &size);
        for (int j = 0; j < 3 + rank % 2; j++) {
            expect(is_lossy(row, 1024 + 256 * (rank % 2) * (j % 2), j % 2) == (size > 1), "a row's sum is not taken");
            expect(!is_lossy(row, 10 + j, 0), "a row's small sum is taken");
        }
        MPI_Comm_free(&row);
    }
}

static void between_groups(void)
{
    MPI_Comm half, both;
    float    in[1024], out[1024];
    int      others;

    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 1, &both);
    MPI_Comm_remote_size(both, &others);
    for (int i = 0; i < 1024; i++) {
        in[i] = value_of(i, 0);
    }
    MPI_Allreduce(in, out, 1024, MPI_FLOAT, MPI_SUM, both);
    for (int i = 0; i < 1024; i++) {
        expect(out[i] == (float)others * in[i], "a sum between groups is inexact");
    }
    MPI_Comm_free(&both);
    MPI_Comm_free(&half);
}

/* MPI_Finalize() deletes attributes first, while sums still work. */
static int at_end(MPI_Comm self, int keyval, void *value, void *extra)
{
    (void)self, (void)keyval, (void)value, (void)extra;
    if (is_lossy(MPI_COMM_WORLD, 2048, 0)) {
        puts("wrong: a sum is taken in MPI_Finalize()");
    }
    return MPI_SUCCESS;
}

static void *sum_in_thread(void *comm)
{
    for (int i = 0; i < 20; i++) {
        expect(is_lossy(*(MPI_Comm *)comm, 1024 + 64 * (i % 3), i % 2), "a thread's sum is not taken");
    }
    return NULL;
}

static void in_threads(void)
{
    MPI_Comm  comms[2];
    pthread_t threads[2];

    for (int i = 0; i < 2; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, sum_in_thread, &comms[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        MPI_Comm_free(&comms[i]);
    }
}

int main(int argc, char **argv)
{
    int provided, keyval, any = 0;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    by_size();
    with_nan();
    of_other_kinds();
    with_attributes();
    with_errors();
    on_rows();
    if (ranks > 1) {
        between_groups();
    }
    if (ranks > 1 && provided == MPI_THREAD_MULTIPLE) {
        in_threads();
    }
    by_size();
    MPI_Allreduce(&wrong, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0) {
        puts(any ? "wrong" : "right");
    }
    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, at_end, &keyval, NULL);
    MPI_Comm_set_attr(MPI_COMM_SELF, keyval, NULL);
    MPI_Finalize();
    return any;
}
