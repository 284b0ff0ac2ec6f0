#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The manual pages render without a warning and leave nothing out: tacit(7) no parameter, the tools' pages no option. Run in the
# build's folder.
set -u
pages=("${srcdir:-.}"/doc/man/*.[13] doc/man/tacit.7)
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

# tools/tacit-info --json names every module and every parameter.
for word in $(tools/tacit-info --json | grep -o '"\(name\|key\)":"[^"]*"' | sed 's/.*:"//; s/"$//' | sort -u); do
    [ "$word" = environment ] || grep -q "^\.B ${word//-/\\\\-}\$" doc/man/tacit.7 || fail "tacit.7 does not mention $word"
done

for tool in tacit-info tacit-bench; do
    for option in $("tools/$tool" --help | grep -o '^  --[a-z-]*' | sed 's/-/\\\\-/g'); do
        grep -q -e "$option" "${srcdir:-.}/doc/man/$tool.1" || fail "$tool.1 does not mention $option"
    done
done
exit $failed
