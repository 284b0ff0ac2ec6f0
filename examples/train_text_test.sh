#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests train-text from outside: the loss falls, kills and resumes, layerwise adaptation, wrong input. What all trainers share is
# tested with train-digits. Run in the build's folder; exit 77: skipped.
set -u
# shellcheck source=examples/trainer_testing.sh
. "${srcdir:-.}/examples/trainer_testing.sh" train-text

# Small enough for a test.
small=(--width 16 --layers 1 --heads 2 --context 16 --batch 4)

# train OPTION...: the last line of a small training on 2 ranks; all of them in $folder/out, messages in $folder/log.
train() {
    timeout -k 5 120 "${launcher[@]}" -n 2 "$trainer" --json "${small[@]}" "$@" 2>"$folder/log" </dev/null >"$folder/out"
    tail -n 1 "$folder/out"
}

# learned LIMIT LINE WHAT: the test loss is below the limit, and replicas are equal.
learned() {
    awk "BEGIN { loss = \"$(field test_loss "$2")\"; exit !(loss != \"\" && loss + 0 > 1 && loss + 0 < $1) }" ||
        fail "$3: the test loss is not below $1: $2: $(cat "$folder/log")"
    [ "$(field replicas_equal "$2")" = true ] || fail "$3: the parameters differ: $2"
}

# With the frequencies of single characters alone the loss would be 3.187, and 4.54 with no knowledge at all.
test_results() {
    local line key
    line=$(train --steps 500 --lr 0.02 --evaluate-every 200)
    learned 2.8 "$line" "adam"
    for key in optimizer spec ranks steps train_loss test_loss wire_bytes dense_bytes ratio ratio_fp16 param_hash seconds; do
        [ -n "$(field "$key" "$line")" ] || fail "no $key in '$line'"
    done
    [ "$(field optimizer "$line") $(field spec "$line")" = "adam none" ] || fail "not adam with none: $line"
    [ "$(grep -c '^{"epoch":.*"test_loss":.*}$' "$folder/out")" = 3 ] || fail "not 3 evaluations: $(cat "$folder/out")"
    learned 2.9 "$(train --steps 500 --lr 0.3 --optimizer sgd --spec topk:ratio=0.05+dgc)" "sgd with dgc"
    learned 2.9 "$(train --steps 500 --lr 0.02 --optimizer onebit-adam:freeze=100)" "onebit-adam"
}

# A rate that rises and falls is another training than a constant one, and the same again when it is resumed.
test_rates() {
    local dir=$folder/rates constant linear
    constant=$(field param_hash "$(train --steps 20 --warmup-steps 0)")
    linear=$(field param_hash "$(train --steps 20 --warmup-steps 5 --decay linear)")
    [ "$constant" != "$linear" ] || fail "--warmup-steps 5 --decay linear changes nothing"
    train --steps 20 --checkpoint "$dir" --decay linear >/dev/null
    says "its 'decay linear in 20 steps' is not this run's 'decay linear in 30 steps'" "${launcher[@]}" -n 2 "$trainer" \
        "${small[@]}" --steps 30 --checkpoint "$dir" --decay linear --resume
    train --steps 20 --checkpoint "$dir-constant" >/dev/null
    says "its 'decay none' is not this run's 'decay linear in 30 steps'" "${launcher[@]}" -n 2 "$trainer" \
        "${small[@]}" --steps 30 --checkpoint "$dir-constant" --decay linear --resume
}

# Killed wherever it happens to be, training goes on to the same bits: moments, densities and plans are saved too.
test_kills() {
    local options dir=$folder/kills long whole bytes line warm=sgd:warmup=paper,warmup-entries=2,warmup-steps=30
    long=$(printf ',high=4%.0s' {1..140}) # as long as a list may be, nearly
    # The second one's checkpoint lies in the warm-up of a density that plans would have changed.
    for options in "--optimizer onebit-adam:freeze=40" \
        "--optimizer $warm --spec topk:ratio=0.05+dgc --adapt every=20,gather=5$long"; do
        rm -rf "$dir"
        # shellcheck disable=SC2086 # words
        {
            line=$(train $options --steps 120)
            whole=$(field param_hash "$line") bytes=$(field wire_bytes "$line")
            [ -n "$whole" ] || fail "$options: $(cat "$folder/log")"
            train $options --steps 50 --checkpoint "$dir" >/dev/null
            killed "$dir" 0.01 "${launcher[@]}" -n 2 "$trainer" "${small[@]}" $options --steps 120 --evaluate-every 2 \
                --checkpoint "$dir" --resume
            line=$(train $options --steps 120 --checkpoint "$dir" --resume)
        }
        grep -q 'resuming after step \(5[2-9]\|[6-9].\|1..\)$' "$folder/log" ||
            fail "$options: not resumed from what the killed run saved: $(cat "$folder/log")"
        [ "$(field param_hash "$line")" = "$whole" ] || fail "$options: a resumed training ends elsewhere than $whole: $line"
        [ "$(field wire_bytes "$line")" = "$bytes" ] || fail "$options: a resumed training has not sent $bytes: $line"
    done
}

test_refusals() {
    local dir=$folder/refusals
    train --steps 3 --checkpoint "$dir" >/dev/null
    says "its 'context 16' is not this run's 'context 8'" "${launcher[@]}" -n 2 "$trainer" "${small[@]}" --context 8 \
        --checkpoint "$dir" --resume
    says "its 'optimizer adam' is not this run's 'optimizer sgd'" "${launcher[@]}" -n 2 "$trainer" "${small[@]}" \
        --optimizer sgd --checkpoint "$dir" --resume
    says "--optimizer 'adamm'" "$trainer" --optimizer adamm
    says "--momentum is for --optimizer sgd" "$trainer" --momentum 0.5
    says "'dgc' has the momentum" "$trainer" --optimizer sgd --momentum 0.5 --spec topk:ratio=0.05+dgc
    says "--width 10 is not a multiple of --heads 4" "$trainer" --width 10
    says "--decay 'cosine': expected none or linear" "$trainer" --decay cosine
    says "--adapt: 'alpha=x': expected" "$trainer" --adapt every=5,alpha=x
    says "--adapt: a list of 1060 characters is too long" "$trainer" --adapt "alpha=1$(printf ',high=4%.0s' {1..149}),low=0.25,"
    says "no such option: '-q'" "$trainer" --json -qx
    says "no such option: '-q'" "$trainer" --json -q
    says "no such option: '--json=3'" "$trainer" --json=3
    says "a value is missing after '--lr'" "$trainer" --json --lr
    says "--evaluate-every '0': expected a whole number from 1" "$trainer" --evaluate-every 0
    says "cannot open $folder/none: No such file" "$trainer" --data "$folder/none"
    echo "too short" >"$folder/short"
    says "a text of 100 bytes to 1 GiB was expected; it is shorter" "$trainer" --data "$folder/short"
    head -c 1000 "${srcdir:-.}/examples/data/jargon.txt" >"$folder/thousand"
    says "too short for --context 128" "$trainer" --data "$folder/thousand" --context 128
    says "too few for a batch of 100" "$trainer" --data "$folder/thousand" --batch 100
}

# Any bytes are a text, and a text of one letter is learned by heart at once.
test_data() {
    local line
    head -c 4000 /dev/zero >"$folder/zeros"
    line=$(train --steps 1 --data "$folder/zeros")
    [ "$(field test_loss "$line")" = 0 ] || fail "a text of one byte: $line"
    head -c 4000 /dev/urandom >"$folder/random"
    line=$(train --steps 5 --data "$folder/random")
    [ "$(field replicas_equal "$line")" = true ] || fail "a text of any bytes: $line: $(cat "$folder/log")"
}

test_results
test_rates
test_kills
test_refusals
test_data
exit $failed
