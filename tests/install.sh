#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a build into an empty place, builds programs outside the tree with pkg-config, runs them, and uninstalls:
# install.sh BUILD-DIRECTORY
set -eu
build=$(cd "${1:-.}" && pwd)
tests=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/root$(sed -n 's/^prefix=//p' "$build/tacit.pc")

fail() {
    echo "install.sh: $*"
    exit 1
}

make -C "$build" install DESTDIR="$scratch/root" >"$scratch/install.log" 2>&1 || {
    cat "$scratch/install.log"
    fail "make install failed"
}
# Not where configure was told, so pkg-config has to be.
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
flags() { pkg-config --define-variable=prefix="$prefix" --cflags --libs "$1"; }

cd "$scratch"
cat >codec.c <<'END'
#include <stdio.h>
#include <tacit.h>

int main(void)
{
    enum { COUNT = 1000 };
    static float         values[COUNT], decoded[COUNT];
    static unsigned char frame[65536];
    tacit_slot_config_t  tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_codec_t       *codec;
    size_t               bytes;

    for (int i = 0; i < COUNT; i++) {
        values[i] = (float)i - 500.0f;
    }
    tensor.count = COUNT;
    tensor.spec = "none";
    if (tacit_codec_create("w", &tensor, NULL, 0, 1, &codec) != TACIT_OK || tacit_codec_capacity(codec, COUNT) > sizeof frame ||
        tacit_encode(codec, 0, values, 0, COUNT, frame, sizeof frame, &bytes) != TACIT_OK ||
        tacit_decode(codec, 0, frame, bytes, decoded, NULL, NULL) != TACIT_OK) {
        fprintf(stderr, "%s\n", tacit_last_error());
        return 1;
    }
    for (int i = 0; i < COUNT; i++) {
        if (decoded[i] != values[i]) {
            return 1;
        }
    }
    tacit_codec_destroy(codec);
    printf("%zu bytes\n", bytes);
    return 0;
}
END
cat >reduce.c <<'END'
#include <mpi.h>
#include <stdio.h>
#include <tacit_mpi.h>

int main(int argc, char **argv)
{
    float               values[100];
    tacit_config_t      config = TACIT_CONFIG_INIT;
    tacit_slot_config_t tensor = TACIT_SLOT_CONFIG_INIT;
    tacit_comm_t       *comm;
    tacit_slot_t       *slot;
    int                 wrong = 0;

    MPI_Init(&argc, &argv);
    tensor.count = 100;
    tensor.spec = "fp16";
    if (tacit_comm_create_mpi(MPI_COMM_WORLD, &config, &comm) != TACIT_OK ||
        tacit_slot_create(comm, "w", &tensor, &slot) != TACIT_OK) {
        fprintf(stderr, "%s\n", tacit_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (int i = 0; i < 100; i++) {
        values[i] = (float)(i + tacit_comm_rank(comm));
    }
    if (tacit_allreduce(slot, values, values, TACIT_SUM) != TACIT_OK) {
        fprintf(stderr, "%s\n", tacit_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (int i = 0; i < 100; i++) { /* 0 + 1 + 2 = 3; all of these sums are exact in binary16 */
        wrong += values[i] != (float)(3 * i + 3);
    }
    tacit_comm_destroy(comm);
    MPI_Finalize();
    return wrong != 0;
}
END

cat >sum.c <<'END'
#include <mpi.h>

int main(int argc, char **argv)
{
    static float values[10000], sums[10000];

    MPI_Init(&argc, &argv);
    MPI_Allreduce(values, sums, 10000, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
END

compiler=${CC:-cc}
# shellcheck disable=SC2046
$compiler -Wall -Wextra -Werror -o codec codec.c $(flags tacit) || fail "a program with pkg-config tacit does not build"
./codec || fail "the program with tacit fails"
if [ -f "$prefix/lib/pkgconfig/tacit-mpi.pc" ]; then
    # shellcheck disable=SC2046
    $compiler -Wall -Wextra -Werror -o reduce.np reduce.c $(flags tacit-mpi) ||
        fail "a program with pkg-config tacit-mpi does not build"
    # shellcheck disable=SC2046
    $compiler -o sum.np sum.c $(flags tacit-mpi) || fail "an MPI program does not build"
    if command -v "${CXX:-c++}" >/dev/null; then
        # shellcheck disable=SC2046
        "${CXX:-c++}" -x c++ -Wall -Wextra -Werror -o reduce++.np reduce.c -x none $(flags tacit-mpi) ||
            fail "a C++ program with pkg-config tacit-mpi does not build"
        TACIT_TEST_RANKS=3 "$tests/mpirun.sh" "$scratch/reduce++.np" || fail "the C++ program with tacit-mpi fails"
    fi
    TACIT_TEST_RANKS=3 "$tests/mpirun.sh" "$scratch/reduce.np" || fail "the program with tacit-mpi fails"
fi
if [ -x "$prefix/bin/tacit-info" ]; then
    "$prefix/bin/tacit-info" >info || fail "the installed tacit-info fails"
    ! grep '^CUDA .*cannot be loaded' info || fail "the installed CUDA module is not found"
fi
if [ -x "$prefix/bin/tacit-run" ] && [ -e "$scratch/sum.np" ]; then
    TACIT_TEST_RANKS=2 "$prefix/bin/tacit-run" --report report -- "$tests/mpirun.sh" "$scratch/sum.np" ||
        fail "a program fails under the installed tacit-run"
    grep -q ' onebit+ef ' report || fail "the installed interposer does not find libtacit_mpi: $(cat report)"
fi

# man finds each function: a page of its name leads to the one that it is on.
while read -r name; do
    [ -f "$prefix/share/man/man3/$name.3" ] || fail "man does not find $name"
done < <(cat "$tests"/abi/*.symbols)
for page in "$prefix"/share/man/man3/*.3; do
    leads=$(sed -n 's/^\.so //p' "$page")
    [ -z "$leads" ] || [ -f "$prefix/share/man/$leads" ] || fail "$page leads to $leads, which is not there"
done

make -C "$build" uninstall DESTDIR="$scratch/root" >"$scratch/uninstall.log" 2>&1 || fail "make uninstall failed"
left=$(find "$prefix" -not -type d)
[ -z "$left" ] || fail "make uninstall leaves $left"
