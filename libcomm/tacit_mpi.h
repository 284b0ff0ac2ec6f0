/* SPDX-License-Identifier: Apache-2.0 */
/* Tacit over MPI: link libtacit_mpi (pkg-config tacit-mpi). */
#ifndef TACIT_MPI_H
#define TACIT_MPI_H

#include <mpi.h>
#include <tacit_nccl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes a communicator over the processes of an intracommunicator, which is duplicated, so that the library's messages never
   meet the caller's. Collective over mpi_comm; MPI must be initialised. `config` may be NULL. All ranks pass the same
   configuration and environment, or all get TACIT_ERR_MISMATCH. Communicators used from several threads need
   MPI_THREAD_MULTIPLE, and so does one with a progress thread (TACIT_PROGRESS_THREAD). Destroy it before MPI_Finalize() (if that
   comes first, the duplicate is freed there, the thread ends, and later calls return TACIT_ERR_BROKEN). */
TACIT_API tacit_status_t tacit_comm_create_mpi(MPI_Comm mpi_comm, const tacit_config_t *config, tacit_comm_t **comm_out);

/* Makes a communicator over NCCL (tacit_nccl.h) of the same processes: rank 0's tacit_nccl_unique_id() brought to all, and
   tacit_nccl_create_from_id(). Collective over mpi_comm, which is not used afterwards; MPI must be initialised. A GPU for each
   process must be present (cudaSetDevice()), no two of a host the same. Where a rank has no NCCL or no GPU, all return its status
   (TACIT_ERR_UNSUPPORTED), and a text that names it. */
TACIT_API tacit_status_t tacit_nccl_create_mpi(MPI_Comm mpi_comm, const tacit_config_t *config, tacit_nccl_t **nccl_out);

#ifdef __cplusplus
}
#endif
#endif
