! SPDX-License-Identifier: Apache-2.0
! Calls by the module mpi: of preload.sh.
program old_fortran
    use mpi
    implicit none
    integer :: error, ranks, request, i
    real :: values(20000)
    integer :: highest(10)

    call MPI_Init(error)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, error)
    do i = 1, 4
        values = 1.0
        call MPI_Allreduce(MPI_IN_PLACE, values, 20000, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, error)
        if (values(20000) /= ranks .or. error /= MPI_SUCCESS) stop 1
    end do
    highest = 7
    call MPI_Iallreduce(MPI_IN_PLACE, highest, 10, MPI_INTEGER, MPI_MAX, MPI_COMM_WORLD, request, error)
    call MPI_Wait(request, MPI_STATUS_IGNORE, error)
    if (highest(10) /= 7) stop 1
    call MPI_Finalize(error)
end program
