#!/bin/bash
# vm/run.sh FOLDER [SECONDS] - boot the virtual machine of vm/build.sh, share
# FOLDER with it as /host, run FOLDER/run.sh in it as root, and exit with that
# script's status. Its output is the machine's console, on stdout. The host's
# loopback is 10.0.2.2 (also: host, smbquic.test). Changes to the machine's own
# disk are discarded, so several may run at once. 124: not done in SECONDS (300);
# 125: the machine itself failed.
set -euo pipefail
vm=${QUIC_FSGW_VM:-/var/tmp/quic-fsgw/vm}
folder=$(cd "${1:?folder to share}" && pwd)
limit=${2:-300}
[ -e "$vm/stamp" ] || { echo "vm/run.sh: no machine in $vm (testenv/vm/build.sh makes it)" >&2; exit 125; }
[ -e "$folder/run.sh" ] || { echo "vm/run.sh: $folder/run.sh is missing" >&2; exit 125; }
console=$(mktemp)
trap 'rm -f "$console"' EXIT

# Without hardware acceleration: it works on any machine, also inside another. One
# processor: a kernel that patches its code while another emulated one runs it can crash.
timeout -k 5 "$limit" qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 1024 \
    -display none -monitor none -serial stdio -no-reboot -nodefaults \
    -kernel "$vm/vmlinuz" -initrd "$vm/initrd" -append "console=ttyS0 quiet panic=-1" \
    -drive "file=$vm/root.img,format=raw,if=virtio,snapshot=on" \
    -netdev user,id=net -device virtio-net-pci,netdev=net \
    -virtfs "local,path=$folder,mount_tag=host,security_model=none" \
    -device virtio-rng-pci </dev/null | tee "$console" || { [ ${PIPESTATUS[0]} != 124 ] || exit 124; }
status=$(tr -d '\r' <"$console" | sed -n 's/^quic-fsgw-vm: exit status \([0-9]*\)$/\1/p' | tail -1)
exit "${status:-125}"
