#!/bin/sh
# The virtual machine's first process: makes a network, mounts the folder shared
# by the host at /host, runs /host/run.sh there and reports its exit status.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /run/rpcbind && mount -t devpts pts /dev/pts

finish() {
    echo "quic-fsgw-vm: exit status $1"
    sync
    echo o >/proc/sysrq-trigger
    while :; do sleep 1; done
}

for m in virtio_net 9pnet_virtio 9p; do modprobe $m || finish 125; done
ip link set lo up
for dev in /sys/class/net/*; do
    dev=${dev##*/}
    [ "$dev" = lo ] || break
done
# QEMU's user network: the host's loopback is 10.0.2.2.
ip addr add 10.0.2.15/24 dev "$dev" && ip link set "$dev" up && ip route add default via 10.0.2.2 || finish 125
grep -q ' host$' /etc/hosts || echo '10.0.2.2 host smbquic.test' >>/etc/hosts
mkdir -p /host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 host /host || finish 125
cd /host && sh ./run.sh
finish $?
