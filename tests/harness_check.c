/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a Check suite. A file of its own, so that rank tests do without Check. */
#include "harness.h"

#include <check.h>

int harness_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int      failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
