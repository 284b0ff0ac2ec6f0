/* SPDX-License-Identifier: Apache-2.0 */
/* `bf16` on a GPU. */
#include "casts.h"

namespace tacit_bf16 {

struct Cast {
    typedef uint16_t Number;

    __device__ static uint16_t put(float value)
    {
        return tacit__to_bfloat16(value, 0x7f7fu);
    }

    __device__ static float get(uint16_t number)
    {
        return tacit__from_bfloat16(number);
    }
};

template <int ROWS> using Code = tacit::Casts<Cast, ROWS>;

} /* namespace tacit_bf16 */

TACIT_LAUNCHERS(bf16, tacit_bf16::Code, 2, false)
