/* SPDX-License-Identifier: Apache-2.0 */
/* An error handler that does not return, on all ranks: of preload.sh. What follows is as if the call had not been. */
#include <mpi.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static jmp_buf back;
static int     rank, caught;

static void handle(MPI_Comm *comm, int *status, ...)
{
    (void)comm, (void)status;
    longjmp(back, 1);
}

static void sum(MPI_Op op, MPI_Comm comm)
{
    static float values[4096];

    MPI_Allreduce(MPI_IN_PLACE, values, 4096, MPI_FLOAT, op, comm);
}

/* From farther away than the call that was left. */
static void sum_deeper(int levels, MPI_Comm comm)
{
    char room[200];

    memset(room, levels, sizeof room);
    if (levels > 0) {
        sum_deeper(levels - 1, comm);
    } else {
        sum(MPI_SUM, comm);
    }
}

static void fail(MPI_Op op, MPI_Comm comm)
{
    if (setjmp(back) == 0) {
        sum(op, comm);
    } else {
        caught++;
    }
}

/* With an argument, rank 1 comes late to a sum, for which the others do not wait. */
int main(int argc, char **argv)
{
    MPI_Errhandler handler;
    MPI_Comm       other;
    const int      late = argc > 1;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_dup(MPI_COMM_WORLD, &other);
    MPI_Comm_create_errhandler(handle, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    sum(MPI_SUM, MPI_COMM_WORLD);
    usleep(late && rank == 1 ? 900000 : 0);
    fail(late ? MPI_SUM : MPI_OP_NULL, MPI_COMM_WORLD);
    sum(MPI_SUM, other);
#ifdef MPICH /* Open MPI's communicators are addresses, which have to be good */
    fail(MPI_SUM, (MPI_Comm)1);
    caught--;
#endif
    fail(MPI_OP_NULL, MPI_COMM_WORLD);
    sum_deeper(5, other);
    sum(MPI_SUM, other);
    /* In one write, since MPICH's ranks have no buffer for it. */
    fputs(caught == 2 ? "left\n" : "stayed\n", stdout);
    MPI_Finalize();
    return 0;
}
