#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs one rank test at several rank counts, each under a time limit: mpirun.sh PROGRAM.np
#
# The test's source may say, each on a line of its own near the top:
#   /* ranks: 2 4 */                 the counts that it is made for (default: 1 2 3 4 8)
#   /* exit: 1 */                    the status that the launcher must end with (default: 0)
#   /* seconds: 30 */                the time limit of one run (default: 120)
#   /* mpirun: --enable-recovery */  further arguments for the launcher
# TACIT_TEST_RANKS="2 4" narrows the counts, MPIRUN names the launcher. Exit status: 0 passed, 77 skipped, else failed.
set -u

program=$1
name=${program##*/}
source=${srcdir:-.}/${program%/*}/${name%.np}.c
[ -f "$source" ] || source=${program%.np}.c

# said WORD DEFAULT: what the source says after WORD.
said() {
    local line
    line=$(sed -n "1,20s|^/\* $1: \(.*\) \*/\$|\1|p" "$source" 2>/dev/null | head -n 1)
    echo "${line:-$2}"
}

# Of the counts the source asks for, those that the environment allows; its smallest where that leaves none.
rank_counts() {
    local made_for wanted count kept=
    made_for=$(said ranks "1 2 3 4 8")
    wanted=${TACIT_TEST_RANKS:-$made_for}
    for count in $made_for; do
        case " $wanted " in *" $count "*) kept="$kept $count" ;; esac
    done
    echo "${kept:-${made_for%% *}}"
}

launcher=${MPIRUN:-mpirun}
if ! command -v "$launcher" >/dev/null; then
    echo "skipped: there is no $launcher"
    exit 77
fi

arguments=()
if "$launcher" --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE\|PRTE'; then
    # Many ranks on few cores, perhaps as root in a container, where ranks may not read each other's memory.
    arguments=(--oversubscribe --bind-to none)
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_MCA_btl_vader_single_copy_mechanism=none
    export OMPI_MCA_btl_base_warn_component_unused=0
    export OMPI_MCA_plm_rsh_agent=${OMPI_MCA_plm_rsh_agent:-false}
fi
# An MPI keeps memory until its process ends, in modules that are unloaded by then: leaks are the unit tests' to find.
export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}

read -r -a extra <<<"$(said mpirun "")"
expected=$(said exit 0)
seconds=${TACIT_TEST_SECONDS:-$(said seconds 120)}

for ranks in $(rank_counts); do
    echo "== $name on $ranks ranks"
    timeout -k 10 "$seconds" "$launcher" "${arguments[@]}" "${extra[@]}" -n "$ranks" "$program" </dev/null
    status=$?
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ] && [ "$status" -ne "$expected" ]; then
        echo "$name: failed on $ranks ranks: still running after $seconds seconds, or killed"
        exit 1
    elif [ "$status" -eq 77 ] && [ "$expected" -ne 77 ]; then
        echo "skipped: on $ranks ranks"
        exit 77
    elif [ "$status" -ne "$expected" ]; then
        echo "$name: failed on $ranks ranks: exit status $status, expected $expected"
        exit 1
    fi
done
