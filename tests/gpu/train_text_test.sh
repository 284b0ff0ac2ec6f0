#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests train-text --device cuda with GPUs that are the CPU in emulation, and a NCCL of ours: it comes where the CPU comes, and
# goes on from its checkpoints to the same bits. Run in the build's folder; exit 77: skipped.
set -u
# shellcheck source=examples/trainer_testing.sh
. "${srcdir:-.}/examples/trainer_testing.sh" train-text
emulated=$PWD/tests/gpu/train_text_emulated
[ -x "$emulated" ] || { echo "skipped: there is no $emulated" && exit 77; }

# Small enough for emulation, and short: evaluations take longest.
head -c 9000 "${srcdir:-.}/examples/data/jargon.txt" >"$folder/text"
small=(--width 16 --layers 1 --heads 2 --context 16 --batch 4 --data "$folder/text")

# train RANKS OPTION...: the last line of a training; messages in $folder/log.
train() {
    local ranks=$1
    shift
    rm -f "$folder/nccl"
    FAKE_NCCL=$folder/nccl timeout -k 5 120 "${launcher[@]}" -n "$ranks" "$emulated" --json "${small[@]}" "$@" \
        2>"$folder/log" </dev/null | tail -n 1
}

# near LIMIT LINE LINE WHAT: two trainings come to the same loss, within the limit; replicas are equal.
near() {
    local one other
    one=$(field test_loss "$2") other=$(field test_loss "$3")
    awk "BEGIN { d = \"$one\" - \"$other\"; exit !(\"$one\" + 0 > 1 && \"$other\" + 0 > 1 && d < $1 && -d < $1) }" ||
        fail "$4: the test loss is '$one' on the CPU and '$other' on a GPU: $(cat "$folder/log")"
    [ "$(field replicas_equal "$3")" = true ] || fail "$4: the parameters differ: $3"
}

# What compression makes of a rounding is another choice now and then: of a sign, or of what is sent.
test_results() {
    local case ranks options limit cpu gpu
    for case in "2 1e-6 --optimizer sgd:weight-decay=0.01 --momentum 0.5" "1 1e-3 --spec onebit+ef" "2 1e-3 --spec onebit+ef" \
        "2 1e-3 --spec topk:ratio=0.01+ef" "2 1e-3 --optimizer sgd --spec topk:ratio=0.05+dgc"; do
        read -r ranks limit options <<<"$case"
        # shellcheck disable=SC2086 # words
        {
            cpu=$(train "$ranks" --steps 12 $options)
            gpu=$(train "$ranks" --steps 12 $options --device cuda)
        }
        near "$limit" "$cpu" "$gpu" "$case"
        [ "$(field param_hash "$cpu")" != "$(field param_hash "$gpu")" ] || fail "$case: the same bits: was there a GPU?"
    done
    [ "$(field dense_bytes "$cpu")" = "$(field dense_bytes "$gpu")" ] || fail "not the CPU's dense bytes: $cpu: $gpu"
}

# What ranks send is fixed on a GPU, and dense is what a ring sends.
test_bytes() {
    local line wide=(--width 144 --batch 1 --steps 1 --evaluate-every 1)
    line=$(train 2 --steps 3 --spec none --device cuda)
    [ "$(field ratio "$line")" = 1 ] || fail "none: not what a ring sends: $line"
    line=$(train 2 "${wide[@]}" --spec onebit+ef --device cuda)
    awk "BEGIN { exit !($(field large_wire_bytes "$line") > $(field large_dense_bytes "$line") / 32 && \
        $(field large_wire_bytes "$line") < $(field wire_bytes "$line")) }" || fail "large tensors: $line"
}

# Moments, residuals and bytes: half a training and its other half are the whole.
test_resume() {
    local options whole line dir=$folder/state
    for options in "--spec onebit+ef" "--optimizer sgd:weight-decay=0.01 --spec topk:ratio=0.05+dgc"; do
        rm -rf "$dir"
        # shellcheck disable=SC2086 # words
        {
            whole=$(train 2 --steps 8 $options --device cuda)
            train 2 --steps 5 $options --device cuda --checkpoint "$dir" >/dev/null
            line=$(train 2 --steps 8 $options --device cuda --checkpoint "$dir" --resume)
        }
        grep -q 'resuming after step 5$' "$folder/log" || fail "$options: not resumed: $(cat "$folder/log")"
        [ "$(field param_hash "$line")" = "$(field param_hash "$whole")" ] || fail "$options: resumed: $line, whole: $whole"
        [ "$(field wire_bytes "$line")" = "$(field wire_bytes "$whole")" ] || fail "$options: resumed: $line, whole: $whole"
    done
    train 2 --steps 9 --checkpoint "$dir" --resume >/dev/null
    grep -q "its 'device cuda' is not this run's 'device cpu'" "$folder/log" || fail "on the CPU: $(cat "$folder/log")"
    printf x | dd of="$(newest "$dir")/gpu-1" bs=1 seek=99 conv=notrunc status=none
    # shellcheck disable=SC2086 # words
    train 2 --steps 9 $options --device cuda --checkpoint "$dir" --resume >/dev/null
    grep -q 'gpu-1: the file is damaged' "$folder/log" || fail "a damaged file: $(cat "$folder/log")"
}

# A NaN ends a training, where nothing else looks for one.
test_divergence() {
    train 2 --steps 20 --optimizer sgd --lr 1e29 --warmup-steps 0 --device cuda >/dev/null
    grep -q 'rank [01]: the loss is no number any more' "$folder/log" || fail "no word of a NaN: $(cat "$folder/log")"
}

# Before anything starts, in one line.
test_refusals() {
    local status
    "$trainer" --device cuda "${small[@]}" --steps 3 >"$folder/out" 2>&1
    status=$?
    { [ $status = 2 ] && [ "$(grep -c '' "$folder/out")" = 1 ] && grep -q 'train-text: --device cuda: ' "$folder/out"; } ||
        { [ $status = 0 ] && grep -q 'equal on all ranks' "$folder/out"; } ||
        fail "--device cuda: status $status: $(cat "$folder/out")"
    says "--device 'gpu': expected cpu or cuda" "$trainer" --device gpu
    says "--device cuda: 'onebit-adam' runs on the CPU only" "$trainer" --device cuda --optimizer onebit-adam
    says "--device cuda: --adapt works on the CPU only" "$trainer" --device cuda --adapt alpha=1
    says "--device cuda: this program trains on the CPU only" "$PWD/examples/train-digits" --device cuda
}

test_results
test_bytes
test_resume
test_divergence
test_refusals
exit $failed
