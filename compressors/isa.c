/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the vector instructions once; every later call reads one atomic word. */
#include "isa.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[TACIT_ISA_COUNT] = {
    [TACIT_ISA_SCALAR] = "scalar",
    [TACIT_ISA_AVX2] = "avx2",
    [TACIT_ISA_AVX512] = "avx512",
    [TACIT_ISA_NEON] = "neon",
};

#ifdef TACIT_ON_X86
static bool present(tacit_isa_t isa)
{
    __builtin_cpu_init();
    switch (isa) {
    case TACIT_ISA_SCALAR:
        return true;
    case TACIT_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case TACIT_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    default:
        return false;
    }
}
#elif defined(__aarch64__)
static bool present(tacit_isa_t isa)
{
    return isa == TACIT_ISA_SCALAR || isa == TACIT_ISA_NEON; /* part of every 64-bit ARM */
}
#else
static bool present(tacit_isa_t isa)
{
    return isa == TACIT_ISA_SCALAR;
}
#endif

static tacit_isa_t choose(void)
{
    const char *wanted = getenv("TACIT_ISA");
    tacit_isa_t best = TACIT_ISA_SCALAR;

    for (int i = 0; i < TACIT_ISA_COUNT; i++) {
        if (!present((tacit_isa_t)i)) {
            continue;
        }
        best = (tacit_isa_t)i;
        if (wanted && strcmp(wanted, names[i]) == 0) {
            break;
        }
    }
    return best;
}

tacit_isa_t tacit__isa(void)
{
    static atomic_int chosen; /* the choice plus one; two threads that both choose, choose the same */
    int               isa = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (isa == 0) {
        isa = (int)choose() + 1;
        atomic_store_explicit(&chosen, isa, memory_order_relaxed);
    }
    return (tacit_isa_t)(isa - 1);
}

const char *tacit__isa_name(tacit_isa_t isa)
{
    return names[isa];
}
