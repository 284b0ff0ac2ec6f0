#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The shared libraries export the names that libtacit.symbols and libtacit_mpi.symbols list, no more and no fewer, the CUDA module
# one, interposers some of MPI's or NCCL's alone; libtacit and interposers need no MPI, and no library CUDA or NCCL. Runs in the
# build directory.
set -u
abi=${srcdir:-.}/tests/abi
failed=0

# compare LIBRARY LIST: its exported names with the list.
compare() {
    local library=.libs/$1.so list=$2.symbols
    ${NM:-nm} -D --defined-only "$library" | sed 's/.* //' | LC_ALL=C sort >"$1.exported"
    if ! diff -u "$abi/$list" "$1.exported"; then
        echo "$1 exports other names (+) than tests/abi/$list lists (-)"
        failed=1
    fi
    rm -f "$1.exported"
}

if [ ! -e .libs/libtacit.so ]; then
    echo "skipped: no shared library was built"
    exit 77
fi
compare libtacit libtacit
[ ! -e .libs/libtacit_mpi.so ] || compare libtacit_mpi libtacit_mpi
if [ -e .libs/libtacit_mpi_mpich.so ]; then
    compare libtacit_mpi_mpich libtacit_mpi
    if ${READELF:-readelf} -d .libs/libtacit_mpi_mpich.so | grep 'NEEDED.*libp\?mpi'; then
        echo "libtacit_mpi_mpich needs the library above, which with others of MPICH's ABI has another name"
        failed=1
    fi
fi
if ${NM:-nm} -D --undefined-only .libs/libtacit.so | grep ' P\?MPI_\| nccl\| cuda'; then
    echo "libtacit needs the names above, which belong in another library"
    failed=1
fi
for library in libtacit libtacit_mpi libtacit_mpi_mpich libtacit_preload_mpi libtacit_preload_nccl; do
    [ -e .libs/$library.so ] || continue
    if ${READELF:-readelf} -d .libs/$library.so | grep 'NEEDED.*\(libcu\|libnccl\|libnv\|libtacit_cuda\)'; then
        echo "$library needs what is named above, which only the CUDA module may"
        failed=1
    fi
done
if [ -e .libs/libtacit_preload_mpi.so ]; then
    exported=$(${NM:-nm} -D --defined-only .libs/libtacit_preload_mpi.so | sed 's/.* //')
    for name in MPI_Allreduce MPI_Iallreduce MPI_Finalize PMPI_Allreduce mpi_allreduce_ mpi_allreduce_f08_ mpi_finalize_f08_; do
        grep -qx "$name" <<<"$exported" || {
            echo "libtacit_preload_mpi does not export $name"
            failed=1
        }
    done
    if grep -vi '^p\?mpi_i\?allreduce\|^p\?mpi_finalize' <<<"$exported"; then
        echo "libtacit_preload_mpi exports the names above, which are not its own"
        failed=1
    fi
    if ${NM:-nm} -D --undefined-only .libs/libtacit_preload_mpi.so | grep -i ' p\?mpi_\| tacit_'; then
        echo "libtacit_preload_mpi needs the names above, which not every process has"
        failed=1
    fi
fi
if [ -e .libs/libtacit_preload_nccl.so ]; then
    exported=$(${NM:-nm} -D --defined-only .libs/libtacit_preload_nccl.so | sed 's/.* //' | LC_ALL=C sort | tr '\n' ' ')
    if [ "$exported" != "dlsym ncclAllGather ncclAllReduce ncclCommAbort ncclCommDestroy ncclCommFinalize ncclCommRevoke \
ncclCommShrink ncclGroupEnd ncclGroupSimulateEnd ncclGroupStart ncclReduceScatter " ]; then
        echo "libtacit_preload_nccl exports other names than its own: $exported"
        failed=1
    fi
    if ${NM:-nm} -D --undefined-only .libs/libtacit_preload_nccl.so | grep ' p\?nccl\| cu[A-Z]\| cuda\| tacit_'; then
        echo "libtacit_preload_nccl needs the names above, which not every process has"
        failed=1
    fi
fi
if [ -e .libs/libtacit_cuda.so ]; then
    exported=$(${NM:-nm} -D --defined-only .libs/libtacit_cuda.so | sed 's/.* //')
    [ "$exported" = tacit_cuda_module ] || {
        echo "libtacit_cuda exports more than tacit_cuda_module: $exported"
        failed=1
    }
fi
exit $failed
