/* SPDX-License-Identifier: Apache-2.0 */
/* Which vector instructions run here: the best of what the processor has and what TACIT_ISA allows. */
#ifndef TACIT_ISA_H
#define TACIT_ISA_H

#include "compressor.h"

/* Decided at the first call and then fixed. TACIT_ISA=scalar|avx2|avx512|neon lowers it; a word unknown or not to be had here
   leaves the best. Thread-safe. */
tacit_isa_t tacit__isa(void);
const char *tacit__isa_name(tacit_isa_t isa);

/* ---- Loops for every instruction set ----

   Loops are written once, in plain C, and compiled once for each set, with everything that they call inlined, so that the
   compiler makes vector code of all of it. No product is fused with a sum, and sums have a written order, so that all versions
   give the same bits.

   With TACIT_PLAIN defined there are only those that any processor has. */

#if defined(__x86_64__) && !defined(TACIT_PLAIN)
#define TACIT_ON_X86 1
#define TACIT_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi,bmi2")))
#ifdef __clang__
#define TACIT_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,bmi,bmi2"), min_vector_width(512)))
#else
#define TACIT_TARGET_AVX512                                                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,bmi,bmi2,prefer-vector-width=512")))
#endif
#define TACIT_X86(...) __VA_ARGS__
#else
#define TACIT_X86(...)
#pragma GCC diagnostic ignored "-Wunused-parameter" /* there is one set to choose from */
#endif

#define TACIT_VERSION_OF(target, type, name, loop, parameters, arguments)                                                        \
    target __attribute__((flatten)) static type name parameters                                                                  \
    {                                                                                                                            \
        return loop arguments;                                                                                                   \
    }

/* Defines name() on name_loop(), which has the same parameters: the version for tacit__isa(). */
#define TACIT_EACH_ISA(type, name, parameters, arguments)                                                                        \
    TACIT_VERSION_OF(, type, name##_scalar, name##_loop, parameters, arguments)                                                  \
    TACIT_X86(TACIT_VERSION_OF(TACIT_TARGET_AVX2, type, name##_avx2, name##_loop, parameters, arguments)                         \
                  TACIT_VERSION_OF(TACIT_TARGET_AVX512, type, name##_avx512, name##_loop, parameters, arguments))                \
    static type name parameters                                                                                                  \
    {                                                                                                                            \
        static type(*const versions[TACIT_ISA_COUNT]) parameters = {                                                             \
            [TACIT_ISA_SCALAR] = name##_scalar,                                                                                  \
            TACIT_X86([TACIT_ISA_AVX2] = name##_avx2, [TACIT_ISA_AVX512] = name##_avx512, )[TACIT_ISA_NEON] = name##_scalar};    \
                                                                                                                                 \
        return versions[tacit__isa()] arguments;                                                                                 \
    }

/* The same where the instruction set, a constant, is the last parameter of name_loop(). */
#define TACIT_EACH_ISA_KNOWN(type, name, parameters, ...)                                                                        \
    TACIT_VERSION_OF(, type, name##_scalar, name##_loop, parameters, (__VA_ARGS__, TACIT_ISA_SCALAR))                            \
    TACIT_X86(TACIT_VERSION_OF(TACIT_TARGET_AVX2, type, name##_avx2, name##_loop, parameters, (__VA_ARGS__, TACIT_ISA_AVX2))     \
                  TACIT_VERSION_OF(TACIT_TARGET_AVX512, type, name##_avx512, name##_loop, parameters,                            \
                                   (__VA_ARGS__, TACIT_ISA_AVX512)))                                                             \
    static type name parameters                                                                                                  \
    {                                                                                                                            \
        static type(*const versions[TACIT_ISA_COUNT]) parameters = {                                                             \
            [TACIT_ISA_SCALAR] = name##_scalar,                                                                                  \
            TACIT_X86([TACIT_ISA_AVX2] = name##_avx2, [TACIT_ISA_AVX512] = name##_avx512, )[TACIT_ISA_NEON] = name##_scalar};    \
                                                                                                                                 \
        return versions[tacit__isa()](__VA_ARGS__);                                                                              \
    }

/* Defines a blockwise compressor's kernels on encode(), encode_ef() and decode(), which get the instruction set as a constant in
   front of the other parameters, so that a primitive may exist in several forms; the table's entry is then TACIT_KERNEL_TABLE. A
   form for another set, in a branch never taken, is dropped. */
#define TACIT_ENCODE_PARAMETERS (const tacit_block_t *block, const float *a, uint8_t *payload, float *decoded)
#define TACIT_ENCODE_EF_PARAMETERS (const tacit_block_t *block, const tacit_ef_t *ef, uint8_t *payload, size_t *done_out)
#define TACIT_DECODE_PARAMETERS (const tacit_block_t *block, const uint8_t *payload, float *out, bool add)
#define TACIT_KERNELS_FOR(target, isa, set)                                                                                      \
    TACIT_VERSION_OF(target, uint32_t, encode_##isa, encode, TACIT_ENCODE_PARAMETERS, (set, block, a, payload, decoded))         \
    TACIT_VERSION_OF(target, uint32_t, encode_ef_##isa, encode_ef, TACIT_ENCODE_EF_PARAMETERS,                                   \
                     (set, block, ef, payload, done_out))                                                                        \
    TACIT_VERSION_OF(target, void, decode_##isa, decode, TACIT_DECODE_PARAMETERS, (set, block, payload, out, add))               \
    static const tacit_kernels_t kernels_##isa = {.encode = encode_##isa, .encode_ef = encode_ef_##isa, .decode = decode_##isa};
#define TACIT_KERNELS                                                                                                            \
    TACIT_KERNELS_FOR(, scalar, TACIT_ISA_SCALAR)                                                                                \
    TACIT_X86(TACIT_KERNELS_FOR(TACIT_TARGET_AVX2, avx2, TACIT_ISA_AVX2)                                                         \
                  TACIT_KERNELS_FOR(TACIT_TARGET_AVX512, avx512, TACIT_ISA_AVX512))
#define TACIT_KERNEL_TABLE                                                                                                       \
    {                                                                                                                            \
        [TACIT_ISA_SCALAR] = &kernels_scalar, TACIT_X86([TACIT_ISA_AVX2] = &kernels_avx2, [TACIT_ISA_AVX512] = &kernels_avx512)  \
    }

#endif
