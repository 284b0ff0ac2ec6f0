/* SPDX-License-Identifier: Apache-2.0 */
/* `none` on a GPU. */
#include "casts.h"

namespace tacit_none {

struct Cast {
    typedef float Number;

    __device__ static float put(float value)
    {
        return value;
    }

    __device__ static float get(float number)
    {
        return number;
    }
};

template <int ROWS> using Code = tacit::Casts<Cast, ROWS>;

} /* namespace tacit_none */

TACIT_LAUNCHERS(none, tacit_none::Code, 2, false)
