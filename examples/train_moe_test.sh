#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests train-moe from outside: the loss falls with every way for tokens to travel, any number of ranks trains alike, kills and
# resumes, wrong input. What transformers share is tested with train-text. Run in the build's folder; exit 77: skipped.
set -u
# shellcheck source=examples/trainer_testing.sh
. "${srcdir:-.}/examples/trainer_testing.sh" train-moe

# Small enough for a test.
small=(--width 16 --heads 2 --context 16 --experts 4)

# train RANKS OPTION...: the last line of a small training; all of them in $folder/out, messages in $folder/log.
train() {
    local ranks=$1
    shift
    timeout -k 5 120 "${launcher[@]}" -n "$ranks" "$trainer" --json "${small[@]}" "$@" 2>"$folder/log" </dev/null >"$folder/out"
    tail -n 1 "$folder/out"
}

# holds EXPRESSION WHAT: of awk.
holds() { awk "BEGIN { exit !($1) }" || fail "$2: it does not hold that $1: $(cat "$folder/log")"; }

# With the frequencies of single characters alone the loss would be 3.187, and 4.54 with no knowledge at all.
test_results() {
    local line key loss spec
    for spec in none fp8 lsh:rate=0.3; do
        line=$(train 2 --steps 250 --lr 0.02 --batch 4 --tokens "$spec")
        loss=$(field test_loss "$line")
        holds "0${loss:-9} > 1 && 0${loss:-9} < 2.9" "$spec: $line"
        [ "$(field replicas_equal "$line")" = true ] || fail "$spec: the parameters differ: $line"
        case $spec in
        none) holds "$(field token_ratio "$line") > 0.9 && $(field token_rate "$line") == 1" "$spec: $line" ;;
        fp8) holds "$(field token_ratio "$line") > 3" "$spec: $line" ;;
        lsh*) holds "$(field token_rate "$line") < 0.31 && $(field token_residual "$line") > 0" "$spec: $line" ;;
        esac
    done
    for key in optimizer spec ranks tokens experts choices train_loss test_loss wire_bytes dense_bytes token_wire_bytes \
        token_dense_bytes exchange_seconds expert_seconds expert_share overflows parameters param_hash seconds; do
        [ -n "$(field "$key" "$line")" ] || fail "no $key in '$line'"
    done
}

# A batch is the same on any number of ranks, and so are, to rounding, its gradients, those of experts too: SGD sees their size.
test_ranks() {
    local options="--optimizer sgd --lr 0.3 --warmup-steps 0 --steps 25" ranks one other
    # shellcheck disable=SC2086 # words
    {
        one=$(train 1 $options --batch 12)
        holds "$(field test_loss "$one") < 3.4" "one rank learns"
        for ranks in 2 3 4; do
            other=$(train "$ranks" $options --batch $((12 / ranks)))
            holds "($(field test_loss "$one") - $(field test_loss "$other")) ^ 2 < 1e-10" "1 and $ranks ranks: $one $other"
            [ "$(field replicas_equal "$other")" = true ] || fail "$ranks ranks: the parameters differ: $other"
        done
        [ "$(field parameters "$one")" = "$(field parameters "$other")" ] || fail "other parameters: $one $other"
        other=$(train 1 $options --batch 12 --skip)
        [ "$(field param_hash "$other")" != "$(field param_hash "$one")" ] || fail "--skip does nothing"
    }
}

# Tokens that experts have no room for go without them.
test_capacity() {
    local line
    line=$(train 2 --steps 20 --batch 4 --capacity 10)
    holds "$(field overflows "$line") > 0 && $(field test_loss "$line") < 4.5" "capacity: $line"
    line=$(train 2 --steps 20 --batch 4 --capacity 64)
    holds "$(field overflows "$line") == 0" "capacity: $line"
}

# Killed wherever it happens to be, training goes on to the same bits, and has sent as much.
test_kills() {
    local options="--batch 4 --tokens lsh:hashes=2 --dense-steps 30 --steps 100" dir=$folder/kills whole line key
    # shellcheck disable=SC2086 # words
    {
        whole=$(train 2 $options)
        train 2 ${options/100/40} --checkpoint "$dir" >/dev/null
        killed "$dir" 0.01 "${launcher[@]}" -n 2 "$trainer" "${small[@]}" $options --evaluate-every 2 --checkpoint "$dir" --resume
        line=$(train 2 $options --checkpoint "$dir" --resume)
        grep -q 'resuming after step \(4[2-9]\|[5-9].\|1..\)$' "$folder/log" ||
            fail "not resumed from what the killed run saved: $(cat "$folder/log")"
        for key in param_hash wire_bytes token_wire_bytes token_rate; do
            [ "$(field "$key" "$line")" = "$(field "$key" "$whole")" ] || fail "resumed, $key is another: $line: $whole"
        done
        says "its 'choices 2' is not this run's 'choices 1'" "${launcher[@]}" -n 2 "$trainer" "${small[@]}" $options --choices 1 \
            --checkpoint "$dir" --resume
        says "its 'tokens lsh:hashes=2' is not this run's 'tokens none'" "${launcher[@]}" -n 2 "$trainer" "${small[@]}" $options \
            --tokens none --checkpoint "$dir" --resume
    }
}

test_refusals() {
    says "--layers 1: experts are in every second block" "$trainer" --layers 1
    says "--experts 2 are too few for 3 ranks" "${launcher[@]}" -n 3 "$trainer" --experts 2
    says "--choices 3 are more than --experts 2" "$trainer" --experts 2 --choices 3
    says "unknown compressor 'nothing'" "$trainer" --tokens nothing
    says "'onebit+ef' has feedback" "$trainer" --tokens onebit+ef
    says "--device cuda: this program trains on the CPU only" "$trainer" --device cuda
    says "--width 10 is not a multiple of --heads 4" "$trainer" --width 10
}

test_results
test_ranks
test_capacity
test_kills
test_refusals
exit $failed
