#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The manual pages render without a warning and leave nothing out: tacit(7) no parameter, the tools' pages no option. Their
# programs compile. Run in the build's folder.
set -u
root=${srcdir:-.}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
pages=("$root"/doc/man/*.[13] doc/man/tacit.7)
failed=0

fail() {
    echo "$*"
    failed=1
}

for page in "${pages[@]}"; do
    if command -v groff >/dev/null; then
        warnings=$(groff -man -ww -Tutf8 -z "$page" 2>&1)
        [ -z "$warnings" ] || fail "$warnings"
    fi
    if command -v mandoc >/dev/null; then
        mandoc -T lint -W warning "$page" || fail "mandoc warns of $page"
    fi
done

# program PAGE: its examples, one behind the other.
program() {
    awk '/^\.EX/ { inside = 1; next } /^\.EE/ { inside = 0 } inside' "$1" | sed "s/\\\\-/-/g; s/\\\\(aq/'/g; s/\\\\e/\\\\/g"
}
for name in bundle:finish nccl:group_run; do
    page=tacit_${name%:*}.3
    program "$root/doc/man/$page" >"$folder/example.c"
    grep -q "tacit_${name/:/_}" "$folder/example.c" || fail "$page has no example"
    ${CC:-cc} -std=c11 -Wall -Wextra -Werror -fsyntax-only -I"$root/libcomm" "$folder/example.c" ||
        fail "$page: the example does not compile"
done

# What a page shows how to call is in its NAME line too, by which man finds it.
for page in "$root"/doc/man/*.3; do
    named=$(awk '/^\.SH/ { inside = $2 == "NAME" } inside' "$page")
    for name in $(awk '/^\.SH/ { inside = $2 == "SYNOPSIS" } inside' "$page" | grep -o 'tacit_[a-z_]*(' | tr -d '('); do
        grep -qw "$name" <<<"$named" || fail "$page does not name $name"
    done
done

# tools/tacit-info --json names every module and every parameter.
for word in $(tools/tacit-info --json | grep -o '"\(name\|key\)":"[^"]*"' | sed 's/.*:"//; s/"$//' | sort -u); do
    [ "$word" = environment ] || grep -q "^\.B ${word//-/\\\\-}\$" doc/man/tacit.7 || fail "tacit.7 does not mention $word"
done

for tool in tacit-info tacit-bench tacit-run; do
    [ -x "tools/$tool" ] || continue # tacit-run: where there is an MPI
    for option in $("tools/$tool" --help | grep -o '^  --[a-z-]*' | sed 's/-/\\\\-/g'); do
        grep -q -e "$option" "$root/doc/man/$tool.1" || fail "$tool.1 does not mention $option"
    done
done
exit $failed
