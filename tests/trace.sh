#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What TACIT_TRACE has ranks write is JSON that keeps to its format; bench/timeline reads it, and shows what is in it.
set -u
timeline=${srcdir:-.}/bench/timeline
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

fail() {
    echo "$*"
    failed=1
}

command -v python3 >/dev/null || { echo "skipped: there is no python3" && exit 77; }
"$timeline" --smoke || failed=1
command -v "${MPIRUN:-mpirun}" >/dev/null || exit $failed

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none

# has COUNT PATTERN: so many lines of the output.
has() { [ "$(grep -c "$2" "$folder/out")" -eq "$1" ] || fail "not $1 lines with '$2': $(cat "$folder/out")"; }

# reduce ARGUMENT...: three ranks, two operations of every spec.
reduce() {
    timeout -k 5 120 "${MPIRUN:-mpirun}" -n 3 "$PWD/tools/tacit-bench" allreduce --bytes 256K --calls 2 --no-native "$@" \
        >"$folder/out" 2>"$folder/err" || fail "tacit-bench fails: $(cat "$folder/err")"
}

TACIT_TRACE=$folder/trace reduce --spec onebit+ef --spec none --spec topk:ratio=0.01+ef
"$timeline" --check "$folder"/trace.? >"$folder/out" || fail "the traces do not keep to their format"
has 3 '^rank [012]: '
"$timeline" --list "$folder"/trace.? >"$folder/out" || fail "there is no list"
has 4 'tacit_allreduce | bench | 262144 '
has 2 'native | bench | 262144 '
"$timeline" --link-rate 1gbit --svg "$folder/svg" "$folder"/trace.? >"$folder/out" || fail "there is no table"
has 3 '^| [012] | [0-9.]* | [0-9]* % '
python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$folder/svg" || fail "the picture is not XML"
rm -f "$folder"/*

reduce --spec onebit+ef
[ "$(ls "$folder")" = "$(printf 'err\nout')" ] || fail "there is a trace that nobody asked for: $(ls "$folder")"
TACIT_TRACE=$folder/no/folder reduce --spec onebit+ef
mv "$folder/err" "$folder/out"
has 3 'warn trace: .*No such file or directory'
exit $failed
