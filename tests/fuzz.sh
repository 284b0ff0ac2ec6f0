#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a fuzz test over its corpus: fuzz.sh tests/fuzz/NAME.fuzz. With TACIT_FUZZ_SECONDS set, which a build with
# --enable-fuzzing does, it searches for that long for new inputs, and leaves one that fails in the build directory.
set -eu
program=$1
name=${program##*/}
name=${name%.fuzz}
corpus=${srcdir:-.}/tests/fuzz/corpus/$name

if [ -n "${TACIT_FUZZ_SECONDS:-}" ]; then
    mkdir -p "$program.found"
    exec "$program" -max_total_time="$TACIT_FUZZ_SECONDS" -timeout=10 -artifact_prefix="$program." "$program.found" "$corpus"
fi
mapfile -t inputs < <(find "$corpus" -type f | LC_ALL=C sort)
echo "$name: ${#inputs[@]} inputs"
exec "$program" "${inputs[@]}"
