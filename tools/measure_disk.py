# SPDX-License-Identifier: Apache-2.0
"""Measurements of disks: images beside qemu-img, a guest's disk beside QEMU's; measure.py runs them."""

import json
import os
import pathlib
import re
import statistics
import tempfile
import time

from harness import CACHE, Failure, Process, beside, qemu, require, require_file, run

DISK_SIZE = 1 << 30
# What qemu-img bench adds to an offset each time: every request goes to another cluster.
STEP = (1 << 20) + 4096
FIO_SECONDS = 120


def seconds(command):
    """What `bench` says that a run took."""
    status, output, errors = run(command, 600)
    match = re.search(r"Run completed in ([\d.]+) seconds", output)
    require(status == 0 and match, f"{' '.join(map(str, command))}: status {status}\n{output}{errors}")
    return float(match[1])


def drop_caches():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except OSError:
        raise Failure("emptying the host's cache needs root") from None


def compare(title, ours, theirs, runs, unit="s", before=lambda: None):
    """Runs both sides in turn; prints medians and how many times better ours is."""
    values = ([], [])
    for _ in range(runs):
        for side, measure in enumerate((ours, theirs)):
            before()
            values[side].append(measure())
    beside(title, *values, unit)


def measure_images(setup):
    """requests to a qcow2 image, beside qemu-img bench with the same flags"""
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-", dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        image = folder / "disk.qcow2"
        overlay = folder / "overlay.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(DISK_SIZE)])
        run(["qemu-io", "-c", f"write -P 1 0 {DISK_SIZE}", image], 600)

        def new_overlay():
            overlay.unlink(missing_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay])

        def case(title, flags, cached=False, before=lambda: None, target=image):
            # What the host does with what both leave in its cache must not fall to whoever comes next.
            def prepare():
                before()
                os.sync()
            compare(
                title,
                lambda: seconds([setup.smolvmm, "disk", "bench", *flags, *(["--cached"] if cached else []), target]),
                lambda: seconds([
                    "qemu-img", "bench", "-f", "qcow2", "-t", "writeback" if cached else "none",
                    *([] if cached else ["-n"]), *flags, target]),
                setup.runs, before=prepare)

        random = ["-d", "32", "-s", "4096", "-S", str(STEP)]
        case("4 KiB scattered reads, direct", ["-c", "40000", *random])
        case("4 KiB scattered writes, direct", ["-c", "20000", *random, "-w"])
        case("1 MiB sequential reads, direct", ["-c", "1000", "-d", "8", "-s", "1048576"])
        case("1 MiB sequential writes, direct", ["-c", "1000", "-d", "8", "-s", "1048576", "-w"])
        case("4 KiB first writes to an overlay, direct", ["-c", "8000", *random, "-w"], before=new_overlay, target=overlay)
        case("4 KiB scattered reads, host's cache is cold", ["-c", "20000", *random], True, drop_caches)
        seconds([setup.smolvmm, "disk", "bench", "-c", "1024", "-s", "1048576", "--cached", image])
        case("4 KiB scattered reads, host's cache has all", ["-c", "100000", *random], True)
        case("4 KiB scattered writes, through the host's cache", ["-c", "50000", *random, "-w"], True)
        case("1 MiB sequential reads, host's cache has all", ["-c", "3000", "-d", "8", "-s", "1048576"], True)
        case("4 KiB first writes to an overlay, cached", ["-c", "8000", *random, "-w"], True, new_overlay, overlay)


def measure_overlays(setup):
    """a new overlay against the size of its base: the whole command, beside qemu-img"""
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-", dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        for size in ("1G", "32G", "1T"):
            base = folder / f"{size}.qcow2"
            run(["qemu-img", "create", "-q", "-f", "qcow2", base, size])
            overlay = folder / "overlay.qcow2"

            def timed(command):
                overlay.unlink(missing_ok=True)
                began = time.monotonic()
                status, _, errors = run(command)
                require(status == 0, errors)
                return (time.monotonic() - began) * 1000

            compare(
                f"overlay on {size}",
                lambda base=base: timed([setup.smolvmm, "disk", "create", "--base", base, overlay]),
                lambda base=base: timed(
                    ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay]),
                setup.runs * 2, "ms")


def fio(machine, *options):
    """Runs fio on the guest's first disk; its job as JSON."""
    words = " ".join(options)
    machine.send(
        "/tools/run fio --name=a --filename=/dev/vda --direct=1 --ioengine=libaio --runtime=4 --time_based "
        f"--group_reporting --output-format=json --eta=never {words}; echo status:$?")
    start = machine.position
    match, _ = machine.expect(rb"status:(\d+)\r*\n", FIO_SECONDS)
    text = machine.output[start:match.start()].decode()
    require(match[1] == b"0", text[-800:])
    return json.loads(text[text.index("{"):text.rindex("}") + 1])["jobs"][0]


FIO_CASES = {
    "4 KiB random reads, depth 32": ("read", "iops", "--rw=randread --bs=4k --iodepth=32"),
    "4 KiB random writes, depth 32": ("write", "iops", "--rw=randwrite --bs=4k --iodepth=32"),
    "4 KiB random reads, depth 1": ("read", "iops", "--rw=randread --bs=4k --iodepth=1"),
    "1 MiB sequential reads, depth 4": ("read", "bw", "--rw=read --bs=1m --iodepth=4"),
}


def measure_guest(setup):
    """fio in a guest on a 1 GiB qcow2 image, beside QEMU's microvm under TCG with virtio-mmio, in turn"""
    initramfs = require_file(CACHE / "initramfs-disk.cpio", "guest/build-initramfs --modules")
    tools = require_file(CACHE / "tools-disk.img", "guest/build-tools-disk cache/tools-disk.img")
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-", dir="/var/tmp") as name:
        image = pathlib.Path(name) / "disk.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(DISK_SIZE)])
        run(["qemu-io", "-c", f"write -P 1 0 {DISK_SIZE}", image], 600)

        def ours():
            return Process([
                setup.smolvmm, "boot", setup.kernel, initramfs, "--name", f"bench-{os.getpid()}", "--accel", "software",
                "--disk", image, "--disk", f"{tools},readonly", "--cmdline", "quiet smolvmm.run=shell"])

        def theirs():
            return Process(qemu(setup.kernel, initramfs, "quiet smolvmm.run=shell", drives=[
                f"file={image},format=qcow2,cache=none,aio=native,discard=unmap",
                f"file={tools},format=raw,readonly=on"]))

        values = {case: ([], []) for case in FIO_CASES}
        for _ in range(max(1, setup.runs // 2)):
            for side, start in enumerate((ours, theirs)):
                with start() as machine:
                    machine.expect(rb"/ # ", FIO_SECONDS)
                    machine.send("mount -t ext4 -o ro /dev/vdb /tools; echo mounted:$?")
                    machine.expect(rb"mounted:0", FIO_SECONDS)
                    for case, (direction, unit, options) in FIO_CASES.items():
                        values[case][side].append(fio(machine, options)[direction][unit])
        for case, (_, unit, _) in FIO_CASES.items():
            beside(case, *values[case], "/s" if unit == "iops" else "KiB/s", less_is_better=False)


def measure_pause(setup):
    """how long the guest stands still for a snapshot while fio writes 4 KiB blocks at random, 32 at once"""
    initramfs = require_file(CACHE / "initramfs-disk.cpio", "guest/build-initramfs --modules")
    tools = require_file(CACHE / "tools-disk.img", "guest/build-tools-disk cache/tools-disk.img")
    name = f"bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-", dir="/var/tmp") as folder:
        image = pathlib.Path(folder) / "disk.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, "256M"])
        with Process([
                setup.smolvmm, "boot", setup.kernel, initramfs, "--name", name, "--accel", "software", "--disk", image,
                "--disk", f"{tools},readonly", "--cmdline", "quiet smolvmm.run=shell"]) as machine:
            machine.expect(rb"/ # ", FIO_SECONDS)
            machine.send(
                "mount -t ext4 -o ro /dev/vdb /tools; /tools/run fio --name=a --filename=/dev/vda --direct=1 "
                "--ioengine=libaio --rw=randwrite --bs=4k --iodepth=32 --runtime=600 --time_based --eta=never")
            time.sleep(5)
            pauses = []
            for _ in range(setup.runs * 2):
                status, output, errors = run([setup.smolvmm, "snapshot", name, "-o", f"{folder}/a.smolmachine"])
                require(status == 0, errors)
                pauses.append(float(re.search(r"paused\D*([\d.]+) ms", output + errors)[1]))
                time.sleep(0.3)
        print(f"  pause: median {statistics.median(pauses):.1f} ms, from {min(pauses):.1f} to {max(pauses):.1f} ms "
              f"({len(pauses)} snapshots)")


def measure_disk(setup):
    """disk images, overlays, a guest's disk, and snapshots of a busy one"""
    for measure in (measure_images, measure_overlays, measure_guest, measure_pause):
        print(f" {measure.__doc__}")
        measure(setup)
