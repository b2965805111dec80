# SPDX-License-Identifier: Apache-2.0
# What the scripts in tools/ share. Source it; it sets the project's root as the current folder.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=cache
smolvmm=.build/release/smolvmm
initramfs=$cache/initramfs.cpio
disk_initramfs=$cache/initramfs-disk.cpio
tools_disk=$cache/tools-disk.img
bench_program=$cache/smolbench
bench_initramfs=$cache/initramfs-bench.cpio

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

usage() {
    echo "usage: $*" >&2
    exit 2
}

step() {
    if [[ -t 1 ]]; then printf '\n\033[1m==> %s\033[0m\n' "$*"; else printf '\n==> %s\n' "$*"; fi
}

# The current time in milliseconds.
now() {
    local time=${EPOCHREALTIME/[.,]/}
    echo "$((time / 1000))"
}

# Milliseconds as seconds.
seconds() {
    printf '%d.%03d s' "$(($1 / 1000))" "$(($1 % 1000))"
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root or sudo for: $*"
    fi
}

require_swift() {
    command -v swift >/dev/null || fail "there is no Swift here: install 6.3 or newer from https://www.swift.org/install/linux"
    local version
    version=$(swift --version 2>/dev/null | grep -oE 'Swift version [0-9]+\.[0-9]+' | grep -oE '[0-9]+\.[0-9]+')
    if ! printf '6.3\n%s\n' "$version" | sort -CV; then
        fail "Swift $version is too old: install 6.3 or newer from https://www.swift.org/install/linux"
    fi
}

# The command as it is shipped: the Swift runtime is inside.
build_smolvmm() {
    swift build -c release --static-swift-stdlib --product smolvmm
}

# Whether a file is missing or older than one of those that it is made from.
outdated() {
    local file=$1
    shift
    [[ ! -e $file || -n $(find "$@" -newer "$file" -print -quit) ]]
}

build_initramfs() {
    if outdated "$initramfs" guest; then
        guest/build-initramfs "$initramfs"
    fi
}

# The test guest with the cloud kernel's drivers for virtio devices.
build_disk_initramfs() {
    tools/fetch-kernel cloud
    if outdated "$disk_initramfs" guest "$cache/modules-cloud"; then
        guest/build-initramfs "$disk_initramfs" --modules "$cache/modules-cloud"
    fi
}

build_tools_disk() {
    if outdated "$tools_disk" guest/build-tools-disk; then
        guest/build-tools-disk "$tools_disk"
    fi
}

# All that running a machine takes.
prepare_machine() {
    require_swift
    build_smolvmm
    tools/fetch-kernel cloud
    build_initramfs
}

# What measures processors, in a guest and here.
prepare_bench() {
    if outdated "$bench_program" guest; then
        guest/build-bench "$bench_program"
    fi
    if outdated "$bench_initramfs" guest "$bench_program"; then
        guest/build-initramfs "$bench_initramfs" --program "$bench_program"
    fi
}

# What measures applications: a Debian with PostgreSQL, which takes some minutes to make.
prepare_applications() {
    prepare_bench
    if outdated "$cache/guest-bench/root.qcow2" guest/bench-setup; then
        tools/make-guest "$cache/guest-bench" --packages python3,postgresql --upload "$bench_program:/usr/bin/smolbench" \
            --provision guest/bench-setup --size 2G
    fi
}

# What tests and measurements of disks take besides.
prepare_disks() {
    build_disk_initramfs
    build_tools_disk
}

# The guest of Debian packages that tests boot, which takes some minutes to make. Where Debian cannot be reached those
# tests are skipped.
prepare_guest() {
    outdated "$cache/guest/root.qcow2" tools/make-guest guest/agent guest/system guest/debian-setup guest/root-init \
        guest/build-root-initramfs Sources/AgentProtocol || return 0
    local answer release=http://deb.debian.org/debian/dists/bookworm/InRelease
    answer=$(mktemp)
    if /usr/lib/apt/apt-helper download-file "$release" "$answer" >/dev/null 2>&1; then
        tools/make-guest "$cache/guest" --size 1G
    else
        echo "Debian cannot be reached from here: no guest is made of its packages"
    fi
    rm -f "$answer"
}

# The kernel of the emulated KVM host.
prepare_kvm_host() {
    tools/fetch-kernel generic
}
