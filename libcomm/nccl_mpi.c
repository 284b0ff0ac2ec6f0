/* SPDX-License-Identifier: Apache-2.0 */
/* A communicator over NCCL whose ranks are those of MPI: in libtacit_mpi, by public functions only. */
#include <stdio.h>
#include <string.h>

#include "tacit_mpi.h"

#include "tacit_transport.h"

enum { TEXT_BYTES = 480 };

/* What a rank has found. */
typedef struct tacit_finding {
    int  status;
    char text[TEXT_BYTES];
} tacit_finding_t;

/* Whether NCCL and a GPU are here; and on rank 0, which is asked for it, the id. */
static tacit_status_t find(int rank, tacit_nccl_t *const *nccl_out, tacit_nccl_id_t *id_out)
{
    tacit_status_t status = nccl_out != NULL ? TACIT_OK : tacit_transport_fail(TACIT_ERR_ARGUMENT, "nccl_out must be given");
    tacit_module_t gpu;
    int            version;

    if (status == TACIT_OK) {
        status = tacit_nccl_version(&version);
    }
    if (status == TACIT_OK) {
        status = tacit_module(TACIT_DEVICES, TACIT_CUDA, &gpu);
    }
    return status == TACIT_OK && rank == 0 ? tacit_nccl_unique_id(id_out) : status;
}

static tacit_status_t broken(void)
{
    return tacit_transport_fail(TACIT_ERR_TRANSPORT, "tacit_nccl_create_mpi(): MPI reports an error");
}

/* All return what the lowest rank with a fault has found. */
static tacit_status_t agree(MPI_Comm comm, int rank, tacit_status_t mine)
{
    struct {
        int is_well, rank;
    } own = {mine == TACIT_OK, rank}, least;
    tacit_finding_t finding = {.status = mine};

    snprintf(finding.text, sizeof finding.text, "rank %d: %.400s", rank, mine != TACIT_OK ? tacit_last_error() : "");
    if (MPI_Allreduce(&own, &least, 1, MPI_2INT, MPI_MINLOC, comm) != MPI_SUCCESS) {
        return broken();
    }
    if (least.is_well) {
        return TACIT_OK;
    }
    if (MPI_Bcast(&finding, (int)sizeof finding, MPI_BYTE, least.rank, comm) != MPI_SUCCESS) {
        return broken();
    }
    return tacit_transport_fail((tacit_status_t)finding.status, finding.text);
}

static tacit_status_t create(MPI_Comm comm, const tacit_config_t *config, tacit_nccl_t **nccl_out)
{
    tacit_nccl_id_t id = {{0}};
    int             rank, ranks;
    tacit_status_t  status;

    if (MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN) != MPI_SUCCESS || MPI_Comm_rank(comm, &rank) != MPI_SUCCESS ||
        MPI_Comm_size(comm, &ranks) != MPI_SUCCESS) {
        return broken();
    }
    status = agree(comm, rank, find(rank, nccl_out, &id));
    if (status != TACIT_OK) {
        return status;
    }
    if (MPI_Bcast(&id, (int)sizeof id, MPI_BYTE, 0, comm) != MPI_SUCCESS) {
        return broken();
    }
    return tacit_nccl_create_from_id(&id, rank, ranks, config, nccl_out);
}

tacit_status_t tacit_nccl_create_mpi(MPI_Comm mpi_comm, const tacit_config_t *config, tacit_nccl_t **nccl_out)
{
    MPI_Comm       comm;
    tacit_status_t status;
    int            initialized = 0, finalized = 0, inter = 0;

    if (MPI_Initialized(&initialized) != MPI_SUCCESS || !initialized || MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) {
        return tacit_transport_fail(TACIT_ERR_STATE, "call tacit_nccl_create_mpi() between MPI_Init() and MPI_Finalize()");
    }
    if (mpi_comm == MPI_COMM_NULL || MPI_Comm_test_inter(mpi_comm, &inter) != MPI_SUCCESS || inter) {
        return tacit_transport_fail(TACIT_ERR_ARGUMENT, "mpi_comm must be an intracommunicator");
    }
    if (MPI_Comm_dup(mpi_comm, &comm) != MPI_SUCCESS) { /* messages never meet the caller's */
        return broken();
    }
    status = create(comm, config, nccl_out);
    (void)MPI_Comm_free(&comm);
    return status;
}
