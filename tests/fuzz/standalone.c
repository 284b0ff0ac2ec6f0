/* SPDX-License-Identifier: Apache-2.0 */
/* main() of a fuzz test without a fuzzer: goes through the inputs that are named on the command line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { MOST_BYTES = 1 << 20 };

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE    *file = fopen(argv[i], "rb");
        uint8_t *data = malloc(MOST_BYTES), *input;
        size_t   bytes;

        if (file == NULL || data == NULL) {
            fprintf(stderr, "%s cannot be read\n", argv[i]);
            return 1;
        }
        bytes = fread(data, 1, MOST_BYTES, file);
        fclose(file);
        input = realloc(data, bytes + (bytes == 0)); /* so that reading on is seen by a sanitizer */
        (void)LLVMFuzzerTestOneInput(input != NULL ? input : data, bytes);
        free(input != NULL ? input : data);
    }
    return 0;
}
