#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tacit-run with programs of NCCL, on a NCCL, a driver and kernels of ours on the CPU: what is counted and timed, by which route
# NCCL came, what rules take, and only that. Runs in the build directory.
set -u
# shellcheck source=tests/testing.sh
. "${srcdir:-.}/tests/testing.sh"
build=$PWD
run=$PWD/tools/tacit-run

says_once() {
    says "$1" "$2"
    [ "$(grep -c -- "$2" "$folder/$1")" -eq 1 ] || fail "more than once: '$2': $(cat "$folder/$1")"
}

# What NCCL's header says.
check_header() {
    local include found=
    for include in ${NCCL_INCLUDE-} /usr/include /usr/local/include /usr/local/cuda/include; do
        { [ -z "$found" ] && [ -e "$include/nccl.h" ] && [ -e "$include/cuda_runtime.h" ]; } || continue
        found=$include
        ${CC:-cc} -std=gnu11 -fsyntax-only -Werror -I"$include" -I"$root/preload" "$root/tests/abi/nccl_header.c" ||
            fail "$include/nccl.h is not what the interposer takes for granted"
    done
    [ -n "$found" ] || echo "skipped: what is taken for granted of nccl.h, since there is none with cuda_runtime.h"
}

fresh() { : >"$folder/report"; }

# library NAME FLAG...: a library of tests/preload.
library() {
    local name=$1
    shift
    ${CC:-cc} -O1 -fPIC -shared -fvisibility=hidden -o "$folder/$name" "$@" || fail "$name cannot be made"
}
check_header
ln -s "$build/.libs/libtacit.so.0" "$build/.libs/libtacit_preload_nccl.so" "$folder/"
ln -s "$build/tests/gpu/libnccl_fake.so" "$folder/libnccl.so.2"
${CXX:-c++} -shared -o "$folder/libtacit_cuda.so" "$build/tests/gpu/emulated.o" || fail "there are no kernels"
library libcuda.so.1 -Wl,-soname,libcuda.so.1 "$root/tests/preload/fake_cuda.c"
library libasks.so "$root/tests/preload/asks.c"
export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
compile() {
    ${CC:-cc} -D_GNU_SOURCE -O1 -o "$folder/$1" "$root/tests/preload/nccl_program.c" "${@:2}" -lm || fail "$1 cannot be made"
}
compile linked -DLINKED "$folder/libnccl.so.2" "$folder/libcuda.so.1"
compile loaded -ldl
echo 'int asks_next(void); int main(void) { return !asks_next(); }' |
    ${CC:-cc} -o "$folder/asks" -x c - -x none -Wl,--no-as-needed "$folder/libasks.so" "$folder/libnccl.so.2" ||
    fail "asks cannot be made"

# ---- Counted: the same by all routes ----

for program in linked loaded; do
    for ranks in 1 3; do
        ends 0 "$run" --report "$folder/report" -- "$folder/$program" count $ranks
        says out '^right$'
        [ ! -s "$folder/err" ] || fail "it has something to say: $(cat "$folder/err")"
        says report "^Tacit: NCCL calls of rank 0 of $ranks," ' 1 ncclAllReduce 1 [13] float32 sum 12288 10 49152 0\.[0-9]* ' \
            ' 2 ncclAllReduce 1 [13] float32 avg 4096 1 16384 ' ' 3 ncclAllReduce 1 [13] float32 user 4096 1 16384 .* no: ' \
            ' 4 ncclAllReduce 1 [13] float16 sum 8 1 16 ' ' 5 ncclReduceScatter 1 [13] float32 sum 4096 1 16384 ' \
            ' 6 ncclAllGather 1 [13] float32 - 4096 1 16384 .* no: it red' ' 7 ncclAllReduce 1 [13] float32 sum 4096 4 16384 ' \
            ' 9 ncclAllReduce 1 [13] float32 sum 100 1 400 - - no: ' '^1 of the calls are parts of CUDA graphs' \
            ' 10 ncclAllReduce 2 [13] float32 sum 4096 1 ' ' 12 ncclAllReduce 4 [13] float32 sum 4096 1 '
        [ "$(grep -c ' nccl[AR].* \(yes\|no: .*\)$' "$folder/report")" -eq 12 ] || fail "too many sites: $(cat "$folder/report")"
    done
done
says report ' 1 ncclAllReduce .* yes$'
# Who speaks: rank 0 of the largest communicator, unless a launcher says which one; nobody without calls.
fresh
RANK=1 ends 0 "$run" --report "$folder/report" -- "$folder/linked" count 2
[ ! -s "$folder/report" ] || fail "rank 1 has a report: $(cat "$folder/report")"
ends 0 "$run" --report "$folder/report" -- true
[ ! -s "$folder/report" ] || fail "a report without calls: $(cat "$folder/report")"
# A child of a process that has called NCCL reports once.
fresh
ends 0 "$run" --report "$folder/report" -- "$folder/linked" forked
says out '^right$'
[ "$(grep -c '^Tacit: NCCL calls' "$folder/report")" -eq 2 ] || fail "not a report each: $(cat "$folder/report")"
# One that was closed and opened again; and one that has no names for tools.
ends 0 "$run" --report "$folder/report" -- "$folder/loaded" reloaded
says out '^right$'
mkdir "$folder/plain"
library plain/libnccl.so.2 -std=gnu11 -DFAKE_NCCL_PLAIN -Wl,-soname,libnccl.so.2 -I"$root/compressors" \
    "$root/tests/gpu/fake_nccl.c"
fresh
LD_LIBRARY_PATH=$folder/plain:$LD_LIBRARY_PATH ends 0 "$run" --report "$folder/report" -- "$folder/loaded" count 2
says out '^right$'
[ ! -s "$folder/err" ] || fail "it has something to say: $(cat "$folder/err")"
says report ' 1 ncclAllReduce 1 2 float32 sum 12288 10 49152 0\.[0-9]* '
# A library that looks for the next function of a name still gets it.
ends 0 "$folder/asks"
ends 0 "$run" -- "$folder/asks"
# A sanitizer looks functions up before anything else is ready.
echo 'int main(void) { return 0; }' >"$folder/early.c"
if ${CC:-cc} -fsanitize=thread -o "$folder/early" "$folder/early.c" 2>"$folder/err" && "$folder/early"; then
    ends 0 "$run" -- "$folder/early"
else
    echo "skipped: a program of ThreadSanitizer, which does not run here"
fi

# ---- Rules ----

if "$build/tools/tacit-info" | grep -q 'built without CUDA'; then
    echo "skipped: rules, since this Tacit was built without CUDA"
    exit $failed
fi

# lacks LOW HIGH: sums over all steps, of every tensor.
lacks() {
    awk -v low="$1" -v high="$2" '/^tensor/ { n += $3 >= low && $3 <= high } END { exit n != 4 }' "$folder/out" ||
        fail "sums lack not $1 to $2 of the whole: $(cat "$folder/out")"
}
# by RULES COMMAND...: with the kernels of the test.
by() {
    local rules=$1
    shift
    # shellcheck disable=SC2086 # words
    ends 0 env LD_PRELOAD="$folder/libtacit_preload_nccl.so" TACIT_REPORT="$folder/report" TACIT_MIN_BYTES=16K $rules "$@"
    says out '^right$'
}
fresh
by TACIT_ALLREDUCE=onebit+ef "$folder/linked" apart 2 60
lacks 0.001 0.05
says_once err "ncclAllReduce() sums floats of 16384 bytes and more by 'onebit+ef': results may be inexact"
says report "^Site 1: 225 of 240 calls were reduced by 'onebit+ef', as 4 tensors" ' 3 ncclAllReduce .* sum 1 60 4 '
apart=$(awk '/^sent/ { print $2 }' "$folder/out")
by TACIT_ALLREDUCE=onebit "$folder/linked" apart 3 60
lacks 0.4 0.9
by TACIT_ALLREDUCE=qsgd:bits=8 "$folder/loaded" apart 3 30
lacks 0.00001 0.01
by TACIT_ALLREDUCE=onebit+ef "$folder/loaded" grouped 2 60
lacks 0.001 0.05
awk -v apart="$apart" '/^sent/ { exit !($2 > 0 && $2 < apart) }' "$folder/out" ||
    fail "a group is no group: instead of $apart bytes $(cat "$folder/out")"
by TACIT_ALLREDUCE=onebit+ef "$folder/linked" waiting 2 60
lacks 0.001 0.05
# Where each rank gets a part: by a rule of its own. What a step sends is half of it.
fresh
by TACIT_RULE=min=8K:onebit+ef "$folder/linked" scattered 2 60
lacks 0.001 0.05
says report "^Site 1: 225 of 240 calls were reduced by 'onebit+ef', as 4 tensors" ' 1 ncclReduceScatter .* sum 2048 240 8192 '
awk -v apart="$apart" '/^sent/ { exit !($2 > 0 && $2 < 0.6 * apart) }' "$folder/out" ||
    fail "parts are sent as the whole: instead of $apart bytes $(cat "$folder/out")"
by TACIT_RULE=min=4K:qsgd:bits=8 "$folder/loaded" shards 4 30
lacks 0.00001 0.01
by TACIT_ALLREDUCE=onebit "$folder/linked" scattered 2 30
lacks 0 0
# Tensors come in another order, and nothing but their addresses shows it; or are elsewhere on one rank. Then it is aborted.
for how in reversed moved; do
    fresh
    by TACIT_ALLREDUCE=onebit+ef "$folder/linked" $how 2 60
    lacks 0.001 0.08
    says_once err 'what was kept back of tensors is dropped'
    says report "^Site 1: 198 of 240 calls were reduced by 'onebit+ef', as 8 tensors"
done
# … but not where the order of sums never changes: then it does not matter where they are.
fresh
by TACIT_RULE=order=fixed:onebit+ef "$folder/linked" moved 2 60
lacks 0.001 0.05
says report "^Site 1: 169 of 240 calls were reduced by 'onebit+ef', as 4 tensors"
by TACIT_ALLREDUCE=onebit+ef "$folder/linked" infinity 2
by TACIT_RULE=min=1:onebit "$folder/linked" many 2
fresh
by TACIT_ALLREDUCE=onebit+ef "$folder/loaded" several
says_once err 'a process has several GPUs: nothing is compressed'
# A rank that has no memory to say what others wait for: its call fails.
ends 1 env LD_PRELOAD="$folder/libtacit_preload_nccl.so" TACIT_ALLREDUCE=onebit "$folder/linked" poor 2 60
says_once err 'rank 1 gets no memory from CUDA'
says_once err 'a sum fails'
# What a rank tells is never sent, and NCCL says so: the call fails, and nothing is taken for what others tell.
ends 1 env LD_PRELOAD="$folder/libtacit_preload_nccl.so" TACIT_RULE=min=16K:onebit "$folder/linked" lost 2 60
says err 'rank 1: a sum fails'
# Several communicators, first used in different order: the ranks do not meet where Tacit would make its own, or where they
# compare what they found. Nobody waits for ever: at least one communicator is left alone, by all.
for how in crossed tangled; do
    by "TACIT_ALLREDUCE=none TACIT_TIMEOUT_MS=300" "$folder/linked" $how 2 60
    says err 'communicator [12]: nothing is compressed: '
done
# They meet, but not where a group is first made.
by "TACIT_RULE=min=4K,after=30:none TACIT_TIMEOUT_MS=300" "$folder/linked" uneven 2 60
says err 'communicator [12]: sums stay dense from now on: .* has not ended within 300 ms'
# A rank that cannot make it; one that fails when others have made it; and one that does not say so.
by "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=300" "$folder/linked" refused 2 60
lacks 0 0
says_once err 'communicator 1: nothing is compressed: '
by "TACIT_RULE=min=16K,after=40:onebit+ef TACIT_TIMEOUT_MS=300" "$folder/linked" broken 2 60
lacks 0 0
says_once err 'communicator 1: nothing is compressed: a rank cannot take part'
ends 1 env LD_PRELOAD="$folder/libtacit_preload_nccl.so" TACIT_RULE=min=16K:onebit TACIT_TIMEOUT_MS=300 "$folder/linked" late 2 60
says_once err 'communicator 1: rank 0 has not heard of other ranks within 300 ms'
# One thread aborts a communicator, revokes it, or shrinks it, while another one waits for a rank in it.
for how in abort revoke shrink; do
    by TACIT_ALLREDUCE=onebit "$folder/linked" step 2 40 $how
    by "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=12000" "$folder/linked" meeting 2 16 $how
done
# One that is aborted is timed until then, although its call comes to its end later.
by "TACIT_ALLREDUCE=onebit FAKE_CUDA_SLOW=1" "$folder/linked" step 2 40 abort
# The end of a communicator inside of a group, behind a sum.
by TACIT_ALLREDUCE=none "$folder/linked" ended 2 40
# Everything else is exact.
by TACIT_RULE=min=1:onebit "$folder/linked" count 3

# Numbers of sites; calls that stay exact first; what is remembered
fresh
by 'TACIT_RULE=site=1,after=100:onebit+ef TACIT_STATE_BYTES=50K' "$folder/linked" apart 2 50
says_once err 'remember 49152 bytes, as many as they may'
says report '^Site 1: 50 of 200 calls .* as 2 tensors'
# What is no rule or no spec; ranks with other rules
by TACIT_RULE=onebit "$folder/linked" apart 2 20
lacks 0 0
says_once err "'onebit' is not KEY=VALUE"
by TACIT_ALLREDUCE=onebitt "$folder/linked" apart 2 20
lacks 0 0
says_once err "some sums stay dense: .*'onebitt'"
by 'TACIT_ALLREDUCE=onebit OTHER_RULE=qsgd' "$folder/linked" apart 2 20
lacks 0 0
says_once err 'ranks have other rules'
exit $failed
