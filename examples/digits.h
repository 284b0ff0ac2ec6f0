/* SPDX-License-Identifier: Apache-2.0 */
/* Labelled images of digits: the ones that ship with the examples, the full UCI optdigits set, or MNIST. */
#ifndef DIGITS_H
#define DIGITS_H

#include <stddef.h>
#include <stdint.h>

enum { DIGITS_CLASSES = 10 };

typedef struct digits_set {
    size_t   count;
    float   *images;  /* count rows of the data's `pixels` */
    uint8_t *classes; /* 0 ... 9 */
} digits_set_t;

typedef struct digits {
    size_t       pixels; /* of one image */
    digits_set_t train, test;
} digits_t;

/* Reads `path`, or the shipped digits where it is NULL:
     a folder with optdigits.tra and optdigits.tes,
     a folder with MNIST's four IDX files (train-images-idx3-ubyte ...), unpacked,
     a file of lines of 64 pixels (0 to 16) and the digit: a fixed random fifth of it becomes the test set.
   All pixels are shifted and scaled by the same two numbers, so that those of the training set have mean 0 and variance 1.
   Returns 0, or -1 with a sentence in `error` that names the file, the line and what was expected. */
int  digits_load(const char *path, digits_t *digits_out, char *error, size_t error_bytes);
void digits_free(digits_t *digits);

#endif
