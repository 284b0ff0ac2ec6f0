#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests train-quadratic from outside: without feedback a problem diverges, with feedback alone another stalls, and what keeps
# track of every client reaches the optimum. Run in the build's folder; exit 77: skipped.
set -u

# shellcheck source=examples/trainer_testing.sh
. "${srcdir:-.}/examples/trainer_testing.sh" train-quadratic

# train RANKS PROBLEM SPEC OPTION...: all lines in $folder/out, the last one in $line.
train() {
    local ranks=$1 problem=$2 spec=$3
    shift 3
    timeout -k 5 120 "${launcher[@]}" -n "$ranks" "$trainer" --problem "$problem" --spec "$spec" --json "$@" \
        >"$folder/out" 2>"$folder/log" </dev/null || fail "$problem $spec on $ranks ranks: $(cat "$folder/log")"
    line=$(tail -n 1 "$folder/out")
    [[ $line == *'"replicas_equal":true'* ]] || fail "$problem $spec on $ranks ranks: the parameters differ: $line"
}

# within KEY LOW HIGH: a number of the last line, from LOW, which is 0 or more.
within() {
    local number
    number=$(sed -n "s/.*\"$1\":\([-+0-9.e]*\).*/\1/p" <<<"$line")
    awk "BEGIN { exit !(${number:--1} >= $2 && ${number:--1} <= $3) }" || fail "$1 is not from $2 to $3: $line"
}

# refuses RANKS TEXT OPTION...: the program ends with 2, and what it prints, once, holds the text. One rank needs no launcher,
# which is slow to end where a program fails.
refuses() {
    local ranks=$1 text=$2 output status=0 command=("$trainer")
    shift 2
    [ "$ranks" -eq 1 ] || command=("${launcher[@]}" -n "$ranks" "$trainer")
    output=$(timeout -k 5 60 "${command[@]}" "$@" 2>&1 </dev/null) || status=$?
    [ $status -eq 2 ] || fail "'$*' ends with $status; it should have said: $text"
    [ "$(grep -cF -e "$text" <<<"$output")" -eq 1 ] || fail "'$*' does not say '$text', or not once, but: $output"
}

# Every step multiplies x by 1 + 11/600: |x|^2 is 3 (1 + 11/600)^200 after 100; three clients on one rank are the same problem.
for ranks in 3 1; do
    train $ranks p0 topk:ratio=0.33 --steps 100
    within distance_squared 113.5306 113.5308
done
train 3 p0 topk:ratio=0.33 --steps 1000
within distance_squared 1.80e16 1.82e16
train 3 p0 topk:ratio=0.33+ef --steps 1000
within distance_squared 1e-11 1e-9

# The clients' gradients at the optimum are not 0, so neither is what stays behind.
train 4 p1 topk:ratio=0.125+ef --steps 1000
within distance_squared 5 30
within memory_squared 1e4 2e4
train 2 p1 topk:ratio=0.125+ef --lr 0.01 --steps 1000
within distance_squared 0.02 0.03

# A tracker of every client: its first steps, worked out by hand, and its end, where float32 ends. |x - x*|^2 of x(1), x(2), x(3).
train 4 p1 topk:ratio=0.125+econtrol:eta=0.0625,init=gradient --steps 3 --every 1
for squared in 8.91 7.1849 5.762969; do
    grep -q "\"distance_squared\":$squared" "$folder/out" || fail "no |x - x*|^2 of $squared in: $(cat "$folder/out")"
done
train 4 p1 topk:ratio=0.125+econtrol --steps 1000
within distance_squared 0 1e-10
within memory_squared 0 1e-6
train 2 p1 topk:ratio=0.125+ef21:init=gradient --steps 1000
within distance_squared 0 1e-10
train 3 p0 topk:ratio=0.33+ef21:init=gradient --steps 1000
within distance_squared 1.3e-10 1.6e-10
train 3 p0 topk:ratio=0.33+econtrol:eta=0.08,init=gradient --steps 1000
within distance_squared 1.8e-10 2.1e-10
train 4 p1 none --steps 1000
within distance_squared 0 1e-11
within ratio 1 1

# Noise of every client, from streams of its own: dense descent's floor.
train 4 p2 none --steps 6000
within gap_last_third 0.001 0.003

train 8 logistic none --steps 300 --every 100
within gap 1e-6 0.02
within test_accuracy 0.9 1
for key in loss gap distance_squared memory_squared wire_bytes; do
    [ "$(grep -c "\"$key\":" "$folder/out")" -ge 4 ] || fail "no $key in every evaluation: $(cat "$folder/out")"
done
for key in optimizer spec ranks steps train_loss test_loss wire_bytes dense_bytes ratio ratio_fp16 param_hash seconds; do
    [[ $line == *"\"$key\":"* ]] || fail "no $key in $line"
done

refuses 3 "p1 has 4 clients, which 3 ranks cannot share" --problem p1
refuses 3 "no problem is called 'p9'" --problem p9
refuses 1 "--problem NAME is missing"
refuses 3 "--steps '0': expected a whole number from 1" --problem p0 --steps 0
refuses 1 "--spec 'topkk'" --problem p0 --spec topkk
refuses 1 "no such option: '-q'" --json -qx
refuses 1 "no such option: '--json=3'" --json=3
refuses 1 "a value is missing after '--steps'" --json --steps
loses --problem p0 --steps 10
differ steps "--steps 5" --problem p0
differ help --help --problem p0
# The last of the ranks alone cannot read the data.
says "train-quadratic: cannot open $folder/none: No such file" "${launcher[@]}" -n 1 "$trainer" --problem logistic --spec none : \
    -n 1 "$trainer" --problem logistic --spec none --data "$folder/none"
exit $failed
