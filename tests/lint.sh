#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks what a script can check of how the code looks. `lint.sh --fix` first lets clang-format rewrite the C files.
# shellcheck disable=SC2317 # functions are called through rule
set -u
cd "$(dirname "$0")/.." || exit 1

# A file may come from an archive without git; then everything under the rooms counts.
list_files() { git ls-files 2>/dev/null || find . -type f -not -path './build*' | sed 's|^\./||'; }
mapfile -t files < <(list_files | grep -v '^tests/fuzz/corpus/' | while read -r file; do [ ! -f "$file" ] || echo "$file"; done)
mapfile -t c_files < <(printf '%s\n' "${files[@]}" | grep -E '\.(c|h|cu|cc)$')
mapfile -t library_files < <(printf '%s\n' "${c_files[@]}" | grep -E '^(libcomm|compressors|optim)/')
mapfile -t scripts < <(for file in "${files[@]}"; do head -c 32 "$file" | grep -qa '^#!.*sh$' && echo "$file"; done)

failed=0
# rule TEXT COMMAND...: every line that the command prints breaks the rule.
rule() {
    local text=$1 lines
    shift
    lines=$("$@")
    if [ -n "$lines" ]; then
        printf '%s:\n%s\n\n' "$text" "$lines"
        failed=1
    fi
}

# Lines of a function that takes more than 100, of a file that takes more than 800; a function's braces are in column one.
long_functions() {
    awk 'FNR == 1 { start = 0 }
         /^\{/ { start = FNR }
         /^\}/ && start { if (FNR - start + 1 > 100) print FILENAME ":" start ": " FNR - start + 1 " lines"; start = 0 }' "$@"
}
long_files() { awk 'FNR == 801 { print FILENAME }' "$@"; }

# A base name stands once in each of src and tests: onebit.c, tests/unit/onebit.c and tests/fuzz/onebit.c are one family.
same_names() {
    printf '%s\n' "$@" | grep -v '/Makefile.inc$' | awk -F/ '{
        room = $1 == "tests" ? $1 "/" $2 : ""
        key = room " " $NF
        if (key in seen) print seen[key] " and " $0
        seen[key] = $0
    }'
}

wrong_first_line() {
    local file
    for file in "${c_files[@]}"; do
        [ "$(head -n 1 "$file")" = '/* SPDX-License-Identifier: Apache-2.0 */' ] || echo "$file"
    done
    for file in "${scripts[@]}"; do
        [ "$(sed -n 2p "$file")" = '# SPDX-License-Identifier: Apache-2.0' ] || echo "$file"
    done
}
wrong_second_line() {
    local file
    for file in "${c_files[@]}"; do
        [[ "$(sed -n 2p "$file")" == '/* '* ]] || echo "$file"
    done
}

long_lines() { awk 'length > 130 { print FILENAME ":" FNR ": " length }' "$@"; }
search() { grep -HnP "$@"; }
includes_config() { search 'include "config\.h"' "${c_files[@]}" | grep -v '^libcomm/internal\.h:'; }
limits() { search '\b(TODO|FIXME|XXX)\b' "${c_files[@]}" "${scripts[@]}" | grep -v '^tests/lint\.sh:'; }
layout() { clang-format --dry-run -Werror "${c_files[@]}" 2>&1 | sed -n 's,:.* error: .*,,p' | uniq -c; }

if [ "${1:-}" = --fix ]; then
    clang-format -i "${c_files[@]}"
fi

rule "the first line of a C or CUDA file, or the second of a script, is not the SPDX line" wrong_first_line
rule "the second line does not begin to say what the file holds" wrong_second_line
rule "lines of more than 130 columns" long_lines "${c_files[@]}" "${scripts[@]}"
rule "tabs" search '\t' "${c_files[@]}" "${scripts[@]}"
rule "blanks at the end of a line" search '\s+$' "${c_files[@]}" "${scripts[@]}"
rule "comments are written with /* and */" search '^([^"]|"[^"]*")*(?<!:)//' "${c_files[@]}"
rule "functions of more than 100 lines" long_functions "${c_files[@]}"
rule "files of more than 800 lines" long_files "${c_files[@]}"
rule "two files with the same base name" same_names "${c_files[@]}"
rule "the library writes nothing to standard output" search '(?<!\w)(printf|puts|putchar)\(' "${library_files[@]}"
rule "the library does not call these" \
    search '(?<!\w)(abort|exit|_exit|atexit|setenv|MPI_Abort|alloca)\(' "${library_files[@]}"
rule "only libcomm/internal.h includes config.h" includes_config
rule "a limit is written as a limit" limits

if command -v shellcheck >/dev/null; then
    rule "shellcheck" shellcheck "${scripts[@]}"
else
    echo "no shellcheck here: scripts were not checked"
fi
# Other versions lay out some lines otherwise.
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    rule "clang-format (tests/lint.sh --fix rewrites)" layout
else
    echo "no clang-format 14 here: layout was not checked"
fi
exit $failed
