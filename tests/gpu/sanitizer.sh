#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compute-sanitizer finds nothing in the kernels: no access out of bounds, no race in shared memory, no barrier that threads miss.
# Skipped where there is no GPU, or no such tool.
set -u
failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

skip() {
    echo "skipped: $*"
    exit 77
}

nvidia-smi -L >/dev/null 2>&1 || skip "there is no GPU that nvidia-smi knows of"
command -v compute-sanitizer >/dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer >/dev/null || skip "there is no compute-sanitizer, neither on the PATH nor in /usr/local/cuda"
for test in lsh rows sharded sparse; do # between them, every kernel
    [ -x "tests/gpu/$test" ] || skip "the library is built without CUDA's tests"
    for tool in memcheck racecheck synccheck; do
        compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 9 "tests/gpu/$test" >"$log" 2>&1 || {
            echo "$tool, tests/gpu/$test: status $?"
            tail -n 60 "$log"
            failed=1
        }
    done
done
exit $failed
