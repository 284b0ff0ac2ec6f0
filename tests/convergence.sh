#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench/convergence runs, resumes and reports; its grid names specs that there are, and its page says what its results say.
set -u
convergence=${srcdir:-.}/bench/convergence
command -v python3 >/dev/null || { echo "skipped: there is no python3" && exit 77; }
command -v "${MPIRUN:-mpirun}" >/dev/null || { echo "skipped: there is no mpirun" && exit 77; }
[ -x examples/train-quadratic ] || { echo "skipped: there is no examples/train-quadratic" && exit 77; }

failed=0
timeout -k 5 120 "$convergence" --smoke --build "$PWD" || failed=1
"$convergence" --check --build "$PWD" || failed=1
exit $failed
