# SPDX-License-Identifier: Apache-2.0
"""Measurements of hardware KVM on the emulated host of tools/kvm-host, beside QEMU there; measure.py runs them."""

import re
import shutil
import statistics
import subprocess

from harness import ROOT, Failure, beside, require, run

HOST_SECONDS = 1800
LINE = re.compile(r"^(boot|restore|port|memory|own|all) (smolvmm|qemu) (\d+)$", re.MULTILINE)
TITLES = {
    "boot": ("process start to the guest's init", "ms", 1000),
    "restore": ("process start to the restored guest's next tick", "ms", 1000),
    "port": ("a read of a port, from guest to device and back", "us", 1000),
    "memory": ("a read of a device's memory", "us", 1000),
    "own": ("memory of a restored machine's own, without the guest's", "MiB", 1024),
    "all": ("the same with code and other files", "MiB", 1024),
}


def measure_kvm(setup):
    """hardware KVM on an emulated host: boot, restore and round trips, beside QEMU's microvm in there"""
    bare = setup.folder / "bare"
    subprocess.run([ROOT / "guest/build-bare-kernel", bare], check=True)
    files = {
        setup.kernel: "vmlinuz", setup.initramfs: "initramfs.cpio", bare: "bare",
        ROOT / "tools/kvm-bench-inside": "/bin/kvm-bench-inside", shutil.which("bash"): "/bin/bash",
        shutil.which("qemu-system-x86_64"): "/usr/bin/qemu-system-x86_64", "/usr/share/qemu": "/usr/share/qemu",
        "/usr/share/seabios": "/usr/share/seabios"}
    options = [word for path, inside in files.items() for word in ("--file", f"{path}:{inside}")]
    status, output, errors = run(
        [ROOT / "tools/kvm-host", "--smolvmm", setup.smolvmm, "--timeout", HOST_SECONDS, *options, "--",
         "kvm-bench-inside", str(setup.runs)], HOST_SECONDS + 60)
    require(status == 0, f"status {status}\n{output}{errors}")
    values = {}
    for measurement, side, value in LINE.findall(output):
        values.setdefault((measurement, side), []).append(int(value))
    for measurement, (title, unit, scale) in TITLES.items():
        ours, theirs = (
            [value / scale for value in values.get((measurement, side), [])] for side in ("smolvmm", "qemu"))
        if ours and theirs:
            beside(title, ours, theirs, unit)
        elif ours:
            print(f"  {title:54} smolvmm {statistics.median(ours):9.2f} {unit:5} ({min(ours):.2f} to {max(ours):.2f})")
    failures = [line for line in output.splitlines() if line.startswith("failed ")]
    if failures:
        raise Failure("\n  ".join(failures))
