#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tools keep their word: exit codes, JSON with the fields that scripts rely on, clear answers to wrong options.
set -u
# shellcheck source=tests/testing.sh
. "${srcdir:-.}/tests/testing.sh"
tools=$PWD/tools

# has FIELD...: every line of the output is one JSON object with these fields, none of them NaN or infinite.
has() {
    local field
    grep -qvE '^\{.*\}$' "$folder/out" && fail "not one JSON object a line: $(cat "$folder/out")"
    grep -qE ':(-?nan|-?inf)' "$folder/out" && fail "not JSON: $(cat "$folder/out")"
    for field in "$@"; do
        [ "$(grep -c "\"$field\":" "$folder/out")" -eq "$(wc -l <"$folder/out")" ] || fail "no $field in $(cat "$folder/out")"
    done
}

ends 0 "$tools/tacit-info"
for word in onebit qsgd topk randk ef onebit-adam blockwise sparse TACIT_TIMEOUT_MS; do
    says out "$word"
done
says out '^CUDA '
says out '^NCCL '
cuda=$(grep -q "^CUDA .*no: " "$folder/out" || echo ",\"cuda\"")
ends 0 "$tools/tacit-info" --json
has version isa transports devices cuda nccl tacit_run compressors feedbacks optimizers schedules environment
says out "\"devices\":\[\"cpu\"$cuda\],\"cuda\":\".\+\""
ends 0 "$tools/tacit-info" --help
ends 0 "$tools/tacit-info" --check onebit+ef
says out 'onebit:block=2048,norm=l2,own=exact+ef'
for spec in topk:ratio=0.01+econtrol:eta=0.5 powersgd+econtrol:eta=0.5,init=gradient; do
    ends 0 "$tools/tacit-info" --check "$spec"
    says err 'the error may grow.*use eta='
done
for spec in topk:ratio=0.01+econtrol qsgd:bits=2+econtrol auto; do
    ends 0 "$tools/tacit-info" --check "$spec"
    [ ! -s "$folder/err" ] || fail "'$spec' is warned of: $(cat "$folder/err")"
done
for spec in onebit topk:ratio=0.01 powersgd randk:ratio=0.1,scale=one qsgd:rounding=nearest rotq; do
    ends 0 "$tools/tacit-info" --check "$spec"
    says err "tacit-info: '$spec'.*biased.*no feedback.*add +ef"
    [ "$(wc -l <"$folder/err")" -eq 1 ] || fail "not one line: $(cat "$folder/err")"
done
for spec in none fp16 bf16 qsgd randk onebit+ef topk:ratio=0.01+ef21; do
    ends 0 "$tools/tacit-info" --check "$spec"
    [ ! -s "$folder/err" ] || fail "'$spec' is warned of: $(cat "$folder/err")"
done
ends 0 "$tools/tacit-info" --check onebit-adam:freeze=5
says out '^onebit-adam:.*freeze=5,.*beta1=0.9'
ends 2 "$tools/tacit-info" --check sgd:freeze=5
says err "sgd.*freeze"
ends 2 "$tools/tacit-info" --check onebit-ada
says err "unknown compressor 'onebit-ada'"
ends 2 "$tools/tacit-info" --check-slot onebit-adam
says err "unknown compressor 'onebit-adam'"
ends 0 "$tools/tacit-info" --check lsh:hashes=4
says out '^lsh:hashes=4,rounds=2,'
[ ! -s "$folder/err" ] || fail "there is something to say of lsh: $(cat "$folder/err")"
ends 2 "$tools/tacit-info" --check lsh+ef
says err "for tokens.*leave out '+ef'"
ends 2 "$tools/tacit-info" --check-slot lsh
says err "'lsh' is for tokens: tacit_moe_create()"
ends 2 "$tools/tacit-info" --check onebti+ef
says err "did you mean 'onebit'"
ends 2 "$tools/tacit-info" --check qsgd:bits=9
says err '1 to 8'
ends 2 "$tools/tacit-info" --nonsense

if [ -w /dev/full ]; then
    for command in "tacit-info" "tacit-info --json" "tacit-bench kernels --spec none --bytes 64K"; do
        # shellcheck disable=SC2086 # words
        "$tools"/$command >/dev/full 2>"$folder/err" && fail "$command does not notice that its output is lost"
        says err 'could not be written\(: No space left on device\)\?$' # not an errno of long ago
    done
fi

ends 0 "$tools/tacit-bench" --help
says out 'usage: tacit-bench kernels .*--device'
[ -n "$cuda" ] || for json in "" --json; do # said once, and nothing else
    # shellcheck disable=SC2086 # words
    ends 1 "$tools/tacit-bench" kernels --device cuda --bytes 64K $json
    [ ! -s "$folder/out" ] || fail "there is a table without a GPU: $(cat "$folder/out")"
    [ "$(wc -l <"$folder/err")" -eq 1 ] || fail "not one line: $(cat "$folder/err")"
    says err '^tacit-bench: '
done
ends 0 "$tools/tacit-bench" kernels --spec onebit+ef --spec none --bytes 1M --json
has mode spec device isa bytes encode_gbps decode_gbps copy_gbps stream_gbps encode_of_limit decode_of_limit
[ "$(wc -l <"$folder/out")" -eq 2 ] || fail "not one line a spec"
ends 0 "$tools/tacit-bench" kernels --spec lsh:rate=0.5 --bytes 512K --dimension 64 --json
has mode spec bytes encode_gbps decode_gbps payload_bytes dimension rate hash_gbps cluster_gbps
says out '"dimension":64,"rate":0\.[0-4]'
ends 2 "$tools/tacit-bench" kernels --spec nothing
ends 2 "$tools/tacit-bench" alltoall --schedule ring
ends 2 "$tools/tacit-bench" allgather
ends 2 "$tools/tacit-bench" kernels --bytes 1X

if [ -n "${MPIRUN-}" ]; then
    ends 2 "$tools/tacit-bench" allreduce --spec lsh
    says err "'lsh' is for tokens"
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    export OMPI_MCA_btl_vader_single_copy_mechanism=none
    # shellcheck disable=SC2317 # called by ends
    ranks() { timeout -k 5 120 "$MPIRUN" -n "$@"; }
    ends 0 ranks 3 "$tools/tacit-bench" allreduce --spec onebit+ef --spec auto --bytes 64K,1M --link-rate 1gbit --json
    has mode spec schedule ranks nodes bytes seconds native_seconds speedup speedup_low native_repeat predicted_seconds \
        wire_bytes dense_bytes ratio ratio_fp16 payload_ratio relative_error mean_error limit_seconds of_limit peak_extra_bytes
    [ "$(wc -l <"$folder/out")" -eq 4 ] || fail "not one line a spec and size"
    ends 0 ranks 2 "$tools/tacit-bench" allreduce --spec topk+ef --bytes 64K --calls 3 --no-native --json
    says out '"native_seconds":null'
    ends 0 ranks 2 "$tools/tacit-bench" allreduce --spec onebit+ef --bytes 64K --calls 9 --trace "$folder/trace" --json
    has seconds traced_seconds trace_ratio trace_ratio_low trace_repeat
    says out '"native_seconds":null'
    grep -q '"spec":"onebit+ef","schedule":"blockwise"' "$folder/trace.1" || fail "there is no trace"
    for progress in calls thread; do
        TACIT_PROGRESS=$progress ends 0 ranks 2 "$tools/tacit-bench" allreduce --spec topk+ef --bytes 64K --compute 2 --json
        has native_seconds exposed_seconds progress
        says out '"of_limit":null,"compute_seconds":0.002,'
    done
    ends 0 ranks 2 "$tools/tacit-bench" allreduce --spec none --spec topk+ef --bytes 4K --schedule all --calls 3 \
        --no-native --json
    for schedule in ring native blockwise; do
        says out "\"spec\":\"none\",\"schedule\":\"$schedule\""
    done
    says out '"spec":"topk+ef","schedule":"sparse"'
    ends 1 ranks 2 "$tools/tacit-bench" allreduce --spec none --bytes 4K --schedule sparse --calls 3 --no-native
    says err "sparse does not carry 'none'"
    ends 0 ranks 3 "$tools/tacit-bench" alltoall --spec bf16 --spec none --bytes 64K,1M --link-rate 1gbit --json
    has mode spec schedule ranks nodes bytes seconds native_seconds speedup speedup_low native_repeat wire_bytes network_bytes \
        dense_bytes ratio ratio_fp16 relative_error limit_seconds of_limit progress
    [ "$(wc -l <"$folder/out")" -eq 4 ] || fail "not one line a spec and size"
    says out '"spec":"bf16","schedule":"alltoall","ranks":3,"nodes":1,"bytes":65532,' # three parts of 5461 numbers
    says out '"spec":"none","schedule":"native",.*"wire_bytes":43688,.*"ratio":1,.*"relative_error":0,'
    ends 0 ranks 2 "$tools/tacit-bench" alltoall --bytes 64 --calls 1100 --json
    sed 's/.*"speedup":\([^,]*\),"speedup_low":\([^,]*\),.*/\1 \2/' "$folder/out" | awk '{ exit !($2 <= $1) }' ||
        fail "what the median is at least is more than it: $(cat "$folder/out")"
    TACIT_CHECK=1 ends 0 ranks 2 "$tools/tacit-bench" alltoall --bytes 64K --calls 3 --no-native --json
    says out '"spec":"none","schedule":"alltoall",.*"native_seconds":null,.*"relative_error":0,'
    ends 1 ranks 2 "$tools/tacit-bench" alltoall --spec topk --bytes 64K --calls 3 --no-native --json
    says err 'does not encode rows one by one'
    ends 1 ranks 2 "$tools/tacit-bench" alltoall --bytes 4
    says err 'a number for each of 2 ranks'
    ends 0 ranks 3 "$tools/tacit-bench" alltoall --spec lsh --dimension 64 --bytes 400K --json
    says out '"spec":"lsh","schedule":"alltoall","ranks":3,"nodes":1,"bytes":409344,' # 533 tokens for each
    says out '"relative_error":0\.1.*"dimension":64,"rate":0\.6.*"hash_gbps":[0-9]'
    ends 0 ranks 2 "$tools/tacit-bench" alltoall --spec lsh --bytes 1M --calls 9
    says out 'hashing [0-9.]*, clusters'
    ends 1 ranks 2 "$tools/tacit-bench" alltoall --spec lsh --bytes 4000
    says err 'a token for each of 2 ranks'

    TACIT_TOPOLOGY=1,2 ends 0 ranks 3 "$tools/tacit-info" --topology
    says out '^# 2 hosts of 1 to 2 ranks; 1 rail$'
    says out '^# rail 0 by ranks 0 1'
    [ "$(grep -c '^host=host1' "$folder/out")" -eq 2 ] || fail "not two ranks on the second host: $(cat "$folder/out")"
    mv "$folder/out" "$folder/topology"
    TACIT_TOPOLOGY=$folder/topology ends 0 ranks 3 "$tools/tacit-info" --topology
    cmp -s "$folder/out" "$folder/topology" || fail "the topology that was printed, and read, is now: $(cat "$folder/out")"
    TACIT_TOPOLOGY=@$folder/topology ends 0 ranks 3 "$tools/tacit-info" --topology --json
    has rank host host_index package numa cache core nics gpus rail rail_nic line
    says out '"rank":2,"host":"host1","host_index":1,'
    TACIT_TOPOLOGY=@$folder/topology ends 1 ranks 2 "$tools/tacit-info" --topology
    says err '^tacit-info: .*topology describes 3 ranks, one a line; there are 2$'
    TACIT_LOG=info TACIT_TOPOLOGY=2,2 ends 0 ranks 4 "$tools/tacit-info" --topology
    told='^tacit\[0\] info topology: 2 hosts of 2 ranks; 2 rails: 0 by ranks 0 2.*, 1 by ranks 1 3'
    [ "$(grep -c "$told" "$folder/err")" -eq 1 ] || fail "the topology is not told once: $(cat "$folder/err")"

    # Without options: all of that, once. Hosts whose ranks send each other larger messages are measured too.
    TACIT_CACHE=$folder/cache TACIT_TOPOLOGY=2 ends 0 ranks 4 "$tools/tacit-info"
    for line in '^Tacit ' '^# 2 hosts of 2 ranks; 2 rails$' '^none: native' '^onebit+ef: two_level$' \
        '^ *1024 .* ms  two_level, which loses the same in every run$'; do
        [ "$(grep -c "$line" "$folder/out")" -eq 1 ] || fail "not one '$line' in: $(cat "$folder/out")"
    done
    TACIT_CACHE=$folder/cache TACIT_TOPOLOGY=2 ends 0 ranks 4 "$tools/tacit-info" --json
    has mode
    modes=$(sed 's/^{"mode":"\([a-z]*\)".*/\1/' "$folder/out" | uniq | tr '\n' ' ')
    [ "$modes" = "info topology plan " ] || fail "not information, topology and plans, but $modes"
    # A spec that goes from one schedule to another, whatever was measured.
    TACIT_CACHE=$folder/cache ends 0 ranks 4 "$tools/tacit-info" --plans --json topk:ratio=0.01+ef
    has mode spec ranks nodes bytes schedule predicted_seconds reason crossover schedules
    [ "$(grep -c '"bytes":[0-9]*,"schedule":"sparse.*"crossover":false' "$folder/out")" -eq 9 ] || fail "not nine sizes"
    grep crossover.:true "$folder/out" | grep -q '"bytes":11[0-9]*,"schedule":"sparse-scatter"' || fail "$(cat "$folder/out")"
    TACIT_CACHE=$folder/cache ends 0 ranks 4 "$tools/tacit-info" --plans topk:ratio=0.01+ef
    says out '^topk:ratio=0.01+ef: sparse; from 1.09 MiB on sparse-scatter$'
fi
exit $failed
