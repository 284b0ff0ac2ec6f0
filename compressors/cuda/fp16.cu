/* SPDX-License-Identifier: Apache-2.0 */
/* `fp16` on a GPU. */
#include "casts.h"

namespace tacit_fp16 {

struct Cast {
    typedef uint16_t Number;

    __device__ static uint16_t put(float value)
    {
        return tacit__to_float16(value, 0x7bffu);
    }

    __device__ static float get(uint16_t number)
    {
        return tacit__from_float16(number);
    }
};

template <int ROWS> using Code = tacit::Casts<Cast, ROWS>;

} /* namespace tacit_fp16 */

TACIT_LAUNCHERS(fp16, tacit_fp16::Code, 2, false)
