# SPDX-License-Identifier: Apache-2.0
"""Runs a machine on pipes or a terminal of its own, and reads its console with the time at which each piece came."""

import hashlib
import os
import pathlib
import pty
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "cache"
INIT = rb"smolvmm-guest: init"
ROUNDS = 256
WORK_SECONDS = 180  # for one command in a guest
# The statuses that README.md documents.
POWERED_OFF, FAILED, PANICKED, USAGE = 0, 1, 3, 64

TICK = re.compile(
    rb"^tick (?P<count>\d+) nonce=(?P<nonce>[0-9a-f]{16}) sha=(?P<sha>[0-9a-f]{64}) time=(?P<time>\d+\.\d{3})\r*\n",
    re.MULTILINE)


class Failure(Exception):
    """What a test or a measurement expected did not happen."""


class Skip(Exception):
    """Why a test cannot run here."""


class Tick:
    """One line of the test guest's running proof."""

    def __init__(self, match, moment):
        self.count = int(match["count"])
        self.nonce = match["nonce"].decode()
        self.sha = match["sha"].decode()
        self.time = float(match["time"])
        self.moment = moment

    def expected_sha(self):
        """What hashlib says that the guest's chain of digests is at this count."""
        digest = hashlib.sha256(bytes.fromhex(self.nonce)).digest()
        for count in range(1, self.count + 1):
            suffix = count.to_bytes(8, "big")
            for _ in range(ROUNDS):
                digest = hashlib.sha256(digest + suffix).digest()
        return digest.hex()


class Process:
    """A command whose console is read in the background; leaving the `with` block ends it."""

    def __init__(self, command, terminal=False):
        self.command = [str(word) for word in command]
        self.output = b""
        self.pieces = []  # (length of the output after this piece, monotonic time)
        self.position = 0
        self.changed = threading.Condition()
        self.closed = False
        self.errors = tempfile.TemporaryFile()
        self.started = time.monotonic()
        self.started_wall = time.time()
        if terminal:
            self.reading, theirs = pty.openpty()
            self.writing = self.reading
            self.process = subprocess.Popen(
                self.command, stdin=theirs, stdout=theirs, stderr=self.errors, start_new_session=True)
            os.close(theirs)
        else:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
            self.reading = self.process.stdout.fileno()
            self.writing = self.process.stdin.fileno()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def _read(self):
        while True:
            try:
                piece = os.read(self.reading, 65536)
            except OSError:
                piece = b""
            now = time.monotonic()
            with self.changed:
                if piece:
                    self.output += piece
                    self.pieces.append((len(self.output), now))
                else:
                    self.closed = True
                self.changed.notify_all()
            if not piece:
                return

    def _moment(self, position):
        return next(moment for end, moment in self.pieces if end >= position)

    def expect(self, pattern, timeout):
        """Waits until `pattern` appears after what was expected before; returns the match and its time."""
        pattern = re.compile(pattern, re.MULTILINE) if isinstance(pattern, bytes) else pattern
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                match = pattern.search(self.output, self.position)
                if match:
                    self.position = match.end()
                    return match, self._moment(match.end())
                left = deadline - time.monotonic()
                if self.closed or left <= 0:
                    why = "the command ended" if self.closed else f"{timeout:g} s passed"
                    raise Failure(f"{why} before {pattern.pattern.decode()!r} appeared{self._told()}")
                self.changed.wait(left)

    def _told(self):
        """The end of what the command said, to show why."""
        self.errors.seek(0)
        parts = [("console", self.output[-800:]), ("standard error", self.errors.read()[-800:])]
        text = "".join(f"\n--- {name}:\n{told.decode(errors='replace')}" for name, told in parts if told)
        return text + f"\n--- command: {' '.join(self.command)}"

    def tick(self, timeout=60):
        """The next tick."""
        return Tick(*self.expect(TICK, timeout))

    def latest_tick(self, timeout=60):
        """The first tick that begins after this call."""
        with self.changed:
            self.position = len(self.output)
        return self.tick(timeout)

    def send(self, text):
        os.write(self.writing, text.encode() + b"\n")

    def close_input(self):
        self.process.stdin.close()

    def wait(self, timeout):
        """The exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"did not end within {timeout:g} s{self._told()}") from None
        with self.changed:
            self.changed.wait_for(lambda: self.closed, 2)
        return status

    def standard_error(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Shell:
    """A shell in a guest, at its prompt, that shows nothing of what is typed."""

    def __init__(self, machine, count=0):
        self.machine = machine
        self.count = count

    def begin(self, command):
        self.count += 1
        self.machine.send(f"{command}; echo end{self.count}:$?")

    def end(self, timeout=WORK_SECONDS):
        """The status of the command that was begun last, and the console's text before its end."""
        started = self.machine.position
        match, _ = self.machine.expect(rf"end{self.count}:(\d+)\r*\n".encode(), timeout)
        return int(match[1]), self.machine.output[started:match.start()].decode(errors="replace")

    def run(self, command, status=0, timeout=WORK_SECONDS):
        self.begin(command)
        actual, text = self.end(timeout)
        require(actual == status, f"in the guest, `{command}` ended with {actual} instead of {status}:\n{text[-1500:]}")
        return text


def run(command, timeout=120):
    """Runs a command to its end: exit status, standard output, standard error."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"did not end within {timeout:g} s: {' '.join(command)}") from None
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def require(condition, message):
    if not condition:
        raise Failure(message)


def require_file(path, remedy):
    if not pathlib.Path(path).exists():
        raise SystemExit(f"there is no {path}: run {remedy}")
    return pathlib.Path(path)


def machine_parts(arguments):
    """The command, kernel and initramfs that a script's arguments name."""
    smolvmm = shutil.which(str(arguments.smolvmm)) or arguments.smolvmm
    return (
        require_file(smolvmm, "swift build -c release --static-swift-stdlib"),
        require_file(arguments.kernel, "tools/fetch-kernel cloud"),
        require_file(arguments.initramfs, "guest/build-initramfs cache/initramfs.cpio"))


def add_machine_options(parser):
    parser.add_argument("--smolvmm", default=ROOT / ".build/release/smolvmm", help="the command (default: %(default)s)")
    parser.add_argument("--kernel", default=CACHE / "vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--initramfs", default=CACHE / "initramfs.cpio", help="default: %(default)s")


def qemu(kernel, initramfs, command_line, memory=256, drives=(), network=None):
    """The peer's command, with virtio disks over MMIO for `drives`, and a card for `network`, a -netdev. With ACPI on,
    without which Linux does not find these, QEMU's microvm gives it no timer to calibrate against, and it hangs unless it
    is told `qemu_clock`."""
    devices = [
        word for number, drive in enumerate(drives)
        for word in ("-drive", f"if=none,id=d{number},{drive}", "-device", f"virtio-blk-device,drive=d{number}")]
    if network is not None:
        devices += ["-netdev", f"{network},id=n0", "-device", "virtio-net-device,netdev=n0"]
    return [
        "qemu-system-x86_64", "-M", f"microvm,acpi={'on' if devices else 'off'}", "-accel", "tcg", "-cpu", "max", "-m",
        str(memory), "-kernel", kernel, "-initrd", initramfs, "-append",
        " ".join(["console=ttyS0", command_line, *([qemu_clock()] if devices else [])]),
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", *devices]


def qemu_clock():
    """What tells the peer's kernel to use the host's time stamp counter; it finds no good clock of its own."""
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines():
        if line.startswith("cpu MHz"):
            return f"tsc_early_khz={int(float(line.split(':')[1]) * 1000)} tsc=reliable"
    raise Failure("/proc/cpuinfo has no cpu MHz, the frequency that QEMU's microvm needs to be told")


def beside(title, ours, theirs, unit, less_is_better=True):
    """Prints the medians of smolvmm's numbers and of QEMU's, how many times better smolvmm's is, and both ranges."""
    our, their = statistics.median(ours), statistics.median(theirs)
    ratio = their / our if less_is_better else our / their
    print(f"  {title:54} smolvmm {our:9.3f} {unit:5}   QEMU {their:9.3f} {unit:5}   {ratio:5.2f} times as good"
          f"   (smolvmm {min(ours):.3f} to {max(ours):.3f}, QEMU {min(theirs):.3f} to {max(theirs):.3f})")
