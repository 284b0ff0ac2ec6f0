/* SPDX-License-Identifier: Apache-2.0 */
/* What the library says of CUDA, whether there is any or not. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "cuda_module.h"
#include "harness.h"

/* A reason that names CUDA, the same each time; or a module, the same each time. */
START_TEST(found_or_not)
{
    const tacit_cuda_module_t *module = NULL, *again = NULL;
    const char                *summary = NULL;
    char                       text[TACIT_TEXT_BYTES];
    tacit_status_t             status = tacit__cuda_module(&module);

    snprintf(text, sizeof text, "%s", tacit_last_error());
    ck_assert_int_eq(tacit__cuda_module(&again), status);
    ck_assert_ptr_eq(module, again);
    ck_assert_int_eq(tacit__cuda_summary(&summary), status);
    if (status == TACIT_OK) {
        ck_assert_uint_eq(module->module_bytes, sizeof *module);
        ck_assert_ptr_nonnull(strstr(summary, "GPU"));
    } else {
        ck_assert_int_eq(status, TACIT_ERR_UNSUPPORTED);
        ck_assert_ptr_null(module);
        ck_assert_ptr_null(summary);
        ck_assert_ptr_nonnull(strstr(text, "CUDA"));
        ck_assert_str_eq(tacit_last_error(), text);
    }
}
END_TEST

/* A test's module comes first, and goes again. */
START_TEST(of_a_test)
{
    const tacit_cuda_module_t  mine = {.module_bytes = sizeof mine};
    const tacit_cuda_module_t *before = NULL, *module = NULL;
    const char                *summary = NULL;
    tacit_status_t             status = tacit__cuda_module(&before);

    tacit__cuda_use(&mine);
    ck_assert_int_eq(tacit__cuda_module(&module), TACIT_OK);
    ck_assert_ptr_eq(module, &mine);
    ck_assert_int_eq(tacit__cuda_summary(&summary), TACIT_OK);
    ck_assert_ptr_nonnull(summary);
    tacit__cuda_use(NULL);
    module = NULL;
    ck_assert_int_eq(tacit__cuda_module(&module), status);
    ck_assert_ptr_eq(module, before);
}
END_TEST

START_TEST(devices)
{
    const tacit_cuda_module_t *cuda;
    tacit_module_t             device = {NULL, NULL, NULL};

    ck_assert_int_eq(tacit_module(TACIT_DEVICES, TACIT_CPU, &device), TACIT_OK);
    ck_assert_str_eq(device.name, "cpu");
    ck_assert_str_eq(device.summary, tacit_isa());
    ck_assert_int_eq(tacit_module(TACIT_DEVICES, TACIT_CUDA, &device), tacit__cuda_module(&cuda));
    ck_assert_str_eq(device.name, tacit__cuda_module(&cuda) == TACIT_OK ? "cuda" : "cpu");
    ck_assert_ptr_nonnull(device.params);
    ck_assert_int_eq(tacit_module(TACIT_DEVICES, TACIT_CUDA + 1, &device), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_module(TACIT_DEVICES, TACIT_CPU, NULL), TACIT_ERR_ARGUMENT);
    ck_assert_int_eq(tacit_module(TACIT_DEVICES, TACIT_CUDA, NULL), TACIT_ERR_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("CUDA module, found or not");
    TCase *tests = tcase_create("cuda_module");

    tcase_add_test(tests, found_or_not);
    tcase_add_test(tests, of_a_test);
    tcase_add_test(tests, devices);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
