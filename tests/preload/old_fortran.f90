! SPDX-License-Identifier: Apache-2.0
! Calls by the module mpi, in a program that has begun MPI in C, as many do: of preload.sh.
program old_fortran
    use, intrinsic :: iso_c_binding
    use mpi
    implicit none
    interface
        integer(c_int) function begin_in_c(count, words) bind(c, name="MPI_Init")
            import :: c_int, c_ptr
            type(c_ptr), value :: count, words
        end function
    end interface
    integer :: error, ranks, request, i
    real :: values(20000), sums(4)
    integer :: highest(10)

    if (begin_in_c(c_null_ptr, c_null_ptr) /= MPI_SUCCESS) stop 1
    do i = 1, 4
        values = 1.0
        call MPI_Allreduce(MPI_IN_PLACE, values, 20000, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, error)
        if (error /= MPI_SUCCESS) stop 1
        sums(i) = values(20000)
    end do
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, error)
    if (any(sums /= ranks)) stop 1
    highest = 7
    call MPI_Iallreduce(MPI_IN_PLACE, highest, 10, MPI_INTEGER, MPI_MAX, MPI_COMM_WORLD, request, error)
    call MPI_Wait(request, MPI_STATUS_IGNORE, error)
    if (highest(10) /= 7) stop 1
    call MPI_Finalize(error)
end program
