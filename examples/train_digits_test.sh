#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests train-digits from outside: results, checkpoints, kills, wrong input. Run in the build's folder; exit 77: skipped.
set -u

# shellcheck source=examples/trainer_testing.sh
. "${srcdir:-.}/examples/trainer_testing.sh" train-digits
data=${srcdir:-.}/examples/data/digits.csv

# train RANKS OPTION...: the last line of a small training, and its messages in $folder/log.
train() {
    local ranks=$1
    shift
    timeout -k 5 120 "${launcher[@]}" -n "$ranks" "$trainer" --json --hidden 64,32 "$@" 2>"$folder/log" </dev/null | tail -n 1
}

# Every compressor trains, on every number of ranks to the same parameters; the last line has all that is promised.
test_results() {
    local spec ranks line key
    for spec in none fp16 bf16 qsgd:bits=4+ef onebit+ef topk:ratio=0.05+ef randk:ratio=0.1+ef; do
        for ranks in 2 3; do
            line=$(train "$ranks" --spec "$spec" --epochs 3)
            for key in optimizer steps train_loss test_accuracy wire_bytes dense_bytes ratio ratio_fp16 param_hash seconds; do
                [ -n "$(field "$key" "$line")" ] || fail "$spec on $ranks ranks: no $key in '$line': $(cat "$folder/log")"
            done
            [ "$(field spec "$line")" = "$spec" ] || fail "$spec: it reports another spec: $line"
            [ "$(field ranks "$line")" = "$ranks" ] || fail "$spec: not $ranks ranks: $line"
            [ "$(field replicas_equal "$line")" = true ] || fail "$spec on $ranks ranks: the parameters differ: $line"
            awk "BEGIN { exit !($(field test_accuracy "$line") > 0.4) }" || fail "$spec on $ranks ranks hardly learns: $line"
        done
    done
    line=$("$trainer" --json --hidden 16 --epochs 2 | tail -n 1)
    [[ $line == *'"ratio":null,"ratio_fp16":null'*'"replicas_equal":true'* ]] || fail "alone, without a launcher: $line"
}

# Interrupted and resumed, in the middle of an epoch too, a training comes to the same bits; a finished one stays as it is.
test_resume() {
    local options dir=$folder/deep/resume whole line
    for options in "--spec onebit+ef" "--spec topk:ratio=0.05+ef --optimizer adam" "--spec randk:ratio=0.1+ef" "--spec none" \
        "--spec powersgd:rank=8+ef --adapt alpha=1.5,every=10,gather=4"; do
        rm -rf "$dir"
        # shellcheck disable=SC2086 # words
        {
            whole=$(field param_hash "$(train 2 $options --epochs 3)")
            line=$(train 2 $options --steps 30 --checkpoint "$dir" --resume)
            grep -q 'starting at the beginning' "$folder/log" || fail "$options: nothing said about an empty $dir"
            [ "$(field steps "$line")" = 30 ] || fail "$options: not 30 steps: $line"
            line=$(train 2 $options --epochs 3 --checkpoint "$dir" --resume)
            [ "$(field param_hash "$line")" = "$whole" ] || fail "$options: resumed training ends elsewhere than $whole: $line"
            line=$(train 2 $options --epochs 3 --checkpoint "$dir" --resume)
            [ "$(field param_hash "$line")" = "$whole" ] || fail "$options: a finished training changed: $line"
        }
        [ "$(find "$dir" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ] || fail "$options: more than one generation in $dir"
    done
}

# Ranks are together in the end at rates too, here of less than 1e-38, at which no message says anything.
test_end() {
    local line
    line=$(timeout -k 5 30 "${launcher[@]}" -n 2 "$trainer" --json --hidden 8 --steps 10 --lr 1e-30 --warmup-steps 4294967295 \
        --optimizer zeroone-adam:freeze=3,local-steps=4,local-scaler=1 2>"$folder/log" </dev/null | tail -n 1)
    [ "$(field steps "$line")" = 10 ] || fail "local steps at a rate of nothing: not 10 steps: $line: $(cat "$folder/log")"
    [ "$(field replicas_equal "$line")" = true ] || fail "local steps at a rate of nothing: the parameters differ: $line"
}

# Killed again and again wherever it happens to be, training goes on from a whole generation to the same bits.
test_kills() {
    local dir=$folder/kills options=(--json --spec onebit+ef --hidden 64 --epochs 200) whole line kills
    whole=$(field param_hash "$(train 2 "${options[@]}")")
    for kills in 1 2 3 4 5 6; do
        killed "$dir" "0.0$kills" "${launcher[@]}" -n 2 "$trainer" "${options[@]}" --checkpoint "$dir" --resume
    done
    line=$(train 2 "${options[@]}" --checkpoint "$dir" --resume)
    grep -q 'resuming after step' "$folder/log" || fail "nothing resumed after $kills kills: $(cat "$folder/log")"
    [ "$(field param_hash "$line")" = "$whole" ] || fail "after $kills kills training ends elsewhere than $whole: $line"
}

# refuses RANKS TEXT OPTION...: resuming from $folder/refusals fails and says the text.
refuses() { says "$2" "${launcher[@]}" -n "$1" "$trainer" --checkpoint "$folder/refusals" --resume "${@:3}"; }

# What does not fit is named, and nothing is trained.
test_refusals() {
    local dir=$folder/refusals
    train 2 --epochs 1 --checkpoint "$dir" --spec onebit+ef >/dev/null
    refuses 3 "its 'ranks 2' is not this run's 'ranks 3'" --hidden 64,32 --spec onebit+ef
    refuses 2 "its 'spec onebit+ef' is not this run's 'spec none'" --hidden 64,32
    refuses 2 "its 'layers 64 64 32 10' is not this run's 'layers 64 8 10'" --hidden 8 --spec onebit+ef
    truncate -s 1000 "$dir"/gen-1/trainer-0
    refuses 2 "the file is damaged" --hidden 64,32 --spec onebit+ef
    says "--spec 'onebitt'" "$trainer" --spec onebitt
    says "--lr '0': expected a number from 1e-30 and below 1e30" "$trainer" --lr 0
    says "--lr '1e30': expected a number from 1e-30 and below 1e30" "$trainer" --lr 1e30
    says "--epochs '5000000000': expected a whole number from 1 to 4294967295" "$trainer" --epochs 5000000000
    says "no such option: '--epoch-count=3'" "$trainer" --epoch-count=3
    says "--resume needs --checkpoint" "$trainer" --resume
    says "give one of them" "$trainer" --steps 3 --epochs 2
    loses --json --hidden 8 --epochs 1
    loses --help
    says "too few for a batch of 60000" "$trainer" --batch 60000
    says "cannot write checkpoints in /proc/none: No such file" "$trainer" --hidden 8 --epochs 1 --checkpoint /proc/none
    [[ $("$trainer" --hidden 8 --epochs 1 --checkpoint /proc/none 2>&1) != *epoch* ]] ||
        fail "that no checkpoint can be written is said after an epoch only"
    says "cannot open $folder/none: No such file" "$trainer" --data "$folder/none"
    { head -n 6 "$data" && echo "1,2,17,4"; } >"$folder/damaged.csv"
    says "damaged.csv, line 7: field 3 is not a pixel from 0 to 16" "$trainer" --data "$folder/damaged.csv"
}

# Plans are counted, over interruptions too, and a training that is too short for one is told so.
test_plans() {
    local dir=$folder/plans options=(--spec powersgd:rank=8+ef --adapt "every=10,gather=4") line
    train 2 "${options[@]}" --steps 15 --checkpoint "$dir" >/dev/null
    line=$(train 2 "${options[@]}" --steps 40 --checkpoint "$dir" --resume)
    [ "$(field plans "$line")" = 4 ] || fail "not 4 plans in 40 steps: $line"
    line=$("${launcher[@]}" -n 2 "$trainer" --hidden 64,32 "${options[@]}" --steps 15 2>"$folder/log")
    [[ $line == *"1 plan of --adapt: what it adapts is "* ]] || fail "not 1 plan in 15 steps: $line"
    ! grep -q adapt "$folder/log" || fail "--adapt is warned of: $(cat "$folder/log")"
    line=$(train 2 --spec topk+ef --adapt alpha=1 --steps 99)
    [ "$(field plans "$line")" = 0 ] || fail "a plan in 99 steps: $line"
    grep -q 'plans every 100 steps, which is never in 99 steps' "$folder/log" || fail "no warning: $(cat "$folder/log")"
}

# Ranks that would wait for each other for ever do not begin.
test_ranks() {
    head -n 1000 "$data" >"$folder/fewer.csv"
    differ adapt "--adapt alpha=1" --epochs 2 --spec topk+ef
    differ checkpoint "--checkpoint $folder/differ"
    differ hidden "--hidden 8" --hidden 16
    differ help --help --epochs 1
    says "the data of rank 1 are not those of rank 0" \
        "${launcher[@]}" -n 1 "$trainer" : -n 1 "$trainer" --data "$folder/fewer.csv"
    [ ! -e "$folder/differ" ] || fail "ranks with different options have made a checkpoint"
}

# big_endian NUMBER: four bytes.
big_endian() {
    local shift
    for shift in 24 16 8 0; do
        printf '%b' "\\0$(printf %o $(($1 >> shift & 255)))"
    done
}

# idx IMAGES FOLDER NAME: noise of 4 x 5 pixels in MNIST's format, with labels.
idx() {
    { big_endian 2051 && big_endian "$1" && big_endian 4 && big_endian 5 && head -c $((20 * $1)) /dev/urandom; } \
        >"$2/$3-images-idx3-ubyte"
    { big_endian 2049 && big_endian "$1" && head -c "$1" /dev/zero; } >"$2/$3-labels-idx1-ubyte"
}

test_data() {
    local dir=$folder/data line
    mkdir -p "$dir/uci" "$dir/mnist"
    head -n 300 "$data" >"$dir/uci/optdigits.tra"
    tail -n 100 "$data" >"$dir/uci/optdigits.tes"
    line=$(train 1 --epochs 1 --data "$dir/uci")
    [ "$(field steps "$line")" = 9 ] || fail "a folder of optdigits: $line: $(cat "$folder/log")"
    idx 70 "$dir/mnist" train
    idx 10 "$dir/mnist" t10k
    line=$(train 1 --epochs 20 --data "$dir/mnist")
    [ "$(field test_accuracy "$line")" = 1 ] || fail "a folder of MNIST with one class only: $line: $(cat "$folder/log")"
    printf 'x' >>"$dir/mnist/t10k-images-idx3-ubyte"
    says "t10k-images-idx3-ubyte is too long" "$trainer" --data "$dir/mnist"
    truncate -s 100 "$dir/mnist/t10k-images-idx3-ubyte"
    says "t10k-images-idx3-ubyte is cut short: 84 of 200 bytes" "$trainer" --data "$dir/mnist"
    idx 11 "$dir/mnist" t10k
    truncate -s 18 "$dir/mnist/t10k-labels-idx1-ubyte"
    says "t10k-labels-idx1-ubyte is cut short" "$trainer" --data "$dir/mnist"
    mv "$dir/mnist/train-labels-idx1-ubyte" "$dir/mnist/train-labels-idx1-ubyte.gz"
    says "unpack the .gz file" "$trainer" --data "$dir/mnist"
    says "holds neither" "$trainer" --data "$dir"
}

test_results
test_resume
test_end
test_kills
test_refusals
test_plans
test_ranks
test_data
exit $failed
