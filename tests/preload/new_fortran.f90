! SPDX-License-Identifier: Apache-2.0
! Calls by the module mpi_f08, which may leave the last argument out: of preload.sh.
program new_fortran
    use mpi_f08
    implicit none
    integer :: ranks, i
    real, asynchronous :: values(20000)
    integer, asynchronous :: highest(10)
    type(MPI_Request) :: request

    call MPI_Init()
    call MPI_Comm_size(MPI_COMM_WORLD, ranks)
    do i = 1, 4
        values = 1.0
        call MPI_Allreduce(MPI_IN_PLACE, values, 20000, MPI_REAL, MPI_SUM, MPI_COMM_WORLD)
        if (values(20000) /= ranks) stop 1
    end do
    highest = 7
    call MPI_Iallreduce(MPI_IN_PLACE, highest, 10, MPI_INTEGER, MPI_MAX, MPI_COMM_WORLD, request)
    call MPI_Wait(request, MPI_STATUS_IGNORE)
    if (highest(10) /= 7) stop 1
    call MPI_Finalize()
end program
