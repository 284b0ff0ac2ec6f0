#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The progress thread races with nobody: builds its tests, and those of requests and groups, with clang's ThreadSanitizer in a
# folder of its own, and runs them with TACIT_PROGRESS=thread.
set -u
source=$(cd "${srcdir:-.}" && pwd)
build=$(mktemp -d) || exit 1
trap 'rm -rf "$build"' EXIT
flags="-O1 -gline-tables-only -DTACIT_PLAIN -fsanitize=thread"

# shellcheck disable=SC2086 # words
if ! echo 'int main(void) { return 0; }' | clang $flags -x c -o "$build/probe" - 2>/dev/null; then
    echo "skipped: there is no clang with ThreadSanitizer here"
    exit 77
fi
if ! pkg-config --exists check; then
    echo "skipped: there is no Check"
    exit 77
fi
cd "$build" || exit 1
registries="libcomm/schedules.def compressors/compressors.def optim/feedbacks.def optim/optimizers.def"
tests="tests/unit/progress tests/unit/request tests/unit/group"
# shellcheck disable=SC2086 # words
if ! { "$source/configure" CC=clang CFLAGS="$flags" LDFLAGS=-fsanitize=thread --disable-shared --enable-asserts --without-mpi &&
    make $registries && make $tests; } >log 2>&1; then
    tail -n 40 log
    exit 1
fi
export CK_FORK=no
failed=0
for test in $tests; do
    TACIT_PROGRESS=thread timeout -k 5 300 "$test" >log 2>&1 || {
        echo "$test fails:"
        head -n 100 log
        failed=1
    }
done
exit $failed
