#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every header compiles alone: as C11, and one that is public, or that CUDA kernels share, as C++11 too.
set -u
root=${srcdir:-.}
failed=0
warnings="-Wall -Wextra -Wpedantic -Werror"

# try HEADER COMPILER FLAG...
try() {
    local header=$1
    shift
    # MPI's own headers are not held to our warnings.
    # shellcheck disable=SC2086
    if ! echo "#include \"$header\"" | "$@" -fsyntax-only -I. -I"$root/libcomm" -I"$root/compressors" -I"$root/optim" \
        -I"$root/preload" ${MPI_CFLAGS//-I/-isystem } -; then
        echo "$header does not compile alone with $*"
        failed=1
    fi
}

# try_cxx HEADER: where there is a C++ compiler.
try_cxx() {
    # shellcheck disable=SC2086
    if command -v "${CXX%% *}" >/dev/null; then
        try "$1" $CXX -std=c++11 -x c++ $warnings
    fi
}

for path in "$root"/libcomm/*.h "$root"/compressors/*.h "$root"/optim/*.h "$root"/preload/*.h; do
    header=${path##*/}
    case $header in
    tacit_mpi.h) [ -n "$MPI_CFLAGS" ] || continue ;;
    esac
    case $header in
    tacit*.h)
        # shellcheck disable=SC2086
        try "$header" $CC -std=c11 -x c $warnings
        try_cxx "$header"
        ;;
    *)
        # shellcheck disable=SC2086
        try "$header" $CC -std=gnu11 -x c -Wall -Wextra -Werror -Wno-unused-function
        ;;
    esac
    case $header in
    checksum.h | device_code.h) try_cxx "$header" ;;
    esac
done
# What the library and the CUDA module share.
# shellcheck disable=SC2086
try cuda/device.h $CC -std=gnu11 -x c -Wall -Wextra -Werror
try_cxx cuda/device.h
exit $failed
