! SPDX-License-Identifier: Apache-2.0
! A trainer in Fortran, of preload.sh: least squares by gradient descent with momentum, two tensors of the same size, and a scalar
! for the loss. By the module mpi, or with -DF08 by mpi_f08. Arguments: steps. Larger with -DINPUTS=512 -DOUTPUTS=2048 -DBATCH=4.
#ifndef INPUTS
#define INPUTS 128
#define OUTPUTS 64
#define BATCH 16
#endif
program training
#ifdef F08
    use mpi_f08
#else
    use mpi
#endif
    implicit none
    integer, parameter :: inputs = INPUTS, outputs = OUTPUTS, batch = BATCH
    real, parameter :: rate = 0.004, momentum = 0.9
    real :: truth(outputs, inputs, 2), model(outputs, inputs, 2), gradient(outputs, inputs, 2), velocity(outputs, inputs, 2)
    real :: x(inputs, 2), noise(outputs), error(outputs), loss, highest, lowest
    integer :: steps, step, sample, i, k, rank, ranks, status, state
    character(len=16) :: text

    call get_command_argument(1, text)
    read (text, *) steps
    call MPI_Init(status)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, status)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, status)
    state = 1
    call draw(truth, size(truth))
    state = 1000 + rank
    model = 0
    velocity = 0
    do step = 0, steps - 1
        gradient = 0
        loss = 0
        do sample = 1, batch
            call draw(x, size(x))
            call draw(noise, outputs)
            error = 0.1 * noise
            do k = 1, 2
                error = error + matmul(model(:, :, k) - truth(:, :, k), x(:, k))
            end do
            loss = loss + sum(error**2) / (outputs * batch * ranks)
            do k = 1, 2
                do i = 1, inputs
                    gradient(:, i, k) = gradient(:, i, k) + error * (x(i, k) / (batch * ranks))
                end do
            end do
        end do
        do k = 1, 2
            call MPI_Allreduce(MPI_IN_PLACE, gradient(:, :, k), outputs * inputs, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, status)
        end do
        call MPI_Allreduce(MPI_IN_PLACE, loss, 1, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, status)
        velocity = momentum * velocity + gradient
        model = model - (rate * (1 - real(step) / steps)) * velocity
    end do
    loss = sum((model - truth)**2) / outputs
    call MPI_Allreduce(loss, highest, 1, MPI_REAL, MPI_MAX, MPI_COMM_WORLD, status)
    call MPI_Allreduce(loss, lowest, 1, MPI_REAL, MPI_MIN, MPI_COMM_WORLD, status)
    if (rank == 0) print '(A, F10.5)', 'of test ', loss
    if (rank == 0) print '(A)', merge('models are equal', 'models differ   ', highest == lowest)
    call MPI_Finalize(status)

contains

    ! Numbers from -1.7 to 1.7 of variance 1 (xorshift).
    subroutine draw(values, count)
        integer, intent(in) :: count
        real, intent(out) :: values(count)
        integer :: j

        do j = 1, count
            state = ieor(state, ishft(state, 13))
            state = ieor(state, ishft(state, -17))
            state = ieor(state, ishft(state, 5))
            values(j) = real(state) / 2.0**31 * sqrt(3.0)
        end do
    end subroutine
end program
