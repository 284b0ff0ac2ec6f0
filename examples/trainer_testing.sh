#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034 # what is set here is used by those that source it
# What the tests of trainers begin with: sourced with the program's name in the build's folder; exit 77: skipped. Leaves its path
# in $trainer, the launcher in ${launcher[@]} and an empty folder in $folder.
trainer=$PWD/examples/$1
mpirun=${MPIRUN:-mpirun}
[ -x "$trainer" ] || { echo "skipped: there is no $trainer" && exit 77; }
command -v "$mpirun" >/dev/null || { echo "skipped: there is no $mpirun" && exit 77; }

launcher=("$mpirun")
case $("$mpirun" --version 2>/dev/null) in
*"Open MPI"*)
    launcher+=(--oversubscribe --bind-to none)
    export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    ;;
esac
export OPENBLAS_NUM_THREADS=1

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

fail() {
    echo "FAILED: $*"
    failed=1
}

# field KEY LINE
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,}\"]*\).*/\1/p" <<<"$2"; }

# says TEXT COMMAND...: the command fails, and what it prints holds the text.
says() {
    local text=$1 output
    shift
    output=$(timeout -k 5 60 "$@" 2>&1 </dev/null) && fail "'$*' succeeded; it should have said: $text"
    [[ $output == *"$text"* ]] || fail "'$*' does not say '$text' but: $output"
}

# differ NAME WORDS OPTION...: three ranks of which only the last has the words end at once, and their option is named.
differ() {
    local name=$1 words
    read -ra words <<<"$2"
    shift 2
    says "rank 2 and rank 0 differ in --$name; give all ranks the same options" "${launcher[@]}" -n 2 "$trainer" "$@" : \
        -n 1 "$trainer" "$@" "${words[@]}"
}

# loses OPTION...: a trainer whose results cannot be written says so and fails.
loses() {
    [ ! -w /dev/full ] || says "could not all be written: No space left on device" bash -c '"$@" >/dev/full' loses "$trainer" "$@"
}

newest() { find "$1" -maxdepth 1 -name 'gen-*[0-9]' 2>/dev/null | sort -V | tail -n 1; }

# killed DIR SECONDS COMMAND...: runs a training under the launcher and kills its ranks, which are its children or (MPICH) theirs,
# so long after it has written its first checkpoint into DIR.
killed() {
    local dir=$1 delay=$2 before pid tries
    shift 2
    before=$(newest "$dir")
    "$@" >/dev/null 2>"$folder/killed" </dev/null &
    pid=$!
    for ((tries = 0; tries < 3000; tries++)); do
        if [ "$(newest "$dir")" != "$before" ] || ! kill -0 "$pid" 2>/dev/null; then
            break
        fi
        sleep 0.01
    done
    [ "$(newest "$dir")" != "$before" ] || fail "'$*' wrote no checkpoint: $(cat "$folder/killed")"
    sleep "$delay"
    pkill -KILL -P "$(pgrep -d , -P "$pid"),$pid"
    wait "$pid" 2>/dev/null && fail "'$*' had ended before it was killed"
}
