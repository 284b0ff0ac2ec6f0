#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034 # what is set here is used by those that source it
# What tests of programs begin with: sourced in the build's folder. Leaves the sources' folder in $root, an empty one in
# $folder, and whether something failed in $failed.
root=$(cd "${srcdir:-.}" && pwd)
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

fail() {
    echo "$*"
    failed=1
}

# ends STATUS COMMAND...: the command's output is in $folder/out and $folder/err. It may be a function, without a limit of time.
ends() {
    local wanted=$1 status=0 limit=(timeout -k 5 60)
    shift
    [ "$(type -t "$1")" != function ] || limit=()
    "${limit[@]}" "$@" >"$folder/out" 2>"$folder/err" </dev/null || status=$?
    [ $status -eq "$wanted" ] || fail "$* ends with $status, not $wanted: $(cat "$folder/out" "$folder/err")"
}

# says FILE TEXT...: words of a line, with one blank between them.
says() {
    local file=$1 text
    shift
    for text in "$@"; do
        tr -s ' ' <"$folder/$file" | grep -q -- "$text" || fail "no '$text' in: $(cat "$folder/$file")"
    done
}
