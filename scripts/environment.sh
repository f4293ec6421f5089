#!/usr/bin/env bash
# Make .venv with exactly what a lock file pins, and this project in it:  scripts/environment.sh LOCKFILE
set -euo pipefail
cd "$(dirname "$0")/.."
lock=$1

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=
for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
        python=$(command -v "$candidate")
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed, and none is here. On Debian 12 or Ubuntu 24.04, type: apt-get install python3" >&2
    echo "Where it has another name, type: make PYTHON=/path/to/python …" >&2
    exit 1
fi

if ! { [ -x .venv/bin/python ] && new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    # Debian keeps the module that puts pip into an environment in a package of its own.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    PYTHON=$python bash scripts/system.sh "py:ensurepip=python$version-venv"
    echo "Making .venv with $python ($version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet install)
echo "Installing what $lock pins"
"${pip[@]}" --no-deps --require-hashes -r "$lock"
"${pip[@]}" --no-deps --no-build-isolation -e .
