#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What TACIT_TRACE has ranks write keeps to the rules of its format; tacit-info --summary says what the run itself counted, and
# refuses what is no trace; bench/timeline shows an operation.
set -u
source=${srcdir:-.}
info=$PWD/tools/tacit-info
# shellcheck source=tests/testing.sh
. "${srcdir:-.}/tests/testing.sh"

# has COUNT PATTERN: so many lines of the output.
has() { [ "$(grep -c -- "$2" "$folder/out")" -eq "$1" ] || fail "not $1 lines with '$2': $(cat "$folder/out")"; }

# refuses PATTERN FILE...: a summary of these has status 2 and one line on standard error.
refuses() {
    local pattern=$1 status=0
    shift
    "$info" --summary "$@" >"$folder/out" 2>"$folder/err" || status=$?
    [ $status -eq 2 ] || fail "a summary of $* ends with $status"
    [ ! -s "$folder/out" ] || fail "there is a summary of $*: $(cat "$folder/out")"
    mv "$folder/err" "$folder/out"
    has 1 ''
    has 1 "^tacit-info: $pattern"
}

echo '[{"name":"f","ph":"B","ts":1,"pid":1,"tid":1}]' >"$folder/foreign"
refuses ".*/foreign: byte 1: an event of a kind that TACIT_TRACE does not write" "$folder/foreign"
refuses ".*/none: No such file or directory" "$folder/none"
refuses ".*: Is a directory" "$folder"
refuses ".*/trace.sh: byte 0: not JSON" "$source/tests/trace.sh"
refuses "--summary of which files"
echo '[]' >"$folder/empty"
refuses ".*/empty: no slot has been reduced" "$folder/empty"

command -v "${MPIRUN:-mpirun}" >/dev/null || exit $failed
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export TACIT_PLAN=native # what is not compressed, whatever is measured here to be faster

# ranks COMMAND...: three of them; their output is in $folder/out.
ranks() {
    timeout -k 5 120 "${MPIRUN:-mpirun}" -n 3 "$@" >"$folder/out" 2>"$folder/err" || fail "$* fails: $(cat "$folder/err")"
}

# reduce ARGUMENT...: three ranks, two operations of every spec.
reduce() { ranks "$PWD/tools/tacit-bench" allreduce --bytes 256K --calls 2 --no-native "$@"; }

# of KEY LINE: a JSON member's text or number.
of() { grep -o "\"$1\":[^,]*" <<<"$2" | cut -d: -f2 | tr -d '"'; }

specs=(onebit+ef none topk:ratio=0.01+ef)
TACIT_TRACE=$folder/trace reduce --json "${specs[@]/#/--spec=}"
counted=$(cat "$folder/out")
"$info" --summary --json "$folder"/trace.? >"$folder/out" || fail "there is no summary"
summed=$(cat "$folder/out")
for spec in "${specs[@]}"; do
    bench=$(grep "\"spec\":\"$spec\"" <<<"$counted")
    row=$(grep "\"slot\":\"bench\",\"spec\":\"$spec\"" <<<"$summed")
    for member in mode:summary schedule:"$(of schedule "$bench")" ranks:3 calls:2 failed:0 bytes_in:524288; do
        [ "$(of "${member%%:*}" "$row")" = "${member#*:}" ] || fail "$spec: no $member in $row"
    done
    for key in wire_bytes dense_bytes; do # tacit-bench tells those of a call
        awk -v a="$(of $key "$bench")" -v b="$(of $key "$row")" 'BEGIN { exit !(b - 2 * a <= 2 && 2 * a - b <= 2) }' ||
            fail "$spec: $key is $(of $key "$row") in two calls, and $(of $key "$bench") in one"
    done
done
"$info" --summary "$folder"/trace.[120] >"$folder/out" || fail "there is no table"
has 1 '^bench  *2  *256.0K  *[0-9.]*K  *[0-9.]*  .* %  blockwise  *onebit+ef$'
has 1 '^bench  *2  *256.0K  *341.3K  *1.00  .* %  native  *none$'
has 1 '^operation [0-9]*, tacit_allreduce of .bench., 256.0K, .*; the median of 2$'
has 3 '^rank [012]$'
has 3 '^  encode  |[ .:#]\{72\}| *[0-9]* %$'
[ "$(sed -n 's/^rank //p' "$folder/out" | tr -d '\n')" = 012 ] || fail "ranks are not in order: $(cat "$folder/out")"
head -c 20000 "$folder/trace.1" >"$folder/cut"
refuses ".*/cut: byte 20000: the end of the file" "$folder/trace.0" "$folder/cut"
refuses ".*/trace.0: byte [0-9]*: an event of a rank that an earlier file has" "$folder/trace.0" "$folder/trace.0"

if command -v python3 >/dev/null; then
    "$source/tests/trace_rules" --smoke || fail "the rules are not right"
    "$source/tests/trace_rules" "$folder"/trace.? >"$folder/out" || fail "the rules are broken"
    has 3 '^rank [012]: [0-9]* events$'
    "$source/bench/timeline" --smoke || failed=1
    "$source/bench/timeline" --link-rate 1gbit --svg "$folder/svg" "$folder"/trace.? >"$folder/out" || fail "there is no table"
    has 3 '^| [012] | [0-9.]* | [0-9]* % '
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$folder/svg" || fail "the picture is not XML"

    # Native calls, some in a group with others, requests, and operations that fail; two communicators, one after the other.
    TACIT_TRACE=$folder/native.%c.%r ranks "$PWD/tests/mpi/native.np"
    for number in 0 1; do
        "$source/tests/trace_rules" "$folder"/native.$number.? >"$folder/out" || fail "the rules are broken"
        "$info" --summary --json "$folder"/native.$number.? >"$folder/out" || fail "there is no summary"
        has 1 '"slot":"a","spec":"auto","schedule":"native","ranks":3,"calls":3,"failed":0,"bytes_in":12000,'
        has 1 '"slot":"framed","spec":"fp16","schedule":"blockwise","ranks":3,"calls":[12],"failed":[01],'
        "$info" --summary "$folder"/native.$number.? >"$folder/out" || fail "there is no table"
        [ $number -eq 1 ] || has 1 "^1 of 'framed' failed on each rank$"
    done
fi
rm -f "$folder"/*

reduce --spec onebit+ef
[ "$(ls "$folder")" = "$(printf 'err\nout')" ] || fail "there is a trace that nobody asked for: $(ls "$folder")"
TACIT_TRACE=$folder/no/folder reduce --spec onebit+ef
mv "$folder/err" "$folder/out"
has 3 'warn trace: .*No such file or directory'
exit $failed
