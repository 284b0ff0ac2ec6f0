/* SPDX-License-Identifier: Apache-2.0 */
/* Memory in less than float32: bfloat16, or 8 bits with a scale for every 8 elements. Numbers are rounded to one of their two
   neighbours at random, so that what is too small to be seen is kept on average; one that can be stored exactly is. */
#ifndef TACIT_PACKED_H
#define TACIT_PACKED_H

#include "feedback.h"
#include "packed_number.h"
#include "random.h"

/* Ranges begin at multiples of TACIT_PACKED_BLOCK and end at one, or at the array's end. */

/* Bytes of an array's first `count` elements; below TACIT_PRECISION_FP32, that is. */
size_t tacit__packed_bytes(tacit_precision_t precision, size_t count);
/* Elements [first, first + count) of the array at `packed` from values[0..count), which are finite; any other becomes 0. Random
   numbers are the stream's at the elements' indices. */
void tacit__pack(tacit_precision_t precision, const tacit_stream_t *stream, size_t first, size_t count, const float *values,
                 uint8_t *packed);
/* One element becomes 0; others, and their scale, stay. */
void tacit__packed_forget(tacit_precision_t precision, size_t element, uint8_t *packed);
void tacit__unpack(tacit_precision_t precision, size_t first, size_t count, const uint8_t *packed, float *values);

#endif
