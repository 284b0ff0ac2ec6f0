/* SPDX-License-Identifier: Apache-2.0 */
/* Runs kernels on the CPU, for tests: as much of CUDA as they use. Blocks run one after the other; the threads of a block are
   coroutines, which change where they wait for each other, in ascending order. So there are no races, and none are found. Threads
   of the test may launch kernels at once: one waits for the other. */
#ifndef TACIT_TEST_EMULATION_H
#define TACIT_TEST_EMULATION_H

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <sched.h>
#include <type_traits>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __noinline__
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
};

struct float4 {
    float x, y, z, w;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};

inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}

template <typename T> T max(T a, T b)
{
    return a > b ? a : b;
}

template <typename T> T min(T a, T b)
{
    return a < b ? a : b;
}

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr unsigned WARP = 32, MOST_THREADS = 1024, STACK = 64 * 1024;

/* Threads that wait for each other. */
struct Group {
    unsigned alive, arrived, turn;
};

struct Thread {
    jmp_buf  here;
    bool     ended;
    char    *stack;     /* NULL: it has not run yet, in no block */
    unsigned exchanges; /* with its warp */
    uint64_t said[2];   /* in the last two of them */
};

inline Thread   threads[MOST_THREADS];
inline Group    block, warps[MOST_THREADS / WARP];
inline unsigned current, count;
inline jmp_buf  outside;
inline void    *closure;
inline void (*call)(void *closure);

inline void run();

inline void begin(Thread &thread)
{
    static ucontext_t start;

    thread.stack = (char *)malloc(STACK);
    getcontext(&start);
    start.uc_stack.ss_sp = thread.stack;
    start.uc_stack.ss_size = STACK;
    start.uc_link = nullptr;
    makecontext(&start, run, 0);
    setcontext(&start);
}

/* Goes on with the next thread that has not ended; outside, where all have. */
inline void go_on()
{
    for (unsigned i = 0; i < count; i++) {
        current = current + 1 < count ? current + 1 : 0;
        if (threads[current].stack == nullptr) {
            begin(threads[current]);
        }
        if (!threads[current].ended) {
            _longjmp(threads[current].here, 1);
        }
    }
    _longjmp(outside, 1);
}

inline void change()
{
    if (_setjmp(threads[current].here) == 0) {
        go_on();
    }
    threadIdx.x = current;
}

inline void arrive(Group &group)
{
    if (++group.arrived == group.alive) {
        group.arrived = 0;
        group.turn++;
    }
}

inline void wait(Group &group)
{
    const unsigned turn = group.turn;

    arrive(group);
    while (group.turn == turn) {
        change();
    }
}

inline Group &warp()
{
    return warps[current / WARP];
}

/* A thread that has ended is waited for no longer. */
inline void leave(Group &group)
{
    group.alive--;
    if (group.alive != 0 && group.arrived == group.alive) {
        group.arrived = 0;
        group.turn++;
    }
}

/* A thread of one block after the other: to make a coroutine takes longer than most blocks. */
inline void run()
{
    threadIdx.x = current;
    for (;;) {
        call(closure);
        threads[current].ended = true;
        leave(warp());
        leave(block);
        change();
    }
}

inline void run_block(unsigned its_count)
{
    count = its_count;
    block = Group{count, 0, 0};
    for (unsigned i = 0; i < count; i++) {
        threads[i].ended = false;
        threads[i].exchanges = 0;
        warps[i / WARP] = Group{count - i / WARP * WARP < WARP ? count % WARP : WARP, 0, 0};
    }
    current = count - 1;
    if (_setjmp(outside) == 0) {
        go_on();
    }
}

/* What is said is heard before the next exchange but one, which all come to after the next. */
template <typename T> T exchange(T value, unsigned from)
{
    const unsigned first = current / WARP * WARP, side = threads[current].exchanges++ % 2;
    T              got;

    static_assert(sizeof value <= sizeof(uint64_t), "words are exchanged");
    memcpy(&threads[current].said[side], &value, sizeof value);
    wait(warp());
    memcpy(&got, &threads[first + from % WARP].said[side], sizeof got);
    return got;
}

inline char launching;

template <typename... Parameters, typename... Arguments>
void launch(void (*given)(Parameters...), unsigned blocks, unsigned count, Arguments... arguments)
{
    while (__atomic_test_and_set(&launching, __ATOMIC_ACQUIRE)) {
        sched_yield();
    }
    blockDim = dim3{count, 1, 1};
    gridDim = dim3{blocks, 1, 1};
    auto with_arguments = [&] { given(arguments...); };
    closure = &with_arguments;
    call = [](void *it) { (*(decltype(with_arguments) *)it)(); };
    for (unsigned i = 0; i < blocks; i++) {
        blockIdx = dim3{i, 0, 0};
        run_block(count);
    }
    closure = nullptr;
    __atomic_clear(&launching, __ATOMIC_RELEASE);
}

} /* namespace emulation */

#define TACIT_LAUNCH(kernel, blocks, threads, stream, ...)                                                                       \
    ((void)(stream), emulation::launch(kernel, blocks, threads, __VA_ARGS__))

template <typename T> T __shfl_sync(unsigned, T value, int from)
{
    return emulation::exchange(value, (unsigned)from);
}

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emulation::exchange(value, (threadIdx.x ^ (unsigned)mask) % emulation::WARP);
}

template <typename T> T __shfl_up_sync(unsigned, T value, unsigned apart)
{
    const unsigned own = threadIdx.x % emulation::WARP;

    return emulation::exchange(value, own >= apart ? own - apart : own);
}

inline int __any_sync(unsigned, int value)
{
    for (int apart = 1; apart < (int)emulation::WARP; apart *= 2) {
        value |= __shfl_xor_sync(0, value, apart);
    }
    return value;
}

inline void __syncwarp()
{
    emulation::wait(emulation::warp());
}

inline void __syncthreads()
{
    emulation::wait(emulation::block);
}

inline void __threadfence()
{
}

inline void __threadfence_system()
{
}

template <typename T> T atomicAdd(T *at, T value)
{
    const T before = *at;

    *at = (T)(before + value);
    return before;
}

template <typename T> T atomicMin(T *at, T value)
{
    const T before = *at;

    *at = value < before ? value : before;
    return before;
}

template <typename T> T atomicMax(T *at, T value)
{
    const T before = *at;

    *at = value > before ? value : before;
    return before;
}

template <typename T> T atomicOr(T *at, T value)
{
    const T before = *at;

    *at = before | value;
    return before;
}

inline int __ffs(int word)
{
    return __builtin_ffs(word);
}

inline int __popc(unsigned word)
{
    return __builtin_popcount(word);
}

template <typename T> T atomicExch(T *at, T value)
{
    const T before = *at;

    *at = value;
    return before;
}

/* ---- The runtime: its memory is the host's, and nothing is left to wait for ---- */

typedef int   cudaError_t;
typedef void *cudaStream_t;
typedef void *cudaEvent_t;
typedef int   cudaStreamCaptureStatus;
enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNotReady = 600,
    cudaStreamCaptureStatusNone = 0,
    cudaMemcpyDefault = 4,
    cudaHostAllocMapped = 2,
    cudaHostAllocPortable = 1,
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 2,
    cudaMemAdviseSetPreferredLocation = 3,
    cudaMemLocationTypeDevice = 1
};

struct cudaMemLocation {
    int type, id;
};

inline const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

inline cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

inline cudaError_t cudaPeekAtLastError()
{
    return cudaSuccess;
}

inline cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

inline cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

inline cudaError_t cudaMallocManaged(void **memory, size_t bytes)
{
    return cudaMalloc(memory, bytes);
}

inline cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    return cudaMalloc(memory, bytes);
}

inline cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}

inline cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}

inline cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    memset(memory, value, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t)
{
    memcpy(to, from, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaMemAdvise(const void *, size_t, int, cudaMemLocation)
{
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize()
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamQuery(cudaStream_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    return cudaMalloc(stream, 1);
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    return cudaFree(stream);
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaMalloc(event, 1);
}

inline cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    return cudaFree(event);
}

inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaEventQuery(cudaEvent_t)
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status)
{
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

#endif
