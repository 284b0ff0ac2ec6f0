/* SPDX-License-Identifier: Apache-2.0 */
/* The environment variables: what they set, and the warnings that bad ones get. They are read once a process, so that each
   case has a process of its own. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm.h"
#include "param.h"
#include "harness.h"
#include "ranks.h"

extern char **environ;

enum { REPORT_BYTES = 4096 };

/* What a child process found: as text, on its standard error, with the library's own lines. */
static void report_body(tacit_comm_t *comm, void *arg)
{
    tacit_slot_t *slot = slot_of(comm, "slot", 100, TACIT_FLOAT32, arg);

    fprintf(stderr, "timeout %lld, strict %d, check %d, thread %d, spec %s, schedule %s, given %s\n",
            (long long)comm->config.timeout_ms, comm->config.strict, (int)comm->environment.check, tacit_comm_has_thread(comm),
            slot->codec->spec.text, slot->schedule->name, tacit_slot_spec(slot));
}

/* Runs one rank with the variables NAME=VALUE and returns what it wrote. */
static char *with(const tacit_config_t *config, const char *slot_spec, const char *const *variables)
{
    static char text[REPORT_BYTES];
    size_t      used = 0;
    ssize_t     got;
    int         ends[2], status;
    pid_t       child;

    ck_assert_int_eq(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        for (char **entry = environ; *entry != NULL;) {
            if (strncmp(*entry, "TACIT_", 6) == 0) {
                char name[64];

                snprintf(name, sizeof name, "%.*s", (int)strcspn(*entry, "="), *entry);
                unsetenv(name);
                entry = environ;
            } else {
                entry++;
            }
        }
        for (; *variables != NULL; variables++) {
            putenv(strdup(*variables));
        }
        run_ranks(1, config, report_body, (void *)(uintptr_t)slot_spec);
        _exit(0);
    }
    close(ends[1]);
    while ((got = read(ends[0], text + used, sizeof text - 1 - used)) > 0) {
        used += (size_t)got;
    }
    close(ends[0]);
    text[used] = '\0';
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return text;
}

#define WITH(...) with(NULL, NULL, (const char *const[]){__VA_ARGS__, NULL})

static void says(const char *text, const char *words)
{
    char copy[300];

    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word != NULL; word = strtok(NULL, "|")) {
        ck_assert_msg(strstr(text, word) != NULL, "'%s' is not in '%s'", word, text);
    }
}

static void is_silent(const char *text)
{
    ck_assert_msg(strstr(text, "tacit ") == NULL, "'%s'", text);
}

START_TEST(defaults)
{
    const char *text = WITH(NULL);

    says(text, "timeout 60000, strict 0, check 0, thread 0,|given auto\n");
    is_silent(text);
}
END_TEST

START_TEST(good_values)
{
    const char *text = WITH("TACIT_TIMEOUT_MS=2K", "TACIT_STRICT=1", "TACIT_CHECK=1", "TACIT_SPEC=onebit+ef", "TACIT_ISA=scalar");

    says(text, "timeout 2048, strict 1, check 1, thread 0, spec onebit+ef, schedule blockwise");
    is_silent(text);
    says(WITH("TACIT_TIMEOUT_MS=-1"), "timeout -1,");
    says(WITH("TACIT_PROGRESS=thread"), "thread 1,");
    says(WITH("TACIT_PROGRESS=calls"), "thread 0,");
    says(WITH("TACIT_SPEC=topk:ratio=0.1+ef"), "schedule sparse");
}
END_TEST

/* A plan holds for what it can carry, and only for that. */
START_TEST(plans)
{
    says(WITH("TACIT_PLAN=blockwise", "TACIT_SPEC=none"), "schedule blockwise");
    says(WITH("TACIT_PLAN=sparse", "TACIT_SPEC=topk:ratio=0.1"), "schedule sparse");
    says(WITH("TACIT_PLAN=sparse", "TACIT_SPEC=fp16"), "schedule blockwise");
    is_silent(WITH("TACIT_PLAN="));
    says(WITH("TACIT_PLAN=blockwice"), "rank 0: TACIT_PLAN=blockwice is not a schedule");
}
END_TEST

/* One rank has no other to share a host with, and is told all the same. */
START_TEST(topologies)
{
    is_silent(WITH("TACIT_TOPOLOGY="));
    is_silent(WITH("TACIT_TOPOLOGY=4"));
    says(WITH("TACIT_TOPOLOGY=4,4"), "rank 0: TACIT_TOPOLOGY=4,4 does not give each host's ranks, such as 4,4,3, 1 in all");
    says(WITH("TACIT_TOPOLOGY=/no/file"), "rank 0: TACIT_TOPOLOGY: cannot open /no/file: ");
}
END_TEST

/* An empty variable counts as none. */
START_TEST(empty_values)
{
    const char *text = WITH("TACIT_TIMEOUT_MS=", "TACIT_STRICT=", "TACIT_SPEC=");

    says(text, "timeout 60000, strict 0, check 0,|given auto\n");
    is_silent(text);
}
END_TEST

START_TEST(bad_values)
{
    static const char *const variables[][2] = {
        {"TACIT_TIMEOUT_MS=soon", "TACIT_TIMEOUT_MS=soon|an integer"},
        {"TACIT_TIMEOUT_MS=-2", "from -1 to"},
        {"TACIT_STRICT=2", "TACIT_STRICT=2|from 0 to 1"},
        {"TACIT_CHECK=yes", "TACIT_CHECK=yes"},
        {"TACIT_ISA=avx9", "TACIT_ISA=avx9|scalar avx2"},
        {"TACIT_PROGRESS=threads", "TACIT_PROGRESS=threads|calls thread"},
        {"TACIT_LOG=loud", "TACIT_LOG=loud|error warn info"},
    };

    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *text = WITH(variables[i][0]);

        says(text, variables[i][1]);
        says(text, "tacit warn |environment|the default is used|timeout 60000, strict 0, check 0");
    }
}
END_TEST

START_TEST(unknown_variables)
{
    const char *text = WITH("TACIT_TIMEOUT=5");

    says(text, "tacit warn |TACIT_TIMEOUT is not a variable|TACIT_TIMEOUT_MS|timeout 60000");
    says(WITH("TACIT_SPECS=onebit"), "TACIT_SPECS|nearest is TACIT_SPEC\n|given auto");
    says(WITH("TACIT_strict=1"), "TACIT_strict|TACIT_STRICT|strict 0");
    is_silent(WITH("TACIT_TEST_LONG=1"));
    is_silent(WITH("TACITURN=1"));
}
END_TEST

/* Once a process, however many communicators there are. */
static void again_body(tacit_comm_t *comm, void *arg)
{
    if (*(int *)arg > 0) {
        --*(int *)arg;
        run_ranks(1, NULL, again_body, arg);
    }
    (void)comm;
}

START_TEST(warned_once)
{
    char  text[REPORT_BYTES];
    char *first;
    int   ends[2], more = 3;
    pid_t child;

    ck_assert_int_eq(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        setenv("TACIT_TIMEUOT_MS", "5", 1);
        run_ranks(1, NULL, again_body, &more);
        _exit(0);
    }
    close(ends[1]);
    waitpid(child, NULL, 0);
    text[read(ends[0], text, sizeof text - 1)] = '\0';
    close(ends[0]);
    first = strstr(text, "TACIT_TIMEUOT_MS");
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_null(strstr(first + 1, "TACIT_TIMEUOT_MS"));
}
END_TEST

START_TEST(disabled)
{
    says(with(NULL, "onebit+ef", (const char *const[]){"TACIT_DISABLE=1", NULL}), "spec none,|given onebit+ef\n");
    says(with(NULL, "onebit+ef", (const char *const[]){"TACIT_DISABLE=0", NULL}), "spec onebit+ef,");
    says(WITH("TACIT_DISABLE=1", "TACIT_SPEC=topk:ratio=0.1"), "spec none,|given topk:ratio=0.1\n");
}
END_TEST

/* The configuration goes before the environment, the slot's before both. */
START_TEST(configuration_wins)
{
    static const char *const variables[] = {"TACIT_SPEC=fp16", "TACIT_TIMEOUT_MS=5000", "TACIT_PROGRESS=thread", NULL};
    tacit_config_t           config = TACIT_CONFIG_INIT;

    says(with(&config, NULL, variables), "timeout 5000|thread 1|spec fp16");
    config.spec = "bf16";
    config.timeout_ms = 7000;
    config.progress = TACIT_PROGRESS_CALLS;
    says(with(&config, NULL, variables), "timeout 7000|thread 0|spec bf16");
    says(with(&config, "onebit", variables), "timeout 7000|spec onebit,");
}
END_TEST

START_TEST(bad_spec)
{
    says(WITH("TACIT_SPEC=onebti"), "unknown compressor 'onebti'|did you mean 'onebit'");
}
END_TEST

/* The table is what tacit-info prints. */
START_TEST(table)
{
    for (const tacit_param_t *param = tacit__environment_params(); param->key != NULL; param++) {
        ck_assert_int_eq(strncmp(param->key, "TACIT_", 6), 0);
        ck_assert_uint_gt(strlen(param->help), 10);
        ck_assert_ptr_nonnull(param->unit);
        ck_assert_ptr_eq(tacit__param_find(tacit__environment_params(), param->key, strlen(param->key)), param);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("environment");
    TCase *tests = tcase_create("environment");

    tcase_add_test(tests, defaults);
    tcase_add_test(tests, good_values);
    tcase_add_test(tests, plans);
    tcase_add_test(tests, topologies);
    tcase_add_test(tests, empty_values);
    tcase_add_test(tests, bad_values);
    tcase_add_test(tests, unknown_variables);
    tcase_add_test(tests, warned_once);
    tcase_add_test(tests, disabled);
    tcase_add_test(tests, configuration_wins);
    tcase_add_test(tests, bad_spec);
    tcase_add_test(tests, table);
    suite_add_tcase(suite, tests);
    return harness_main(suite);
}
