/* SPDX-License-Identifier: Apache-2.0 */
/* What a NCCL of ours can be made to do: to be missing, old, at fault, or never at an end. On the CPU. */
#include <pthread.h>
#include <stddef.h>

static const size_t counts[] = {4200, 777, 0, 64, 5, 33};

#include "processes.h"

/* A function of the library that the process has loaded. */
static void *function_of(const char *name)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
    void *function = library != NULL ? dlsym(library, name) : NULL;

    ck_assert_msg(function != NULL, "no %s", name);
    return function;
}

static void inject(const char *name, int value)
{
    void (*function)(int) = NULL;

    *(void **)&function = function_of(name);
    function(value);
}

static int aborts(void)
{
    int (*function)(void) = NULL;

    *(void **)&function = function_of("fake_aborts");
    return function();
}

/* ---- Libraries ---- */

static void cannot_be_used(const char *name, const char *reason)
{
    tacit_nccl_library_t library = {.version = -1};

    ck_assert_int_eq(tacit__nccl_open(name, &library), TACIT_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(tacit_last_error(), reason) != NULL, "%s", tacit_last_error());
    ck_assert_int_eq(library.version, -1);
}

START_TEST(no_library)
{
    cannot_be_used("libnccl_that_is_nowhere.so.2", "libnccl_that_is_nowhere.so.2: cannot open");
    cannot_be_used("libnccl_that_is_nowhere.so.2", "LD_LIBRARY_PATH");
}
END_TEST

START_TEST(lacking_functions)
{
    (void)load_fake("libnccl_old.so");
    cannot_be_used("libnccl.so.2", "libnccl_old.so, lacks ncclGetUniqueId");
}
END_TEST

START_TEST(old_version)
{
    int version = 0;

    *(int *)dlsym(load_fake("libnccl_fake.so"), "fake_nccl_version") = 21705;
    cannot_be_used("libnccl.so.2", "libnccl_fake.so, is of version 2.17.5; install 2.18");
    ck_assert_int_eq(tacit_nccl_version(&version), TACIT_ERR_UNSUPPORTED);
    ck_assert_int_eq(version, 0);
    *(int *)dlsym(load_fake("libnccl_fake.so"), "fake_nccl_version") = 23007; /* it is not looked for again */
    ck_assert_int_eq(tacit_nccl_version(&version), TACIT_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "2.17.5"));
}
END_TEST

/* The one that is loaded already comes before any that the loader would find. */
START_TEST(later_version)
{
    int version = 0;

    *(int *)dlsym(load_fake("libnccl_fake.so"), "fake_nccl_version") = 23007;
    SUCCEEDS(tacit_nccl_version(&version));
    ck_assert_int_eq(version, 23007);
    ck_assert_int_eq(tacit_nccl_version(NULL), TACIT_ERR_ARGUMENT);
}
END_TEST

/* ---- Communicators ---- */

/* A rank's communicator, and a group of tensors on it. */
typedef struct work {
    tacit_nccl_t       *nccl;
    tacit_nccl_group_t *group;
    node_t              node;
} work_t;

static void begin(const process_t *process, const char *spec, work_t *work)
{
    const setup_t setup = {.spec = spec, .ranks = process->ranks, .strict = 1};

    *work = (work_t){.nccl = connect_ranks(process)};
    make_tensors(&setup, TACIT_CUDA, process->rank, &work->node);
    inputs_of(&setup, process->rank, &work->node, 0);
    SUCCEEDS(tacit_nccl_group_create(work->nccl, work->node.codecs, TENSORS, TACIT_SUM, &work->group));
}

static void end(work_t *work)
{
    tacit_nccl_destroy(work->nccl);
    free_tensors(TACIT_CUDA, &work->node);
}

static tacit_status_t run(const work_t *work)
{
    return tacit_nccl_group_run(work->group, TACIT_STEP_NEXT, (const void *const *)work->node.in, work->node.out, NULL);
}

static void is_broken(const work_t *work, int its_aborts)
{
    tacit_nccl_group_t *other;

    ck_assert_int_eq(aborts(), its_aborts);
    ck_assert_int_eq(run(work), TACIT_ERR_BROKEN);
    ck_assert_int_eq(tacit_nccl_group_poll(work->group, 0), TACIT_ERR_BROKEN);
    ck_assert_int_eq(tacit_nccl_wait(work->nccl, NULL), TACIT_ERR_BROKEN);
    ck_assert_int_eq(tacit_nccl_set_timeout(work->nccl, 0), TACIT_ERR_BROKEN);
    ck_assert_int_eq(tacit_nccl_group_create(work->nccl, work->node.codecs, TENSORS, TACIT_SUM, &other), TACIT_ERR_BROKEN);
}

/* One that cannot take part keeps nobody waiting. */
static void one_cannot(const process_t *process)
{
    tacit_config_t        config = TACIT_CONFIG_INIT;
    tacit_nccl_t         *nccl = NULL;
    const tacit_nccl_id_t id = get_id(process);
    void                 *callers = NULL;
    int (*init)(void **, int, tacit_nccl_id_t, int) = NULL;

    *(void **)&init = function_of("ncclCommInitRank");
    ck_assert_int_eq(init(&callers, process->ranks, id, process->rank), 0);
    config.timeout_ms = process->rank == 1 ? -5 : 0;
    ck_assert_int_eq(tacit_nccl_create(callers, &config, &nccl), process->rank == 1 ? TACIT_ERR_ARGUMENT : TACIT_ERR_MISMATCH);
    ck_assert_msg(process->rank == 1 || strstr(tacit_last_error(), "1 of the 3 ranks cannot take part") != NULL, "%s",
                  tacit_last_error());
    ck_assert_ptr_null(nccl);
}

START_TEST(not_all)
{
    run_ranks(3, one_cannot, NULL);
}
END_TEST

/* A network's error is found by the next call of each kind. */
static void remote_error(const process_t *process)
{
    const int      call = *(const int *)process->given;
    work_t         work;
    tacit_status_t status;

    begin(process, "onebit+ef", &work);
    SUCCEEDS(run(&work));
    SUCCEEDS(tacit_nccl_group_poll(work.group, 0));
    inject("fake_fail", 6);
    status = call == 0 ? run(&work) : call == 1 ? tacit_nccl_group_poll(work.group, 1) : tacit_nccl_wait(work.nccl, NULL);
    ck_assert_int_eq(status, TACIT_ERR_TRANSPORT);
    ck_assert_msg(strstr(tacit_last_error(), "NCCL reports error 6, remote process exited") != NULL, "%s", tacit_last_error());
    is_broken(&work, 1);
    end(&work);
}

START_TEST(errors_of_nccl)
{
    run_ranks(2, remote_error, &_i);
}
END_TEST

/* An error while the step is exchanged: memory is as before it. */
static void error_in_step(const process_t *process)
{
    work_t         work;
    static uint8_t before[32768], after[32768];
    size_t         bytes;

    begin(process, "onebit+ef", &work);
    SUCCEEDS(run(&work));
    SUCCEEDS(tacit_nccl_group_poll(work.group, 0));
    SUCCEEDS(tacit_codec_save(work.node.codecs[0], before, sizeof before, &bytes));
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, LIMIT_MS));
    inject("fake_stick", 1);
    ck_assert_int_eq(run(&work), TACIT_ERR_TIMEOUT);
    ck_assert_msg(strstr(tacit_last_error(), "a step of 6 tensors, of which the first is 'tensor 0', has not ended within") !=
                      NULL,
                  "%s", tacit_last_error());
    is_broken(&work, 1);
    SUCCEEDS(tacit_codec_save(work.node.codecs[0], after, sizeof after, &bytes));
    ck_assert_mem_eq(before, after, bytes);
    end(&work);
}

START_TEST(stuck_exchange)
{
    run_ranks(2, error_in_step, NULL);
}
END_TEST

/* A group stands on no rank where one has given up, even if another one comes later: it still hears what that one told. */
static void come_late(const process_t *process)
{
    const setup_t       setup = {.spec = "onebit+ef", .ranks = process->ranks};
    work_t              work = {.nccl = connect_ranks(process)};
    tacit_nccl_group_t *group = NULL;

    make_tensors(&setup, TACIT_CUDA, process->rank, &work.node);
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, LIMIT_MS));
    if (process->rank == 1) {
        usleep(2000 * LIMIT_MS);
    }
    ck_assert_int_eq(tacit_nccl_group_create(work.nccl, work.node.codecs, TENSORS, TACIT_SUM, &group), TACIT_ERR_TIMEOUT);
    ck_assert_ptr_null(group);
    end(&work);
}

START_TEST(late)
{
    run_ranks(2, come_late, NULL);
}
END_TEST

/* The program has found out by itself. */
static void abort_by_program(const process_t *process)
{
    work_t work;

    begin(process, "onebit+ef", &work);
    SUCCEEDS(run(&work));
    ck_assert_int_eq(tacit_nccl_set_timeout(work.nccl, -2), TACIT_ERR_ARGUMENT);
    tacit_nccl_abort(NULL);
    tacit_nccl_abort(work.nccl);
    tacit_nccl_abort(work.nccl);
    is_broken(&work, 1);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "tacit_nccl_abort() was called"));
    end(&work);
}

START_TEST(aborted)
{
    run_ranks(2, abort_by_program, NULL);
}
END_TEST

/* ---- Streams that do not end: a module that does not say so ---- */

static tacit_cuda_module_t lame;
static bool                stays_busy;

static int never_end(const tacit_device_bundle_t *bundle, void *stream)
{
    (void)bundle;
    (void)stream;
    return 0;
}

static int busy(void *stream, bool *idle_out)
{
    (void)stream;
    *idle_out = !stays_busy;
    return 0;
}

static void endless_stream(const process_t *process)
{
    const int call = *(const int *)process->given;
    work_t    work;
    double    began;

    lame = *module;
    lame.end = never_end;
    lame.query = busy;
    tacit__cuda_use(&lame);
    begin(process, "qsgd+ef", &work);
    SUCCEEDS(run(&work));
    SUCCEEDS(tacit_nccl_group_poll(work.group, 1));
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, LIMIT_MS));
    stays_busy = true;
    began = tacit__seconds();
    if (call < 2) {
        ck_assert_int_eq(call == 0 ? tacit_nccl_group_poll(work.group, 0) : tacit_nccl_wait(work.nccl, NULL), TACIT_ERR_TIMEOUT);
        is_broken(&work, 1);
    } else { /* destroying does not wait for ever either */
        tacit_nccl_group_destroy(work.group);
        ck_assert_int_eq(aborts(), 1);
    }
    ck_assert(tacit__seconds() - began > LIMIT_MS * 1e-3);
    end(&work);
}

START_TEST(streams_without_end)
{
    run_ranks(2, endless_stream, &_i);
}
END_TEST

/* A thread that waits for long leaves when another one aborts. */
static void *abort_later(void *nccl)
{
    const double began = tacit__seconds();

    while (tacit__seconds() - began < 0.1) {
        sched_yield();
    }
    tacit_nccl_abort(nccl);
    return NULL;
}

static void abort_from_outside(const process_t *process)
{
    const int      call = *(const int *)process->given;
    pthread_t      thread;
    work_t         work;
    tacit_status_t status;

    lame = *module;
    lame.end = never_end;
    lame.query = busy;
    tacit__cuda_use(&lame);
    begin(process, "qsgd+ef", &work);
    SUCCEEDS(run(&work));
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, 25 * LIMIT_MS));
    stays_busy = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, abort_later, work.nccl), 0);
    status = call == 0 ? tacit_nccl_group_poll(work.group, 0) : tacit_nccl_wait(work.nccl, NULL);
    ck_assert_int_eq(status, TACIT_ERR_BROKEN);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "tacit_nccl_abort() was called"));
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    is_broken(&work, 1);
    end(&work);
}

START_TEST(aborted_while_waiting)
{
    run_ranks(2, abort_from_outside, &_i);
}
END_TEST

/* A step that is captured does not run, so that nobody waits for it; nor for a stream that is being captured. */
static bool captures;

static int capturing(void *stream, bool *capturing_out)
{
    (void)stream;
    *capturing_out = captures;
    return 0;
}

static void captured_step(const process_t *process)
{
    work_t work;

    lame = *module;
    lame.capturing = capturing;
    tacit__cuda_use(&lame);
    begin(process, "qsgd+ef", &work);
    captures = true;
    ck_assert_int_eq(run(&work), TACIT_ERR_STATE); /* none was made outside */
    captures = false;
    SUCCEEDS(run(&work));
    captures = true;
    lame.end = never_end;
    SUCCEEDS(run(&work));
    SUCCEEDS(tacit_nccl_group_poll(work.group, 0));
    ck_assert_int_eq(tacit_nccl_wait(work.nccl, NULL), TACIT_ERR_STATE);
    end(&work);
    ck_assert_int_eq(aborts(), 0);
}

START_TEST(capture)
{
    run_ranks(2, captured_step, NULL);
}
END_TEST

/* Whichever allocation fails, that is what is said, and nothing is left behind. */
static void without_memory(const process_t *process)
{
    const setup_t       setup = {.spec = "onebit+ef", .ranks = 1};
    node_t              node = {.bundle = NULL};
    tacit_nccl_t       *nccl = NULL;
    tacit_nccl_group_t *group = NULL;
    tacit_status_t      status = TACIT_ERR_MEMORY;
    uint64_t            nth;

    others[1] = "none";
    make_tensors(&setup, TACIT_CUDA, process->rank, &node);
    for (nth = 1; status != TACIT_OK; nth++) {
        tacit_nccl_id_t id;

        SUCCEEDS(tacit_nccl_unique_id(&id));
        tacit__alloc_fail_after(nth);
        status = tacit_nccl_create_from_id(&id, 0, 1, NULL, &nccl);
        if (status == TACIT_OK) {
            status = tacit_nccl_group_create(nccl, node.codecs, TENSORS, TACIT_SUM, &group);
        }
        tacit__alloc_fail_after(0);
        ck_assert_msg(status == TACIT_OK || status == TACIT_ERR_MEMORY, "%d: %s", (int)status, tacit_last_error());
        tacit_nccl_destroy(nccl);
        nccl = NULL;
    }
    ck_assert_uint_gt(nth, 10);
    free_tensors(TACIT_CUDA, &node);
}

START_TEST(no_memory)
{
    run_ranks(1, without_memory, NULL);
}
END_TEST

/* An error of CUDA is no time-out. */
static int fails(void *stream, bool *idle_out)
{
    (void)stream;
    *idle_out = false;
    return 2;
}

static void error_of_cuda(const process_t *process)
{
    work_t work;

    lame = *module;
    lame.end = never_end;
    tacit__cuda_use(&lame);
    begin(process, "qsgd+ef", &work);
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, -1));
    SUCCEEDS(run(&work));
    lame.query = fails;
    ck_assert_int_eq(tacit_nccl_group_poll(work.group, 0), TACIT_ERR_DEVICE);
    ck_assert_int_eq(tacit_nccl_wait(work.nccl, NULL), TACIT_ERR_DEVICE);
    ck_assert_ptr_nonnull(strstr(tacit_last_error(), "out of memory"));
    end(&work);
}

START_TEST(errors_of_cuda)
{
    run_ranks(2, error_of_cuda, NULL);
}
END_TEST

/* A launch that fails in the midst of a step: this rank's communicator breaks, the others' wait ends. */
static int no_seal(const tacit_device_bundle_t *bundle, const tacit_device_messages_t *messages, int kind, void *out,
                   void *stream)
{
    static int calls;

    return ++calls == 2 ? 2 : tacit_cuda_module(sizeof(tacit_cuda_module_t))->seal(bundle, messages, kind, out, stream);
}

static void half_a_step(const process_t *process)
{
    work_t work;

    if (process->rank == 0) {
        lame = *module;
        lame.seal = no_seal;
        tacit__cuda_use(&lame);
    }
    begin(process, "qsgd+ef", &work);
    SUCCEEDS(tacit_nccl_set_timeout(work.nccl, LIMIT_MS));
    ck_assert_int_eq(run(&work), process->rank == 0 ? TACIT_ERR_DEVICE : TACIT_ERR_TIMEOUT);
    is_broken(&work, 1);
    end(&work);
}

START_TEST(errors_in_the_midst)
{
    run_ranks(2, half_a_step, NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nccl_faults");
    TCase *cases = tcase_create("nccl_faults");

    setenv("CK_FORK", "yes", 1); /* of a library there is one a process */
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, no_library);
    tcase_add_test(cases, lacking_functions);
    tcase_add_test(cases, old_version);
    tcase_add_test(cases, later_version);
    tcase_add_test(cases, not_all);
    tcase_add_loop_test(cases, errors_of_nccl, 0, 3);
    tcase_add_test(cases, stuck_exchange);
    tcase_add_test(cases, late);
    tcase_add_test(cases, aborted);
    tcase_add_loop_test(cases, streams_without_end, 0, 3);
    tcase_add_loop_test(cases, aborted_while_waiting, 0, 2);
    tcase_add_test(cases, capture);
    tcase_add_test(cases, no_memory);
    tcase_add_test(cases, errors_of_cuda);
    tcase_add_test(cases, errors_in_the_midst);
    suite_add_tcase(suite, cases);
    return harness_main(suite);
}
