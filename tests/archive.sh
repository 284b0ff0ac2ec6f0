#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the archive; builds, tests and installs what is in it; looks for files of the repository that are not:
# archive.sh BUILD-DIRECTORY [ARGUMENT OF MAKE]...
set -eu
build=$1
shift
VERBOSE=1 make -C "$build" "$@" distcheck

cd "$(dirname "$0")/.."
git rev-parse >/dev/null 2>&1 || exit 0
missing=$(comm -23 <(git ls-files | grep -vx .gitignore | LC_ALL=C sort) \
    <(tar -tf "$build"/tacit-*.tar.gz | sed 's|^[^/]*/||' | LC_ALL=C sort))
[ -z "$missing" ] || {
    echo "not in the archive: ${missing//$'\n'/, }"
    exit 1
}
