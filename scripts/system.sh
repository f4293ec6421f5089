#!/usr/bin/env bash
# Make sure that programs of the distribution are there:  scripts/system.sh PROGRAM=PACKAGE …
#
# Installs what is missing with apt, as root or by sudo. Elsewhere it says what to install and fails.
# A PROGRAM that begins with "py:" is a Python module that $PYTHON must be able to import.
set -euo pipefail

missing=()
for pair in "$@"; do
    program=${pair%%=*} package=${pair#*=}
    case $program in
        py:*) "${PYTHON:-python3}" -c "import ${program#py:}" 2>/dev/null || missing+=("$package") ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("$package") ;;
    esac
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi
command="${as_root[*]:+${as_root[*]} }apt-get install -y ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "Missing: ${missing[*]} (names as Debian has them)." >&2
    echo "Install them with this system's package manager, for instance:" >&2
    echo "  dnf install ${missing[*]}    pacman -S ${missing[*]}    zypper install ${missing[*]}" >&2
    exit 1
fi
if [ ${#as_root[@]} -gt 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "Missing: ${missing[*]}. As root, type: apt-get install -y ${missing[*]}" >&2
        exit 1
    fi
    # Without a terminal sudo could only ask nobody.
    if [ ! -t 0 ] && ! sudo -n true 2>/dev/null; then
        echo "Missing: ${missing[*]}. Type: $command" >&2
        exit 1
    fi
fi
echo "Installing ${missing[*]}: $command"
export DEBIAN_FRONTEND=noninteractive
if ! "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    # The lists of a fresh machine are empty or old.
    "${as_root[@]}" apt-get update -q >/dev/null
    if ! "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; then
        echo "Could not install ${missing[*]}; see above. By hand: $command" >&2
        exit 1
    fi
fi
