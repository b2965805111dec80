# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of disks and the other virtio devices; end-to-end-test.py runs them."""

import contextlib
import os
import re
import shutil
import subprocess
import time
import zipfile

from harness import CACHE, FAILED, ROOT, WORK_SECONDS, Shell, Skip, require, run

BOOT_SECONDS = 120
RESTORE_SECONDS = 30
DEBIAN_SECONDS = 400
PROMPT = rb"/ # "

# Writes files one after the other, and notes their hashes; each step is on the disk before the next.
WRITE_FILES = (
    "i=0; while [ $i -lt {count} ]; do i=$((i+1)); head -c 200000 /dev/urandom > /mnt/f$i; "
    "sha256sum /mnt/f$i >> /mnt/sums; sync; echo wrote $i; done")
CHECK_FILES = "[ $(wc -l < /mnt/sums) = {count} ] && sha256sum -c -s /mnt/sums && umount /mnt && fsck -f -n /dev/vda"


def tool(name):
    path = shutil.which(name)
    if not path:
        raise Skip(f"there is no {name} on this host")
    return path


def make_image(path, size, *options, form="qcow2"):
    status, output, errors = run([tool("qemu-img"), "create", "-q", "-f", form, *options, path, size])
    require(status == 0, f"qemu-img create: {output}{errors}")
    return path


def check_image(path):
    status, output, errors = run([tool("qemu-img"), "check", path])
    # 3: clusters that nobody uses, which a killed machine may leave.
    require(status in (0, 3), f"qemu-img check {path}: status {status}\n{output}{errors}")
    return status


@contextlib.contextmanager
def shell(bench, *options, disks=(), console="ttyS0", more="", kernel=None, initramfs=None):
    """A booted machine with `disks` and, as the last of them, the disk of tools, at its shell's prompt."""
    initramfs = initramfs or CACHE / "initramfs-disk.cpio"
    tools = CACHE / "tools-disk.img"
    if not initramfs.exists() or not tools.exists():
        raise Skip("guest/build-initramfs --modules and guest/build-tools-disk were not run")
    words = [word for disk in [*disks, f"{tools},readonly"] for word in ("--disk", disk)]
    machine = bench.start(
        "boot", kernel or bench.kernel, initramfs, "--name", bench.new_name(), "--memory", "256M", "--accel",
        "software", *words, "--cmdline", f"quiet smolvmm.run=shell smolvmm.console={console} {more}", *options)
    with machine:
        machine.expect(PROMPT, BOOT_SECONDS)
        guest = Shell(machine)
        last = "vd" + "abcdefgh"[len(disks)]
        guest.run(f"mkdir -p /mnt /tools; mount -t ext4 -o ro /dev/{last} /tools")
        guest.run("fsck() { /tools/run e2fsck \"$@\"; }")
        yield guest


@contextlib.contextmanager
def copy(bench, bundle, running=0):
    """A restored machine; `running` is the number of the command that its shell was busy with."""
    with bench.restore(bundle) as machine:
        yield Shell(machine, running)


def name_of(guest):
    return guest.machine.command[guest.machine.command.index("--name") + 1]


def snapshot(bench, guest, bundle, *options):
    bench.run("snapshot", name_of(guest), "-o", bundle, *options)
    return bundle


# The tests, in the order in which they run.


def stock_drivers_work(bench):
    """Debian's virtio drivers find disk, console, entropy and balloon; two processors have a queue each"""
    disk = make_image(bench.file("drivers.qcow2"), "64M")
    with shell(bench, "--cpus", "2", disks=[f"{disk},id=data"]) as guest:
        text = guest.run("cat /sys/bus/virtio/devices/virtio*/device; cat /sys/class/misc/hw_random/rng_current")
        require(
            re.findall(r"0x000(\d)", text) == list("22345") and "virtio_rng" in text, f"the guest has {text}")
        require(guest.run("cat /sys/block/vda/serial").strip().endswith("data"), "the serial number is not 'data'")
        require(len(guest.run("ls /sys/block/vda/mq").split()) >= 2, "there are no two queues")
        require(guest.run("cat /sys/block/vdb/ro").strip().endswith("1"), "the tools disk can be written")
        samples = [guest.run("head -c 32 /dev/hwrng | od -An -tx1") for _ in range(2)]
        require(samples[0] != samples[1], "two reads of the random numbers are the same")
        guest.run("dd if=/dev/vdb of=/dev/vda bs=1M; cmp -n 8000000 /dev/vda /dev/vdb; blkdiscard /dev/vda || true")
        guest.run("echo through hvc0 > /dev/hvc0")
        require("through hvc0" in guest.machine.output.decode(errors="replace"), "hvc0 is not shown")
        bench.run("grow-disk", name_of(guest), "data", "96M")
        require(guest.run("sleep 0.2; cat /sys/block/vda/size").strip().endswith("196608"), "the disk has not grown")
        guest.run("dd if=/dev/vdb of=/dev/vda bs=1M seek=80 count=4 conv=fsync")
        guest.machine.send("poweroff -f")
        require(guest.machine.wait(30) == 0, "powering off failed")
    require(check_image(disk) == 0, "clusters leaked")


def files_survive_snapshots_under_load(bench):
    """files written while a snapshot is taken are whole in the original and in two copies, and fsck finds no fault"""
    count = 60
    disk = make_image(bench.file("files.qcow2"), "256M")
    bundle = bench.file("files.smolmachine")
    with shell(bench, disks=[disk]) as guest:
        guest.run("/tools/run mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt")
        guest.begin(WRITE_FILES.format(count=count))
        guest.machine.expect(rb"wrote 15\b", WORK_SECONDS)
        snapshot(bench, guest, bundle)
        running = guest.count
        status, _ = guest.end()
        require(status == 0, "the original could not write all files")
        guest.run(CHECK_FILES.format(count=count))
        guest.machine.send("poweroff -f")
        guest.machine.wait(30)
    require(check_image(disk) == 0, "clusters leaked")
    bench.run("verify", bundle)
    with copy(bench, bundle, running) as first, copy(bench, bundle, running) as second:
        for guest in (first, second):
            require(guest.end()[0] == 0, "a copy could not write the rest of the files")
            text = guest.machine.output.decode(errors="replace")
            require("wrote 2\n" not in text, "the copy started anew")
            guest.run(CHECK_FILES.format(count=count))
    member = bench.file("member.qcow2")
    with zipfile.ZipFile(bundle) as archive:
        member.write_bytes(archive.read("disks/0.qcow2"))
    require(check_image(member) == 0, "the bundle's disk has leaks")


def fio_verifies_across_a_snapshot(bench):
    """fio finds every block that it wrote at random, in the original and in a copy of the midst of it"""
    disk = make_image(bench.file("fio.qcow2"), "128M")
    bundle = bench.file("fio.smolmachine")
    fio = (
        "/tools/run fio --name=v --filename=/dev/vda --rw=randwrite --bs=4k --size=64M --iodepth=16 --ioengine=libaio "
        "--direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=0 --eta=never --output=/dev/null")
    with shell(bench, disks=[disk]) as guest:
        guest.begin(fio)
        time.sleep(2)
        snapshot(bench, guest, bundle)
        running = guest.count
        require(f"end{running}:".encode() not in guest.machine.output, "fio was done before the snapshot: give it more")
        require(guest.end()[0] == 0, "fio found wrong blocks in the original")
    check_image(disk)
    with copy(bench, bundle, running) as guest:
        require(guest.end()[0] == 0, "fio found wrong blocks in the copy")


def killed_machines_leave_whole_images(bench):
    """a machine killed while it writes leaves an image without errors, with everything that was flushed"""
    for number, seconds in enumerate((0.5, 1.5)):
        disk = make_image(bench.file(f"killed-{number}.qcow2"), "128M", *(["-o", "lazy_refcounts=on"] if number else []))
        with shell(bench, disks=[disk]) as guest:
            guest.run("/tools/run mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt")
            guest.begin(WRITE_FILES.format(count=1000))
            guest.machine.expect(rb"wrote 5\b", WORK_SECONDS)
            time.sleep(seconds)
            guest.machine.kill()
            flushed = max(int(n) for n in re.findall(rb"wrote (\d+)", guest.machine.output))
        if number == 0:
            check_image(disk)
        else:
            run([tool("qemu-img"), "check", "-r", "all", disk])
            check_image(disk)
        with shell(bench, disks=[disk]) as guest:
            guest.run("mount -t ext4 /dev/vda /mnt")
            guest.run(f"[ $(wc -l < /mnt/sums) -ge {flushed} ] && head -n {flushed} /mnt/sums | sha256sum -c -s")
            guest.run("umount /mnt && fsck -f -n /dev/vda")


def bases_stay_outside_by_reference(bench):
    """with --base-by-reference the base stays outside of the bundle, and is refused when it differs"""
    base = make_image(bench.file("base.img"), "16M", form="raw")
    base.write_bytes(os.urandom(8 << 20) + bytes(8 << 20))
    bundle = bench.file("reference.smolmachine")
    whole = bench.file("whole.smolmachine")
    with shell(bench, disks=[f"{base},overlay"]) as guest:
        guest.run("echo mine | dd of=/dev/vda bs=512 seek=100 conv=fsync; sync")
        before = re.search("[0-9a-f]{64}", guest.run("sha256sum /dev/vda"))[0]
        snapshot(bench, guest, bundle, "--base-by-reference")
        snapshot(bench, guest, whole)
    require(
        bundle.stat().st_size + (8 << 20) - (1 << 20) < whole.stat().st_size,
        f"{bundle.stat().st_size} bytes by reference, {whole.stat().st_size} with the base")
    bench.run("verify", bundle)
    require(str(base) in bench.run("inspect", bundle)[0], "inspect does not name the base")

    def same():
        with copy(bench, bundle) as guest:
            text = guest.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/vda")
            require(before in text, f"the copy's disk is {text} instead of {before}")

    same()
    os.utime(base, (1, 1))
    same()
    content = base.read_bytes()
    base.write_bytes(content[:5 << 20] + b"x" + content[(5 << 20) + 1:])
    errors = bench.run("restore", bundle, status=FAILED)[1]
    require("base.img" in errors and "not what it was" in errors, errors)
    base.write_bytes(content[:-512])
    errors = bench.run("restore", bundle, status=FAILED)[1]
    require("base.img" in errors and "bytes" in errors, errors)
    base.unlink()
    errors = bench.run("restore", bundle, status=FAILED)[1]
    require("base.img" in errors, errors)


def damaged_pieces_are_not_read(bench):
    """a damaged piece of a bundle's disk is an I/O error for who reads it, and nothing else"""
    disk = make_image(bench.file("pieces.img"), "16M", form="raw")
    disk.write_bytes(os.urandom(16 << 20))
    bundle = bench.file("pieces.smolmachine")
    with shell(bench, disks=[f"{disk},readonly"]) as guest:
        snapshot(bench, guest, bundle)
    content = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as archive:
        header = archive.getinfo("disks/0.qcow2").header_offset
    # The disk's data starts behind the header's cluster; the piece 80 is somewhere in its midst.
    content[header + 80 * 65536] ^= 1
    bundle.write_bytes(content)
    errors = bench.run("verify", bundle, status=FAILED)[1]
    require("disks/0.qcow2" in errors, errors)
    with copy(bench, bundle) as guest:
        guest.run("dd if=/dev/vda of=/dev/null bs=1M iflag=direct", status=1)
        guest.run("dd if=/dev/vda of=/dev/null bs=1M count=2 iflag=direct")


def free_memory_is_given_back(bench):
    """memory that the guest reports free is the host's again and in no bundle; a balloon takes more"""
    bundle = bench.file("free.smolmachine")
    write = "head -c 50000000 /dev/urandom > /tmp/random"
    with shell(bench) as guest:
        guest.run(write, timeout=120)
        snapshot(bench, guest, bundle)
        whole = bundle.stat().st_size >> 20
    with shell(bench) as guest:
        process = guest.machine.process.pid

        def resident():
            with open(f"/proc/{process}/status", encoding="ascii") as status:
                return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) >> 10

        guest.run(write, timeout=120)
        full = resident()
        guest.run("rm /tmp/random")
        # The guest reports every two seconds what has become free since.
        deadline = time.monotonic() + 20
        before, now = full, resident()
        while (now > full - 30 or now < before) and time.monotonic() < deadline:
            time.sleep(3)
            before, now = now, resident()
        require(now <= full - 30, f"{full} MiB with the file, {now} MiB without it")
        snapshot(bench, guest, bundle)
        size = bundle.stat().st_size >> 20
        # Linux reports blocks of 2 MiB; of 48 MiB some are in blocks with other things.
        require(size <= whole - 20, f"the bundle has {size} MiB, with the file {whole}: free pages are in it")
        bench.run("balloon", name_of(guest), "100M")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            used = int(guest.run("sleep 0.5; free -m").split("Mem:")[1].split()[1])
            if used > 100:
                break
        require(used > 100, f"the guest uses {used} MiB: the balloon has not grown")
        bench.run("balloon", name_of(guest), "0")


def virtio_console_is_a_console(bench):
    """with --console hvc0 the virtio console gets what is typed, also after a restore"""
    bundle = bench.file("hvc0.smolmachine")
    with shell(bench, "--console", "hvc0", console="hvc0") as guest:
        require("hvc0" in guest.run("cat /proc/consoles; readlink /proc/self/fd/0"), "the shell is not on hvc0")
        # More than all of the device's buffers at once.
        guest.run("x=$(head -c 4000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $x; done")
        snapshot(bench, guest, bundle)
    with copy(bench, bundle) as guest:
        guest.run("ls / > /dev/null")
        require(guest.run("echo $((6*7))").split()[-1] == "42", "the copy's shell does not answer")


def disks_survive_a_reboot(bench):
    """a reboot in the guest leaves the disks working"""
    disk = make_image(bench.file("reboot.img"), "32M", form="raw")
    with shell(bench, disks=[disk]) as guest:
        guest.run("echo before | dd of=/dev/vda bs=512 conv=fsync")
        guest.machine.expect(PROMPT, RESTORE_SECONDS)
        guest.machine.send("reboot -f")
        guest.machine.expect(PROMPT, BOOT_SECONDS)
        require("before" in guest.run("head -c 6 /dev/vda; echo"), "what was written before the reboot is lost")
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=8 conv=fsync")


def bad_images_are_refused(bench):
    """images in use, damaged, with escaping backing files or of an odd size are refused with what to do"""
    kernel, initramfs = bench.kernel, bench.initramfs

    def refused(disk, *words):
        errors = bench.run("boot", kernel, initramfs, "--disk", disk, status=FAILED, timeout=20)[1]
        for word in words:
            require(word in errors, f"--disk {disk}: no '{word}' in: {errors}")

    refused(bench.file("no-such.img"), "No such file")
    odd = bench.file("odd.img")
    odd.write_bytes(bytes(1000))
    refused(odd, "multiple of 512")
    image = make_image(bench.file("bad.qcow2"), "64M")
    content = bytearray(image.read_bytes())
    content[40:48] = (1 << 40).to_bytes(8, "big")
    image.write_bytes(content)
    refused(image, "L1 table", "0x10000000000")
    folder = bench.file("inner")
    folder.mkdir()
    make_image(bench.file("outer.img"), "1M", form="raw")
    inner = make_image(folder / "inner.qcow2", "1M", "-F", "raw", "-b", "../outer.img")
    refused(inner, "outer.img", "backing=any")
    with shell(bench, disks=[f"{inner},backing=any"]):
        refused(f"{inner},backing=any", "in use")


def generic_kernel_drives_disks(bench):
    """Debian's generic kernel drives the disks, too"""
    kernel = bench.kernel.with_name("vmlinuz-generic")
    modules = CACHE / "modules-generic"
    if not kernel.exists() or not modules.exists():
        raise Skip("tools/fetch-kernel generic was not run")
    initramfs = bench.file("generic.cpio")
    subprocess.run([ROOT / "guest/build-initramfs", initramfs, "--modules", modules], check=True, capture_output=True)
    disk = make_image(bench.file("generic.qcow2"), "64M")
    with shell(bench, disks=[disk], kernel=kernel, initramfs=initramfs) as guest:
        guest.run("/tools/run mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b")
        guest.run("umount /mnt && fsck -f -n /dev/vda && mount -t ext4 /dev/vda /mnt && cmp /bin/busybox /mnt/b")
    check_image(disk)


def debian_guest_boots(bench):
    """a guest that tools/make-guest made boots to a shell with all of systemd's units up, and powers off"""
    folder = CACHE / "guest"
    if not (folder / "root.qcow2").exists():
        raise Skip("tools/make-guest cache/guest was not run")
    with bench.start(
            "boot", folder / "vmlinuz", folder / "initramfs", "--name", bench.new_name(), "--memory", "512M", "--accel",
            "software", "--disk", f"{folder / 'root.qcow2'},overlay") as machine:
        machine.expect(rb"root@guest:~# ", DEBIAN_SECONDS)
        guest = Shell(machine)
        require("running" in guest.run("systemctl is-system-running --wait"), "a unit failed")
        require("ext4" in guest.run("findmnt --noheadings -o FSTYPE /"), "the root file system is not ext4")
        guest.run("touch /root/written && sync && [ $(id -u) = 0 ]")
        machine.send("poweroff")
        require(machine.wait(DEBIAN_SECONDS) == 0, "powering off failed")


TESTS = [
    stock_drivers_work, files_survive_snapshots_under_load, fio_verifies_across_a_snapshot,
    killed_machines_leave_whole_images, bases_stay_outside_by_reference, damaged_pieces_are_not_read,
    free_memory_is_given_back, virtio_console_is_a_console, disks_survive_a_reboot, bad_images_are_refused,
    generic_kernel_drives_disks, debian_guest_boots,
]
