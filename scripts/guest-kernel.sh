#!/usr/bin/env bash
# Fetch Debian's kernel for the machine that the long tests boot, and unpack it:  scripts/guest-kernel.sh DIRECTORY
#
# Nothing is installed: the package is unpacked below DIRECTORY, once.
set -euo pipefail
directory=$1
[ -e "$directory/ready" ] && exit 0

case $(uname -m) in
    x86_64) package=linux-image-amd64 ;;
    *)
        echo "The guest is made for x86_64 alone; here its tests are skipped." >&2
        exit 0
        ;;
esac
newest() { apt-cache depends "$package" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1; }

name=$(newest)
if [ -z "$name" ] && [ "$(id -u)" -eq 0 ]; then
    apt-get update -q >/dev/null
    name=$(newest)
fi
if [ -z "$name" ]; then
    echo "There is no package $package; type: apt-get update (on Debian), or run the other long tests alone:" >&2
    echo "  make test-long ARGS=--ignore=tests/guest" >&2
    exit 1
fi
echo "Fetching $name for the guest"
rm -rf "$directory"
mkdir -p "$directory/package"
(cd "$directory/package" && apt-get download -q "$name" >/dev/null 2>&1)
dpkg-deb -x "$directory"/package/*.deb "$directory"
rm -rf "$directory/package"
touch "$directory/ready"
