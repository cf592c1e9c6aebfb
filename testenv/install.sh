#!/bin/bash
# install.sh [LIST...] - install the Debian packages the tests need.
#
# LIST is a file of package names beside this script, debian.packages if none
# is named. Idempotent, and quick when everything is there: no network, no root.
# Packages bring daemons (rpcbind, nfs-ganesha); none is started.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- debian.packages

missing=()
for list in "$@"; do
    while read -r name; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)
        [ "$state" = installed ] || missing+=("$name")
    done < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$here/$list")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "install.sh: installing ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install.sh: packages are missing: run as root, or install sudo" >&2; exit 1; }
    exec sudo -E "$here/install.sh" "$@"
fi

# Several checkouts may run this at once; apt has a lock of its own but the
# policy file below has not.
exec 9>/run/lock/quic-fsgw-install.lock
flock -w 900 9 || { echo "install.sh: another install.sh has run for 15 minutes" >&2; exit 1; }

# Debian starts what it installs. A policy that refuses keeps an NFS server and
# a port mapper from appearing on a machine that only wanted to run tests.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -y -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
# The package lists may be fresh enough already; only a failure costs an update.
"${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
    "${apt[@]}" update >/dev/null
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
}
