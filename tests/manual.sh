#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The manual pages render without a warning and leave nothing out: no function, no option, no environment variable, no parameter.
# They name nothing that is not there, their prototypes are the headers', and their examples do what they say. Run in the build's
# folder.
set -u
root=${srcdir:-.}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
pages=("$root"/doc/man/*.1 "$root"/doc/man/tacit_*.3 doc/man/tacit.3 doc/man/tacit-spec.7)
headers=("$root"/libcomm/tacit*.h "$root"/optim/tacit_optim.h)
failed=0

fail() {
    echo "$*"
    failed=1
}

# lists NAME: lines of standard input, sorted, in $folder/NAME.
lists() { sort -u >"$folder/$1"; }
# only A B: the lines of $folder/A that $folder/B lacks.
only() { comm -23 "$folder/$1" "$folder/$2"; }
# section PAGE NAME: its lines, plain.
section() { awk -v name="$2" '/^\.SH/ { inside = $2 == name; next } inside' "$1" | sed 's/\\-/-/g'; }
# entries PAGE: what its tagged paragraphs are about.
entries() { awk '/^\.T[PQ]/ { getline; print }' "$1" | sed 's/\\-/-/g'; }
# program PAGE: its examples in C, one behind the other.
program() {
    awk '/^\.EX/ { inside = 1; next } /^\.EE/ || /^\$ / { inside = 0 } inside' "$1" |
        sed "s/\\\\-/-/g; s/\\\\(aq/'/g; s/\\\\e/\\\\/g"
}

# compiles FILE [ARGUMENT...]: nothing of MPI's, where there is none. MPI's own headers are not held to our warnings.
compiles() {
    if grep -q 'mpi\.h' "$1" && [ -z "${MPI_CFLAGS-}" ]; then
        return 0
    fi
    # shellcheck disable=SC2086
    ${CC:-cc} -std=c11 -Wall -Wextra -Werror -I"$root/libcomm" -I"$root/optim" ${MPI_CFLAGS//-I/-isystem } "$@"
}

for page in "${pages[@]}"; do
    name=${page##*/}
    if command -v groff >/dev/null; then
        warnings=$(groff -man -ww -Tutf8 -z "$page" 2>&1)
        [ -z "$warnings" ] || fail "$warnings"
    fi
    if command -v mandoc >/dev/null; then
        mandoc -T lint -W warning "$page" || fail "mandoc warns of $page"
    fi
    [[ $name = *.3 ]] || continue
    # A prototype of the page is without quotes one of C.
    section "$page" SYNOPSIS | sed '/^\.fi/,$d' | sed -n 's/^\.BI\{0,1\} //p' | tr -d '"' >"$folder/${name%.3}_prototypes.c"
    compiles "$folder/${name%.3}_prototypes.c" -fsyntax-only || fail "$name: the prototypes are not the headers'"
    program "$page" >"$folder/${name%.3}.c"
    [ -s "$folder/${name%.3}.c" ] || fail "$name has no example"
    compiles "$folder/${name%.3}.c" -fsyntax-only || fail "$name: the example does not compile"
    # man finds a function by the NAME line.
    section "$page" NAME | grep -o 'tacit_[a-z_]*' | lists named
    grep -o 'tacit_[a-z_]*(' "$folder/${name%.3}_prototypes.c" | tr -d '(' | tee -a "$folder/all" | lists declared
    cmp -s "$folder/declared" "$folder/named" || fail "$name: NAME and SYNOPSIS have other functions"
done

# Each exported function is on one page.
sort "$root"/tests/abi/*.symbols >"$folder/exported"
sort "$folder/all" >"$folder/pages"
diff "$folder/exported" "$folder/pages" || fail "which functions have a page is not which are exported"

# Each word of the library's that a page has is there.
tools/tacit-info --json | grep -o '"environment":.*' | grep -o 'TACIT_[A-Z_]*' | lists environment
{
    cat "$folder/environment"
    cat "${headers[@]}" | grep -o '[Tt][Aa][Cc][Ii][Tt]_[A-Za-z0-9_]*'
    sed -n 's/^ *X(\([A-Z_]*\),.*/TACIT_\1/p' "$root/libcomm/tacit.h" # statuses
    for page in "${pages[@]}"; do basename "${page%.*}"; done
    tools/tacit-info --json | grep -o '"tacit_[a-z_]*":' | tr -d '":'
    echo libtacit_mpi
} | lists words
cat "${pages[@]}" | sed '/^\.TH/d' | grep -o '[Tt][Aa][Cc][Ii][Tt]_[A-Za-z0-9_]*[A-Za-z0-9]' | lists used
[ -z "$(only used words)" ] || fail "pages name what is not there:" "$(only used words)"

# Variables: what tacit-info lists, and what any program reads, is in tacit(3).
entries doc/man/tacit.3 | grep -o 'TACIT_[A-Z_]*' | lists described
grep -rhoE '(getenv|environ\.get)\("TACIT_[A-Z_]*' "$root"/{compressors,examples,libcomm,optim,preload,python,tools} |
    sed 's/.*"//' | lists read
for list in environment read; do
    [ -z "$(only $list described)" ] || fail "tacit.3 does not describe" "$(only $list described)"
done

# tools/tacit-info --json names every module and every parameter; the page's examples are specs.
tools/tacit-info --json | sed 's/"environment":.*//' | grep -o '"\(name\|key\)":"[^"]*"' | sed 's/.*:"//; s/"$//' | lists modules
entries doc/man/tacit-spec.7 | sed 's/^\.B //' | lists described
[ -z "$(only modules described)" ] || fail "tacit-spec.7 does not describe" "$(only modules described)"
for spec in $(section doc/man/tacit-spec.7 EXAMPLES | sed -n '/^\.TP/ { n; s/^\.B //p }'); do
    tools/tacit-info --check "$spec" >"$folder/output" 2>&1 || fail "tacit-spec.7: $(cat "$folder/output")"
done

# Options: those that a tool takes or has in its help are those of its page.
for tool in info bench run; do
    cat "$root"/tools/tacit_$tool.[ci]* |
        sed -nE 's/^( *"  | +)(--[a-z-]+).*/\2/p; s/.*\{"([a-z-]+)", (no|required)_argument.*/--\1/p' | lists taken
    entries "$root/doc/man/tacit-$tool.1" | grep -o -- ' --[a-z-]*' | tr -d ' ' | lists described
    [ -s "$folder/taken" ] || fail "tacit-$tool has no options"
    [ -z "$(only taken described)" ] || fail "tacit-$tool.1 does not describe" "$(only taken described)"
    [ -z "$(only described taken)" ] || fail "tacit-$tool does not take" "$(only described taken)"
done

# Fields of a tool's JSON objects are on its page.
fields() { grep -ohE '[a-z_]+\(&?json, "[a-z_0-9]+"' "$@" | sed 's/.*"\(.*\)"/\1/' | sort -u; }
for field in $(fields "$root"/tools/bench_*.c); do
    grep -qw "$field" "$root/doc/man/tacit-bench.1" || fail "tacit-bench.1 does not describe $field"
done
for field in $(fields "$root"/tools/{tacit_info,info_*,summary}.c); do
    grep -qw "$field" "$root/doc/man/tacit-info.1" || fail "tacit-info.1 does not describe $field"
done

# What tacit-info.1 shows of --check is what it prints; three dots stand for anything.
section "$root/doc/man/tacit-info.1" EXAMPLES | sed "s/\\\\(aq/'/g; s/\\\\&//" >"$folder/shown"
while read -r spec; do
    shown=$(awk -v command="\$ tacit-info --check $spec" '/^\$/ { inside = $0 == command; next } inside' "$folder/shown")
    printed=$(tools/tacit-info --check "$spec" 2>"$folder/errors"; cat "$folder/errors")
    # shellcheck disable=SC2053 # a pattern
    [[ $printed == ${shown//.../*} ]] || fail "tacit-info.1 shows" "$shown" "of $spec, which is" "$printed"
done < <(sed -n 's/^\$ tacit-info --check //p' "$folder/shown")

# The whole programs, with the libraries of this build.
export LD_LIBRARY_PATH=$PWD/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -e .libs/libtacit.so ]; then
    compiles "$folder/tacit_transport.c" -o "$folder/loop" -L.libs -ltacit -pthread
    printed=$("$folder/loop")
    grep -q "^\.B \"$printed\"\$" "$root/doc/man/tacit_transport.3" || fail "tacit_transport.3: its program prints $printed"
fi
if [ -e .libs/libtacit_mpi.so ] && command -v "${MPIRUN:-mpirun}" >/dev/null; then
    # shellcheck disable=SC2086
    compiles "$folder/tacit.c" -o "$folder/average.np" -L.libs -ltacit_mpi -ltacit ${MPI_LIBS-} ||
        fail "tacit.3: its program does not link"
fi
if [ -x "$folder/average.np" ]; then
    TACIT_TEST_RANKS=2 "$root/tests/mpirun.sh" "$folder/average.np" >"$folder/output" || fail "$(cat "$folder/output")"
    printed=$(tail -n 1 "$folder/output")
    grep -qxF "$printed" doc/man/tacit.3 || fail "tacit.3: its program prints $printed"
fi
exit $failed
