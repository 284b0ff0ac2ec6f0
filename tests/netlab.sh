#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The bytes that the library says it sent are those that the links of a netlab counted, within TCP's framing (7 %).
set -u
netlab=${srcdir:-.}/bench/netlab
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0
calls=20

skip() {
    echo "skipped: $*"
    exit 77
}

[ "$(id -u)" -eq 0 ] || skip "network namespaces need root"
"${MPIRUN:-false}" --version 2>/dev/null | grep -q 'Open MPI' || skip "netlab starts Open MPI, which is not here"
for tool in ip tc awk; do
    command -v $tool >/dev/null || skip "there is no $tool"
done
ip netns add "tacit-$$" 2>/dev/null || skip "no network namespaces here"
ip netns del "tacit-$$"
export ASAN_OPTIONS=detect_leaks=0

# field NAME: its number in a line of JSON.
field() { sed "s/.*\"$1\":\([0-9.e+-]*\).*/\1/"; }

# compare HOSTS SPEC BYTES
compare() {
    local status=0 ours
    "$netlab" -n "$1" -r 100mbit --counters -- "$PWD/tools/tacit-bench" allreduce --spec "$2" --bytes "$3" --calls $calls \
        --no-native --json >"$folder/out" 2>"$folder/err" || status=$?
    [ $status -ne 3 ] || skip "the machine is too busy for 100 Mbit/s"
    [ $status -eq 0 ] || {
        cat "$folder/err"
        failed=1
        return
    }
    ours=$(grep '"mode":"allreduce"' "$folder/out" | field wire_bytes)
    [ "$(grep -c '"mode":"links"' "$folder/out")" -eq "$1" ] || failed=1
    grep '"mode":"links"' "$folder/out" | field sent_bytes | awk -v ours="$ours" -v calls=$calls -v spec="$2" '
        { sent += $1 }
        END {
            ratio = sent / NR / (ours * calls)
            printf "%s: %.0f bytes a call by the library, %.4f times that on the links\n", spec, ours, ratio
            exit !(ratio > 1 && ratio < 1.07)
        }' || failed=1
}

compare 3 onebit+ef 16M
compare 2 topk:ratio=0.01+ef 4M
exit $failed
