#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests the built command as a user runs it, on Debian's real cloud kernel.

Prints a line for each test and ends with "N passed, N failed, N skipped". A test is a function whose docstring says
what holds. Machines and bundles that several tests need are made once, by the first that asks.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import zipfile

sys.dont_write_bytecode = True
import agent_tests
import bare_tests
import cpu_tests
import disk_tests
import kvm_tests
import network_tests
from harness import (
    FAILED, INIT, PANICKED, POWERED_OFF, USAGE, Failure, Process, Skip, add_machine_options, machine_parts, require, run)

BOOT_SECONDS = 120
RESTORE_SECONDS = 30
SETTLE_SECONDS = 3  # how long the bundle of the clock test waits


class Bench:
    """Where the tests run: the command and its parts, a folder for what they write, a runtime folder of their own."""

    def __init__(self, arguments, folder):
        self.smolvmm, self.kernel, self.initramfs = machine_parts(arguments)
        self.folder = folder
        self.running = []
        self.names = 0
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        self.runtime = runtime

    def new_name(self):
        self.names += 1
        return f"end-to-end-{os.getpid()}-{self.names}"

    def file(self, name):
        return self.folder / name

    def start(self, *words, terminal=False):
        process = Process([self.smolvmm, *words], terminal)
        self.running.append(process)
        return process

    def boot(self, errand, *options, name=None, terminal=False, kernel=None):
        return self.start(
            "boot", kernel or self.kernel, self.initramfs, "--name", name or self.new_name(), "--memory", "256M",
            "--accel", "software", "--cmdline", f"console=ttyS0 smolvmm.run={errand}", *options, terminal=terminal)

    def restore(self, bundle, *options, name=None, terminal=False):
        return self.start("restore", bundle, "--name", name or self.new_name(), *options, terminal=terminal)

    def run(self, *words, status=0, timeout=120):
        """Runs a command of smolvmm to its end and checks its exit status."""
        actual, output, errors = run([self.smolvmm, *words], timeout)
        require(
            actual == status,
            f"smolvmm {' '.join(map(str, words))}: status {actual} instead of {status}\n{output[-800:]}{errors[-800:]}")
        return output, errors

    def end_all(self):
        for process in self.running:
            process.kill()
        self.running.clear()

    @functools.cached_property
    def original(self):
        """A machine that was frozen while it computed, and went on: its bundle and the ticks around the freeze."""
        name = self.new_name()
        bundle = self.file("original.smolmachine")
        with self.boot("test", name=name) as machine:
            machine.expect(INIT, BOOT_SECONDS)
            for _ in range(5):
                before = machine.tick()
            self.run("snapshot", name, "-o", bundle)
            for _ in range(5):
                after = machine.latest_tick()
        return Frozen(bundle, before, after)

    @functools.cached_property
    def provisioned(self):
        """The bundle that `--snapshot-when` wrote, when, and how boot ended."""
        bundle = self.file("provisioned.smolmachine")
        with self.boot("provision", "--snapshot-when", "PROVISIONED", "-o", bundle) as machine:
            machine.expect(rb"^PROVISIONED", BOOT_SECONDS)
            status = machine.wait(60)
            return bundle, time.time(), status, machine.output


class Frozen:
    """A bundle and the ticks that its machine showed before and after it was written."""

    def __init__(self, bundle, before, after):
        self.bundle = bundle
        self.before = before
        self.after = after


def proves(tick):
    require(tick.sha == tick.expected_sha(), f"tick {tick.count}: the guest says {tick.sha}, hashlib {tick.expected_sha()}")


def continues(bench, bundle, before, limit=None):
    """Restores a bundle: its machine must go on from where it was, with its nonce, and compute right."""
    with bench.restore(bundle) as copy:
        ticks = [copy.tick(RESTORE_SECONDS) for _ in range(5)]
        require(INIT not in copy.output, f"the restored machine booted again:\n{copy.output[:800]!r}")
    first = ticks[0]
    require(first.nonce == before.nonce, f"the nonce was {before.nonce} and is {first.nonce}")
    require(first.count >= before.count, f"the count went back from {before.count} to {first.count}")
    require(limit is None or first.count <= limit, f"the count went on from {before.count} to {first.count}")
    counts = [tick.count for tick in ticks]
    require(counts == list(range(first.count, first.count + 5)), f"the counts are {counts}")
    proves(ticks[-1])
    return first


# The tests, in the order in which they run.


def boots_to_init(bench):
    """Debian's cloud kernel boots to init"""
    with bench.boot("test") as machine:
        machine.expect(rb"^\[ +[\d.]+\] Linux version 6\.1\.", BOOT_SECONDS)
        machine.expect(INIT, BOOT_SECONDS)
        machine.tick()


def user_space_computes(bench):
    """SHA-256 in the guest's user space agrees with hashlib's"""
    with bench.boot("test") as machine:
        machine.expect(INIT, BOOT_SECONDS)
        for _ in range(10):
            proves(machine.tick())


def console_takes_input(bench):
    """the console takes what is typed, through a pipe and through a terminal, and a shell answers"""
    for terminal in (False, True):
        with bench.boot("test", terminal=terminal) as machine:
            machine.expect(INIT, BOOT_SECONDS)
            machine.tick()
            machine.send("echo hello from outside")
            machine.expect(rb"^smolvmm-guest: hello from outside\r*\n", 30)
            machine.send("sh")
            machine.expect(rb"# ", 30)
            machine.send("echo $((6 * 7)) is the answer")
            machine.expect(rb"^42 is the answer\r*\n", 30)


def end_of_input_is_not_the_end(bench):
    """the end of standard input is not the end of the machine"""
    with bench.boot("test") as machine:
        machine.close_input()
        machine.expect(INIT, BOOT_SECONDS)
        for _ in range(3):
            machine.tick()


def powers_off(bench):
    """a guest that powers off ends smolvmm with status 0"""
    with bench.boot("poweroff") as machine:
        machine.expect(rb"^smolvmm-guest: powering off", BOOT_SECONDS)
        status = machine.wait(30)
        require(status == POWERED_OFF, f"the status is {status}: {machine.standard_error()}")


def reboots(bench):
    """a guest that reboots comes up again, as a new machine, whatever became of its kernel's file"""
    kernel = bench.file("kernel-for-a-time")
    shutil.copy(bench.kernel, kernel)
    with bench.boot("test", kernel=kernel) as machine:
        machine.expect(INIT, BOOT_SECONDS)
        first = machine.tick()
        try:
            os.close(os.open(kernel, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK))
        except BlockingIOError:
            raise Failure("the kernel's file cannot be written while the machine runs") from None
        machine.send("reboot")
        machine.expect(rb"^smolvmm-guest: rebooting", 30)
        machine.expect(INIT, BOOT_SECONDS)
        second = machine.tick()
        require(second.nonce != first.nonce, "the nonce is the same after a reboot")
        require(second.count == 0, f"the count starts at {second.count} after a reboot")
        machine.send("poweroff")
        status = machine.wait(30)
        require(status == POWERED_OFF, f"the status is {status}: {machine.standard_error()}")


def panic_has_its_status(bench):
    """a guest that panics ends smolvmm with a status and a message of its own"""
    with bench.boot("panic") as machine:
        machine.expect(rb"Kernel panic - not syncing", BOOT_SECONDS)
        status = machine.wait(30)
        require(status == PANICKED, f"the status is {status} instead of {PANICKED}: {machine.standard_error()}")
        require("panic" in machine.standard_error(), f"standard error says {machine.standard_error()!r}")


def snapshot_leaves_it_running(bench):
    """a machine frozen while it computes goes on afterwards, as if nothing had been"""
    frozen = bench.original
    require(frozen.after.nonce == frozen.before.nonce, "the original has another nonce")
    require(frozen.after.count > frozen.before.count, "the original stood still")
    proves(frozen.after)


def restores_twice(bench):
    """two restores of one bundle both go on from the same count with the same nonce"""
    frozen = bench.original
    first = continues(bench, frozen.bundle, frozen.before, frozen.after.count)
    second = continues(bench, frozen.bundle, frozen.before, frozen.after.count)
    require(first.count == second.count, f"one went on from {first.count}, the other from {second.count}")
    require(first.sha == second.sha, "the two disagree on the digest")


def restores_at_the_same_time(bench):
    """two copies of one bundle run at the same time, and stopping one leaves the other"""
    frozen = bench.original
    name = bench.new_name()
    with bench.restore(frozen.bundle, name=name) as one, bench.restore(frozen.bundle) as other:
        one.tick(RESTORE_SECONDS)
        other.tick(RESTORE_SECONDS)
        bench.run("stop", name)
        one.wait(30)
        proves(other.latest_tick())


def restored_machine_freezes(bench):
    """a snapshot of a restored machine restores"""
    name = bench.new_name()
    bundle = bench.file("second.smolmachine")
    with bench.restore(bench.original.bundle, name=name) as copy:
        for _ in range(3):
            before = copy.tick(RESTORE_SECONDS)
        bench.run("snapshot", name, "-o", bundle)
        after = copy.latest_tick()
    continues(bench, bundle, before, after.count)


def freezes_when_told(bench):
    """--snapshot-when freezes the machine when the text appears, and the bundle restores"""
    bundle, _, status, output = bench.provisioned
    require(status == 0, f"boot ended with {status}")
    require(b"PROVISIONED" in output, "the text never appeared")
    with bench.restore(bundle) as copy:
        tick = copy.tick(RESTORE_SECONDS)
        require(b"provisioning" not in copy.output, "the restored machine provisions itself again")
        require(tick.count <= 3, f"the machine had gone on to tick {tick.count} when it was frozen")
        proves(tick)


def clock_is_right(bench):
    """the restored guest's wall clock is within a second of the host's, after the bundle has waited"""
    bundle, written, _, _ = bench.provisioned
    time.sleep(max(0, written + SETTLE_SECONDS - time.time()))
    with bench.restore(bundle) as copy:
        for _ in range(3):
            tick = copy.tick(RESTORE_SECONDS)
            now = time.time() - (time.monotonic() - tick.moment)
            require(abs(tick.time - now) < 1, f"the guest's clock is {tick.time - now:+.3f} s off")


def clock_goes_on_or_is_told(bench):
    """--reset-clock keeps the frozen wall clock or sets the one that it is told"""
    bundle, written, _, _ = bench.provisioned
    with bench.restore(bundle, "--reset-clock", "keep") as copy:
        tick = copy.tick(RESTORE_SECONDS)
        require(abs(tick.time - written) < 3, f"the kept clock is {tick.time - written:+.3f} s from the freeze")
    told = int(written) + 100_000
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(told))
    with bench.restore(bundle, "--reset-clock", text) as copy:
        tick = copy.tick(RESTORE_SECONDS)
        require(abs(tick.time - told) < 3, f"the clock reads {tick.time} instead of about {told}")


def sleeps_for_days(bench):
    """a guest that was frozen for days complains about nothing"""
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 9 * 86400))
    with bench.restore(bench.original.bundle, "--reset-clock", later) as copy:
        for _ in range(30):
            tick = copy.tick(RESTORE_SECONDS)
        proves(tick)
        complaints = re.findall(rb"^.*(?:soft lockup|rcu|stall|BUG|WARNING|unstable).*$", copy.output, re.MULTILINE)
        require(not complaints, f"the kernel says {complaints}")


def several_processors(bench):
    """a guest with two processors boots, computes, and is frozen and restored"""
    name = bench.new_name()
    bundle = bench.file("two.smolmachine")
    with bench.boot("test", "--cpus", "2", name=name) as machine:
        machine.expect(rb"smp: Brought up 1 node, 2 CPUs", BOOT_SECONDS)
        machine.expect(INIT, BOOT_SECONDS)
        for _ in range(3):
            before = machine.tick()
        proves(before)
        bench.run("snapshot", name, "-o", bundle)
        after = machine.latest_tick()
    continues(bench, bundle, before, after.count)


def reboots_after_restore(bench):
    """a restored machine reboots from the kernel in its bundle, and powers off"""
    with bench.restore(bench.original.bundle) as copy:
        before = copy.tick(RESTORE_SECONDS)
        copy.send("reboot")
        copy.expect(INIT, BOOT_SECONDS)
        require(copy.tick().nonce != before.nonce, "the nonce is the same after a reboot")
        copy.send("poweroff")
        status = copy.wait(30)
        require(status == POWERED_OFF, f"the status is {status}: {copy.standard_error()}")


def lists_and_stops(bench):
    """list, pause, resume and stop work on a running machine"""
    name = bench.new_name()
    with bench.restore(bench.original.bundle, name=name) as machine:
        machine.tick(RESTORE_SECONDS)
        require(name in bench.run("list")[0], "list does not show the running machine")
        bench.run("pause", name)
        time.sleep(0.3)
        length = len(machine.output)
        time.sleep(1)
        require(len(machine.output) == length, f"the paused machine wrote {machine.output[length:]!r}")
        bench.run("resume", name)
        proves(machine.latest_tick())
        bench.run("stop", name)
        machine.wait(30)
        require(name not in bench.run("list")[0], "list shows the machine after its end")


def nothing_is_both_writable_and_executable(bench):
    """no segment of the command, nor any memory of a running machine, is writable and executable"""
    with bench.restore(bench.original.bundle) as machine:
        machine.tick(RESTORE_SECONDS)
        maps = pathlib.Path(f"/proc/{machine.process.pid}/maps").read_text(encoding="ascii")
    both = [line for line in maps.splitlines() if {"w", "x"} <= set(line.split()[1])]
    require(not both, "\n".join(["writable and executable:", *both]))


def control_sockets_are_private(bench):
    """control sockets can be used by their owner only, and one left by a killed machine is cleaned up"""
    name = bench.new_name()
    machine = bench.restore(bench.original.bundle, name=name)
    machine.tick(RESTORE_SECONDS)
    sockets = [path for path in bench.runtime.rglob("*") if path.is_socket()]
    require(sockets, f"there is no socket under {bench.runtime}")
    for path in sockets:
        mode = path.stat().st_mode & 0o777
        require(mode == 0o600, f"{path.name} has mode {mode:o}")
    machine.kill()
    require(name not in bench.run("list")[0], "list shows a machine that was killed")
    with bench.restore(bench.original.bundle, name=name) as again:
        again.tick(RESTORE_SECONDS)


def refuses_what_is_not_there(bench):
    """unknown machines, missing files and wrong usage end with a status and an error on standard error"""
    for words in (
            ("stop", "no-such-machine"), ("snapshot", "no-such-machine", "-o", bench.file("none.smolmachine")),
            ("restore", bench.file("no-such.smolmachine")), ("boot", bench.file("no-kernel"), bench.initramfs)):
        output, errors = bench.run(*words, status=FAILED)
        require(errors.strip(), f"smolvmm {words[0]} says nothing on standard error")
        require(not output.strip(), f"smolvmm {words[0]} writes its error to standard output")
    require(not bench.file("none.smolmachine").exists(), "a refused snapshot left a file")
    _, errors = bench.run("boot", status=USAGE)
    require("usage" in errors.lower(), "wrong usage does not show the usage")


def everyday_tools_read_it(bench):
    """unzip -t and Python's zipfile accept the bundle, and its manifest is JSON"""
    bundle = bench.original.bundle
    status, output, errors = run(["unzip", "-t", bundle])
    require(status == 0, f"unzip -t: status {status}\n{output}{errors}")
    with zipfile.ZipFile(bundle) as archive:
        broken = archive.testzip()
        require(broken is None, f"zipfile finds {broken} broken")
        for member in archive.infolist():
            require(member.compress_type == zipfile.ZIP_STORED, f"{member.filename} is not stored as it is")
            if member.filename.endswith(".json"):
                json.loads(archive.read(member))
        require({"manifest.json", "memory.index", "memory.data"} <= set(archive.namelist()), str(archive.namelist()))


def inspect_and_verify_work(bench):
    """inspect shows what is in a bundle, also as JSON, and verify accepts it"""
    bundle = bench.original.bundle
    require("x86-64-v2" in bench.run("inspect", bundle)[0], "inspect does not name the CPU model")
    json.loads(bench.run("inspect", bundle, "--json")[0])
    bench.run("verify", bundle)


def truncated_bundles_are_refused(bench):
    """a truncated bundle is refused with a clear error, wherever it was cut"""
    source = bench.original.bundle
    size = source.stat().st_size
    damaged = bench.file("truncated.smolmachine")
    for length in (0, 1, 4095, 4096, size // 3, size // 2, size - 4096, size - 22, size - 1):
        shutil.copyfile(source, damaged)
        os.truncate(damaged, length)
        for command in ("restore", "verify"):
            refuses(bench, command, damaged, f"cut to {length} of {size} bytes")


def flipped_bundles_are_refused(bench):
    """a bundle with one byte changed in any member is refused, at the latest when that is used, and the error names it"""
    source = bench.original.bundle
    damaged = bench.file("flipped.smolmachine")
    chance = random.Random(2)
    with zipfile.ZipFile(source) as archive:
        members = [(member.filename, member.header_offset, member.file_size) for member in archive.infolist()]
    content = source.read_bytes()
    for name, header, size in members:
        if size == 0:
            continue
        names = int.from_bytes(content[header + 26:header + 28], "little")
        extra = int.from_bytes(content[header + 28:header + 30], "little")
        position = header + 30 + names + extra + chance.randrange(size)
        changed = bytearray(content)
        changed[position] ^= 1 << chance.randrange(8)
        damaged.write_bytes(changed)
        where = f"byte {position}, in {name}, changed"
        # These are checked when they are used, which a restore need not do: here, each chunk of memory is.
        used_later = pathlib.PurePosixPath(name).name in ("kernel", "initramfs", "memory.data")
        if name == "memory.data":
            for other in range(header + 30 + names + extra, header + 30 + names + extra + size, 1 << 12):
                changed[other] ^= 1
            damaged.write_bytes(changed)
        for command in ("verify",) if used_later and name != "memory.data" else ("verify", "restore"):
            errors = refuses(bench, command, damaged, where)
            require(
                pathlib.PurePosixPath(name).name.split(".")[0] in errors or "manifest" in errors,
                f"{where}: {command} does not name the member: {errors.strip()}")


def refuses(bench, command, bundle, where):
    status, _, errors = run([bench.smolvmm, command, bundle], 60)
    require(status == FAILED, f"{where}: {command} ends with {status} instead of {FAILED}: {errors[-400:]}")
    require(errors.strip(), f"{where}: {command} says nothing on standard error")
    return errors


def failed_snapshot_leaves_the_old_file(bench):
    """a snapshot that cannot be written leaves no file, and the machine running"""
    name = bench.new_name()
    with bench.restore(bench.original.bundle, name=name) as machine:
        machine.tick(RESTORE_SECONDS)
        bench.run("snapshot", name, "-o", bench.file("no-such-folder") / "x.smolmachine", status=FAILED)
        # /dev/full is not a folder that can be written to, /proc is one in which no file can be made.
        bench.run("snapshot", name, "-o", "/proc/x.smolmachine", status=FAILED)
        proves(machine.latest_tick())


def killed_snapshot_leaves_the_old_file(bench):
    """a machine that is killed while it is written leaves the old bundle or the whole new one, and nothing else"""
    folder = bench.file("killed")
    folder.mkdir()
    bundle = folder / "app.smolmachine"
    bundle.write_bytes(bench.original.bundle.read_bytes())
    for delay in (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7):
        name = bench.new_name()
        with bench.restore(bench.original.bundle, name=name) as machine:
            machine.tick(RESTORE_SECONDS)
            writer = bench.start("snapshot", name, "-o", bundle)
            time.sleep(delay)
            machine.kill()
            writer.wait(30)
        bench.run("verify", bundle)
        require(os.listdir(folder) == [bundle.name], f"after {delay} s the folder has {os.listdir(folder)}")


def generic_kernel_boots(bench):
    """Debian's generic kernel boots to init"""
    kernel = bench.kernel.with_name("vmlinuz-generic")
    if not kernel.exists():
        raise Skip("tools/fetch-kernel generic was not run")
    with bench.start(
            "boot", kernel, bench.initramfs, "--name", bench.new_name(), "--memory", "512M", "--accel", "software",
            "--cmdline", "console=ttyS0 smolvmm.run=test") as machine:
        machine.expect(INIT, 2 * BOOT_SECONDS)
        proves(machine.tick())


TESTS = [
    boots_to_init, user_space_computes, console_takes_input, end_of_input_is_not_the_end, powers_off, reboots,
    panic_has_its_status, snapshot_leaves_it_running, restores_twice, restores_at_the_same_time,
    restored_machine_freezes, freezes_when_told, clock_is_right, clock_goes_on_or_is_told, sleeps_for_days,
    several_processors, reboots_after_restore, lists_and_stops,
    nothing_is_both_writable_and_executable, control_sockets_are_private, refuses_what_is_not_there,
    everyday_tools_read_it, inspect_and_verify_work,
    truncated_bundles_are_refused, flipped_bundles_are_refused, failed_snapshot_leaves_the_old_file,
    killed_snapshot_leaves_the_old_file, generic_kernel_boots,
] + cpu_tests.TESTS + disk_tests.TESTS + kvm_tests.TESTS + bare_tests.TESTS + agent_tests.TESTS + network_tests.TESTS


def perform(test, bench):
    """Runs one test and prints its line; returns "passed", "failed" or "skipped"."""
    started = time.monotonic()
    why = ""
    try:
        test(bench)
        outcome = "passed"
    except Skip as skip:
        outcome, why = "skipped", str(skip)
    except Failure as failure:
        outcome, why = "failed", str(failure)
    except Exception:
        outcome, why = "failed", traceback.format_exc()
    finally:
        bench.end_all()
    print(f"{outcome:8}{test.__doc__} ({time.monotonic() - started:.1f} s)")
    if why:
        print(re.sub("^", "    ", why.strip(), flags=re.MULTILINE))
    sys.stdout.flush()
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_machine_options(parser)
    parser.add_argument("only", nargs="*", metavar="WORD", help="run only the tests whose description has this word")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="smolvmm-test-") as folder:
        bench = Bench(arguments, pathlib.Path(folder))
        for test in TESTS:
            if not arguments.only or any(word in test.__doc__ for word in arguments.only):
                outcomes.append(perform(test, bench))
    counts = [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]
    print("{} passed, {} failed, {} skipped".format(*counts))
    sys.exit(1 if counts[1] or not counts[0] else 0)


if __name__ == "__main__":
    main()
