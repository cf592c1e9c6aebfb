# debian.sh - functions to build Debian trees, for the scripts beside it.
# Sourced; the caller sets $tool (its name) and $here, and runs as root in a
# mount namespace of its own (see own_namespace).
suite=forky
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

die() { echo "$tool: $*" >&2; exit 1; }

# packages LIST prints the names in a list file.
packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$here/$1"; }

# need_root re-executes the script under sudo unless it is root. Arguments are
# VARIABLE=value settings to carry over.
need_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || die "run as root, or install sudo"
    exec sudo -E "$@" "$0"
}

# own_namespace re-executes the script in a new mount namespace. What is mounted
# for a build is gone with it, so nothing stays behind and no `rm -r` can reach
# through a tree into the host.
own_namespace() {
    [ "${QUIC_FSGW_NAMESPACE-}" != $PPID.$tool ] || return 0
    QUIC_FSGW_NAMESPACE=$$.$tool unshare -m --propagation private "$0"
    exit $?
}

# lock FILE waits until no other build of the same thing runs.
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    flock -w 900 9 || die "another build has held $1 for 15 minutes"
}

# mirror prints the address of the first Debian archive apt knows.
mirror() {
    local m
    m=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2=="main" && $1 !~ /security/ {print $1; exit}')
    [ -n "$m" ] || m=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
    [ -n "$m" ] || m=$(awk '$1=="deb" {for (i=2;i<=NF;i++) if ($i ~ /:\/\//) {print $i; exit}}' /etc/apt/sources.list 2>/dev/null || true)
    [ -n "$m" ] || die "apt knows no Debian archive (no usable line in /etc/apt)"
    echo "${m%/}"
}

# aptconf prints settings for a tree's apt: this machine's proxy, and others.
aptconf() {
    apt-config dump | grep -E '^Acquire::(http|https)::(Proxy|Verify-Peer|CaInfo) ' || true
    # An archive snapshot has expired by its own dates; the signature still counts.
    printf 'APT::Install-Recommends "false";\nAcquire::Retries "3";\nAcquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
}

# bootstrap TREE LOG makes a minimal system, from scratch.
bootstrap() {
    local tree=$1 log=$2 proxy= script=/usr/share/debootstrap/scripts/$suite
    command -v debootstrap >/dev/null || die "debootstrap is missing (make deps installs it)"
    # An older debootstrap does not know the name; all modern suites use sid's script.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || export http_proxy=$proxy
    rm -rf "$tree"
    debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        "$suite" "$tree" "$(mirror)" "$script" >"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "debootstrap failed (all of it: $log)"; }
    # Never start daemons from package scripts.
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    touch "$tree/.bootstrapped"
}

# add_packages TREE LOG NAME... installs packages in a tree.
add_packages() {
    local tree=$1 log=$2
    shift 2
    aptconf >"$tree/etc/apt/apt.conf.d/90quic-fsgw"
    cp -f /etc/resolv.conf "$tree/etc/resolv.conf"
    mountpoint -q "$tree/proc" || mount -t proc proc "$tree/proc"
    { chroot "$tree" apt-get update -qq &&
      chroot "$tree" apt-get install -y -qq --no-install-recommends "$@" &&
      chroot "$tree" apt-get clean; } >>"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "installing $* failed (all of it: $log)"; }
}
