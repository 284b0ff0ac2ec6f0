#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench/performance runs, resumes and reports; its page says what its results say.
set -u
performance=${srcdir:-.}/bench/performance
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
command -v python3 >/dev/null || { echo "skipped: there is no python3" && exit 77; }
command -v taskset >/dev/null || { echo "skipped: there is no taskset" && exit 77; }

failed=0
"$performance" --smoke --build "$PWD" || failed=1
"$performance" --check --build "$PWD" || failed=1
for again in first second; do
    timeout -k 5 200 "$performance" --small "$folder/small" --build "$PWD" kernels one-host >"$folder/$again" || failed=1
done
[ "$(grep -c '^    [0-9]* lines, ' "$folder/first")" -eq 5 ] || { echo "not five commands:" && cat "$folder/first" && failed=1; }
[ ! -s "$folder/second" ] || { echo "finished commands are run again:" && cat "$folder/second" && failed=1; }
grep -q 'onebit+ef. | [0-9.]* |' "$folder/small/performance.md" || { echo "the page lacks a row" && failed=1; }
exit $failed
