#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The documents keep to the code: README.md's first program is examples/hello.c, every C block compiles, and links lead somewhere.
set -u
# shellcheck source=tests/testing.sh
. "${srcdir:-.}/tests/testing.sh"

# blocks DOCUMENT: writes its C blocks to $folder/1.c, $folder/2.c ...
blocks() {
    rm -f "$folder"/*.c
    awk -v folder="$folder" '/^```c$/ { file = folder "/" ++count ".c"; next } /^```/ { file = "" } file { print > file }' "$1"
}

compiles() {
    # MPI's own headers are not held to our warnings.
    # shellcheck disable=SC2086
    ${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -fsyntax-only -I"$root/libcomm" -I"$root/compressors" -I"$root/optim" \
        ${MPI_CFLAGS//-I/-isystem } "$1"
}

# Prints the files that a document links to.
links() { grep -o '](\([^)#]*\)' "$1" | sed 's/^](//' | grep -v '^http' | sort -u; }

blocks "$root/README.md"
cmp "$folder/1.c" "$root/examples/hello.c" || fail "README.md's first program is not examples/hello.c"

for document in "$root/README.md" "$root"/doc/*.md; do
    blocks "$document"
    for block in "$folder"/*.c; do
        [ -f "$block" ] || continue
        if grep -q 'mpi\.h' "$block" && [ -z "${MPI_CFLAGS-}" ]; then
            continue
        fi
        compiles "$block" || fail "$document: its C block ${block##*/} does not compile"
    done
    for link in $(links "$document"); do
        [ -e "${document%/*}/$link" ] || fail "$document: the link to $link leads nowhere"
    done
done
exit $failed
