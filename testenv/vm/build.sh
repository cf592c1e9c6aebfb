#!/bin/bash
# vm/build.sh - a virtual machine with Debian forky's stock kernel, mount.cifs
# and mount.nfs, for tests with the kernel's own clients on any machine.
#
#   QUIC_FSGW_VM  where it goes (default /var/tmp/quic-fsgw/vm)
#
# Leaves vmlinuz, initrd and root.img there. Idempotent and safe to run twice at
# once. About two minutes and 1.5 GB the first time. Needs root.
set -euo pipefail
tool=vm/build.sh
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/debian.sh"
vm=${QUIC_FSGW_VM:-/var/tmp/quic-fsgw/vm}
root=$vm/root
log=$vm/build.log

stamp() { { echo "1 $suite"; packages vm.chroot.packages; cat "$here/vm/init.sh"; } | sha256sum | cut -c1-16; }
ready() { [ "$(cat "$vm/stamp" 2>/dev/null)" = "$(stamp)" ]; }

ready && exit 0
need_root QUIC_FSGW_VM="$vm"
own_namespace
lock "$vm.lock"
ready && exit 0
command -v busybox >/dev/null || die "busybox-static is missing (testenv/install.sh vm.packages installs it)"
mkdir -p "$vm"

# kernel takes the stock kernel's packages apart: installing them would build an
# initrd for a machine that does not exist. It may be one package or several.
kernel() {
    local image names
    depends() { chroot "$root" apt-cache depends "$1" | awk '/Depends: linux-/ {print $2}'; }
    image=$(depends linux-image-amd64 | grep '^linux-image-' | head -1)
    [ -n "$image" ] || die "linux-image-amd64 names no kernel"
    mapfile -t names < <(echo "$image"; depends "$image" | grep -E '^linux-(base|binary|modules)-[0-9]' || true)
    rm -rf "$root/tmp/kernel"
    mkdir "$root/tmp/kernel"
    { chroot "$root" sh -ec "cd /tmp/kernel; apt-get -qq -o APT::Sandbox::User=root download ${names[*]}" &&
      for deb in "$root"/tmp/kernel/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink; done; } >>"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "unpacking ${names[*]} failed"; }
    rm -rf "$root/tmp/kernel"
    version=$(ls "$root/usr/lib/modules" | tail -1)
    chroot "$root" depmod "$version"
    local file
    for file in "$root/usr/lib/modules/$version/vmlinuz" "$root/boot/vmlinuz-$version"; do
        [ ! -e "$file" ] || mv "$file" "$vm/vmlinuz"
    done
}

# initrd holds what finds the root file system: a shell and a few modules.
initrd() {
    local dir=$vm/initrd.d module path
    rm -rf "$dir"
    mkdir -p "$dir"/{bin,dev,proc,root,mod}
    cp "$(command -v busybox)" "$dir/bin/busybox"
    : >"$dir/mod/order"
    for module in virtio_pci virtio_blk ext4; do
        chroot "$root" modprobe -S "$version" --show-depends "$module" | awk '$1=="insmod" {print $2}'
    done | awk '!seen[$0]++' | while read -r path; do
        case $path in
        *.xz) xz -dc "$root$path" >"$dir/mod/$(basename "$path" .xz)"; basename "$path" .xz ;;
        *.zst) zstd -dcq "$root$path" >"$dir/mod/$(basename "$path" .zst)"; basename "$path" .zst ;;
        *) cp "$root$path" "$dir/mod/"; basename "$path" ;;
        esac
    done >"$dir/mod/order"
    cat >"$dir/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
while read -r m; do /bin/busybox insmod /mod/$m; done </mod/order
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do n=$((n+1)); /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root || /bin/busybox poweroff -f
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/quic-fsgw-init
INIT
    chmod 755 "$dir/init"
    (cd "$dir" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$vm/initrd"
    rm -rf "$dir"
}

# image puts the tree into a file system of its size and some room.
image() {
    rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/* "$root"/boot/*
    umount "$root/proc"
    local size=$(($(du -sm "$root" | cut -f1) * 5 / 4 + 100))
    rm -f "$vm/root.img"
    mke2fs -q -t ext4 -d "$root" "$vm/root.img" "${size}M"
}

echo "$tool: building $vm, about two minutes"
started=$SECONDS
[ -e "$root/.bootstrapped" ] || bootstrap "$root" "$log"
mapfile -t names < <(packages vm.chroot.packages)
add_packages "$root" "$log" "${names[@]}"
kernel
install -m 755 "$here/vm/init.sh" "$root/sbin/quic-fsgw-init"
initrd
image
rm -rf "$root"
stamp >"$vm/stamp"
echo "$tool: kernel $version, $((SECONDS-started)) s"
