#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Breaks the numerics on purpose, one way at a time, and requires that a unit test notices:
# mutants.sh [BUILD_DIR [SOURCE_DIR [NAME]]]
#
# A mutant is a copy of one source file with a small change, linked in front of the library into unit tests that are built
# already. One line each is printed, in the order in which they end, but for those that survive, which come last; the exit
# status is 1 if there are any. NAME: only mutants with these words in their names. JOBS: how many at once (default: the number
# of processors).
# shellcheck disable=SC2317 # functions are called through begin
set -u
build=${1:-.}
source=${2:-${srcdir:-.}}
only=${3:-}

# setting NAME: a variable of the build.
setting() { sed -n "s/^$1 = //p" "$build/Makefile"; }

if [ ! -f "$build/tests/unit/collective.o" ]; then
    echo "skipped: the unit tests are not built in $build (make check builds them; they need Check)"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What is changed is the plain code: no other is compiled, nor found by what chooses, which is linked in too.
compile="$(setting CC) $(setting CFLAGS) $(setting TACIT_CFLAGS) -O1 -g0 -w -DTACIT_PLAIN -DHAVE_CONFIG_H -I$build \
    -I$build/libcomm -I$source/libcomm -I$source/libcomm/schedules -I$source/compressors -I$source/optim \
    -I$source/optim/feedback -I$source/examples -I$source/preload $(setting CBLAS_CFLAGS)"
libraries="$build/tests/.libs/libharness.a $build/.libs/libtacit_core.a $(setting CHECK_LIBS) $(setting HWLOC_LIBS) \
    $(setting LIBS) $(setting CBLAS_LIBS) -lm -lpthread"
# shellcheck disable=SC2086 # words
$compile -c -o "$work/isa.o" "$source/compressors/isa.c" || exit 1

compile_kernels="$(setting CXX) -std=c++17 -O0 -ffp-contract=off -fno-exceptions -fno-rtti -fno-threadsafe-statics -w \
    -U_FORTIFY_SOURCE -DHAVE_CONFIG_H -I$build -I$build/libcomm -I$source/libcomm -I$source/optim"

# A mutant that makes ranks wait for each other is not waited for.
export TACIT_TIMEOUT_MS=5000

# The objects of a unit test that has some of its own, beside the mutant.
transformer_objects="$build/tests/unit/tests_unit_transformer-transformer.o $build/examples/tests_unit_transformer-layer.o"

experts_objects=$build/tests/unit/experts-experts.o
for object in layer transformer; do
    experts_objects+=" $build/examples/tests_unit_experts-$object.o"
done

# Likewise of the same model on a GPU.
gpu_objects="$build/tests/gpu/transformer_emulated-transformer.o"
for object in layer transformer gpu_optimizer; do
    gpu_objects+=" $build/examples/tests_gpu_transformer_emulated-$object.o"
done

# passes PLACE TEST CASE: links the mutant there into a unit test and runs one of its cases, as far as its first failure: then
# nobody reads on, and the next line that it writes ends it.
passes() {
    local place=$1 objects=$build/tests/unit/$2.o
    case $2 in
    cycle | gain | gaps | rules) objects=$build/tests/unit/$2-$2.o ;;
    experts) objects=$experts_objects ;;
    transformer) objects=$transformer_objects ;;
    gpu) objects="${gpu_objects% *} $build/tests/gpu/trainer_emulated.o" ;;
    moe_gpu) objects="$build/tests/gpu/moe_emulated-moe.o $build/tests/gpu/emulated.o" ;;
    device) objects="$build/tests/gpu/device_emulated-device.o $build/tests/gpu/emulated.o" ;;
    nccl*)
        objects="$build/tests/gpu/$2_emulated-$2.o $build/tests/gpu/emulated.o"
        cp "$build"/tests/gpu/libnccl_*.so "$place"
        ;;
    esac
    # shellcheck disable=SC2086 # words
    $compile -s -o "$place/$2" $objects "$place/mutant.o" "$work/isa.o" $libraries || return 2
    # Tests that fail may leave files behind.
    TMPDIR=$place CK_RUN_CASE=$3 CK_VERBOSITY=silent CK_TAP_LOG_FILE_NAME=- timeout 120 "$place/$2" 2>&1 |
        tee "$place/log" | grep -q '^not ok'
    [ "${PIPESTATUS[*]}" = "0 0 1" ] || return 1
    grep -q '^ok' "$place/log" || return 3
}

# judge PLACE NAME FILE TESTS SCRIPT: one of the tests must fail.
judge() {
    local place=$1 name=$2 file=$3 tests=$4 script=$5 test
    sed -E "$script" "$source/$file" >"$place/mutant.c" || return 1
    if cmp -s "$place/mutant.c" "$source/$file"; then
        echo "$name: nothing to change in $file: the mutant must follow the code"
        return 1
    fi
    # shellcheck disable=SC2086 # words
    if ! $compile -c -o "$place/mutant.o" "$place/mutant.c"; then
        echo "$name: cannot be compiled"
        return 1
    fi
    for test in $tests; do
        passes "$place" "${test%:*}" "${test#*:}"
        case $? in
        0) ;;
        1)
            echo "$name: caught by $test"
            return 0
            ;;
        *)
            echo "$name: $test cannot be linked, or there is no such case"
            return 1
            ;;
        esac
    done
    echo "$name: SURVIVES $tests"
    return 1
}

# accept PLACE TEST: it passes where the change changes nothing.
accept() {
    # shellcheck disable=SC2086 # words
    $compile -c -o "$1/mutant.o" "$source/optim/feedback/ef.c" && passes "$1" "${2%:*}" "${2#*:}" && return
    cat "$1/log"
    echo "unchanged: fails $2"
    return 1
}

# judge_kernel PLACE NAME FILE TEST:CASE SCRIPT: the same of a kernel, in the test that runs it on the CPU. One name: of both.
judge_kernel() {
    local place=$1 name=$2 file=$3 test=${4%:*} case=${4#*:} script=$5 tree=$1/tree emulated=emulated.cc objects
    objects=$build/tests/gpu/${test}_emulated-$test.o
    mkdir -p "$tree/compressors" "$tree/tests" "$tree/examples"
    cp -r "$source/compressors/cuda" "$tree/compressors/cuda"
    cp -r "$source/tests/gpu" "$tree/tests/gpu"
    cp "$source"/examples/*.cu "$source"/examples/*.h "$tree/examples"
    ln -s "$(cd "$source" && pwd)/libcomm" "$tree/libcomm"
    case $file in
    examples/*) emulated=trainer_emulated.cc objects=$gpu_objects ;;
    esac
    sed -E -i "$script" "$tree/$file" || return 1
    if cmp -s "$tree/$file" "$source/$file"; then
        echo "$name: nothing to change in $file: the mutant must follow the code"
        return 1
    fi
    # shellcheck disable=SC2086 # words
    if ! $compile_kernels -I"$tree/compressors/cuda" -I"$tree/tests/gpu" -I"$source/compressors" -c -o "$place/mutant.o" \
        "$tree/tests/gpu/$emulated"; then
        echo "$name: cannot be compiled"
        return 1
    fi
    # shellcheck disable=SC2086 # words
    if ! $compile -s -o "$place/$test" $objects "$place/mutant.o" $libraries; then
        echo "$name: $test cannot be linked"
        return 1
    fi
    if CK_RUN_CASE=$case CK_VERBOSITY=silent CK_TAP_LOG_FILE_NAME=- timeout 120 "$place/$test" 2>&1 | grep -q '^not ok'; then
        echo "$name: caught by $4"
        return 0
    fi
    echo "$name: SURVIVES $4"
    return 1
}

# preload_fails PLACE FILE SCRIPT VARIABLES ARGUMENT...: runs a program of NCCL's under the interposer with a mutant in it, and
# fails where that ends well; 2: it cannot be built.
preload_fails() {
    local place=$1 file=$2 script=$3 variables=$4 name object objects=
    shift 4
    name=$(basename "$file" .c)
    sed -E "$script" "$source/$file" >"$place/mutant.c" || return 2
    for object in "$build"/preload/.libs/libtacit_preload_nccl_la-*.o; do
        case $object in
        *-"$name".o) ;;
        *) objects+=" $object" ;;
        esac
    done
    ln -s "$(cd "$build" && pwd)/.libs/libtacit.so.0" "$place/"
    cp "$build/tests/gpu/libnccl_fake.so" "$place/libnccl.so.2"
    # shellcheck disable=SC2086 # words
    $compile -D_GNU_SOURCE -DTACIT_LIBRARY='"libtacit.so.0"' -fPIC -c -o "$place/mutant.o" "$place/mutant.c" &&
        $(setting CC) -shared -o "$place/libtacit_preload_nccl.so" $objects "$place/mutant.o" -lpthread &&
        $(setting CXX) -shared -o "$place/libtacit_cuda.so" "$build/tests/gpu/emulated.o" &&
        $(setting CC) -fPIC -shared -o "$place/libcuda.so.1" -Wl,-soname,libcuda.so.1 "$source/tests/preload/fake_cuda.c" &&
        $(setting CC) -D_GNU_SOURCE -DLINKED -o "$place/program" "$source/tests/preload/nccl_program.c" \
            "$place/libnccl.so.2" "$place/libcuda.so.1" -Wl,-rpath,"$place" -lm -lpthread || return 2
    # shellcheck disable=SC2086 # words
    ! env LD_LIBRARY_PATH="$place" LD_PRELOAD="$place/libtacit_preload_nccl.so" TACIT_REPORT=/dev/null TACIT_MIN_BYTES=16K \
        $variables timeout 20 "$place/program" "$@" >"$place/log" 2>&1
}

# judge_preload PLACE NAME FILE SCRIPT VARIABLES ARGUMENT...: it ends well without the change, and not with it.
judge_preload() {
    local place=$1 name=$2 file=$3 script=$4
    shift 4
    mkdir "$place/as-it-is" "$place/changed"
    preload_fails "$place/as-it-is" "$file" '' "$@"
    if [ $? -ne 1 ]; then
        echo "$name: '${*:2}' fails, or cannot be built, as it is: $(tail -n 5 "$place/as-it-is/log")"
        return 1
    fi
    preload_fails "$place/changed" "$file" "$script" "$@"
    case $? in
    0)
        if ! cmp -s "$place/changed/mutant.c" "$source/$file"; then
            echo "$name: caught by '${*:2}'"
            return 0
        fi
        ;;
    1) echo "$name: SURVIVES '${*:2}', or there is nothing to change in $file" ;;
    *) echo "$name: cannot be built" ;;
    esac
    return 1
}

# Whoever begins takes a line out of here, and gives it back at the end.
mkfifo "$work/turns"
exec 3<>"$work/turns"
yes '' | head -n "${JOBS:-$(nproc)}" >&3
started=0

# begin COMMAND ARGUMENT...: beside others, with a place of its own in front of the arguments; it stays if the command fails.
begin() {
    local place=$work/$((++started)) command=$1
    shift
    read -r -u 3
    mkdir "$place"
    {
        if "$command" "$place" "$@" >"$place/said"; then
            cat "$place/said"
            rm -rf "$place"
        fi
        echo >&3
    } &
}

# mutant NAME FILE "TEST:CASE ..." SED-SCRIPT
mutant() {
    case $1 in
    *"$only"*) begin judge "$@" ;;
    esac
}

# kernel_mutant NAME FILE TEST:CASE SED-SCRIPT: where the tests of kernels are built.
kernel_mutant() {
    case $1 in
    *"$only"*) [ ! -f "$build/tests/gpu/emulated.o" ] || begin judge_kernel "$@" ;;
    esac
}

# preload_mutant NAME FILE SED-SCRIPT VARIABLES ARGUMENT...: of the interposer of NCCL, where it is built for tests.
preload_mutant() {
    case $1 in
    *"$only"*)
        { [ ! -f "$build/tests/gpu/libnccl_fake.so" ] || [ ! -f "$build/tests/gpu/emulated.o" ] ||
            [ ! -f "$build/.libs/libtacit_preload_nccl.so" ]; } || begin judge_preload "$@"
        ;;
    esac
}

# nccl_mutant NAME FILE "TEST:CASE ..." SED-SCRIPT: the same of what goes over NCCL.
nccl_mutant() {
    [ ! -f "$build/tests/gpu/nccl_emulated" ] || mutant "$@"
}

# device_mutant NAME FILE SED-SCRIPT: of slots on a GPU.
device_mutant() {
    [ ! -f "$build/tests/gpu/device_emulated" ] || mutant "$1" "$2" device:device "$3"
}

# moe_mutant NAME FILE CASE SED-SCRIPT: of a mixture's layer on a GPU.
moe_mutant() {
    [ ! -f "$build/tests/gpu/moe_emulated" ] || mutant "moe on a GPU: $1" "$2" "moe_gpu:$3" "$4"
}

# unchanged TEST:CASE...: they pass on their own; otherwise they prove nothing. Those without kernels pass in bootstrap's build
# without MPI, which is of the plain code too, under the same limit of time.
unchanged() {
    local test
    for test in "$@"; do
        [ -n "$only" ] || begin accept "$test"
    done
}

mutant "feedback off at the sender" libcomm/codec_block.c collective:conservation \
    's/tacit__memory_close\(.*\*done_out\);/memset(ef.next, 0, *done_out * sizeof *ef.next); &/'
mutant "feedback off at the owner" libcomm/codec_block.c collective:conservation \
    's/return (codec->kernels->encode_ef\(block, &ef, payload, &done\));/faults = \1; \
        memset(ef.next, 0, done * sizeof(float)); return faults;/'
mutant "feedback off in sparse tensors" compressors/topk_select.c collective:conservation \
    's/end \? stays \& ~taken : 0/0/'
mutant "residual scaled by 1/N" libcomm/codec_block.c collective:conservation \
    's|tacit__memory_close\(.*\*done_out\);|for (size_t i = 0; i < *done_out; i++) ef.next[i] /= (float)codec->ranks; &|'
mutant "owner's memory not scaled when it joins the sender's" libcomm/codec_memory.c "collective:conservation codec:memory" \
    's/codec->owner_is_mean \? \(float\)codec->ranks : 1.0f/1.0f/'
mutant "owner keeps its exact sum" libcomm/schedules/blockwise.c collective:conservation \
    's/^ *finish_chunk\(blockwise, chunk, message.*/& \
        for (size_t s = chunk->segment_first; s < chunk->segment_first + chunk->segment_count; s++) { \
            const tacit_segment_t *segment = \&blockwise->segments[s]; \
            const tacit_codec_t *codec = segment->item->codec; \
            for (size_t i = 0; segment->item->streams \&\& codec->owner.count != 0 \&\& i < segment->count; i++) \
                ((float *)segment->item->out)[segment->first + i] += \
                    codec->owner.next[0][segment->first - codec->owner_first + i]; \
        }/'
mutant "own contribution dropped" libcomm/codec_block.c collective:conservation \
    's/sum\[i\] \+= in\[i\] \+ zero/(void)zero/
     s/sum\[i\] = in\[i\] \+ zero/sum[i] = 0/'
mutant "own contribution's memory not emptied" libcomm/codec_block.c collective:conservation \
    's/tacit__unit_after\(codec, state, at, units.*/tacit__state_keep(state, at, units);/'
mutant "rank order reversed on rank 1, blockwise" libcomm/codec_block.c collective:conservation \
    '/^static uint32_t sum_unit/,/^}/ {
        s/for \(int sender = 0; sender < codec->senders/for (int turn = 0; turn < codec->senders/
        s/&& faults == 0; sender\+\+\) \{/\&\& faults == 0; turn++) { \
            int sender = codec->rank == 1 ? codec->senders - 1 - turn : turn;/
        s/sender != 0/turn != 0/
    }'
mutant "rank order reversed on rank 1, sparse" libcomm/records.c collective:conservation \
    '/^static void sum_unit/,/^}/ {
        s/_origin\(records, item, origin\)/& + (leg->comm->rank == 1 ? records->origins - 1 - 2 * origin : 0)/
    }'
mutant "average scaled twice, blockwise" libcomm/codec_block.c collective:conservation \
    's/sum\[i\] \*= scale;/sum[i] *= scale * scale;/'
mutant "average scaled twice, sparse" libcomm/records.c collective:conservation \
    's/sums\[i\] \*= scale;/sums[i] *= scale * scale;/'
mutant "sums of pairs unchecked" libcomm/records.c fault_value:fault_value \
    's/return total < 0.5 \* \(double\)FLT_MAX;/return true;/'
mutant "sums of pairs: what fits is refused" libcomm/records.c fault_value:fault_value \
    's/!isfinite\(result\)/!(fabsf(result) < 0.5f * FLT_MAX)/'
mutant "sums of pairs: trackers left out" libcomm/records.c fault_value:fault_value \
    's/tracked != NULL \? factor \* tracked\[done \+ i\] \+ sums\[i\] : sums\[i\]/sums[i]/'
mutant "dealt: the owner forgets what it has not sent" libcomm/codec_whole.c sparse_scatter:results \
    's/^    for \(.*i < met->count.*/memset(joined, 0, codec->owner.count * sizeof *joined); &/'
mutant "dealt: the owner keeps its exact sum" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/dense \? source->a\[place\] : .*/source->a[place];/'
mutant "dealt: the owner's own contribution dropped" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/dealt->begin\[own \+ 1\] - dealt->begin\[own\]\)/0)/'
mutant "dealt: rank order reversed on rank 1" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/contributions, i, host\)->run/contributions, i, leg->comm->rank == 1 ? ranks - 1 - host : host)->run/'
mutant "dealt: average scaled twice" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/sums\[place\] \*= scale/sums[place] *= scale * scale/'
mutant "dealt: sums of the last call" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/memset\(scatter->marks, 0, .*/memset(scatter->marks, 255, words * sizeof *scatter->marks);/'
mutant "dealt: senders remember what they have sent" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/chosen->entries.values\[dealt->from\[at\]\] = .*/chosen->entries.values[dealt->from[at]] = 0.0f;/'
mutant "dealt: the owner draws as a sender" libcomm/schedules/sparse_scatter.c sparse_scatter:results \
    's/block.key.rank \+= \(uint64_t\)codec->ranks;//'
mutant "dealt: dense too late" libcomm/records.c sparse_scatter:volume \
    's/block.count \* sizeof\(float\) < bytes/block.count * sizeof(float) + 4 < bytes/'
mutant "dealt: dense too early" libcomm/records.c sparse_scatter:volume \
    's/block.count \* sizeof\(float\) < bytes/block.count * sizeof(float) < bytes + 9/'
mutant "dealt: what the owner met is not taken back" libcomm/schedules/sparse_scatter.c sparse_scatter:faults \
    's/tacit__codec_unjoin\(codec, &scatter->owned\[i\].met\)/(void)codec/'
mutant "dealt: what the owner sent is not taken back" libcomm/schedules/sparse_scatter.c sparse_scatter:faults \
    's/tacit__codec_unjoin\(codec, &scatter->owned\[i\].out\)/(void)codec/'
mutant "records may come in any order" libcomm/records.c records:records \
    's/record.first < line->end \|\| //'
mutant "records of the own host passed on" libcomm/records.c records:records 's/ \|\| frame->first == \(uint32_t\)host\)/)/'
mutant "a last frame may come twice" libcomm/records.c records:records \
    's/\*closed \|\| \(frame/(frame/'
mutant "sign of 0 is -1" compressors/onebit.c "codec:codec onebit:onebit" \
    's/set = a\[j\] >= 0;/set = a[j] > 0;/'
mutant "scale over the padding too" compressors/onebit.c collective:published \
    's/total \/= \(double\)count;/total \/= (double)((count + 63) \/ 64 * 64);/'
mutant "fp8: ties away from zero" compressors/fp8.c fp8:fp8 \
    's/\(tacit_floats_t\)\(bits \^ sign\)/(tacit_floats_t)((bits ^ sign) + 1)/'
mutant "fp8: the largest magnitude is cut, as in MX" compressors/fp8.c fp8:fp8 \
    's/tacit__fp8_scale\(largest_of\((.*)\), format\)/tacit__fp8_scale(largest_of(\1) \& 0x7f800000u, format)/'
mutant "fp8: no saturation" compressors/fp8.c fp8:fp8 \
    's/TACIT_SELECT\(code < format.largest, code, format.largest\)/code/'
mutant "rotq: each rank has its own signs" compressors/rotq.c rotq:rotq \
    's/tacit__stream\(&block->key, true\)/tacit__stream(\&block->key, false)/'
mutant "rotq: no signs" compressors/rotq.c rotq:rotq \
    's/TACIT_SIGNS\(signs\[i \/ 32\], j\)/0u/'
mutant "rotq: nothing is rotated" compressors/rotq.c rotq:rotq \
    's/tacit__hadamard\(isa, (\w+), (\w+)\)/memcpy(\2, \1, BLOCK * sizeof(float))/'
mutant "rotq: the scale is that of the noise, not of the levels" compressors/rotq.c rotq:rotq \
    's/tacit__rotq_scale\(.*/record->unit \/ 16;/'
mutant "rotq: borders at the levels" compressors/rotq.c rotq:rotq \
    's/\(magnitudes\[m - 1\] \+ magnitudes\[m\]\) \* 0.5f/magnitudes[m]/'
mutant "spec: slots take what is for tokens" libcomm/spec.c spec:spec 's/if \(spec\.compressor->tokens\)/if (false)/'
mutant "spec: feedback around tokens" libcomm/spec.c spec:spec 's/spec->compressor->tokens && spec->feedback != NULL/false/'
mutant "lsh: opposite tokens are alike" compressors/lsh.c lsh:lsh 's/v\[i \+ j\] < 0 \? padded : 0/0/'
mutant "lsh: of axes that are as near, another" compressors/lsh.c lsh:lsh \
    's/nearest\[j\] != 0/nearest[7 - j] != 0 \&\& (j = 7 - j, true)/'
mutant "lsh: equal places are equal codes" compressors/lsh.c lsh:lsh 's/memcmp\(own .* == 0\)/true)/'
mutant "lsh: tokens of two groups are alike" compressors/lsh.c lsh:lsh 's/\(before == NULL \|\| before\[other\] == old\)/true/'
mutant "lsh: the rate is passed once" compressors/lsh.c lsh:lsh 's/\(double\)pieces \//(double)count \//'
mutant "lsh: no hash where one is too many" compressors/lsh.c lsh:lsh 's/hashes > 0 && \(double\)pieces/(double)pieces/'
mutant "lsh: first tokens are those of a split not taken" compressors/lsh.c lsh:lsh 's/^        first\[of\[t\]\] = .*//'
mutant "lsh: some hashes have all hashes' signs" compressors/lsh.c lsh:lsh 's/^    some.signs \+= .*//'
mutant "lsh: codes of some hashes lie side by side" compressors/lsh.c lsh:lsh 's/out\[rotations->stride/out[rotations->hashes/'
unchanged moe:moe moe_lsh:moe_lsh moe_faults:moe_faults moe_rows:moe_rows moe_comm:moe_comm
mutant "moe: a call that ranks disagree on counts as a pass" libcomm/moe_comm.c moe_comm:moe_comm \
    's/moe->passes = number;/(void)number;/'
mutant "moe: blocks of any size" libcomm/moe_comm.c moe_comm:moe_comm \
    's/mine = tacit__alltoall_check\(/(void)tacit__alltoall_check(/'
mutant "moe: what a token has beyond its row counts twice" libcomm/moe_rows.c moe_rows:moe_rows \
    's/- \(centroid\[i\]/- 2 * (centroid[i]/'
mutant "moe: a reply loses its sign where it is zero" libcomm/moe_rows.c moe_rows:moe_rows \
    's/- \(centroid\[i\] - token\[i\]\)/+ (token[i] - centroid[i])/'
mutant "moe: rows are sums" libcomm/moe_rows.c moe_rows:moe_rows 's/row\[i\] \/= members/row[i] \/= 1/'
mutant "moe: gradients keep back the sum, not the mean" libcomm/moe_rows.c moe_rows:moe_rows 's/\(sum\[i\] \/ members/(sum[i]/'
mutant "moe: each token gets the gradient of its whole row" libcomm/moe_rows.c moe_rows:moe_rows \
    's/reply\[i\] \/ members -/reply[i] -/'
mutant "moe: products of a long row are those of its last block" libcomm/moe_rows.c moe_rows:moe_rows \
    's/total \+= \(double\)/total = (double)/'
mutant "moe: one of a row's experts has a gradient for it" libcomm/moe_cpu.c moe:moe \
    's/i == arrival->first_reply\[row\]\)/true)/'
mutant "moe: one of a row's gradients goes past experts" libcomm/moe_cpu.c moe:moe 's/i == reply\[0\]\)/true)/'
mutant "moe: weights count twice" libcomm/moe_cpu.c moe:moe \
    's/\(sum, weights\[at\], /(sum, weights[at] * weights[at], /'
mutant "moe: gradients of replies without weights" libcomm/moe_cpu.c moe:moe \
    's/\(sum, weight_of\(pass, token, reply\), /(sum, 1, /'
mutant "moe: the own rows come in another order" libcomm/moe_cpu.c moe:moe \
    's/first_row\[r\] \+ row\]\]/first_row[r] + arrival->rows - 1 - row]]/'
mutant "moe: own tokens have something beyond their rows" libcomm/moe_cpu.c moe:moe \
    's/^    return row >= first\[0\] .*/    return false;/'
mutant "moe: a row is what was sent, not what has come" libcomm/moe_pass.c moe:moe 's/^    parcel.decoded = .*//'
mutant "moe: gradients of ranks from the last to the first" libcomm/moe_cpu.c moe:moe \
    's/rows\[place\] < row\)/rows[place] > row)/'
mutant "moe: clusters of tokens for other experts" libcomm/moe_layout.c moe:moe \
    's/\.groups = groups,/.groups = NULL,/'
mutant "moe: clusters however little they save" libcomm/moe_layout.c "moe:moe moe_lsh:moe_lsh" \
    's/LEAST_SAVED < tokens/LEAST_SAVED < 0/'
mutant "moe: hashes are made once, though more of them keep the rate" libcomm/moe_layout.c moe:moe \
    's/while \(clusters.hashes == .*/while (false) {/'
mutant "moe: hashes are made twice at most" libcomm/moe_layout.c moe:moe \
    's/while \(clusters.hashes == /if (clusters.hashes == /'
mutant "moe: later hashes are the first ones" libcomm/moe_layout.c moe:moe \
    's/tacit__lsh_some\(&moe->rotations, draft->hashes,/tacit__lsh_some(\&moe->rotations, 0,/'
mutant "moe: choices go in the order in which they are given" libcomm/moe_layout.c moe:moe \
    's/list\[end\[draft->experts\[i\]\]\+\+\]/list[end[0]++]/'
mutant "moe: a token may go to an expert twice" libcomm/moe_layout.c moe_faults:moe_faults \
    's/seen\[expert\] != token \+ 1/true/'
mutant "moe: two tokens may not go to one expert" libcomm/moe_layout.c moe:moe 's/seen\[expert\] != token \+ 1/seen[expert] == 0/'
mutant "moe: one token more than the capacity" libcomm/moe_layout.c moe:moe \
    's/taken\[experts\[i\]\] == capacity/taken[experts[i]] > capacity/'
mutant "moe: experts of a row in any order" libcomm/moe_layout.c moe_faults:moe_faults \
    's/&& expert <= arrival->expert\[i - 1\]/\&\& false/'
mutant "moe: any number of rows for an expert" libcomm/moe_layout.c moe_faults:moe_faults \
    's/\+\+counts\[expert\] > limit/false/'
mutant "moe: any number of rows" libcomm/moe_layout.c moe_faults:moe_faults \
    's/arrival->rows > rows_bound\(moe\) \|\|/false \&\&/'
mutant "moe: a message of another pass" libcomm/moe_message.c moe_faults:moe_faults \
    's/frame_out->step != own.step \|\| //'
[ ! -f "$build/tests/gpu/moe_emulated" ] || unchanged moe_gpu:results moe_gpu:calls
moe_mutant "a row is what was sent, not what has come" libcomm/moe_gpu.c results \
    's/pass->moe->residual && !tacit__values_are_exact\(&pass->values\)/false/'
moe_mutant "the own replies are where others' are" libcomm/moe_gpu.c results \
    's/pass->incoming_there\[TACIT_MOE_COMBINE\], home\)/pass->incoming_there[TACIT_MOE_COMBINE], 0 * home)/'
moe_mutant "own rows are tokens in their order" libcomm/moe_gpu.c results \
    's/: sent->members\[sent->first_member\[sent->first_row\[r\] \+ row\]\]/: (uint32_t)row/'
moe_mutant "gradients of replies without weights" libcomm/moe_gpu.c results 's/\.weights = pass->weights/.weights = NULL/'
moe_mutant "gradients that stay are as those that leave" libcomm/moe_gpu.c results \
    's/gradients, false, others\.own/gradients, true, others.own/'
moe_mutant "one of a row's experts has a gradient for it" libcomm/moe_gpu.c results \
    's/\(arrival->reply0 \+ arrival->first_reply\[row\]\)/(arrival->reply0 + arrival->first_reply[row + 1] - 1)/'
moe_mutant "what tokens have beyond their rows is all of them" libcomm/moe_gpu.c results \
    's/squares\[2 \* i \+ 1\]/squares[2 * i]/'
moe_mutant "what the own rank keeps is measured" libcomm/moe_gpu.c results \
    's/\{\{0, own\.first\}, \{end, all - end\}\}/{{0, end}, {end, all - end}}/'
moe_mutant "means may be infinite" libcomm/moe_gpu.c results \
    's/!moe->clusters \|\| moe->nonfinite != TACIT_NONFINITE_ERROR/true/'
moe_mutant "a fault is of another rank" libcomm/moe_gpu.c results 's/<= reply\)/< reply)/'
moe_mutant "tokens that stay must be finite" libcomm/moe_layout.c results 's/ && leaves\(pass, draft->experts, t\)//'
moe_mutant "nobody waits" libcomm/moe_device.c results 's/while \(error == 0 && !reached\)/while (false)/'
moe_mutant "what stays is copied, too" libcomm/moe_gpu.c calls \
    's/copied\(pass, row_at\(pass, to, part.first\), .*/copied(pass, to, from, (others->own.count + 1) * pass->moe->row_bytes));/'
moe_mutant "each pass has memory of its own" libcomm/moe_device.c calls 's/block->next = device->spare;/block->room = 7; &/'
moe_mutant "a pass keeps its memory" libcomm/moe_gpu.c calls 's/tacit__moe_put\(pass->moe, pass->numbers->sent\.first_reply\);//'
moe_mutant "any GPU will do" libcomm/moe_device.c calls 's/gpu != device->gpu/false/'
moe_mutant "captures see it" libcomm/moe_device.c calls 's/if \(capturing\)/if (false)/'
moe_mutant "the default stream will do" libcomm/moe_device.c calls 's/moe->comm->stream : moe->device->stream/NULL : NULL/'
moe_mutant "a GPU that is late is forgiven" libcomm/moe_device.c calls 's/TACIT_ERR_TIMEOUT, "rank/TACIT_ERR_DEVICE, "rank/'
moe_mutant "ranks go on without one" libcomm/moe_comm.c calls 's/tacit__comm_break\(moe->comm\)/(void)moe/'
mutant "qsgd: the worst case is taken for the usual one" compressors/qsgd.c qsgd:qsgd \
    's/^    return 1 - \(1 - 2 \/ n\).*/    return fmax(0, 1 - n \/ (2 * top * top));/'
mutant "qsgd: what is lost at random counts as lost to the nearest" compressors/qsgd.c qsgd:qsgd \
    's/1.0 \/ 12 : 1.0 \/ 6/1.0 \/ 12 : 1.0 \/ 12/'
mutant "qsgd: all places within a wide unit count alike" compressors/qsgd.c qsgd:qsgd \
    's/ \+ midway\)/)/'
mutant "powersgd: each rank draws its own Q" compressors/powersgd.c powersgd:powersgd \
    's/tacit__stream\(&block->key, true\)/tacit__stream(\&block->key, false)/'
mutant "powersgd: P is not orthonormal" compressors/powersgd.c powersgd:powersgd \
    's/orthonormalize\(factors\[0\], .*/;/'
mutant "powersgd: vectors are made orthogonal once" compressors/powersgd.c powersgd:powersgd \
    's/l < 2 \* k/l < k/'
mutant "powersgd: every step begins anew" compressors/powersgd.c powersgd:powersgd \
    's/memcpy\(work, factors\[1\], .*/memset(work, 0, matrix.rank * matrix.columns * sizeof *work);/'
mutant "powersgd: half as large is small enough" compressors/powersgd.c powersgd:powersgd \
    's/\* config->rate < \(double\)/* config->rate <= (double)/'
mutant "powersgd: vectors of nothing but roundings are kept" compressors/powersgd.c powersgd:powersgd \
    's/norm <= before \* 0x1p-20/norm < 0/'
mutant "powersgd: packed memory stays unpacked after a fault" libcomm/schedules/linear.c powersgd:powersgd \
    's/tacit__codec_collapse\(leg->items\[i\]->codec\);/;/'
mutant "powersgd: the bytes of factors are not counted" libcomm/schedules/linear.c counters:counters \
    's/->sent_bytes \+= round->items/->sent_bytes += 0 * round->items/'
mutant "powersgd: what the global projection leaves is kept" libcomm/schedules/linear.c powersgd:powersgd \
    's/^ *tacit__codec_rebuilt\(.*/(void)picked;/
     s/^ *pick_factors\(item, &linear->factors\[i\], false, picked\);/& \
        tacit__codec_rebuilt(item->codec, item->step, item->in, linear->factors[i].a, picked);/'
mutant "undo does nothing" optim/feedback/ef.c collective:nonfinite \
    's/residual\[i\] = \(residual\[i\] \+ d\[i\]\) - in\[i\];/(void)residual, (void)in, (void)d;/'
mutant "undo of sparse entries does nothing" libcomm/codec_whole.c "collective:nonfinite group:group codec:memory" \
    's/^ *a\[entries->indices\[i\]\] \+= entries->values\[i\];/;/'
mutant "no steps for rounding up" optim/lgreco_plan.c lgreco_plan:plan \
    's/\.capacity = STEPS \+ layers/.capacity = STEPS/'
mutant "more error than the budget is planned" optim/lgreco_plan.c lgreco:plans \
    's/\.capacity = STEPS \+ layers/.capacity = 2 * STEPS/'
mutant "a plan of more bytes than the uniform one" optim/lgreco_plan.c lgreco:plans \
    's/better = total < least\[b\]/better = least[b] == INFINITY || total > least[b]/'
mutant "nothing fits, and an option is taken" optim/lgreco_plan.c lgreco_plan:plan \
    's/!isfinite\(least\[b\]\)/false/'
mutant "an error above the budget counts as the budget" optim/lgreco_plan.c lgreco_plan:plan \
    's/: table->capacity \+ 1;/: table->capacity;/'
mutant "errors rounded down" optim/lgreco_plan.c lgreco_plan:plan \
    's/ceil\(ldexp/floor(ldexp/'
mutant "errors are rank 0's alone" optim/lgreco_choose.c lgreco_choose:choose \
    's/const float \*at = rank_0 \+ .*/const float *at = rank_0;/'
mutant "time does not count" optim/lgreco_choose.c lgreco_choose:choose \
    's/^( *)tacit__plan_is_timed\(lgreco\) \? plan->bytes.*/\1plan->bytes[cell];/'
mutant "measured seconds do not count" optim/lgreco_choose.c lgreco_choose:choose \
    's/seconds \+= tacit__plan_is_timed\(lgreco\)/seconds += false/'
mutant "Accordion the other way round" optim/lgreco_choose.c lgreco_choose:choose \
    's/change < accordion_threshold/change >= accordion_threshold/'
mutant "Accordion is ignored" optim/lgreco_choose.c lgreco_choose:choose \
    's/lgreco->config.accordion\)/false)/'
mutant "a plan is not applied to one slot" optim/lgreco.c lgreco:plans \
    's/^ *tacit__slot_adopt\(lgreco->layers/        if (i != 1) &/'
mutant "a plan takes specs for those of the last one" optim/lgreco.c lgreco:plans \
    's/^static tacit_status_t apply/static _Thread_local size_t last[9];\n&/
     s/^ *tacit__slot_adopt\(lgreco->layers/if (last[i] != plan->choices[i] + 1 \&\& (last[i] = plan->choices[i] + 1)) &/'
mutant "Accordion does not see the norms of plans" optim/lgreco.c lgreco:plans \
    's/^ *lgreco->layers\[i\].norm_before = plan.*//'
mutant "an error at the plan is one rank's" optim/lgreco.c lgreco:errors \
    's/&& \(common \|\| !last\)\)/)/'
mutant "an error at the plan is forgotten" optim/lgreco.c lgreco:errors \
    's/make_plan\(lgreco, mine\)/make_plan(lgreco, TACIT_OK)/'
mutant "memory is not gathered" optim/lgreco_layer.c lgreco_layer:layer \
    's/a = encoded;/(void)encoded;/'
mutant "gathering writes to memory" optim/lgreco_layer.c lgreco_layer:layer \
    's/state\.next\[array\] = scratch\[array\];/\n\
        codec->memory.now[array] != NULL ? codec->memory.now[array] + first : scratch[array];/'
mutant "what was gathered is not loaded" optim/lgreco_file.c lgreco:plans \
    's/memcpy\(to->sum, values,/memset(to->sum, 0,/'
mutant "Accordion forgets norms" optim/lgreco_file.c lgreco:plans \
    's/layer->norm_before = from->norm_before/layer->norm_before = 0/'
mutant "ranks may load other choices" optim/lgreco_file.c lgreco_file:file \
    's/tacit__hash\(tacit__hash\(hash, &choice, sizeof choice\)/tacit__hash((uint64_t)(0 * choice) + hash/'
mutant "ranks may load other counts" optim/lgreco_file.c lgreco_file:file \
    's/TACIT_HASH_START, &counted, sizeof counted/TACIT_HASH_START, "", (size_t)(0 * counted)/'
mutant "a choice past the options is loaded" optim/lgreco_file.c lgreco_file:file \
    's/choice > layer->option_count \|\| //'
mutant "memory of another plan counts as damaged" libcomm/checkpoint.c lgreco_file:file \
    's/work == codec->work_count/true/'
mutant "sums that are missing are not missed" optim/lgreco_file.c lgreco_file:file \
    's/count != \(is_gathering/count > (is_gathering/'

mutant "top-k: ties by higher index" compressors/topk_select.c "topk:topk topk_select:topk_select" \
    's/ties \&= ~\(UINT64_C.*/ties \&= ties - 1;/'
mutant "top-k: a guess of the threshold that is too high stands" compressors/topk_select.c topk_select:topk_select \
    's/if \(from < selection->guess\)/if (false)/'
mutant "top-k: what was taken too early is lost" compressors/topk_select.c topk_select:topk_select \
    's/put_group\(a, \&puts, group, indices, taken.*/;/'
mutant "top-k: what was taken is lost where all goes through again" compressors/topk_select.c topk:topk \
    's/^    tacit__selection_put_back\(selection\);/    selection->taken_from = SIZE_MAX; \
        selection->sieve.sure = TACIT_SURE_NONE;/'
mutant "top-k: taken, and smaller than what stays" compressors/topk_select.c topk_select:topk_select \
    's/selection->foretold > sieve->least \? selection->foretold : sieve->least/selection->foretold/'
mutant "top-k: what was taken before a NaN is lost" libcomm/codec_whole.c topk:topk \
    's/^ +tacit__selection_put_back\(selection\);/;/'
mutant "top-k: what was taken is not given back" libcomm/codec_whole.c topk:topk \
    's/^ +tacit__selection_put_back\(codec->selection\);/;/'
mutant "top-k: too many in a sample are cut by index" compressors/topk_select.c topk_select:topk_select \
    's/cut\(selection, least, equal, true\)/sieve->used = selection->keep, cut(selection, from, sieve->used, true)/'
mutant "top-k: a threshold that finds too few stands" compressors/topk_select.c topk_select:topk_select \
    's/above >= enough/true/'
mutant "top-k: even strides" compressors/topk_select.c topk_select:topk_select \
    's/\* 32 \+ 1;/* 32;/'
mutant "top-k: zeros are sent" compressors/topk_select.c "topk:topk topk_select:topk_select" \
    's/selection->threshold > 1 \? selection->threshold : 1;/selection->threshold;/
     s/sieve->least = 1;/sieve->least = 0;/'
mutant "top-k: every run of 65535 is an escape" compressors/topk.c topk_index:topk_index \
    's/run == TACIT_INDEX_ESCAPE \&\& tacit__float_bits\(value\) == 0/run == TACIT_INDEX_ESCAPE/'
mutant "top-k: an entry that is rounded to 0 is an escape" compressors/topk.c topk_index:topk_index \
    's/half = 0x8000;.*/;/'
mutant "top-k: what float16 rounds to 0 is chosen" compressors/topk.c dgc:dgc \
    's/if \(finished \&\& .*/if (false) {/'
mutant "top-k: the smallest float16 is not chosen" compressors/topk.c topk:topk \
    's/0x7bff\) \& 0x7fff\) != 0/0x7bff) \& 0x7fff) > 1/'
mutant "top-k: not the best Rice parameter" compressors/topk_index.c topk_index:topk_index \
    's/while \(rice > 0 \&\& .*/while (false) {/'
mutant "top-k: a Rice code may go on behind its entries" compressors/topk_index.c "topk:topk" \
    's/return bits\.at == bits\.end.*/return true;/'
mutant "top-k: the longest coding" compressors/topk.c topk:topk \
    's/pairs <= least\) \{/pairs >= least || least == SIZE_MAX) {/'

mutant "dgc: masking off" optim/feedback/dgc.c dgc:dgc \
    's/return config->masking \&\& !config->complete;/return false;/'
mutant "dgc: masking where everything is sent" optim/feedback/dgc.c dgc:dgc \
    's/return config->masking \&\& !config->complete;/return config->masking;/'
mutant "dgc: mask of the union of all ranks' elements" optim/feedback/dgc.c dgc:dgc \
    's|^/\* ---- Tensors that stay dense.*|static void mask_union(const tacit_state_t *state, size_t first, size_t count, \
            const float *mean, float *out) { (void)out; \
        for (size_t i = 0; i < count; i++) if (mean[i] != 0) state->next[MOMENTUM][first + i] = 0; } \
&|
     s/\.unsent = unsent,/& .combine = mask_union,/'
mutant "dgc: momentum after instead of before" optim/feedback/dgc.c dgc:dgc \
    's|^/\* ---- The tables.*|static void after_all(const tacit_state_t *state, size_t first, size_t count, \
            const float *mean, float *out) { dense_combine(state, first, count, mean, out); } \
&|
     s/\.unsent = unsent,/& .combine = after_all,/
     s/moved = mu \* u\[i\] \+ in\[i\], sum/moved = in[i], sum/
     s/next\[i\] = isfinite\(sum\) \? moved : u\[i\]/next[i] = u[i]/'
mutant "dgc: what float16 rounds away is forgotten" libcomm/codec_whole.c dgc:dgc \
    's/a\[entries->indices\[i\]\] -= entries->values\[i\];/a[entries->indices[i]] = 0;/'
mutant "dgc: Nesterov's sum in the other order" optim/feedback/dgc.c dgc:dgc \
    's/sum = \(v\[i\] \+ moved\) \+ in\[i\]/sum = (v[i] + in[i]) + moved/'
mutant "dgc: what is masked is not restored" optim/feedback/dgc.c dgc:dgc \
    's/u\[indices\[i\]\] = kept\[i\];/(void)kept;/'
mutant "dgc: momentum of each rank in dense tensors" optim/feedback/dgc.c dgc:dgc \
    's/mu \* \(u\[i\] \+ mean\[i\]\) : mu \* u\[i\] \+ mean\[i\];/mu * mean[i] : mean[i];/'

mutant "econtrol: h before e" optim/feedback/econtrol.c econtrol:examples \
    's/next_e\[i\] = e\[i\] \+ \(\(in\[i\] - old\) - d\[i\]\)/next_e[i] = e[i] + ((in[i] - (old + d[i])) - d[i])/'
mutant "econtrol: eta ignored" optim/feedback/econtrol.c econtrol:examples \
    's/fed_back = eta \* e\[i\]/fed_back = e[i]/'
mutant "econtrol: what was meant instead of what was decoded" optim/feedback/econtrol.c econtrol:invariants \
    's/next_h\[i\] = old \+ d\[i\]/next_h[i] = old + a[i]/'
mutant "econtrol: error scaled by 1/2" optim/feedback/econtrol.c econtrol:examples \
    's/next_e\[i\] = e\[i\] \+ (.*);/next_e[i] = 0.5f * (e[i] + \1);/'
mutant "trackers: hbar not accumulated" libcomm/codec_block.c "econtrol:examples ef21:examples" \
    's/codec->feedback->combine\(&codec->memory.*/&  \
        memset(codec->memory.next[codec->feedback->tracker] + first, 0, count * sizeof(float));/'
mutant "trackers: an owner that forgets what it kept back" libcomm/codec_block.c econtrol:invariants \
    's/return (codec->kernels->encode_ef\(block, &ef, payload, &done\));/faults = \1; \
        memset(ef.next, 0, done * sizeof(float)); return faults;/'
mutant "ef21: what was meant instead of what was decoded" optim/feedback/ef21.c ef21:examples \
    's/next\[i\] = h\[i\] \+ d\[i\]/next[i] = h[i] + a[i]/'
mutant "ef21: weights exchanged" optim/feedback/ef21.c ef21:examples \
    's/kept = \(1 - weight\) \* now\[i\], added = weight/kept = weight * now[i], added = (1 - weight)/'
mutant "ef21: a dense start that does not teach h" optim/feedback/ef21.c ef21:starts \
    's/memcpy\(state->next\[TRACKER\] \+ first, in/memset(state->next[TRACKER] + first, 0/'
mutant "trackers keep the units of the last operator" libcomm/codec_memory.c trackers:ranks \
    's/codec->memory.now\[codec->feedback->tracker\]\[i\] \*= factor;/(void)factor;/'
mutant "trackers: an element that is not finite forgotten by hbar alone" libcomm/codec_block.c trackers:memory \
    's/tacit__memory_forget\(codec, first \+ i\);/codec->memory.next[codec->feedback->tracker][first + i] = 0;/'
mutant "packed memory rounded to the nearest" libcomm/packed.c precision:memory \
    's/random\[i\] = tacit__packed_random.*/random[i] = 0x8000 + 0 * words[i % 4];/'
mutant "packed memory rounded down" libcomm/packed.c precision:packing \
    's/random\[i\] = tacit__packed_random.*/random[i] = 0 * words[i % 4];/'
mutant "int8: a scale too coarse" libcomm/packed.c precision:packing \
    's/= tacit__packed_scale\(largest\)/= tacit__packed_scale(largest | 0x7fffffu)/'
mutant "a rescaled memory that stays" libcomm/slot.c precision:rescaling \
    's/scale\(codec->a, units, factor\);/(void)factor;/'
mutant "an owner around trackers rescaled" libcomm/slot.c precision:rescaling \
    's/if \(codec->feedback->combine == NULL\)/if (1)/'

mutant "sgd: momentum twice with dgc" optim/optimizers/sgd.c sgd:sgd \
    's/notes->owned = codec->feedback != NULL;/notes->owned = false;/'
mutant "sgd: the other convention of clipping" optim/optimizers/sgd.c sgd:sgd \
    's/TACIT_CLIP_SUM : TACIT_CLIP_MEAN/TACIT_CLIP_MEAN : TACIT_CLIP_SUM/'
mutant "optimizers: clipped after the feedback" optim/optimizer.c "sgd:sgd" \
    's/remembers = remembers \|\| .*/;/'
mutant "adam: clipped after the feedback" optim/optimizer.c adam:adam \
    's/remembers = remembers \|\| .*/;/'
mutant "optimizers: results clipped again" optim/optimizer.c "sgd:sgd adam:adam" \
    's/\(any_remembers\(optim\) \? clip_nothing/(false ? clip_nothing/'
mutant "sgd: the warm-up of the density goes on" optim/optimizers/sgd.c sgd:sgd \
    's/optim->steps > entries \* entry_steps/false/'
mutant "sgd: densities of all digits" optim/optimizers/sgd.c sgd:sgd \
    's/fmax\(rint\(density \* unit\) \/ unit, final\)/density/'
mutant "sgd: memory not rescaled" optim/optimizers/sgd.c sgd:sgd \
    's/tacit__optim_rescale\(optim, factor\)/TACIT_OK/'
mutant "sgd: a rescaled rate forgotten" optim/optimizers/sgd.c sgd:sgd \
    's/optim->numbers\[LAST_RATE\] = step->rate > 0.*/;/'
mutant "sgd: decay without a momentum of its own" optim/optimizers/sgd.c sgd:sgd \
    's/(buffer\[i\] =) by.momentum \* buffer\[i\] \+ by.decay/\1 by.decay/'
mutant "onebit-adam: variance not frozen" optim/optimizers/onebit_adam.c onebit_adam:onebit_adam \
    '/^static void apply\(/,/^}/ s/^    if \(!tacit__stages_frozen/ \
         for (size_t k = 0; tacit__stages_frozen(optim) \&\& k < 1; k++) { optim->tensors[0].array[V][k] *= 0.999f; }\n&/'
mutant "onebit-adam: first gradient dropped" optim/optimizers/onebit_adam.c onebit_adam:onebit_adam \
    '/^static void apply_dense/,/^}/ s/tacit__optim_clip_reduced\(optim\);/if (optim->steps == 0) return; &/'
mutant "onebit-adam: gradients travel instead of moments" optim/stages.c onebit_adam:onebit_adam \
    's/tacit__adam_first\(adam, m, g\)/g/'
mutant "onebit-adam: updates without a limit" optim/stages.c onebit_adam:onebit_adam \
    's/return tacit__adam_limited\(adam, (.*), v\);/(void)v; return \1;/'
mutant "onebit-adam: mask ignored" optim/stages.c onebit_adam:onebit_adam \
    's/if \(active == tensor->count\)/if (true)/'
mutant "onebit-adam: sent in units of the moment" optim/stages.c onebit_adam:onebit_adam \
    's/( moments =) config->moments_travel/\1 1 + config->moments_travel/'
mutant "onebit-adam: correction of v goes on" optim/stages.c onebit_adam:onebit_adam \
    's/\(uint64_t\)optim->numbers\[FROZEN_AT\]\);/optim->steps + 1);/'
mutant "onebit-adam: each rank clips by its own factor" optim/optimizer.c onebit_adam:onebit_adam \
    '/^tacit_status_t tacit__optim_clip_local/,/^}/ s/TRY\(tacit__optim_reduce.*/optim->item_count = 0;/'

if [ -f "${transformer_objects%% *}" ]; then # it needs a BLAS
    mutant "transformer: a position sees the next one" examples/transformer.c transformer:transformer \
        '/^static void causal_softmax\(/,/^}/ s/j <= i;/j <= i + (i + 1 < context);/'
    mutant "transformer: embeddings learn as weights of the softmax only" examples/transformer.c transformer:transformer \
        's/add\(embedding->gradients.*/;/'
    mutant "transformer: no gradient through the norm's deviation" examples/transformer.c transformer:transformer \
        's/along \+= .*/;/'
    mutant "transformer: the softmax's gradient without its sum" examples/transformer.c transformer:transformer \
        's/weight\[j\] \* \(delta\[j\] - sum\)/weight[j] * delta[j]/'
    mutant "transformer: GELU's slope without the cube" examples/transformer.c transformer:transformer \
        's/\(1.0f \+ 3.0f \* 0.044715f \* x \* x\)/1.0f/'
    mutant "transformer: positions forgotten" examples/transformer.c transformer:transformer \
        's/of_symbol\[j\] \+ of_position\[j\]/of_symbol[j] + 0.0f * of_position[j]/'
    mutant "experts: gradients are those of all ranks' sum" examples/experts.c experts:experts \
        's/\/= \(float\)experts->shape.ranks/\/= 1.0f/'
    mutant "experts: weights have their gradients one by one" examples/experts.c experts:experts 's/along \+= weights.*/;/'
    mutant "experts: weights are not divided by their sum" examples/experts.c experts:experts \
        's/(weights\[j\] = row\[chosen\[j\]\]) \/ sum/(void)sum; \1/'
    mutant "experts: the balance is each rank's own" examples/experts.c experts:experts 's/experts->sum\(counts, all\);/;/'
    mutant "experts: nothing comes back past an expert" examples/experts.c experts:experts 's/add\(row_deltas, .*/;/'
fi
if [ -f "$build/tests/gpu/trainer_emulated.o" ]; then
    kernel_mutant "gpu: embeddings learn as weights of the softmax only" examples/gpu_transformer.cu transformer:all \
        's/marks, rows, 1\.0f/marks, 0, 1.0f/'
    kernel_mutant "gpu: the last rows of strips are in no sum" examples/gpu_transformer.cu transformer:all \
        's/i < rows \* \(strip \+ 1\) \/ strips/i < rows \/ strips * (strip + 1)/'
    kernel_mutant "gpu: a position sees the next one" examples/gpu_transformer.cu transformer:all \
        's/end = row % context \+ 1/end = row % context + 2/'
    kernel_mutant "gpu: nothing goes past a block" examples/gpu_transformer.cu transformer:all \
        's/beside != nullptr \? sum \+ beside\[at\]/beside != nullptr ? sum/'
    kernel_mutant "gpu: the old momentum moves" examples/gpu_module.cu transformer:all \
        's/by\.nesterov \? fresh \+ by.momentum \* moved/by.nesterov ? fresh + by.momentum * buffer[i]/'
    mutant "gpu: momentum upon momentum" examples/gpu_optimizer.c gpu:all 's/optimizer\.owned = .*;/optimizer.owned = false;/'
    mutant "gpu: moments are a step ahead" examples/gpu_optimizer.c gpu:all 's/beta2, steps \+ 1/beta2, steps + 2/'
fi

mutant "zeroone-adam: values go back to within rounding" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/first \? step->values\[i\] : tensor->array\[BASE\]/step->values[i]/'
mutant "zeroone-adam: memory not converted" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/TRY\(convert\(optim, worth.*/;/'
mutant "zeroone-adam: local steps without a limit" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/return tacit__adam_limited\(adam, (.*), v\);/(void)v; return \1;/'
mutant "zeroone-adam: gradients without a limit" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/tacit__adam_within\(most, (.*)\) : 0.0f;/\1 : 0.0f;/'
mutant "zeroone-adam: messages at rates of 0" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    '/^static bool is_idle/,/^}/ s/return is_frozen/return false \&\& is_frozen/'
mutant "zeroone-adam: ranks part at rates of 0" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    '/^static bool is_idle/,/^}/ s/return is_frozen\(optim\)/& \&\& !is_local(optim)/'
mutant "zeroone-adam: ranks part for what may be too little" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/worth\(optim, rate, \(double\)config->local_steps\)/worth(optim, rate, optim->numbers[LOCAL] + 1)/'
mutant "zeroone-adam: a feedback that tracks" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/TRY\(check_feedback\(.*//'
mutant "zeroone-adam: steps without a message count as meetings" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/return numbers\[LOCAL\] > 0;/return false;/'
mutant "zeroone-adam: not clipped when frozen" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/add_up\(adam, \(float\)optim->factors\[i\]/add_up(adam, 1.0f/'
mutant "zeroone-adam: not clipped when compressed" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    '/^static void divide/,/^}/ s/factor \* g\[i\]/g[i]/'
mutant "zeroone-adam: silent elements move" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    '/^static void move_first/,/^}/ s/if \(v\[i\] != 0\)/if (true)/'
mutant "zeroone-adam: silent elements move when frozen" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/w\[i\] = v\[i\] != 0 \? from\[i\]/w[i] = true ? from[i]/'
mutant "zeroone-adam: NaN in a local step" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/if \(!any && /if (false \&\& /'
mutant "optimizers: one tensor's norm for all" optim/optimizer.c zeroone_adam:zeroone_adam \
    's/optim->norms\[clipping->scope == 0 \? 0 : i\]/optim->norms[0]/'
mutant "optimizers: memory half rescaled" optim/optimizer.c optimizer:optimizer \
    's/for \(tacit_status_t back = TACIT_OK; back == TACIT_OK/for (tacit_status_t back = TACIT_OK; false/'
mutant "optimizers: a state without its slots" optim/optimizer_file.c optimizer_file:optimizer_file \
    '/make_slots\(optim\);/,/^}/ s/if \(status != TACIT_OK\) \{/if (false) {/'
mutant "two stages: slots of another mask" optim/stages.c optimizer_file:optimizer_file \
    's/before != NULL && strcmp\(before->codec->name, name\) == 0/before != NULL/'
mutant "two stages: names without room" optim/stages.c onebit_adam:onebit_adam \
    's/return bytes <= most \?/return true ?/'
mutant "optimizers: files of two runs" optim/optimizer_file.c optimizer_file:optimizer_file \
    's/mine == TACIT_OK \? hash_common\(optim, &loaded\) : 0/UINT64_C(0)/'
mutant "optimizers: only the numbers of files are compared" optim/optimizer_file.c optimizer_file:optimizer_file \
    's/hash = tacit__hash\(hash, tensor->array.*/;/'
mutant "optimizers: impossible numbers in files" optim/optimizer_file.c optimizer_file:optimizer_file \
    's/good && !\(number < 0\) \?/true ?/'
mutant "optimizers: counts above the steps in files" optim/optimizer_file.c optimizer_file:optimizer_file \
    's/ && number <= \(double\)\*steps//'
mutant "zeroone-adam: intervals do not grow" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/optim->numbers\[UPDATES\] \+= dense;/optim->numbers[UPDATES] = dense ? 1 : 1;/'
mutant "zeroone-adam: the last moment instead of the mean one" optim/optimizers/zeroone_adam.c zeroone_adam:zeroone_adam \
    's/m\[i\] = back \* \(mean.*//'

mutant "two stages: loading makes slots that were not there" optim/stages.c onebit_adam:onebit_adam \
    's/optim->numbers\[SETTLED\] > 0 \?/tacit__stages_frozen(optim) ?/'
mutant "onebit-lamb: fresh variance not updated" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/fresh\[i\] = tacit__adam_second\(&adam, fresh\[i\], gradient\)/(void)gradient/'
mutant "onebit-lamb: ratio not frozen" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    '/^static void apply_frozen/,/^}/ s/tensor->numbers\[FACTOR\] = factor_of.*/tensor->numbers[RATIO] = \
         ratio_of(config, tensor, w);\n&/'
mutant "onebit-lamb: the last ratio instead of the mean one" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/return before == 0 .*/return ratio > 0 ? ratio : before;/'
mutant "onebit-lamb: correction not limited" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/clamp\((highest \* part .*), config->factor_min, config->factor_max\)/\1/'
mutant "onebit-lamb: longer steps than LAMB's" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/return most > 0 .*/return ratio;/'
mutant "onebit-lamb: correction changes at once" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/return clamp\(factor, last.*/return factor;/'
mutant "onebit-lamb: decay corrected too" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/return before < after .*/return 1.0;/'
mutant "onebit-lamb: gradients of moments that did not travel" optim/optimizers/onebit_lamb.c onebit_lamb:onebit_lamb \
    's/back \* \(moment - adam.beta1 \* m\[i\]\)/moment/'
mutant "onebit-lamb: elements side by side where they do not belong" optim/stages.c onebit_lamb:onebit_lamb \
    's/v\[j\] != 0 \? work\[--next\] : 0.0f/work[j]/'
mutant "onebit-lamb: correction not loaded" optim/optimizer_file.c onebit_lamb:onebit_lamb \
    's/memcpy\(optim->tensors\[i\].numbers, loaded.*/;/'

mutant "loaded memory is taken to be zero" libcomm/codec_memory.c own:own \
    '/^void tacit__codec_adopt_owner/,/^}/ s/codec->own_is_zero = false;//'

mutant "state files: units unchecked" libcomm/checkpoint.c checkpoint:checkpoint \
    's/staged->units <= MOST_UNITS \&\&//'
mutant "state files: owned part anywhere" libcomm/checkpoint.c checkpoint:checkpoint \
    's/tacit__memory_is_aligned\(codec, first, count\)/count <= codec->tensor.count - first/'
mutant "state files: owned part without memory" libcomm/checkpoint.c checkpoint:checkpoint \
    's/\(staged->owner_count == 0 .. may_own\) \&\&/(may_own || true) \&\&/'
mutant "state files: packed numbers unchecked" libcomm/checkpoint.c checkpoint:checkpoint \
    's/(size_t count =) array->packed \? codec->tensor.count : array->count/\1 array->packed ? 0 : array->count/'
mutant "state files: names of arrays unchecked" libcomm/checkpoint.c checkpoint:checkpoint \
    's/same = same \&\& i < staged->arrays;/same = same || i < ARRAYS;/'
mutant "state files: broken communicators save nothing" libcomm/comm.c usage:usage \
    's/comm->broken \? mine : (tacit__comm_agree)/\1/'
mutant "sgd: disabled slots lose the feedback's momentum" optim/optimizers/sgd.c sgd:sgd \
    's/notes->brought = true/notes->brought = notes->owned/'
mutant "disabled slots forget their spec" libcomm/slot.c "sgd:sgd environment:environment" \
    's/\(disabled \|\| given.automatic\)\) \{/given.automatic) {/'
mutant "codec: TACIT_DISABLE is not asked for" libcomm/codec_frame.c codec:codec \
    's/(\*disabled_out =) .*;/\1 false;/'
mutant "codec: disabled, any spec is right" libcomm/codec_frame.c codec:codec \
    's/TRY\(tacit__codec_parse_given\(codec, given\)\);//'
mutant "codec: a failed step is settled by what follows" libcomm/codec_frame.c codec:codec \
    's/tacit__memory_unsettle\(codec, first, count\);//'
mutant "ef21: an average that rounds to 1" optim/feedback/ef21.c ef21:starts \
    's/return weight_of\(config\) < 1;/return ((const config_t *)config)->average < 1;/'

mutant "ring: results as soon as they come, over in" libcomm/schedules/ring.c "fault_value:fault_value fault_wire:ring" \
    's/leg->items\[i\]->in == leg->items\[i\]->out \&\& ring->held.data != NULL/false/'
mutant "ring: sums that are not finite" libcomm/schedules/ring.c fault_value:fault_value \
    's/own->item->codec->nonfinite != TACIT_NONFINITE_PASS \&\& .*/false) {/'
mutant "blockwise: contributions before there is room" libcomm/schedules/blockwise.c blockwise:blockwise \
    's/blockwise->round >= .*cells\[owner\]/false/'
mutant "blockwise: contributions before there is room, taken in" libcomm/schedules/blockwise.c blockwise:blockwise \
    's/blockwise->round >= .*cells\[owner\]/false/
     s/cells\[blockwise->own\] <= blockwise->to_reduce/cells[0] == SIZE_MAX/'
mutant "blockwise: a result that is still under way is written over" libcomm/schedules/blockwise.c blockwise:blockwise \
    's/sends_done < .*->sends \?/sends_done == SIZE_MAX ?/'
mutant "ring: average of the last item for all" libcomm/schedules/ring.c ring:ring \
    's/own->item->op == TACIT_AVERAGE/leg->items[leg->item_count - 1]->op == TACIT_AVERAGE/'
mutant "ring: sums begin at the part's own rank" libcomm/schedules/ring.c ring:ring \
    's/sender \+ 2 \* ranks - 1 - place->step/sender + 2 * ranks - place->step/'
mutant "ring: a message that is still under way is used again" libcomm/outbox.c ring:ring \
    's/->sends\[message->send\].done/->send_count/'
mutant "two levels: what others have added is lost" libcomm/schedules/rails.c two_level:hosts \
    's/x\[i\] \+ before\[i\]/x[i]/'
mutant "two levels: an average over hosts" libcomm/codec_block.c two_level:sums \
    '/^static uint32_t sum_unit/,/^}/s/\(float\)codec->ranks/(float)codec->senders/'
mutant "two levels: a host's sum before it is complete" libcomm/schedules/blockwise.c two_level:hosts \
    's/(tacit__levels_has\(blockwise->levels, chunk->place)\)/\1 - 1)/'
mutant "two levels: rails that move with the parameters" libcomm/parts.c two_level:sums \
    '/^tacit_range_t tacit__rail_range/,/^}/s/TACIT_UNIT/tacit__codec_edge(codec)/g'
mutant "two levels: values that are only looked at in sums" libcomm/schedules/rails.c two_level:faults \
    's/ \&\& codec->nonfinite == TACIT_NONFINITE_ERROR\) \{/ \&\& false) {/'
mutant "two levels: sums that are not finite skipped" libcomm/codec_unit.c two_level:faults \
    's/return codec->sums \? /return codec->sums \&\& codec->nonfinite != TACIT_NONFINITE_SKIP ? /'
mutant "two levels: memory of other leaders loaded" libcomm/checkpoint.c two_level:faults \
    's/codec->leaders != 0/false/'
mutant "two levels: pairs of a host's sum before it is complete" libcomm/schedules/two_level_sparse.c two_level:hosts \
    's/tacit__levels_has\(gather->levels, .*\? choose\(leg\) : TACIT_PENDING/choose(leg)/'
mutant "two levels: a host's sum dealt out before it is complete" libcomm/schedules/sparse_scatter.c two_level:owners \
    's/is_ready\(scatter, next\) \? deal_out\(leg, next\) : TACIT_PENDING/deal_out(leg, next)/'
mutant "two levels: all rails' results where the first is" libcomm/schedules/sparse_scatter.c two_level:owners \
    's/owner \/ topology->hosts, topology->rails/0, topology->rails/'
mutant "two levels: the own part where the tensor begins" libcomm/codec_memory.c two_level:owners \
    's/\(uint32_t\)codec->range.begin\}/0}/'
mutant "two levels: owners' averages over hosts" libcomm/schedules/sparse_scatter.c two_level:sums \
    's/1.0f \/ \(float\)ranks/1.0f \/ (float)scatter->topology->hosts/'
mutant "two levels: an owner's memory at another's elements" libcomm/codec_memory.c sparse_scatter:results \
    's/(tacit__deal_element\(&deal, codec->own)/\1 ^ (codec->leaders != 0)/'
mutant "two levels: pairs where a rail begins" libcomm/codec_whole.c two_level:sums \
    's/entries.indices\[i\] \+= .*/;/'
mutant "two levels: memory where the tensor begins" libcomm/codec_whole.c two_level:sums \
    's/(memory.(now|next)\[i\]) \+ codec->range.begin/\1/'
mutant "two levels: averages of pairs over hosts" libcomm/records.c two_level:sums \
    's/scale = 1.0f \/ \(float\)leg->comm->ranks/scale = 1.0f \/ (float)leg->comm->topology->hosts/'
mutant "two levels: a leader's own pairs of its host" libcomm/records.c two_level:hosts \
    's/(tacit__codec_choose\(item->codec, item->step, item->in)put/\1/'
mutant "two levels: a host's pairs are taken back from a rank" libcomm/records.c fault_wire:levels \
    's/(tacit__codec_unsent\(item->codec, item->in)put/\1/'
mutant "two levels: a dense first operation as asked for" libcomm/schedules/schedule_registry.c two_level:sums \
    's/next->levels, !next->levels/true, true/'
mutant "channels: what a failed operation has left" libcomm/schedules/rails.c channel:sums \
    's/frame.sequence == sequence/true/'
mutant "channels: on a part of a host" libcomm/channel.c channel:channel \
    's/if \(find_reason\(members, here, lines\) != NULL\)/if (error != 0)/'
mutant "channels: a piece over one that has not been read" libcomm/channel.c channel:channel \
    's/return PIECES - /return PIECES + 1 - /'
mutant "checksum: turns are alike" libcomm/checksum.c frame:checksums 's/ \+ base \+ place/ + place/'
mutant "checksum: lanes are alike" libcomm/checksum.c frame:checksums 's/ \+ base \+ place.*\);/ + base);/'
mutant "checksum: the length does not count" libcomm/checksum.c frame:checksums 's/ \* TACIT_CHECKSUM_LENGTH/ * 0/'
mutant "checksum: words beyond the last turn begin anew" libcomm/checksum.c frame:checksums \
    's/\(uint32_t\)i\)/(uint32_t)(i - whole))/'
mutant "checksum: a last piece of a word is left out" libcomm/checksum.c frame:checksums 's/bytes % 4 != 0/false/'
mutant "bundle: the own memory stays full" libcomm/bundle.c bundle:bundle \
    's/!tacit__codec_own_coded\(bundle->codecs\[piece->codec\]\)/false/'
mutant "bundle: pieces are not taken back" libcomm/bundle.c bundle:bundle \
    's/tacit__min\(bundle->part\[owner \+ 1\], bundle->encoded\)/0/'
mutant "bundle: parts are not given back" libcomm/bundle.c bundle:bundle 's/tacit__codec_disown\(.*\);/;/'
mutant "bundle: the highest rank's fault" libcomm/bundle_message.c bundle:bundle 's/rank < bundle->faulty/rank > bundle->faulty/'
mutant "bundle: faults stay where they are" libcomm/bundle_message.c bundle:bundle \
    's/frame.status = \(int16_t\)bundle->fault;/frame.status = 0;/'
mutant "bundle: steps are not compared" libcomm/bundle_message.c bundle:bundle 's/frame_out->step != mine.step/false/'
mutant "bundle: entries are not taken back" libcomm/bundle_whole.c bundle:bundle 's/tacit__codec_unsent\(.*\);/;/'
mutant "bundle: factors are not taken back" libcomm/bundle_whole.c bundle:bundle 's/tacit__codec_unbuilt\(.*\);/;/'
mutant "bundle: sums of entries unchecked" libcomm/bundle_whole.c bundle:bundle \
    's/fits = tacit__unit_is_finite\(.*\);/fits = true;/'
mutant "bundle: payloads anywhere" libcomm/bundle.c bundle:bundle \
    's/at \+= tacit__round_up\((tacit__part_bytes\(codec, end - first\)), TACIT_BUNDLE_ALIGN\)/at += \1/'
mutant "bundle: what was there stays behind pieces" libcomm/bundle.c bundle:bundle 's/memset\(payload \+ bytes, 0, .*\);/;/'
mutant "bundle: results as long as they like" libcomm/bundle.c bundle:bundle 's/frame.payload_bytes != bytes/false/'
mutant "bundle: what was there stays behind lengths" libcomm/bundle_whole.c bundle:bundle 's/memset\(place, 0, .*\);/;/'
mutant "bundle: what was there stays in places" libcomm/bundle_whole.c bundle:bundle 's/memset\(payload \+ bytes, 0, .*\);/;/'
mutant "bundle: entries beyond their place" libcomm/bundle_whole.c bundle:bundle 's/return bytes <= whole->bound \&\&/return/'
mutant "bundle: a sum of factors is a mean" libcomm/bundle_whole.c bundle:bundle \
    '/^static void conclude_sum/,/^}/s/bundle->op == TACIT_AVERAGE/true/'
mutant "bundle: the first factors' sum is no mean" libcomm/bundle_whole.c bundle:bundle \
    '/^bool tacit__whole_met/,/^}/s/conclude_sum\(.*\);/;/'
mutant "bundle: first factors without the own one" libcomm/bundle_whole.c bundle:bundle \
    's/add_factor\(whole->sum\[0\], rank, /if (place != NULL) &/'
mutant "bundle: what was gathered stays in memory" libcomm/bundle_whole.c bundle:bundle 's/tacit__codec_ungather\(.*\);/;/'
mutant "bundle: first factors as long as they like" libcomm/bundle_whole.c bundle:bundle \
    's/bytes != whole->first_bytes/false/'
mutant "bundle: shards: own values stay unseen" libcomm/bundle.c bundle_sharded:bundle_sharded \
    's/tacit__codec_own_check\(.*\)$/0/'
mutant "bundle: shards: the own memory stays full" libcomm/codec_block.c bundle_sharded:bundle_sharded \
    '/^void tacit__codec_collect/,/^}/s/tacit__codec_own_keep\(.*\);/;/'
mutant "bundle: shards: a mean is a sum" libcomm/codec_block.c bundle_sharded:bundle_sharded \
    '/^static uint32_t sum_unit/,/^}/s/sum\[i\] \*= scale;/;/'
mutant "bundle: shards: everybody's memory follows what the owner sends" libcomm/bundle.c bundle_sharded:bundle_sharded \
    's/bundle->kind == TACIT_BUNDLE_ALLREDUCE \&\& !tacit__codec_own_coded/!tacit__codec_own_coded/'
mutant "bundle: shards: a codec is in bundles of all kinds" libcomm/bundle.c bundle_sharded:bundle_sharded \
    's/codecs\[i\]->use != \(int\)use/false/'
mutant "bundle: shards: a codec without memory is in bundles of one kind" libcomm/bundle.c bundle_sharded:bundle_sharded \
    's/codecs\[i\]->feedback != NULL \? \(int\)use : TACIT_USE_OPEN/(int)use/'
mutant "bundle: shards: a codec that is reset stays of its kind" libcomm/codec.c bundle_sharded:bundle_sharded \
    's/codec->use = TACIT_USE_OPEN;//'
mutant "bundle: shards: owners are not compared" libcomm/bundle.c bundle_sharded:bundle_sharded \
    's/slot = tacit__hash\(slot, bundle->owners, .*\);/;/'
mutant "codec: the state's tail is not looked at" libcomm/checkpoint.c codec:codec \
    '/^tacit_status_t tacit_codec_load/,/^}/s/TRY\(tacit__state_end.*\);/;/'
mutant "preload: places do not count" preload/cycle.c cycle:cycle \
    's/repeated\(cycle, period, true\)/repeated(cycle, period, false)/'
mutant "preload: misfits add up for ever" preload/cycle.c cycle:cycle 's/^            cycle->misfits = 0;//'
mutant "preload: fresh buffers wait anew" preload/cycle.c cycle:cycle 's/cycle->placed \&\& !preload_cycle_is_lasting.*/0;/'
mutant "preload: tensors that are alike are clear" preload/cycle.c cycle:cycle 's/count_alike\(cycle, cycle->period.* == 1/true/'
mutant "preload: signs do at once" preload/cycle.c cycle:cycle 's/cycle->seen >= \(announced.*LATE\)/true/'
mutant "preload: places matter where the order is known" preload/cycle.c cycle:cycle 's/!cycle->ordered \&\& //'
mutant "preload: few signs make a step" preload/cycle.c cycle:cycle 's/same >= ALIKE \&\& //'
mutant "preload: no step is waited for" preload/cycle.c cycle:cycle 's/begins \? PRELOAD_HISTORY : 0/0/'
mutant "preload: what places showed does for ever" preload/cycle.c cycle:cycle 's/^    cycle->shown = .* : cycle->shown;//'
mutant "preload: chance is never suspected" preload/cycle.c cycle:cycle 's/^    cycle->chance = .*//'
mutant "preload: exact calls save something" preload/gain.c gain:gain 's/part = part_of_calls\(numbers\)/part = 1.0/'
mutant "preload: few sums are no matter" preload/gain.c gain:gain 's/fmax\(2\.0 \/ steps, 16\.0 \/ sums\)/2.0 \/ steps/'
mutant "preload: steps are no matter" preload/gain.c gain:gain 's/fmax\(2\.0 \/ steps, 16\.0 \/ sums\)/16.0 \/ sums/'
mutant "preload: specs where they lose" preload/gain.c gain:gain 's/fmax\(0\.0, (gain\.saved.*)\);/\1;/'
mutant "preload: nobody waits behind large sums" preload/gain.c gain:gain 's/ \+ 1e-9 \* .*behind\);/;/'
mutant "preload: waiting is saved" preload/gain.c gain:gain \
    's/waited \/ preload_seconds_in_calls\(\)/0.0/'
mutant "preload: sums of some ranks count for all" preload/gain.c gain:gain \
    's/preload_waits\(site\) \? preload_seconds_of/true ? preload_seconds_of/'
mutant "preload: specs are as fast as in trials" preload/gain.c gain:gain \
    's/calls \* slower \* \(measured(.*) - measured(.*)\);/calls * (slower * measured\1 - measured\2);/'
mutant "preload: what failed in trials is won" preload/gain.c gain:gain 's/measured\[i\]\[0\]\.trials == 0/false/'
mutant "preload: sums share gaps too early" preload/gaps.c gaps:gaps 's/sum \/ HALF \| 1/sum \/ (HALF \/ 2) | 1/'
mutant "preload: sums side by side have gaps" preload/gaps.c gaps:gaps 's/began > before \&\& //'
mutant "preload: the first gap is none" preload/gaps.c gaps:gaps 's/before = ended - .*/before = began;/'
mutant "preload: the first spec is the best" preload/gain.c gain:gain \
    's/> gain\.total\[gain\.best\] \? j/> 0.0 \&\& gain.best == 0 ? j/'
mutant "preload: any gain is one" preload/gain.c gain:gain 's/1\.01 \*/1.0 */'
mutant "preload: sites as they come" preload/gain.c gain:gain \
    's/preload_seconds_of\(chosen\[place - 1\]\) < preload_seconds_of\(site\)/false/'
mutant "preload: predictions of what Tacit did" preload/gain.c gain:gain 's/atomic_load\(\&site->taken\) != 0/false/'
mutant "preload: rules of any size" preload/rules.c rules:rules 's/target->bytes <= rule->max_bytes/true/'
mutant "preload: a key of a rule twice" preload/rules.c rules:rules 's/\*number == 0 \&\& //'
mutant "parcels: sent on before all are here" libcomm/schedules/two_level_alltoall.c alltoall:alltoall \
    's/relay->due == 0 \&\& relay->next/relay->next/'
mutant "parcels: one rank relays to all" libcomm/schedules/two_level_alltoall.c alltoall:alltoall \
    's/relay->index_of\[rank\] % relay->here != index/index != 0/'
mutant "parcels: parts of any size are relayed" libcomm/schedules/two_level_alltoall.c alltoall:alltoall \
    's/part->send\) <= relay->most;/part->send) <= SIZE_MAX;/'
mutant "parcels: records of any size" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/bytes > most \|\| //'
mutant "parcels: records behind the end" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/ \|\| bytes > end - \*at\)/)/'
mutant "parcels: no checksum" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/!= record->checksum\)/!= record->checksum \&\& false)/'
mutant "parcels: more than records" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/if \(at != frame->payload_bytes\)/if (false)/'
mutant "parcels: more than records, elsewhere" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/status = at == frame->payload_bytes \?/status = true ?/'
mutant "parcels: twice in a host" libcomm/schedules/two_level_alltoall.c two_level_alltoall:two_level_alltoall \
    's/held->here \|\| !read_record/!read_record/'
mutant "parcels: chosen whatever the size" libcomm/schedules/two_level_alltoall.c alltoall:alltoall \
    's/alltoall->usual\) <= most;/alltoall->usual) <= SIZE_MAX;/'
mutant "parcels: usual counts are not compared" libcomm/identity.c alltoall:alltoall \
    's/^ *operation->identity.elements = .*usual;//'
mutant "topology: the lowest ranks lead" libcomm/topology.c topology:topology \
    's/nic != NULL \? distance_to\(.*\) : 0;/0;/'
mutant "topology: leaders sit together" libcomm/topology.c topology:topology \
    's/topology->crowd\[2 \* rank\] \+= .*;/;/'
mutant "topology: caches do not count" libcomm/topology.c topology:topology \
    's/topology->crowd\[2 \* rank \+ 1\] \+= .*;/;/'
mutant "topology: all rails have one interface" libcomm/topology.c topology:topology \
    's/nics\[rail % nic_count\]/nics[0]/'
mutant "topology: interfaces as they come" libcomm/topology.c topology:topology \
    's/to > 0 \&\& comes_before\(.*\)\; to--/false; to--/'
mutant "topology: eth10 comes before eth2" libcomm/topology.c topology:topology \
    's/strverscmp\(/strcmp(/'
mutant "topology: more interfaces than there is room for" libcomm/topology.c topology:topology \
    's/ \|\| count == MOST_NICS\) \{/) {/'
mutant "topology: ranks of a host follow each other" libcomm/topology.c topology:topology \
    's/host < topology->hosts \&\& !share_host/false \&\& !share_host/'
mutant "place: only the own line of a file is looked at" libcomm/place.c place:place \
    's/TRY\(check_line\((.*)\)\);/if (found == rank) TRY(check_line(\1)); else copy_words(line, copy, \&(size_t){0});/'
mutant "place: a file may describe more ranks" libcomm/place.c place:place 's/found != ranks/found < ranks/'
mutant "place: comments are words" libcomm/place.c place:place "s/ \&\& \*at != '#' / /"
mutant "place: long hosts are cut" libcomm/place.c place:place 's/%\.60s~%016llx/%.60s/'
mutant "place: long lines are cut" libcomm/place.c place:place 's/if \(bytes >= TACIT_PLACE_BYTES \|\| /if (/'
mutant "machine: an interface is where the first one is" libcomm/machine.c machine:machine \
    's/ \&\& strcmp\(adapter->name, name\) == 0//; s/ \&\& strcmp\(device->name, name\) == 0//'
mutant "machine: packages are not near" libcomm/machine.c machine:machine 's/^            return 1;/            return FARTHEST;/'
mutant "machine: every display is a GPU" libcomm/machine.c machine:machine 's/ \&\& device->attr->pcidev.vendor_id == NVIDIA//'
mutant "machine: far GPUs too" libcomm/machine.c machine:machine 's/ \&\& \(first \|\| !gpus\)//'
mutant "machine: in part is in" libcomm/machine.c machine:machine \
    's/hwloc_bitmap_isincluded\(set, object->cpuset\)/hwloc_bitmap_intersects(set, object->cpuset)/'
mutant "machine: the smallest cache" libcomm/machine.c machine:machine \
    's/HWLOC_OBJ_L5CACHE, HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L3CACHE/HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE/'
mutant "cost: the own times decide" libcomm/probe.c cost:cost \
    's/all\[\(size_t\)rank \* TACIT_WAYS \+ way\]/all[way]/'
mutant "cost: noise changes the choice" libcomm/cost.c cost:cost \
    's/\.mean \* margin/.mean/'
mutant "cost: a disturbed measurement decides" libcomm/cost.c cost:cost \
    's/ \&\& times.least < limit.least//'
mutant "cost: small tensors too" libcomm/cost.c cost:cost \
    's/sizeof\(float\) >= \(comm.*;/sizeof(float) > 0;/'
mutant "cost: what is asked for is measured" libcomm/cost.c cost:cost \
    's/asked_for\(comm, codec\) == NULL;/true;/'
mutant "cost: a larger tensor takes less" libcomm/cost.c cost:cost \
    's/fmaxf\(at.usual, times\[size \+ 1\].usual\)/times[size + 1].usual/'
mutant "cost: nobody waits for less" libcomm/cost.c cost:cost \
    's/round > patience \&\& //'
mutant "auto: what is owed is forgotten" libcomm/automatic.c automatic:automatic 's/^        hand_over\(slot/        (void)(slot/'
mutant "auto: an owner forgets" libcomm/automatic.c automatic:automatic 's/swap_states\(&from->owner, &to->owner\);//'
mutant "auto: packed memory is forgotten" libcomm/automatic.c automatic:automatic 's/to->packed\[i\] = from->packed\[i\];//'
mutant "auto: dense at once" libcomm/automatic.c automatic:automatic 's/owes \&\& !follows/false \&\& !follows/'
mutant "auto: never done with paying" libcomm/automatic.c automatic:automatic 's/if \(slot->dense != NULL\) \{/if (false) {/'
mutant "auto: all of what is allowed" libcomm/automatic.c cost:cost 's/isnan\(other\) \|\| .* \* margin;/true;/'
mutant "auto: more than is allowed" libcomm/automatic.c automatic:automatic 's/"rotq:bits=3", 0.19/"rotq:bits=3", 0.1/'
mutant "auto: a file is of what is here" libcomm/automatic.c automatic:automatic \
    's/if \(!\(own->given.automatic \|\| .*/if (true) {/'
mutant "none: what owners of parts of another kind owe" libcomm/automatic.c automatic:automatic \
    's/!tacit__codec_is_blockwise\(slot->codec\)/false/'
mutant "none: by leaders who owe nothing" libcomm/automatic.c automatic:automatic 's/anywhere = .*/anywhere = true;/'
mutant "none: a file of what still owes is refused" libcomm/automatic.c automatic:automatic 's/ \|\| is_none\)/)/'
mutant "auto: memory of another kind" libcomm/automatic.c automatic:automatic 's/ && codec->precision == former->precision//'
mutant "auto: files bring it where nothing may be compressed" libcomm/automatic.c automatic:automatic \
    's/ slot->comm->environment.disable != 0 \|\|//'
mutant "auto: files of several choices" libcomm/checkpoint.c automatic:automatic \
    's/hash = tacit__hash\(hash, &codec->spec.hash, .*//'
mutant "auto: a request has the former codec" libcomm/operation.c automatic:automatic 's/item->codec = item->slot->codec;//'
mutant "cost: files of other hosts" libcomm/rates_file.c cost:cost \
    's/hash = tacit__hash\(hash, line, strlen\(line\) \+ 1\);//'
mutant "cost: files with damage" libcomm/rates_file.c cost:cost \
    's/TRY\(tacit__state_end\(reader\)\);//'

unchanged alltoall:alltoall alltoall_frames:alltoall_frames
mutant "alltoall: the own part is encoded" libcomm/schedules/alltoall.c alltoall:alltoall \
    's/^        memcpy\(\(uint8_t \*\)part->out .*/static uint8_t room[1 << 20]; \
        (void)tacit__values_encode(job->values, part->in, state->own, count, room, part->out);/'
mutant "alltoall: all parts are as long as what comes" libcomm/alltoallv.c alltoall:alltoall \
    's/sent \+= part->send \* element/sent += part->receive * element/'
mutant "alltoall: all parts are as long as what goes" libcomm/alltoallv.c alltoall:alltoall \
    's/received \+= part->receive \* element/received += part->send * element/'
mutant "alltoall: counts are not compared" libcomm/schedules/alltoall.c alltoall:alltoall \
    's/if \(from->met \&\& frame->total .*/if (false) {/'
mutant "alltoall: any range will do" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| frame->first != from->elements//'
mutant "alltoall: more than there is room for" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| frame->count > part->receive - from->elements//'
mutant "alltoall: blocks begin anywhere" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/frame->first % tacit__values_grain\(job->values\) != 0/false/'
mutant "alltoall: more after the last" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| is_here\(from, part\)//'
mutant "alltoall: payloads of any length" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/frame->payload_bytes != tacit__values_bytes\(job->values, frame->count\)/false/'
mutant "alltoall: heads of any length" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| frame->total > job->head_most//'
mutant "alltoall: heads longer than they say" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| frame->payload_bytes > frame->total - from->head_here//'
mutant "alltoall: heads of two lengths" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/if \(frame->total != from->head_bytes\)/if (false)/'
mutant "alltoall: elements before their head" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/if \(from->met \&\& (frame->total .*)/if (\1/; s/!from->met \|\| //'
mutant "alltoall: heads are elements" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/head \? TACIT_FRAME_HEAD : TACIT_FRAME_ROWS/head ? TACIT_FRAME_ROWS : TACIT_FRAME_HEAD/'
mutant "alltoall: heads are cut" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/ \|\| to->head < part->head_bytes//'
mutant "alltoall: no word of an empty part" libcomm/schedules/alltoall.c alltoall:alltoall 's/return to->rows != 0 \&\& /return /'
mutant "alltoall: who has all of a rank waits for more" libcomm/schedules/alltoall.c alltoall:alltoall \
    's/ \&\& !is_here\(from, \&job_of\(leg\)->parts\[rank\]\)//'
mutant "alltoall: NaN is sent" libcomm/schedules/alltoall.c alltoall:alltoall \
    's/part->decoded\) != 0\)/part->decoded) == UINT32_MAX)/'
mutant "alltoall: numbers of messages begin anew" libcomm/schedules/alltoall.c alltoall_frames:alltoall_frames \
    's/job->parts\[rank\].send <= most/true/'
mutant "alltoall: what failed counts" libcomm/schedules/alltoall.c alltoall:alltoall \
    's/key\.step = \*alltoall->made/key.step = (*alltoall->made)++/; s/\+\+\*job->made;//'
mutant "alltoall: of any type" libcomm/identity.c alltoall:alltoall \
    's/spec = tacit__hash\((operation->alltoall->values->spec.hash), .*/spec = \1;/'
mutant "alltoall: in place" libcomm/alltoallv.c alltoall:alltoall 's/in < out \+ received \&\& out < in \+ sent/false/'
mutant "alltoall: what stays is not compared" libcomm/alltoallv.c alltoall:alltoall \
    's/sends\(arguments, comm->rank\) != receives\(arguments, comm->rank\)/false/'
mutant "alltoall: a native call has no counts of even parts" libcomm/alltoallv.c alltoall:alltoall \
    's/^        comm->even_counts\[rank\] = .*//'
mutant "alltoall: a native call takes memory" libcomm/alltoallv.c alltoall:alltoall \
    's/waits \&\& exact \&\&/waits \&\& exact \&\& false \&\&/'
mutant "alltoall: messages under way are written over" libcomm/outbox.c alltoall:alltoall \
    's/return outbox->count >= most .*/return false;/; s/message != NULL \&\& is_gone\(message, exchange\)/outbox->count == 4/'
mutant "values: senders know nothing of later elements" libcomm/values.c alltoall_frames:alltoall_frames \
    's/\(float \*\)decoded \+ first/(float *)decoded/'
mutant "values: receivers write all to the beginning" libcomm/values.c alltoall:alltoall \
    's/\(float \*\)out \+ block.first/(float *)out/'
mutant "values: halves go to the beginning" libcomm/values.c alltoall:alltoall 's/d, block.first, units, out/d, 0, units, out/'
mutant "values: any signs" libcomm/values.c alltoall:alltoall \
    's/values->key, first, count/values->key, (size_t)(values->key.rank + 1) * first, count/'
mutant "values: NaN is zero" libcomm/values.c alltoall:alltoall \
    's/!passes \&\& !tacit__unit_is_finite\(x, count\)/false/; s/passes \? 0 : faults/0/'

[ ! -f "$build/tests/gpu/nccl_emulated" ] || unchanged nccl:nccl nccl_faults:nccl_faults
nccl_mutant "nccl: what a rank sends to itself counts" libcomm/nccl_group.c nccl:nccl \
    's/bytes \+= other != group->nccl->rank \?/bytes += true ?/'
nccl_mutant "nccl: one message goes to all" libcomm/nccl_group.c nccl:nccl 's/sent \+= to;//'
nccl_mutant "nccl: messages over each other" libcomm/nccl_group.c nccl:nccl 's/received \+= from;//'
nccl_mutant "nccl: a mean is a sum" libcomm/nccl_group.c nccl:nccl \
    's/TACIT_NCCL_SUM, TACIT_NCCL_AVG/TACIT_NCCL_SUM, TACIT_NCCL_SUM/'
nccl_mutant "nccl: rank 0 has all tensors" libcomm/nccl_group.c nccl:nccl 's/dtype, op, group->owners\[i\]/dtype, op, 0/'
nccl_mutant "nccl: tensors in the order in which they are given" libcomm/nccl_group.c nccl:nccl \
    's/group->in\[n\] = in\[group->order\[n\]\];/group->in[n] = in[n];/'
nccl_mutant "nccl: a step that is broken off stays in memory" libcomm/nccl_group.c nccl_faults:nccl_faults \
    's/tacit_bundle_cancel\(group->bundle\);//'
nccl_mutant "nccl: tensors are not compared" libcomm/nccl_comm.c nccl:nccl 's/same = same \&\& .*;/;/'
nccl_mutant "nccl: a rank's fault is its own" libcomm/nccl_comm.c nccl:nccl 's/records\[rank\].status != TACIT_OK/false/'
nccl_mutant "nccl: errors of NCCL go unseen" libcomm/nccl_comm.c nccl_faults:nccl_faults \
    's/state != TACIT_NCCL_SUCCESS \&\& state != TACIT_NCCL_IN_PROGRESS/false/'
nccl_mutant "nccl: what fails goes on" libcomm/nccl_comm.c nccl_faults:nccl_faults 's/nccl->broken = true;//'
nccl_mutant "nccl: nothing is aborted" libcomm/nccl_comm.c nccl_faults:nccl_faults \
    's/^            abort_comm\(nccl\);/            ;/'
nccl_mutant "nccl: who waits does not leave at an abort" libcomm/nccl_comm.c nccl_faults:nccl_faults \
    's/if \(atomic_load\(&nccl->aborted\)\)/if (false)/'
nccl_mutant "nccl: a group stands where a rank has given up" libcomm/nccl_group.c nccl_faults:nccl_faults \
    's/TRY\(agree\(group, TACIT_OK\)\);//'
nccl_mutant "nccl: any version will do" libcomm/nccl_library.c nccl_faults:nccl_faults 's/ \|\| version < TACIT_NCCL_OLDEST//'
nccl_mutant "nccl: what is captured is waited for" libcomm/bundle_device.c nccl_faults:nccl_faults 's/!capturing; /1;/'
preload_mutant "nccl: verdicts are not heard" preload/nccl_policy.c 's/judged \&\& numbers\[GIVES_UP\] == 0/judged/' \
    "TACIT_RULE=min=16K,after=40:onebit+ef TACIT_TIMEOUT_MS=300" broken 2 60
preload_mutant "nccl: who aborts waits for ranks that meet" preload/nccl_companion.c \
    's/^ *pthread_mutex_(un)?lock\(&clique->lock\);//' \
    "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=12000" meeting 2 16
preload_mutant "nccl: nobody hears of an abort" preload/nccl_calls.c 's/preload_hurry\(clique\);//' \
    "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=12000" step 2 40
preload_mutant "nccl: what is aborted is timed to the end" preload/stopwatch.c 's/lap->second != NULL \&\& //' \
    "TACIT_ALLREDUCE=onebit FAKE_CUDA_SLOW=1" step 2 40
preload_mutant "nccl: nobody hears of what is revoked" preload/preload_nccl.c \
    '/^int ncclCommRevoke/,/^}/s/preload_nccl_break.*//' "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=-1" step 2 40 revoke
preload_mutant "nccl: nobody hears of what is shrunk" preload/preload_nccl.c \
    '/^int ncclCommShrink/,/^}/s/preload_nccl_break.*//' "TACIT_ALLREDUCE=onebit TACIT_TIMEOUT_MS=-1" step 2 40 shrink
preload_mutant "nccl: what is revoked is not asked for" preload/nccl_calls.c \
    's/ && !atomic_load\(&entry->clique->stays\)//' "TACIT_ALLREDUCE=onebit" step 2 40 revoke
preload_mutant "nccl: communicators end in the midst of groups" preload/nccl_calls.c 's/is_busy\(comm\)\)/false)/' \
    "TACIT_ALLREDUCE=none" ended 2 40

[ ! -f "$build/tests/gpu/device_emulated" ] || unchanged device:device
device_mutant "device: pieces are sent before they are copied" libcomm/schedules/device.c \
    's/TRY\(look\(leg, cell->copied, leg->operation->moved\)\);//'
device_mutant "device: cells are filled before they are sent" libcomm/schedules/device.c \
    's/ \&\& leg->comm->exchange.sends_done >= cell->sends//'
device_mutant "device: cells are filled while they are copied" libcomm/schedules/device.c 's/if \(cell->busy\)/if (false)/'
device_mutant "device: kernels do not wait for what comes" libcomm/schedules/device.c 's/TRY\(join_arrivals\(leg\)\);//'
device_mutant "device: kernels do not wait for the caller's stream" libcomm/schedules/device.c \
    's/staging->module->follow\(staging->stream, given\)/given == NULL/'
device_mutant "device: an earlier call's stream is forgotten" libcomm/staging.c 's/TRY\(.*follow\(stream, event\).*//'
device_mutant "device: all slots have the first one's step" libcomm/schedules/device.c \
    's/item->step - leg->items\[0\]->step/0/'
device_mutant "device: what is found is not asked for" libcomm/schedules/device.c \
    's/TRY\(tacit__bundle_device_verdict\(.*\)\);//'
device_mutant "device: what fails last passes" libcomm/operation.c 's/status == TACIT_OK \&\& operation->fault != TACIT_OK/false/'
device_mutant "device: memory for messages is made each time" libcomm/fused.c 's/if \(is_of\(fused, leg\)\)/if (false)/'
device_mutant "device: each step waits for the one before" libcomm/bundle_device.c \
    's/tracks \&\& codec->tracker_op/codec->tracker_op/'
device_mutant "device: slots keep what others have left" libcomm/fused.c 's/fused->slots\[i\]->fused = NULL;/;/'

kernel_mutant "kernels: lanes in another order" compressors/cuda/warp.h kernels \
    's/sum\[c\] \+= upper \? other : kept;/sum[c] += upper ? kept : other;/'
kernel_mutant "kernels: feedback off" compressors/cuda/memory.h kernels 's/left\[c\] = a\[c\] - d\[c\];/left[c] = 0;/'
kernel_mutant "kernels: the owner keeps its exact sum" compressors/cuda/tile.h kernels \
    's/kept\[c\] = a\[c\] - d\[c\];/kept[c] = 0;/'
kernel_mutant "kernels: memory of the own part stays" compressors/cuda/tile.h kernels \
    's/w.t->keep != TACIT_KEEP_NOTHING;/false;/'
kernel_mutant "kernels: an owner draws the sender's random numbers" compressors/cuda/tile.h kernels \
    's/key.rank \+= reencoded \? bundle.ranks : 0u;//'
kernel_mutant "kernels: nothing is taken back" compressors/cuda/memory.h kernels 's/\(rest\[c\] \+ d\[c\]\) - x\[c\]/rest[c]/'
kernel_mutant "kernels: damage passes" compressors/cuda/message.cu kernels \
    's/return TACIT_DEVICE_FAULT\(rank, TACIT_REASON_CHECKSUM, 0\);/;/'
kernel_mutant "kernels: gaps are not written" compressors/cuda/tile.h kernels 's/^            payload\[end\] = 0;/            ;/'
kernel_mutant "kernels: shards: own values stay unseen" compressors/cuda/tile.h sharded \
    's/check_tile<Code, ROWS, WIDE>\(bundle, w, stream\);/;/'
kernel_mutant "kernels: shards: the own memory stays full" compressors/cuda/tile.h sharded \
    's/!w.t->code.coded \&\& w.t->keep != TACIT_KEEP_NOTHING, sum/false, sum/'
kernel_mutant "kernels: shards: others' parts are results" compressors/cuda/tile.h sharded \
    's/\(!failed \&\& bundle.kind == TACIT_BUNDLE_REDUCE_SCATTER\)/false/'
kernel_mutant "kernels: rotq's square is not turned" compressors/cuda/rotq.cu kernels \
    's/% SIDE \* SIDE \+ \(place\(r\) \+ c\) \/ SIDE/+ 0/'
kernel_mutant "kernels: packed memory keeps what went out" compressors/cuda/whole.cu sparse:packed \
    's/is_finite\(sent\[c\]\) \? a\[c\] - sent\[c\] : a\[c\]/a[c]/'
kernel_mutant "kernels: packed memory keeps what a tracker has lost" compressors/cuda/whole.cu sparse:packed \
    's/lost = lost_of\(bundle, tile, values\);/;/'
kernel_mutant "kernels: packed memory is taken back" compressors/cuda/whole.cu sparse:packed \
    's/(TACIT_KEEP_NOTHING) \&\& !is_packed\(\*tile.t\)/\1/'
kernel_mutant "kernels: P without the own one" compressors/cuda/powersgd.cu powersgd \
    's/rank == bundle.rank \? matrices.own_p\[m.p \+ i\]/rank == bundle.rank ? 0.0f/'
kernel_mutant "kernels: Q is kept whatever becomes of the step" compressors/cuda/powersgd.cu powersgd \
    '/ keep\(tacit_device_bundle_t/,/^}/s/is_stopped\(bundle\)/false/'
kernel_mutant "kernels: P is not orthonormal" compressors/cuda/powersgd.cu powersgd \
    's/orthonormalize\(wholes.matrices.p \+ m.p, .*\);/;/'
kernel_mutant "kernels: NaN is nearest" compressors/cuda/lsh.cu lsh 's/magnitude > 0x7f800000u \? 0 : //'
kernel_mutant "kernels: what lies behind a short token is near" compressors/cuda/lsh.cu lsh \
    's/at < padded \? nearness_of/true ? nearness_of/'
kernel_mutant "kernels: neighbours become their sum first" compressors/cuda/lsh.cu lsh \
    's/unsigned step = SIDE_STEPS; step > 0; step--/unsigned step = 1; step <= SIDE_STEPS; step++/'
kernel_mutant "kernels: a sum of one loses its sign" compressors/cuda/rows.cu lsh 's/first \? product : //'
kernel_mutant "kernels: what a token has beyond its row is added" compressors/cuda/rows.cu lsh \
    's/value\[c\] - \(centroid\[c\] - token\[c\]\)/value[c] + (token[c] - centroid[c])/'
kernel_mutant "kernels: rows that stay have more beyond" compressors/cuda/rows.cu rows \
    's/row < choices.own_first \|\| row >= choices.own_end/true/'
kernel_mutant "kernels: the last reply is the sum of all" compressors/cuda/rows.cu rows \
    's/add\(reply == begin, 1, x, sum\)/add(true, 1, x, sum)/'
kernel_mutant "kernels: NaN of a token passes" compressors/cuda/rows.cu lsh 's/shape.skip \&\& !is_finite\(x\[c\]\) \? 0.0f : //'
kernel_mutant "kernels: infinity is finite" compressors/cuda/rows.cu rows \
    's/finite = finite \&\& is_finite\(x\[c\]\)/finite = finite \&\& x[c] == x[c]/'
kernel_mutant "kernels: what is not finite is in the first stretch" compressors/cuda/rows.cu rows \
    's/first < shape.dimension; first \+= ROW/first < ROW; first += ROW/'
kernel_mutant "kernels: a token alone has something beyond its row" compressors/cuda/rows.cu rows \
    's/alone \? 0 : beyond/beyond/'
kernel_mutant "kernels: squares of a long token are those of its last block" compressors/cuda/rows.cu rows \
    's/norm = add_block\(norm, /norm = add_block(0, /'
kernel_mutant "kernels: sums are as float32 what they are in 16 bits" compressors/cuda/rows.cu rows \
    's/^        store\(wide \+ .*/        load_row(shape, out, own.row, own, sum); &/'
kernel_mutant "kernels: lists begin anew each 32 rows" compressors/cuda/rows.cu lsh 's/add\(base \+ i == 0,/add(i == 0,/'

wait
cat "$work"/*/said 2>/dev/null
failed=$(find "$work" -mindepth 1 -maxdepth 1 -type d | wc -l)
echo "$((started - failed)) of $started as they should be"
exit $((failed != 0 || started == 0))
