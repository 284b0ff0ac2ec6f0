#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the archive; builds, tests and installs what is in it; looks for files of the repository that are not, and for what make
# distclean leaves of the build that it is made in: archive.sh BUILD-DIRECTORY [ARGUMENT OF MAKE]...
set -eu
build=$(cd "$1" && pwd)
shift
VERBOSE=1 make -C "$build" "$@" distcheck

# Of a copy beside it; python/ and the files at the top are bootstrap's.
copy=$build-copy
trap 'rm -rf "$copy"' EXIT
rm -rf "$copy" && mkdir "$copy"
find "$build" -mindepth 1 -maxdepth 1 -not -name python -exec cp -al -t "$copy" {} +
make -C "$copy" distclean
left=$(cd "$copy" && find . -type f -not -regex '\./\(configured\|[^/]*\.log\|tacit-.*\.tar\.gz\)')
[ -z "$left" ] || {
    echo "make distclean leaves ${left//$'\n'/, }"
    exit 1
}

cd "$(dirname "$0")/.."
git rev-parse >/dev/null 2>&1 || exit 0
missing=$(comm -23 <(git ls-files | grep -vx .gitignore | LC_ALL=C sort) \
    <(tar -tf "$build"/tacit-*.tar.gz | sed 's|^[^/]*/||' | LC_ALL=C sort))
[ -z "$missing" ] || {
    echo "not in the archive: ${missing//$'\n'/, }"
    exit 1
}
