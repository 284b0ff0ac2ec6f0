#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The demonstration: demo.sh [BUILD_DIR]. Trains one classifier of digits on 4 ranks with different compressors, the same steps,
# settings and seeds for all, and compares accuracy and bytes. Results are kept in BUILD_DIR/demo.
set -u

usage='usage: demo.sh [BUILD_DIR]

Trains a classifier of handwritten digits with several compressors and compares accuracy and bytes on the wire.
BUILD_DIR (default: build) is where Tacit was built; MPIRUN names the launcher.'

specs='none fp16 qsgd:bits=4+ef onebit+ef topk:ratio=0.01+ef randk:ratio=0.05+ef'
seeds='1 2 3'
ranks=4
# For every spec alike. The rate is one at which dense training is safely stable: sparse gradients arrive late and summed up,
# which a rate at the edge does not forgive.
settings='--optimizer sgd --lr 0.01 --momentum 0.9 --batch 16 --epochs 20'

die() {
    echo "demo: $*" >&2
    exit 1
}

case ${1:-} in
-h | --help)
    echo "$usage"
    exit 0
    ;;
-*)
    echo "$usage" >&2
    exit 2
    ;;
esac
build=${1:-build}
trainer=$build/examples/train-digits
out=$build/demo
mpirun=${MPIRUN:-mpirun}
[ -x "$trainer" ] || die "there is no $trainer; build Tacit first, with an MPI and OpenBLAS (./bootstrap build)"
command -v "$mpirun" >/dev/null || die "there is no $mpirun; install Open MPI, or name the launcher in MPIRUN"
mkdir -p "$out" || exit 1
rm -f "$out"/*.json "$out"/*.log "$out"/*.dat "$out/curves.png" "$out/curves.gnuplot"

# Ranks may outnumber the cores here: one thread each, no binding, and who waits lets others work.
launcher_options=
case $("$mpirun" --version 2>/dev/null) in
*"Open MPI"*)
    launcher_options='--oversubscribe --bind-to none'
    export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    ;;
esac
export OPENBLAS_NUM_THREADS=1

# number KEY FILE: a number of the last line, which sums the run up.
number() {
    tail -n 1 "$2" | sed -n "s/.*\"$1\":\([-+0-9.e]*\).*/\1/p"
}

# train SPEC SEED: one run; its results go to OUT/SPEC-SEED.json.
train() {
    run=$out/$1-$2
    # shellcheck disable=SC2086 # both are lists of words
    "$mpirun" -n "$ranks" $launcher_options "$trainer" --spec "$1" --seed "$2" $settings --json \
        >"$run.json" 2>"$run.log" </dev/null || {
        cat "$run.log" >&2
        die "training with $1 failed; its messages are above"
    }
}

# table SPEC...: one line for each, of all its seeds.
table() {
    row='%-20s %9s %7s %9s %13s %9s %9s %8s\n'
    # shellcheck disable=SC2059 # one format for both lines of the head
    {
        printf "\n$row" '' accuracy spread 'to dense' 'bytes a step' 'less than' 'less than' seconds
        printf "$row" spec 'mean, %' points points 'and rank' float32 '16 bits' 'a run'
    }
    for spec; do
        cat "$out/$spec"-*.json
    done | awk '
        function number(key) {
            return match($0, "\"" key "\":[-+0-9.e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : 0
        }
        /"final":true/ {
            match($0, /"spec":"[^"]*"/)
            spec = substr($0, RSTART + 8, RLENGTH - 9)
            accuracy = 100 * number("test_accuracy")
            if (!(spec in runs)) { order[++specs] = spec; low[spec] = high[spec] = accuracy }
            runs[spec]++
            sum[spec] += accuracy
            if (accuracy < low[spec]) low[spec] = accuracy
            if (accuracy > high[spec]) high[spec] = accuracy
            steps[spec] += number("steps"); wire[spec] += number("wire_bytes"); dense[spec] += number("dense_bytes")
            seconds[spec] += number("seconds")
            if ($0 !~ /"replicas_equal":true/) unequal[spec] = 1
        }
        END {
            reference = sum[order[1]] / runs[order[1]]
            for (i = 1; i <= specs; i++) {
                s = order[i]; mean = sum[s] / runs[s]; gap = mean - reference; mark = ""
                if (gap < 0 && gap > -0.005) gap = 0 # no "-0.00"
                if (gap < -1) { mark = " *"; marked = 1 }
                if (s in unequal) { mark = mark " !"; differ = 1 }
                printf "%-20s %9.2f %7.2f %+9.2f %13.0f %8.1fx %8.1fx %8.1f%s\n", s, mean, high[s] - low[s], gap, \
                    wire[s] / steps[s], dense[s] / wire[s], dense[s] / wire[s] / 2, seconds[s] / runs[s], mark
            }
            if (marked) print "* more than 1.0 point below dense training"
            if (differ) print "! the ranks ended with different parameters"
        }'
}

# curve SPEC: step, loss and megabytes sent, the mean of all seeds.
curve() {
    cat "$out/$1"-*.json | awk '
        function number(key) {
            return match($0, "\"" key "\":[-+0-9.e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : 0
        }
        /"epoch":/ {
            step = number("step")
            if (!(step in runs)) order[++points] = step
            runs[step]++; loss[step] += number("train_loss"); bytes[step] += number("wire_bytes")
        }
        END {
            for (i = 1; i <= points; i++) {
                step = order[i]
                print step, loss[step] / runs[step], bytes[step] / runs[step] / 1e6
            }
        }'
}

# plots COLUMN SPEC...: what gnuplot shall draw over that column. Lines that hide each other grow thinner towards the top.
plots() {
    column=$1
    shift
    separator=plot
    width=8
    for spec; do
        printf "%s '%s' using %s:2 with lines linewidth %d title '%s'" "$separator" "$out/$spec.dat" "$column" "$width" "$spec"
        separator=', \
    '
        width=$((width > 2 ? width - 2 : 2))
    done
    echo
}

draw() {
    for spec; do
        curve "$spec" >"$out/$spec.dat"
    done
    {
        echo "set terminal png size 1400,600 noenhanced"
        echo "set output '$out/curves.png'"
        echo "set multiplot layout 1,2 title 'Digits on $ranks ranks: loss over the training set, mean of seeds $seeds'"
        echo "set logscale y; set grid; set ylabel 'training loss'; set format y '%g'"
        line=1
        for color in c0c0c0 56b4e9 e69f00 000000 d55e00 009e73; do
            echo "set linetype $line linecolor rgb '#$color'"
            line=$((line + 1))
        done
        echo "set xlabel 'steps'"
        plots 1 "$@"
        echo "set logscale x; set format x '%g'; set xlabel 'megabytes sent by each rank'; unset key"
        plots 3 "$@"
    } >"$out/curves.gnuplot"
    gnuplot "$out/curves.gnuplot"
}

# shellcheck disable=SC2086 # lists of words
set -- $specs
total=$(($(echo "$seeds" | wc -w) * $#))
done=0
start=$(date +%s)
echo "Training on $ranks ranks with $# specs and seeds $seeds: $settings"
for spec; do
    for seed in $seeds; do
        [ ! -t 1 ] || printf '\r%d of %d: %s, seed %s \033[K' "$((done + 1))" "$total" "$spec" "$seed"
        train "$spec" "$seed"
        done=$((done + 1))
        [ -t 1 ] || echo "$done of $total: $spec, seed $seed: test accuracy $(number test_accuracy "$out/$spec-$seed.json")"
    done
done
[ ! -t 1 ] || printf '\r\033[K'
table "$@"
echo
echo "$total runs in $(($(date +%s) - start)) seconds. Every number is in $out/SPEC-SEED.json."
if ! command -v gnuplot >/dev/null; then
    echo "No curves: gnuplot is not installed (apt-get install gnuplot-nox)."
elif draw "$@"; then
    echo "Curves: $out/curves.png"
else
    die "gnuplot could not draw $out/curves.gnuplot"
fi
