#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command on an emulated host that has hardware KVM, and returns its output and exit status.

The host is an AMD processor that QEMU emulates, with SVM and nested paging, under Debian's kernel; its /dev/kvm is there
after about three seconds. In it are busybox, .build/release/smolvmm and the files that are named; a program that is named
brings the libraries that it needs. Nothing of it stays, except what --output names.

    tools/kvm-host -- ls -l /dev/kvm
    tools/kvm-host -- sh                                     a shell on this terminal; Ctrl-] leaves
    tools/kvm-host --file cache/vmlinuz-cloud --file cache/initramfs.cpio --output app.smolmachine -- \\
        smolvmm boot cache/vmlinuz-cloud cache/initramfs.cpio --snapshot-when PROVISIONED -o app.smolmachine

Exit status: the command's; 124 when the time was over; 125 when there was no such host.
"""

import argparse
import os
import pathlib
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import tty

sys.dont_write_bytecode = True
from kernel_payload import unpacked_kernel

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUEST = ROOT / "guest"
CACHE = ROOT / "cache"
TIMED_OUT, NO_HOST = 124, 125

# The host's own drivers: the ports of its console first, for they take a moment to appear.
MODULES = ["virtio_pci", "virtio_console", "kvm-amd"]
# Where the command runs, and where files with relative names are.
WORKING_FOLDER = "root"
# Boot quickly, and take no offence at a processor that is slow and shared.
KERNEL_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests no_timer_check nokaslr random.trust_cpu=on tsc=reliable nowatchdog "
    "rcupdate.rcu_cpu_stall_suppress=1")
LEAVE = b"\x1d"  # Ctrl-]
# How long what the command left running may keep its output open.
GRACE_SECONDS = 5
# How long the emulator may take to end after its ports were closed.
END_SECONDS = 1
# As many of the last lines are shown: what a kernel says when it panics, with the trace of its calls, is up to 50.
LINES_TOLD = 80
# What QEMU tells of a processor that is reset.
REGISTERS = re.compile(r"^(CPU Reset|[A-Z0-9]{2,5} *=).*\n", re.MULTILINE)
NEVER = 1e6


class NoHost(Exception):
    """Why the command could not run to its end in there."""


def split_pair(text):
    """PATH[:OTHER] as (path, other)."""
    path, _, other = text.partition(":")
    if not path or re.search(r"\s", text):
        raise argparse.ArgumentTypeError(f"{text!r}: a path without white space is needed")
    return path, other or path


def inside_name(name):
    """A path in the host's file system without its leading slash."""
    path = name if name.startswith("/") else f"{WORKING_FOLDER}/{name}"
    if ".." in pathlib.PurePosixPath(path).parts:
        raise NoHost(f"{name} has '..' in it: name the place inside, as in --file {name}:INSIDE")
    return str(pathlib.PurePosixPath(path)).lstrip("/")


class Image:
    """The initramfs of the host: its files and where each comes from."""

    def __init__(self):
        self.files = {}
        self.links = {}
        self.scratch = tempfile.TemporaryDirectory(prefix="smolvmm-kvm-host-")

    def add(self, source, inside):
        """A file, a program with its libraries, or a folder with all that is in it."""
        source = pathlib.Path(source)
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    self.add(path, f"{inside}/{path.relative_to(source)}")
        elif source.is_file():
            self.files[inside] = source.resolve()
            for library in libraries(source):
                self.files[library.lstrip("/")] = pathlib.Path(library).resolve()
        else:
            raise NoHost(f"there is no {source}")

    def add_text(self, inside, text):
        path = pathlib.Path(self.scratch.name, inside.replace("/", "-"))
        path.write_text(text)
        self.files[inside] = path

    def add_system(self):
        """busybox, the kernel's modules and init."""
        busybox = pathlib.Path("/bin/busybox")
        self.add(busybox, "bin/busybox")
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            self.links[f"bin/{applet}"] = "busybox"
        del self.links["bin/busybox"]
        order = subprocess.check_output(
            [GUEST / "module-order", CACHE / "modules-generic", *MODULES], text=True).splitlines()
        for path in order:
            self.add(path, f"lib/modules/{pathlib.Path(path).name}")
        self.add_text("etc/modules", "".join(f"{pathlib.Path(path).name}\n" for path in order))
        self.add(ROOT / "tools/kvm-host-init", "init")

    def archive(self):
        """A file without a name that has it all."""
        folders = {str(parent) for name in [*self.files, *self.links, f"{WORKING_FOLDER}/x"]
                   for parent in pathlib.PurePosixPath(name).parents if str(parent) != "."}
        folders |= {"dev", "proc", "run", "sys", "tmp"}
        lines = [f"folder {name} 755" for name in sorted(folders)]
        lines += ["device dev/console 600 5 1"]
        lines += [f"link {name} {target}" for name, target in self.links.items() if name not in self.files]
        for name, source in self.files.items():
            lines.append(f"file {name} {'755' if os.access(source, os.X_OK) else '644'} {source}")
            if re.search(r"\s", lines[-1].split(" ", 2)[2].replace(" ", "", 1)):
                raise NoHost(f"{source} has white space in its name")
        memory = os.memfd_create("initramfs")
        subprocess.run([GUEST / "newc-archive"], input="\n".join(lines).encode(), stdout=memory, check=True)
        self.scratch.cleanup()
        return memory


def libraries(program):
    """The shared libraries that a program needs, and its loader."""
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF" or not os.access(program, os.X_OK):
            return []
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    missing = re.search(r"(\S+) => not found", told.stdout)
    if missing:
        raise NoHost(f"{program} needs {missing[1]}, which is not here")
    return re.findall(r"(/\S+) \(0x", told.stdout)


class Terminal:
    """Our terminal while what is typed goes to the host as it is."""

    def __enter__(self):
        self.before = termios.tcgetattr(0)
        tty.setraw(0)
        return self

    def __exit__(self, *_):
        termios.tcsetattr(0, termios.TCSADRAIN, self.before)


class Stream:
    """What comes from one port, up to the text that ends it, and the file that it goes to."""

    def __init__(self, port, target, end):
        self.port = port
        self.target = target
        self.end = end
        self.held = b""
        self.ended = False

    def receive(self, piece):
        """Passes on what is certainly not the beginning of the end."""
        text = self.held + piece
        position = text.find(self.end)
        if position >= 0:
            self.held, self.ended = b"", True
            self._write(text[:position])
            return
        keep = next((length for length in range(min(len(text), len(self.end) - 1), 0, -1)
                     if text.endswith(self.end[:length])), 0)
        self.held = text[len(text) - keep:]
        self._write(text[:len(text) - keep])

    def _write(self, text):
        while text:
            text = text[os.write(self.target, text):]


class Result:
    """The command's status, and the files that it has made."""

    def __init__(self, file):
        self.file = file
        file.seek(0)
        kind, _, status = file.readline().decode().strip().partition(" ")
        if kind == "no-kvm":
            raise NoHost("its kernel has no /dev/kvm")
        self.status = int(status)

    def save(self, outputs):
        """Puts each output where it is wanted."""
        wanted = {inside_name(inside): outside for inside, outside in outputs}
        try:
            archive = tarfile.open(fileobj=self.file, mode="r|")
            for member in archive:
                name = member.name.lstrip("/")
                if member.isfile() and name in wanted:
                    with archive.extractfile(member) as source, open(wanted.pop(name), "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        except tarfile.ReadError:
            pass  # Nothing was there.
        if wanted:
            raise NoHost(f"the command left no file /{next(iter(wanted))}")


class Host:
    """The emulated machine, from its start to its end.

    Guests on it can wait for ever: QEMU's SVM saves the interrupt shadow when it leaves a guest and does not load it when it
    enters one. A guest that is left between STI and HLT can then be interrupted before the HLT.

    It stands still at times itself, or ends. The reason may be that QEMU 7.2 changes a processor's pending interrupts without a
    lock where a guest of that processor is entered and left, and so can lose one, or bring one back (later versions do it
    atomically). One thread for all processors makes it worse: a processor with a guest gets no further beside a busy one.
    """

    def __init__(self, arguments, kernel, initramfs, terminal):
        self.arguments = arguments
        self.terminal = terminal
        self.ports = {}
        self.console = tempfile.TemporaryFile()
        self.errors = tempfile.TemporaryFile()
        theirs = []
        command = [
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "EPYC", "-m", arguments.memory,
            "-smp", str(arguments.cpus), "-kernel", str(kernel), "-initrd", f"/dev/fd/{initramfs}",
            "-append", KERNEL_COMMAND_LINE, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-d", "cpu_reset,guest_errors",
            "-chardev", f"file,id=console,path=/dev/fd/{self.console.fileno()}", "-serial", "chardev:console",
            "-device", "virtio-serial-pci"]
        for name in ["terminal", "result"] if terminal else ["stdin", "stdout", "stderr", "result"]:
            ours, other = socket.socketpair()
            self.ports[name] = ours
            theirs.append(other)
            device = "virtconsole" if name == "terminal" else "virtserialport"
            command += ["-chardev", f"socket,id={name},fd={other.fileno()}",
                        "-device", f"{device},chardev={name},name={name}"]
        descriptors = [initramfs, self.console.fileno(), *(other.fileno() for other in theirs)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors, pass_fds=descriptors)
        for other in theirs:
            other.close()
        os.close(initramfs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def _send_input(self, port):
        """Passes our standard input on; its end is the port's end."""
        try:
            while piece := os.read(0, 65536):
                if self.terminal and LEAVE in piece:
                    os.kill(os.getpid(), signal.SIGTERM)
                port.sendall(piece)
            if not self.terminal:
                port.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The host has ended.

    def run(self, end_of_stream):
        """The result, once all output has been passed on."""
        file = tempfile.TemporaryFile(buffering=0)
        result = Stream(self.ports["result"], file.fileno(), end_of_stream)
        targets = {"terminal": 1} if self.terminal else {"stdout": 1, "stderr": 2}
        output = [Stream(self.ports[name], target, end_of_stream) for name, target in targets.items()]
        sender = self.ports["terminal" if self.terminal else "stdin"]
        threading.Thread(target=self._send_input, args=[sender], daemon=True).start()
        selector = selectors.DefaultSelector()
        for stream in [result, *output]:
            selector.register(stream.port, selectors.EVENT_READ, stream)
        deadline = time.monotonic() + (self.arguments.timeout or NEVER)
        while not (result.ended and all(stream.ended for stream in output)):
            left = deadline - time.monotonic()
            if left <= 0 and result.ended:
                break
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                piece = key.fileobj.recv(1 << 20)
                if not piece:
                    raise NoHost("it ended")
                key.data.receive(piece)
                if key.data is result and result.ended:
                    deadline = time.monotonic() + GRACE_SECONDS
        return Result(file)

    def told(self):
        """How the emulator ended, if it has, and what it and the host's kernel said last."""
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        text = "" if status is None else f"\nQEMU's status is {status}"
        for name, file in [("QEMU", self.errors), ("the host's console", self.console)]:
            file.seek(0)
            said = file.read().decode(errors="replace")
            if file is self.errors:
                # Processors are reset at the start, too.
                _, fault, state = said.partition("Triple fault")
                said = fault + state if fault else REGISTERS.sub("", said)
            lines = [line for line in said.splitlines()
                     if line and "TCG doesn't support requested feature" not in line]
            if lines:
                text += f"\n--- {name}:\n" + "\n".join(lines[-LINES_TOLD:])
        return text


def settings(arguments, terminal, end_of_stream):
    lines = {"working_folder": f"/{WORKING_FOLDER}", "end_of_stream": end_of_stream}
    if terminal:
        size = shutil.get_terminal_size()
        lines |= {"terminal": "/dev/hvc0", "rows": size.lines, "columns": size.columns}
    text = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in lines.items())
    return text + f"export TERM={shlex.quote(os.environ.get('TERM', 'dumb'))}\n"


def run(arguments):
    terminal = os.isatty(0) and os.isatty(1)
    end_of_stream = f"end-{os.urandom(16).hex()}"
    image = Image()
    image.add_system()
    if arguments.smolvmm.exists():
        image.add(arguments.smolvmm, "bin/smolvmm")
    elif arguments.command[0] == "smolvmm":
        raise NoHost(f"there is no {arguments.smolvmm}: run swift build -c release --static-swift-stdlib --product smolvmm")
    for source, inside in arguments.file:
        image.add(source, inside_name(inside))
    image.add_text("etc/kvm-host/command", f"exec {shlex.join(arguments.command)}\n")
    image.add_text("etc/kvm-host/settings", settings(arguments, terminal, end_of_stream))
    image.add_text("etc/kvm-host/outputs", "".join(f"/{inside_name(inside)}\n" for inside, _ in arguments.output))
    kernel = unpacked_kernel(CACHE / "vmlinuz-generic", CACHE / "vmlinux-generic")
    with Host(arguments, kernel, image.archive(), terminal) as host:
        try:
            if terminal:
                with Terminal():
                    result = host.run(end_of_stream.encode())
            else:
                result = host.run(end_of_stream.encode())
        except NoHost as problem:
            raise NoHost(f"the emulated host failed: {problem}{host.told()}") from None
        except TimeoutError:
            print(f"kvm-host: the command did not end within {arguments.timeout:g} s{host.told()}", file=sys.stderr)
            return TIMED_OUT
    result.save(arguments.output)
    return result.status


def main():
    parser = argparse.ArgumentParser(
        prog="kvm-host", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="tools/kvm-host [OPTION…] -- COMMAND…")
    parser.add_argument("--memory", default="2G", help="the host's memory (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="the host's processors (default: %(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for all of it (default: none)")
    parser.add_argument("--file", type=split_pair, action="append", default=[], metavar="PATH[:INSIDE]",
                        help="a file or folder to take in, under the same name unless INSIDE is another")
    parser.add_argument("--output", type=split_pair, action="append", default=[], metavar="PATH[:OUTSIDE]",
                        help="a file that the command makes, to be brought out")
    parser.add_argument("--smolvmm", type=pathlib.Path, default=ROOT / ".build/release/smolvmm",
                        help="the command (default: %(default)s)")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(run(arguments))
    except NoHost as problem:
        print(f"kvm-host: {problem}", file=sys.stderr)
        sys.exit(NO_HOST)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
