#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The Python package on the library that was built: its version, its types where mypy is installed, and its own tests where
# PyTorch is. Runs in the build directory; PYTHON names an interpreter.
set -u
source=$(cd "${srcdir:-.}" && pwd)
python=${PYTHON:-python3}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/python/pyproject.toml")

if [ ! -e .libs/libtacit.so ]; then
    echo "skipped: there are no shared libraries in this build"
    exit 77
fi
if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "skipped: PyTorch is not installed (for $python)"
    exit 77
fi
if ! grep -q "^PACKAGE_VERSION = $version\$" Makefile; then
    echo "python/pyproject.toml says version $version, the library is another"
    exit 1
fi
export LD_LIBRARY_PATH=$PWD/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PYTHONPATH=$source/python PYTHONDONTWRITEBYTECODE=1
if "$python" -c 'import mypy' 2>/dev/null; then
    "$python" -m mypy --strict --cache-dir /dev/null "$source/python/tacit" || exit 1
fi
"$python" -W ignore -m unittest discover -s "$source/python/tests" 2>&1
