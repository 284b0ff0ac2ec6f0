#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tacit-run: programs run as without it, and the report says what they reduced. Runs in the build directory.
set -u
# shellcheck source=tests/testing.sh
. "${srcdir:-.}/tests/testing.sh"
run=$PWD/tools/tacit-run
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none

silent() { [ ! -s "$folder/err" ] || fail "not silent: $(cat "$folder/err")"; }
# refused STATUS TEXT ARGUMENT...: in one line.
refused() {
    local status=$1 text=$2
    shift 2
    ends "$status" "$run" "$@"
    says err "^tacit-run: .*$text"
    [ "$(wc -l <"$folder/err")" -eq 1 ] || fail "not one line: $(cat "$folder/err")"
}

# Its own words
ends 0 "$run" --help
says out '^usage: tacit-run'
ends 0 "$run" --version
says out '^tacit-run [0-9]'
refused 2 'no command'
refused 2 'no command' --report "$folder/report" --
refused 2 "'--repotr' is not an option" --repotr x true
refused 2 'takes a file' --report
refused 127 'no command' -- "$folder/nothing"
touch "$folder/text"
refused 126 'not a program' "$folder/text"
refused 1 'cannot be written' --report "$folder/no/report" true
if echo 'int main(void) { return 0; }' | ${CC:-cc} -static -o "$folder/static" -x c - 2>/dev/null; then
    refused 1 'linked statically' "$folder/static"
fi

refused 2 "'onebitt'" --allreduce onebitt true
refused 2 "is not a rule" --rule sight=2:onebit true
refused 2 "is not a rule" --rule site=2 true
refused 2 "'topk:ratoi=1'" --rule site=2,min=1K:topk:ratoi=1 true
refused 2 'a number of bytes' --allreduce onebit --min-bytes 1T true
refused 2 'state-bytes takes a number of bytes' --state-bytes=1T true
refused 2 "is not a rule" --rule comm=1,site=0:onebit true
refused 2 "is not a rule" --rule min=1K,comm=1,min=2K:onebit true
refused 2 "unknown compressor 'sgd'" --allreduce sgd true
refused 2 "unknown compressor 'adam'" --rule site=1:adam true
refused 2 "'lsh' is for tokens" --allreduce lsh true
refused 2 "'lsh' is for tokens" --rule site=1:lsh:hashes=4 true
TACIT_RULE=onebit refused 2 'is not a rule' true
TACIT_RLUE=min=1:onebit ends 0 "$run" true
says err '^tacit-run: TACIT_RLUE is not a variable.*TACIT_RULE$'

# Programs without MPI
ends 0 "$run" true
silent
ends 1 "$run" -- false
ends 0 "$run" sh -c 'echo a b | tr " " "\n" | grep -c .'
silent
says out '^2$'
# shellcheck disable=SC2016 # the inner shell's
ends 143 "$run" sh -c 'kill -TERM $$'

# By a launcher, too, programs are found where they are without it.
ends 0 "${MPIRUN-mpirun}" -n 1 printenv PATH
path=$(cat "$folder/out")
ends 0 "$run" "${MPIRUN-mpirun}" -n 1 printenv PATH
[ "$(cat "$folder/out")" = "$path" ] || fail "PATH is $(cat "$folder/out") instead of $path"

# An MPI of neither kind: passed through, with a line. The second one has MPI 5's handles beside Open MPI's.
cat >"$folder/unknown.c" <<'END'
int MPI_Allreduce(void) { return 0; }
int PMPI_Allreduce(void) { return 0; }
int MPI_Finalize(void) { return 0; }
#ifdef STANDARD
int ompi_mpi_comm_world;
int MPI_Abi_get_version(int *major, int *minor) { *minor = 0; return (*major = 1) - 1; }
#endif
END
echo 'int MPI_Allreduce(void); int MPI_Finalize(void); int main(void) { return MPI_Allreduce() + MPI_Finalize() + 3; }' \
    >"$folder/uses.c"
for standard in "" -DSTANDARD; do
    if ${CC:-cc} $standard -shared -fPIC -o "$folder/libunknown.so" "$folder/unknown.c" &&
        ${CC:-cc} -o "$folder/uses" "$folder/uses.c" -L"$folder" -lunknown -Wl,-rpath,"$folder"; then
        ends 3 "$run" "$folder/uses"
        says err "^tacit: this program has another MPI than this Tacit was built for (.*MPI.*): nothing is counted"
        [ "$(wc -l <"$folder/err")" -eq 1 ] || fail "not one line: $(cat "$folder/err")"
    else
        fail "no MPI could be made up"
    fi
done

# compile COMPILER SOURCE PROGRAM FLAGS
compile() {
    # shellcheck disable=SC2086 # words
    $1 -O1 -o "$folder/$3" "$root/tests/preload/$2" $4 2>"$folder/compiler" || fail "$2: $(cat "$folder/compiler")"
}
# with LAUNCHER FORTRAN FLAGS: which MPI's programs come next.
with() {
    mpirun=$1 mpifort=$2
    compile "${CC:-cc}" program.c program "$3 -lpthread"
    compile "${CC:-cc}" program.c program.so "-shared -fPIC $3 -lpthread"
    compile "${CC:-cc}" taken.c taken "$3 -lpthread -lm"
    compile "${CC:-cc}" late.c late "$3"
    compile "${CC:-cc}" leaves.c leaves "$3"
    compile "${CC:-cc}" recurrence.c recurrence "$3 -lm"
    compile "${CC:-cc}" training.c training "$3 -lm"
    compile "${CC:-cc}" turns.c turns "$3"
    feedback=("$run" --report "$folder/report" --allreduce onebit+ef --min-bytes 15K)
    recurrence=("$mpirun" -n 2 "$folder/recurrence")
}

# predicted SITE: a line for each spec.
predicted() {
    local spec
    says report "^Site $1, measured" "^ MPI_Allreduce [1-9] [0-9.]*\$"
    for spec in onebit+ef qsgd:bits=8+ef rotq:bits=4+ef topk:ratio=0.01+ef; do
        says report "^ $spec [1-9] [0-9.]* [-+][0-9.]* [0-9.]* [0-9.]*\$"
    done
}

# counted RANKS COMMAND...: runs program.c.
counted() {
    local ranks=$1
    shift
    ends 3 "$run" --report "$folder/report" -- "$mpirun" -n "$ranks" "$@" 3
    says out '^right$'
    grep 'tacit' "$folder/err" && fail "tacit has something to say"
    says report " 1 MPI_Allreduce 1 (world) $ranks MPI_FLOAT MPI_SUM 16384 10 65536 " \
        " 2 MPI_Allreduce 1 (world) $ranks MPI_FLOAT MPI_SUM 262144 3 1048576 " \
        " 3 MPI_Allreduce 2 (self) 1 MPI_FLOAT MPI_SUM 16384 6 65536 .* no: one rank\$" \
        " 4 MPI_Allreduce 3 $ranks MPI_DOUBLE MPI_MAX 1000 4 8000 .* no: not float32\$" \
        " 5 MPI_Allreduce 4 $ranks MPI_DOUBLE MPI_MAX 1000 5 8000 " \
        " 6 MPI_Allreduce 1 (world) $ranks derived user 50 2 400 .* no: not float32\$" \
        " 7 MPI_Allreduce 1 (world) $ranks derived user 50 2 600 " \
        " 8 MPI_Iallreduce 1 (world) $ranks MPI_INT MPI_MAX 1 3 4 .* no: not blocking\$" '^Of MPI_Iallreduce'
    if grep -q MPI_PROD "$folder/report"; then # there may be threads
        says report " [0-9]* MPI_Allreduce 5 $ranks MPI_FLOAT MPI_PROD 8 100 32 .* no: not a sum\$" \
            " [0-9]* MPI_Allreduce 6 $ranks MPI_FLOAT MPI_PROD 8 100 32 "
    fi
    [ "$(grep -c 'MPI_I\?[aA]llreduce .*%' "$folder/report")" -le 10 ] || fail "too many sites: $(cat "$folder/report")"
    if [ "$ranks" -eq 1 ]; then
        says report '^No site is left to be compressed'
    else
        predicted 1
        predicted 2
    fi
}

# By rules: what they take, and only that: taken RANKS
taken() {
    ends 0 "$run" --report "$folder/report" --rule min=4K,max=8K:onebit -- "$mpirun" -n "$1" "$folder/taken"
    says out '^right$'
    [ "$1" -eq 1 ] || says err 'sums floats by 1 rule: results may be inexact'
}

# By 'none' everything that can be taken, with the same verdict as without.
all_taken() {
    ends 3 "$run" --report "$folder/report" --allreduce none --min-bytes 1 -- "$mpirun" -n 2 "$folder/program" 3
    says out '^right$'
    says report "^Site 1: 10 of 10 calls were reduced by 'none'" "^Site 2: 3 of 3 calls were reduced by 'none'"
}

# A rank is waited for without a limit, unless there is one: then the communicator's error handler is called.
late() {
    ends 0 "$run" --report "$folder/report" --rule min=4K:onebit -- "$mpirun" -n 2 "$folder/late"
    [ "$(grep -c '^right$' "$folder/out")" -eq 2 ] || fail "a late rank is an error: $(cat "$folder/out" "$folder/err")"
    TACIT_TIMEOUT_MS=200 ends 0 "$run" --report "$folder/report" --rule min=4K:onebit -- "$mpirun" -n 2 "$folder/late"
    [ "$(grep -c '^told$' "$folder/out")" -eq 2 ] || fail "not all were told: $(cat "$folder/out" "$folder/err")"
    says err 'nothing from rank 1 for 200 ms'
    says report '^Site 1: 1 of 1 calls'
}

# An error handler that does not return, from MPI's call or from Tacit's: calls are taken as before.
left() {
    for late in '' late; do
        TACIT_TIMEOUT_MS=${late:+200} ends 0 "$run" --report "$folder/report" --rule min=4K:onebit -- "$mpirun" -n 2 \
            "$folder/leaves" $late
        [ "$(grep -c '^left$' "$folder/out")" -eq 2 ] || fail "the handler was not called: $(cat "$folder/out" "$folder/err")"
        says report '^Site 1: 1 of 1 calls' '^Site 2: 3 of 3 calls'
    done
}

# Waiting for ranks that come late is known, though none comes later than others on the whole: 10 times 50 ms, or nearly.
in_turn() {
    ends 0 "$run" --report "$folder/report" -- "$mpirun" -n 2 "$folder/turns"
    awk '/^Of .* waiting for ranks/ { known = $(NF - 8) >= 0.35 && $2 >= $(NF - 8) } END { exit !known }' "$folder/report" ||
        fail "ranks waited otherwise: $(cat "$folder/report")"
}

# lacks LOW HIGH: of every tensor.
lacks() {
    awk -v low="$1" -v high="$2" '/^tensor/ { n += $3 >= low && $3 <= high } END { exit n != 4 }' "$folder/out" ||
        fail "sums lack not $1 to $2 of the whole: $(cat "$folder/out")"
}

# Tensors that differ in nothing but their buffers, in fresh buffers, and in one: with feedback, sums over steps come close to the
# exact ones, of each: fed_back HOW STEPS TENSORS
fed_back() {
    ends 0 "${feedback[@]}" -- "${recurrence[@]}" "$1" "$2"
    lacks 0.001 0.03
    says report "^Site 1: .*'onebit+ef', as $3 tensors of a step, of which a norm of [1-9]"
    ends 0 "$run" --report "$folder/report" --allreduce onebit --min-bytes 15K -- "${recurrence[@]}" "$1" 20
    lacks 0.5 0.8
}

# Programs that learn: with feedback they come nearly as far as without compression, which they would not without, and all ranks
# have the same model.
# learns SITE CALLS MORE COMMAND...: the first so many calls stay exact; the loss is higher by so much at most.
order=
learns() {
    local site=$1 calls=$2 more=$3 spec dense loss
    shift 3
    ends 0 "$mpirun" -n 2 "$@"
    for spec in onebit+ef topk:ratio=0.01+ef; do
        dense=${dense-$(sed -n 's/.*of test *\([0-9.]*\).*/\1/p' "$folder/out" | tail -n 1)}
        ends 0 "$run" --report "$folder/report" --rule "min=16K$order:$spec" -- "$mpirun" -n 2 "$@"
        says out '^models are equal$'
        says report "^Site $site: $calls calls were reduced by '$spec'"
        loss=$(sed -n 's/.*of test *\([0-9.]*\).*/\1/p' "$folder/out" | tail -n 1)
        awk -v loss="$loss" -v dense="$dense" -v more="$more" 'BEGIN { exit !(loss != "" && loss - dense <= more) }' ||
            fail "$* by '$spec' ends with a loss of $loss instead of $dense"
    done
}

# Each of Fortran's ways once, although it leads to C's
from_fortran() {
    local program
    if [ -z "$mpifort" ] || ! command -v "$mpifort" >/dev/null; then
        echo "skipped: there is no Fortran for $mpirun"
        return
    fi
    for program in old_fortran new_fortran; do
        compile "$mpifort" $program.f90 $program ""
        ends 0 "$run" --report "$folder/report" "$mpirun" -n 2 "$folder/$program"
        says report ' 1 MPI_Allreduce 1 (world) 2 MPI_REAL MPI_SUM 20000 4 80000 .* yes$' \
            ' 2 MPI_Iallreduce 1 (world) 2 MPI_INTEGER MPI_MAX 10 1 40 '
        [ "$(grep -c 'MPI_I\?[aA]llreduce .*%' "$folder/report")" -eq 2 ] || fail "counted twice: $(cat "$folder/report")"
        ends 0 "$run" --report "$folder/report" --allreduce none --min-bytes 1 "$mpirun" -n 2 "$folder/$program"
        says report "^Site 1: 4 of 4 calls were reduced by 'none'"
    done
    for module in '' -DF08; do
        compile "$mpifort" training.F90 training_fortran "$module"
        learns 1 '1589 of 1600' 0.0003 "$folder/training_fortran" 800
    done
}

# An MPI that was loaded for one library alone, as Python loads its modules
echo '#include <dlfcn.h>
int main(int count, char **words)
{
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL), *start = library != 0 ? dlsym(library, "main") : 0;
    return start != 0 ? ((int (*)(int, char **))start)(count - 1, words + 1) : 99;
}' >"$folder/loads.c"
${CC:-cc} -o "$folder/loads" "$folder/loads.c" -ldl || fail "loads.c"

with "${MPIRUN-mpirun}" "${MPIFORT-}" "${MPI_CFLAGS-} ${MPI_LIBS-}"
for ranks in 1 2 3; do
    counted $ranks "$folder/program"
done
counted 2 "$folder/loads" "$folder/program.so"
ends 1 "$mpirun" -n 2 "$folder/taken"
for ranks in 1 2 3 4; do
    taken $ranks
done
all_taken
# Another tool in front sees all calls, and so does the report.
compile "${CC:-cc}" program.c tooled "$root/tests/preload/tool.c ${MPI_CFLAGS-} ${MPI_LIBS-} -lpthread"
ends 3 "$run" --report "$folder/report" --allreduce none --min-bytes 1 -- "$MPIRUN" -n 2 "$folder/tooled" 3
says out '^right$' '^counted 14$'
says report "^Site 1: 10 of 10 calls were reduced by 'none'" "^Site 2: 3 of 3 calls were reduced by 'none'" \
    " 8 MPI_Iallreduce 1 (world) 2 MPI_INT MPI_MAX 1 3 4 "
late
left
in_turn
for how in same apart one; do
    fed_back $how 200 4
done
fed_back distinct 400 1
digits=$root/examples/data/digits.csv
learns 3 '1989 of 2000' 0.04 "$folder/training" --data "$digits" --width 64 --rate 0.01 --steps 400 --every 10 --seed 2
from_fortran

# Numbers of sites; calls that stay exact first
ends 3 "$run" --report "$folder/report" --rule site=2:none --rule site=1,after=4:none -- "$MPIRUN" -n 2 "$folder/program" 3
says report "^Site 1: 6 of 10 calls" "^Site 2: 3 of 3 calls"
# A step that changes
ends 0 "${feedback[@]}" -- "${recurrence[@]}" changing 600
lacks 0 0.03
says report "^Site 1: .*'onebit+ef', as 3 tensors of a step"
# What is kept back of a step that is no more is sent.
ends 0 "${feedback[@]}" -- "${recurrence[@]}" ending 600
lacks 0 0.00001
says report "^Site 1: .*'onebit+ef', as 0 tensors of a step, of which a norm of 0 "
# But not with other tensors, which only are as large.
ends 0 "${feedback[@]}" -- "${recurrence[@]}" other 600
sed -i '/^tensor 0/s/0\.0[0-9]*$/0/' "$folder/out"
lacks 0 0.00001
says report "^Site 1: .*'onebit+ef', as 1 tensors of a step, of which a norm of [1-9]"
# Tensors that nobody can tell from one another stay exact.
ends 0 "${feedback[@]}" -- "${recurrence[@]}" fresh 200
lacks 0 0.00001
says err 'cannot be told from one another'
ends 0 "$run" --report "$folder/report" --rule min=15K,order=fixed:onebit+ef -- "${recurrence[@]}" fresh 200
lacks 0.001 0.03
# No more memory than two tensors need: the others stay exact.
ends 0 "${feedback[@]}" --state-bytes=48K -- "${recurrence[@]}" same 200
says err 'remember 49152 bytes, as many as they may'
says report '^Site 1: .* as 2 tensors of a step'

# Ranks with other rules; none that are rules; a spec that is none
ends 3 "$MPIRUN" -n 1 "$run" --rule min=4K:onebit "$folder/program" 3 : -n 1 "$run" --rule min=8K:onebit "$folder/program" 3
says out '^right$'
[ "$(grep -c 'communicator 1: ranks have other rules' "$folder/err")" -eq 1 ] || fail "not one warning: $(cat "$folder/err")"
interposer=$PWD/.libs/libtacit_preload_mpi.so
ends 3 env LD_PRELOAD="$interposer" TACIT_RULE=onebit "$MPIRUN" -n 2 "$folder/program" 3
says out '^right$'
says err "communicator 1: 'onebit' is not KEY=VALUE"
ends 3 env LD_PRELOAD="$interposer" TACIT_ALLREDUCE=onebitt "$MPIRUN" -n 2 "$folder/program" 3
says out '^right$'
says err "communicator 1: sums of 262144 float32 stay dense: .*onebit"

# Behind the launcher, without a report's name. Ranks without the interposer keep nobody waiting for long.
TACIT_TIMEOUT_MS=300 ends 0 "$MPIRUN" -n 1 "$run" "$folder/program" : -n 1 "$folder/program"
says err ' 1 MPI_Allreduce 1 (world) 2 MPI_FLOAT ' 'Nothing was measured: not all ranks came'
TACIT_TIMEOUT_MS=300 ends 0 "$MPIRUN" -n 1 "$folder/program" : -n 1 "$run" "$folder/program"

# An MPI that was loaded for Python's module alone
if "${PYTHON:-python3}" -c 'import mpi4py' 2>/dev/null; then
    echo 'from mpi4py import MPI
values = bytearray(80000)
for i in range(4):
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, [values, MPI.FLOAT], MPI.SUM)' >"$folder/program.py"
    ends 0 "$run" --report "$folder/report" "$MPIRUN" -n 2 "${PYTHON:-python3}" "$folder/program.py"
    says report ' 1 MPI_Allreduce 1 (world) 2 MPI_FLOAT MPI_SUM 20000 4 80000 '
    predicted 1
    if "${PYTHON:-python3}" -c 'import numpy' 2>/dev/null; then
        order=,order=fixed
        learns 3 '8[6-9].* of 900' 0.03 "${PYTHON:-python3}" "$root/tests/preload/training.py" "$digits" 64 300 1
        order=
    else
        echo "skipped: there is no numpy"
    fi
else
    echo "skipped: there is no mpi4py"
fi

# The other MPI's programs: what differs with an MPI.
if [ -z "${MPICHRUN-}" ]; then
    echo "skipped: Tacit is built for one MPI"
elif ! command -v "$MPICHRUN" >/dev/null; then
    echo "skipped: there is no $MPICHRUN"
else
    with "$MPICHRUN" "$MPICHFORT" "$MPICH_CFLAGS $MPICH_LIBS"
    counted 2 "$folder/program"
    counted 2 "$folder/loads" "$folder/program.so"
    taken 3
    all_taken
    late
    left
    in_turn
    fed_back same 200 4
    from_fortran
fi
exit $failed
