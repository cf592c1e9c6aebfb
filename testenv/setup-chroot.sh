#!/bin/bash
# setup-chroot.sh - a Debian forky tree with Samba 4.25, whose smbd is the
# tests' SMB server and whose smbclient and smbtorture speak SMB over QUIC.
#
#   QUIC_FSGW_CHROOT  where it goes (default /var/tmp/quic-fsgw/forky)
#
# Idempotent: a finished tree is left alone, in a few milliseconds. Safe to run
# twice at once. Takes up to two minutes and 450 MB the first time. Needs root.
# The package mirror and proxy are this machine's own, read from apt.
set -euo pipefail
tool=setup-chroot.sh
here=$(cd "$(dirname "$0")" && pwd)
. "$here/debian.sh"
chroot=${QUIC_FSGW_CHROOT:-/var/tmp/quic-fsgw/forky}
users="smbu smbv" # as sambatest has them

stamp() { { echo "1 $suite $users"; packages chroot.packages; } | sha256sum | cut -c1-16; }
ready() { [ "$(cat "$chroot/.quic-fsgw" 2>/dev/null)" = "$(stamp)" ]; }

ready && exit 0
need_root QUIC_FSGW_CHROOT="$chroot"
own_namespace
lock "$chroot.lock"
ready && exit 0

echo "$tool: building $chroot, up to two minutes"
started=$SECONDS
[ -e "$chroot/.bootstrapped" ] || bootstrap "$chroot" "$chroot.log"
mapfile -t names < <(packages chroot.packages)
add_packages "$chroot" "$chroot.log" "${names[@]}"
for user in $users; do
    chroot "$chroot" id "$user" >/dev/null 2>&1 || chroot "$chroot" useradd -M -s /usr/sbin/nologin "$user"
done
stamp >"$chroot/.quic-fsgw"
echo "$tool: Samba $(chroot "$chroot" smbclient --version | cut -d' ' -f2), $((SECONDS-started)) s"
