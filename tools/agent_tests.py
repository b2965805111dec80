# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of vsock and of the guest's agent; end-to-end-test.py runs them."""

import contextlib
import hashlib
import os
import random
import signal
import socket
import stat
import subprocess
import threading
import time
import zipfile

from harness import CACHE, INIT, Failure, Process, Shell, Skip, require, run

BOOT_SECONDS = 120
RESTORE_SECONDS = 30
STREAM_SECONDS = 120
ECHO_PORT = 7
AGENT_PORT = 1024
ECHO_BYTES = 64 << 20
COPY_BYTES = 100 << 20
COPY_SECONDS = 300
DEBIAN_SECONDS = 300
EXEC_SECONDS = 60
# The statuses that `smolvmm exec --help` documents.
REFUSED, NOT_FOUND, BY_SIGNAL = 125, 127, 128


@contextlib.contextmanager
def booted(bench, name, memory="256M", options=()):
    """A test guest with drivers, ticking, with an echo server at vsock port 7."""
    initramfs = CACHE / "initramfs-disk.cpio"
    if not initramfs.exists():
        raise Skip("guest/build-initramfs --modules was not run")
    with bench.start(
            "boot", bench.kernel, initramfs, "--name", name, "--memory", memory, "--accel", "software", "--cmdline",
            "smolvmm.run=test quiet", *options) as machine:
        machine.expect(INIT, BOOT_SECONDS)
        machine.tick()
        # The agent starts beside init, and may come after its first tick.
        deadline = time.monotonic() + EXEC_SECONDS
        while (stream := connect(bench, name, AGENT_PORT)) is None:
            require(time.monotonic() < deadline, "the agent did not start")
            time.sleep(0.02)
        stream.close()
        yield machine


def vsock_path(bench, name):
    return str(bench.runtime / "smolvmm" / f"{name}.vsock")


def connect(bench, name, port):
    """A stream to a port of the guest's, or None when it refused."""
    return connect_at(vsock_path(bench, name), port)


def connect_at(path, port):
    """The same through a machine's vsock at `path`."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(STREAM_SECONDS)
    stream.connect(path)
    stream.sendall(f"CONNECT {port}\n".encode())
    line = b""
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte:
            return None
        line += byte
    require(line.startswith(b"OK "), f"the answer to CONNECT is {line!r}")
    return stream


def echoes(stream, count):
    """Sends `count` random bytes and compares what comes back."""
    piece = random.Random(count).randbytes(1 << 20)
    sent, got = hashlib.sha256(), hashlib.sha256()

    def send():
        left = count
        while left:
            part = piece[:left]
            sent.update(part)
            stream.sendall(part)
            left -= len(part)
        stream.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    length = 0
    while part := stream.recv(1 << 16):
        got.update(part)
        length += len(part)
    sender.join()
    require(length == count, f"{count} bytes went out, {length} came back")
    require(sent.digest() == got.digest(), "what came back is not what went out")


def vsock_echoes(bench):
    """vsock streams carry bytes both ways, many at once, and closed ports refuse"""
    name = bench.new_name()
    with booted(bench, name):
        echoes(connect(bench, name, ECHO_PORT), ECHO_BYTES)
        streams = [connect(bench, name, ECHO_PORT) for _ in range(40)]
        for stream in streams:
            stream.sendall(b"x" * 1000)
        for stream in reversed(streams):
            stream.shutdown(socket.SHUT_WR)
            data = b""
            while part := stream.recv(4096):
                data += part
            require(data == b"x" * 1000, f"{len(data)} bytes came back")
        require(connect(bench, name, 99) is None, "a port without a listener took a connection")


def vsock_calls_the_host(bench):
    """the guest's own vsock connections go to the host's socket with the port's number"""
    name = bench.new_name()
    with booted(bench, name) as machine:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(vsock_path(bench, name) + "_52")
            listener.listen()
            listener.settimeout(30)
            machine.send("call 52 hello host")
            stream, _ = listener.accept()
            require(stream.recv(100) == b"hello host\n", "the guest's line did not arrive")
            stream.sendall(b"hello guest\n")
            machine.expect(rb"^smolvmm-guest: answer: hello guest\r*\n", 30)
        os.unlink(vsock_path(bench, name) + "_52")
        machine.send("call 52 nobody")
        machine.expect(rb"^smolvmm-guest: call failed: error 104\r*\n", 30)


def vsock_survives_snapshots(bench):
    """a snapshot with vsock traffic in flight harms none of it; in the copy old streams are gone and new ones work"""
    name, copy = bench.new_name(), bench.new_name()
    bundle = bench.file("vsock.smolmachine")
    with booted(bench, name):
        stream = connect(bench, name, ECHO_PORT)
        count = stream.send(b"y" * (1 << 20), socket.MSG_DONTWAIT)
        bench.run("snapshot", name, "-o", bundle)
        stream.sendall(b"z" * 5000)
        stream.shutdown(socket.SHUT_WR)
        with bench.restore(bundle, name=copy) as restored:
            # Before the first tick: new connections wait until the guest knows that the old ones have ended.
            wait_for_socket(bench, copy)
            echoes(connect(bench, copy, ECHO_PORT), 1 << 20)
            restored.tick(RESTORE_SECONDS)
        data = b""
        while part := stream.recv(1 << 16):
            data += part
        require(data == b"y" * count + b"z" * 5000, f"{len(data)} of {count + 5000} bytes came back in the original")


def execute(bench, name, *words, options=(), status=0, given=b"", timeout=EXEC_SECONDS):
    """Runs a command in a guest; returns its standard output and error."""
    command = [str(bench.smolvmm), "exec", name, *options, "--", *words]
    done = subprocess.run(command, input=given, capture_output=True, timeout=timeout, check=False)
    require(
        done.returncode == status,
        f"{' '.join(command)}: status {done.returncode} instead of {status}: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")
    return done.stdout, done.stderr


def commands_run(bench):
    """exec runs commands with their status, streams, input, environment, user and folder, and says why when it cannot"""
    name = bench.new_name()
    with booted(bench, name):
        output = execute(bench, name, "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
        require(output == (b"out\n", b"err\n"), f"the streams are {output}")
        execute(bench, name, "sh", "-c", "kill -9 $$", status=BY_SIGNAL + 9)
        given = random.Random(1).randbytes(300_000)
        require(execute(bench, name, "cat", options=["-i"], given=given)[0] == given, "the input did not come back")
        require(execute(bench, name, "cat", given=b"x")[0] == b"", "there is input without -i")
        options = ["-e", "A=b c", "-e", "PATH=/bin:/nowhere", "-w", "/proc", "-u", "1000:5"]
        output, _ = execute(bench, name, "sh", "-c", 'pwd; echo "$A"; echo $PATH; id', options=options)
        require(
            output.startswith(b"/proc\nb c\n/bin:/nowhere\nuid=1000 gid=5"), f"folder, environment or user: {output}")
        for words, options, status, told in [
                (["nothere"], [], NOT_FOUND, b"cannot run 'nothere'"), (["/proc"], [], 126, b"cannot run '/proc'"),
                (["pwd"], ["-w", "/nowhere"], REFUSED, b"'/nowhere'"), (["pwd"], ["-u", "who"], REFUSED, b"'who'")]:
            _, errors = execute(bench, name, *words, options=options, status=status)
            require(told in errors, f"{words}: the message is {errors}")
        # What the command leaves behind does not hold it up.
        execute(bench, name, "sh", "-c", "sleep 600 & echo done")
        bench.run("pause", name)
        bench.run("resume", name)
        execute(bench, name, "true")
    _, errors = execute(bench, name, "true", status=REFUSED)
    require(b"no machine" in errors, f"the message is {errors}")


def without_an_agent(bench):
    """exec says what is missing when the guest has no agent, and when it ends meanwhile"""
    name = bench.new_name()
    with bench.boot("test", name=name) as machine:
        machine.expect(INIT, BOOT_SECONDS)
        _, errors = execute(bench, name, "true", status=REFUSED)
        require(b"no agent" in errors, f"the message is {errors}")
    name = bench.new_name()
    with booted(bench, name):
        with Process([bench.smolvmm, "exec", name, "--", "sh", "-c", "echo begun; sleep 600"]) as command:
            command.expect(rb"begun", EXEC_SECONDS)
            bench.run("stop", name)
            require(command.wait(30) == REFUSED, "the status is not smolvmm's own")
            require("ended" in command.standard_error(), f"the message is {command.standard_error()}")


def many_commands(bench):
    """50 commands at once each get their own output and status"""
    name = bench.new_name()
    with booted(bench, name):
        def start(number):
            script = f"echo {number}; echo e{number} >&2; cat; exit {number}"
            return subprocess.Popen(
                [str(bench.smolvmm), "exec", name, "-i", "--", "sh", "-c", script], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        commands = [start(number) for number in range(50)]
        for number, command in enumerate(commands):
            output = command.communicate(f"in{number}".encode(), timeout=STREAM_SECONDS)
            require(output == (f"{number}\nin{number}".encode(), f"e{number}\n".encode()), f"{number}: {output}")
            require(command.returncode == number, f"{number}: status {command.returncode}")


def signals_and_terminals(bench):
    """signals reach the command; with -t it has a terminal of the caller's size whose keys work"""
    name = bench.new_name()
    with booted(bench, name):
        script = "trap 'echo caught; exit 5' TERM; echo begun; while :; do sleep 0.1; done"
        with Process([bench.smolvmm, "exec", name, "--", "sh", "-c", script]) as command:
            command.expect(rb"begun", EXEC_SECONDS)
            command.process.send_signal(signal.SIGTERM)
            command.expect(rb"caught", EXEC_SECONDS)
            require(command.wait(EXEC_SECONDS) == 5, "the status is not the command's")
        with Process([bench.smolvmm, "exec", name, "-i", "-t", "--", "sh"], terminal=True) as command:
            command.expect(rb"# ", EXEC_SECONDS)
            subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=command.writing, check=True)
            command.process.send_signal(signal.SIGWINCH)
            command.send("tty; stty size; sleep 600")
            command.expect(rb"/dev/pts/\d+\r*\n33 101\r*\n", EXEC_SECONDS)
            # Lost when it comes between two commands: no process is in the foreground then.
            for _ in range(EXEC_SECONDS):
                os.write(command.writing, b"\x03")
                with contextlib.suppress(Failure):
                    command.expect(rb"# ", 1)
                    break
            command.send("exit 9")
            require(command.wait(EXEC_SECONDS) == 9, "the status is not the shell's")


def files_are_copied(bench):
    """cp carries 100 MB in and out with equal hashes, and trees with their modes, times and links"""
    name = bench.new_name()
    with booted(bench, name, memory="512M"):
        content = random.Random(2).randbytes(COPY_BYTES)
        (bench.file("big")).write_bytes(content)
        bench.run("cp", bench.file("big"), f"{name}:/run/copy", timeout=COPY_SECONDS)
        bench.run("cp", f"{name}:/run/copy", bench.file("back"), timeout=COPY_SECONDS)
        digests = [hashlib.sha256(bench.file(file).read_bytes()).hexdigest() for file in ("big", "back")]
        require(digests[0] == digests[1], f"the hashes of what went in and came out are {digests}")
        # The guest's own opinion of as much as its processor computes in a second.
        output, _ = execute(bench, name, "sh", "-c", "head -c 1000000 /run/copy | sha256sum")
        require(
            output.split()[0].decode() == hashlib.sha256(content[:1_000_000]).hexdigest(), "the guest has something else")

        tree = bench.file("tree")
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "file").write_bytes(b"text")
        (tree / "a" / "file").chmod(0o4751)
        (tree / "a" / "link").symlink_to("file")
        os.utime(tree / "a" / "file", ns=(0, 981173106_123456789))
        (tree / "a" / "b").chmod(0o2700)
        os.utime(tree / "a", ns=(0, 1_000_000_000_000_000_000))
        bench.run("cp", tree, f"{name}:/run/")
        output, _ = execute(bench, name, "stat", "-c", "%a %Y", "/run/tree/a/file", "/run/tree/a/b", "/run/tree/a")
        require(output.split()[:3] == [b"4751", b"981173106", b"2700"], f"modes and times in the guest: {output}")
        # Into a folder that is made for it, then into the one that is there.
        for _ in range(2):
            bench.run("cp", f"{name}:/run/tree/.", bench.file("again"))
        copy = bench.file("again") / "a"
        status = (copy / "file").stat()
        require(
            stat.S_IMODE(status.st_mode) == 0o4751 and status.st_mtime_ns == 981173106_123456789, f"on the host: {status}")
        require(os.readlink(copy / "link") == "file" and (copy / "b").is_dir(), "the tree is not what it was")
        require((copy.stat()).st_mtime_ns == 1_000_000_000_000_000_000, "the folder's time is not what it was")
        for words, told in [
                (["cp", bench.file("nothing"), f"{name}:/run/"], "nothing"),
                (["cp", f"{name}:/nowhere/x", bench.file("x")], "/nowhere"),
                (["cp", bench.file("tree"), f"{name}:/nowhere/x"], "/nowhere")]:
            _, errors = bench.run(*words, status=1)
            require(told in errors, f"{words}: the message is {errors}")


def snapshot_during_a_copy(bench):
    """a snapshot during a copy harms neither; the restored machine has none of the unfinished file"""
    name, copy = bench.new_name(), bench.new_name()
    bundle = bench.file("copying.smolmachine")
    with booted(bench, name):
        content = random.Random(3).randbytes(40 << 20)
        bench.file("content").write_bytes(content)
        with Process([bench.smolvmm, "cp", bench.file("content"), f"{name}:/run/content"]) as copying:
            deadline = time.monotonic() + EXEC_SECONDS
            while b"smolvmm-copy" not in execute(bench, name, "ls", "-A", "/run")[0]:
                require(time.monotonic() < deadline, "the copy did not begin")
            bench.run("snapshot", name, "-o", bundle)
            require(copying.wait(COPY_SECONDS) == 0, f"the copy failed: {copying.standard_error()}")
        bench.run("cp", f"{name}:/run/content", bench.file("back"), timeout=COPY_SECONDS)
        require(bench.file("back").read_bytes() == content, "the original has something else")
        with bench.restore(bundle, name=copy):
            wait_for_socket(bench, copy)
            deadline = time.monotonic() + EXEC_SECONDS
            while execute(bench, copy, "ls", "-A", "/run")[0]:
                require(time.monotonic() < deadline, "the unfinished copy is still there")
                time.sleep(0.2)


def wait_for_socket(bench, name):
    """Waits until somebody answers at a machine's vsock: a machine of the same name may have left its socket."""
    deadline = time.monotonic() + RESTORE_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as stream, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            stream.connect(vsock_path(bench, name))
            return
        require(time.monotonic() < deadline, "the machine did not start")
        time.sleep(0.01)


def copies_differ(bench):
    """commands in two copies that run at once draw different random numbers, and have the host's time"""
    name = bench.new_name()
    bundle = bench.file("twins.smolmachine")
    with booted(bench, name):
        bench.run("snapshot", name, "-o", bundle)
    time.sleep(2)
    script = "head -c 16 /dev/urandom | hexdump -v -e '/1 \"%02x\"'; echo; date +%s"
    twins = [
        subprocess.Popen([str(bench.smolvmm), "run", bundle, "--", "sh", "-c", script], stdout=subprocess.PIPE)
        for _ in range(2)]
    numbers = set()
    for twin in twins:
        output = twin.communicate(timeout=EXEC_SECONDS)[0].split()
        require(twin.returncode == 0 and len(output) == 2, f"status {twin.returncode}: {output}")
        numbers.add(output[0])
        require(abs(int(output[1]) - time.time()) < 30, f"the copy's time is {output[1]}, the host's {time.time()}")
    require(len(numbers) == 2, f"both copies drew {numbers}")


def running_processes_differ(bench):
    """a process that draws random numbers all the time draws none in a copy that it draws in another one"""
    name = bench.new_name()
    bundle = bench.file("drawing.smolmachine")
    draw = (
        "while :; do echo $(cut -d ' ' -f 1 /proc/uptime) $(head -c 16 /dev/urandom | hexdump -v -e '/1 \"%02x\"'); done")
    with booted(bench, name):
        bench.run("snapshot", name, "--stop", "-o", bundle)
    # A kernel that is young, or whose clock jumps, stirs its pool every few seconds by itself; one of an hour does not.
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    with bench.restore(bundle, "--reset-clock", later, name=name):
        wait_for_socket(bench, name)
        execute(bench, name, "sh", "-c", f"({draw}) </dev/null >/run/numbers 2>/dev/null &")
        time.sleep(0.5)
        # Well behind the instant of the snapshot, from which time goes on in the copies.
        behind = float(execute(bench, name, "cat", "/proc/uptime")[0].split()[0]) + 1
        bench.run("snapshot", name, "--stop", "-o", bundle)
    copies = [bench.new_name() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for copy in copies:
            stack.enter_context(bench.restore(bundle, "--reset-clock", "keep", name=copy))
        drawn = []
        for copy in copies:
            deadline = time.monotonic() + EXEC_SECONDS
            numbers = []
            while len(numbers) < 20:
                require(time.monotonic() < deadline, f"the process of a copy has drawn only {len(numbers)} numbers")
                wait_for_socket(bench, copy)
                lines = [line.split() for line in execute(bench, copy, "cat", "/run/numbers")[0].splitlines()]
                numbers = [line[1] for line in lines if len(line) == 2 and float(line[0]) > behind]
            drawn.append(set(numbers))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        require(not drawn[first] & drawn[second], f"two copies drew the same: {drawn[first] & drawn[second]}")


def kernel_reseeds(bench):
    """a kernel with a driver for the VM generation id draws new random numbers in copies by itself, without an agent"""
    kernel = bench.kernel.with_name("vmlinuz-generic")
    if not kernel.exists():
        raise Skip("tools/fetch-kernel generic was not run")
    name = bench.new_name()
    bundle = bench.file("generation.smolmachine")
    reseeds = "dmesg | grep -c 'reseeded due to virtual machine fork'"
    with bench.start(
            "boot", kernel, bench.initramfs, "--name", name, "--memory", "512M", "--accel", "software", "--cmdline",
            "quiet smolvmm.run=shell") as machine:
        machine.expect(rb"/ # ", 2 * BOOT_SECONDS)
        guest = Shell(machine)
        guest.run(reseeds, status=1)
        bench.run("snapshot", name, "-o", bundle)
        guest.run(reseeds, status=1)
    with bench.restore(bundle) as machine:
        guest = Shell(machine, guest.count)
        text = guest.run(reseeds)
        require(text.split()[-1] == "1", f"the copy's kernel has reseeded so often: {text}")


def frozen_when_told(bench):
    """--snapshot-when has the agent make the guest ready: what was written is on the disk that is frozen, and copies go on"""
    name = bench.new_name()
    bundle, disk, raw = bench.file("told.smolmachine"), bench.file("told.img"), bench.file("told.raw")
    with open(disk, "wb") as file:
        file.truncate(32 << 20)
    status, _, errors = run(["mke2fs", "-q", "-F", "-t", "ext4", disk])
    require(status == 0, errors)
    words = b"words that are on the disk"
    with booted(
            bench, name, options=["--disk", f"{disk},overlay", "--snapshot-when", "FREEZE NOW", "-o", bundle]) as machine:
        execute(bench, name, "sh", "-c", "mkdir /run/disk; mount -t ext4 /dev/vda /run/disk")
        execute(bench, name, "sh", "-c", "cat >/run/disk/file", options=["-i"], given=words)
        machine.send("echo FREEZE NOW")
        require(machine.wait(EXEC_SECONDS) == 0, "the machine was not frozen")
    with zipfile.ZipFile(bundle) as archive:
        bench.file("told.qcow2").write_bytes(archive.read("disks/0.qcow2"))
    bench.run("disk", "convert", bench.file("told.qcow2"), raw)
    require(words in raw.read_bytes(), "the frozen disk has not what was written")
    output, _ = bench.run("run", bundle, "--", "cat", "/run/disk/file")
    require(output.encode() == words, f"the copy's file has {output!r}")


def agent_is_init(bench):
    """the agent is a guest's first process: it mounts, loads drivers, runs a start script, and starts again in copies"""
    initramfs = CACHE / "initramfs-disk.cpio"
    if not initramfs.exists():
        raise Skip("guest/build-initramfs --modules was not run")
    name = bench.new_name()
    bundle = bench.file("init.smolmachine")
    bench.run(
        "boot", bench.kernel, initramfs, "--name", name, "--memory", "256M", "--accel", "software", "--detach", "--cmdline",
        "console=ttyS0 quiet rdinit=/bin/smolvmm-agent smolvmm.start=/bin/ls")
    try:
        script = "cat /proc/1/comm; cut -d ' ' -f 2 /proc/mounts; cat /proc/modules"
        output = execute(bench, name, "sh", "-c", script)[0].decode()
        for wanted in ("smolvmm-agent", "/proc", "/sys", "/dev/pts", "/sys/fs/cgroup", "virtio_net"):
            require(wanted in output, f"there is no {wanted}: {output}")
        # The start script's output, which came before the guest was ready.
        require("smolvmm-agent" not in bench.run("logs", name)[0] and "lib" in bench.run("logs", name)[0], "no script ran")
        # Whoever loses its parent is the first process's to collect.
        execute(bench, name, "sh", "-c", "(sleep 0.1 &); sleep 0.5")
        output = execute(bench, name, "sh", "-c", "ps")[0]
        require(b"sleep" not in output, f"a process that has ended is still there: {output}")
        bench.run("snapshot", name, "--stop", "-o", bundle)
    finally:
        with contextlib.suppress(Exception):
            bench.run("stop", name)
    output, _ = bench.run("run", bundle, "--", "cat", "/proc/1/comm")
    require(output == "smolvmm-agent\n", f"the copy's first process is {output!r}")


def debian_has_the_agent(bench):
    """a guest of Debian packages has the agent as a service: boot --detach, exec, snapshot and run work with it"""
    folder = CACHE / "guest"
    if not (folder / "root.qcow2").exists():
        raise Skip("tools/make-guest cache/guest was not run")
    name = bench.new_name()
    bundle = bench.file("debian.smolmachine")
    bench.run(
        "boot", folder / "vmlinuz", folder / "initramfs", "--name", name, "--memory", "512M", "--accel", "software",
        "--disk", f"{folder / 'root.qcow2'},overlay", "--cmdline", "quiet", "--detach", timeout=DEBIAN_SECONDS)
    try:
        output, _ = execute(bench, name, "systemctl", "is-system-running", "--wait", timeout=DEBIAN_SECONDS)
        require(output == b"running\n", f"the system is {output}")
        execute(bench, name, "sh", "-c", "echo kept >/root/file; systemd-run --quiet sleep 9999")
        bench.run("snapshot", name, "-o", bundle)
        # The agent's restart does not end what was started through it.
        execute(bench, name, "sh", "-c", "sleep 8888 & systemctl restart --no-block smolvmm-agent")
        deadline = time.monotonic() + EXEC_SECONDS
        while (stream := connect(bench, name, AGENT_PORT)) is None:
            require(time.monotonic() < deadline, "the agent did not start again")
            time.sleep(0.1)
        stream.close()
        execute(bench, name, "pgrep", "-f", "sleep 8888")
    finally:
        bench.run("stop", name)
    script = "cat /root/file; hostname; systemctl is-active smolvmm-agent; pgrep -f 'sleep 9999' >/dev/null && echo alive"
    output, _ = bench.run("run", bundle, "--", "sh", "-c", script)
    require(output == "kept\nguest\nactive\nalive\n", f"the copy says {output!r}")


def run_and_detach(bench):
    """run has the command's status and leaves nothing; detached machines are ready when restore returns, and keep a log"""
    name = bench.new_name()
    bundle = bench.file("ready.smolmachine")
    with booted(bench, name) as machine:
        _, errors = bench.run("snapshot", name, "--stop", "-o", bundle)
        require(machine.wait(30) == 0, f"the machine did not end: {errors}")
    before = hashlib.sha256(bundle.read_bytes()).digest()
    output, _ = bench.run("run", bundle, "--", "sh", "-c", "echo here; exit 4", status=4)
    require(output == "here\n", f"the output is {output!r}")
    require(not bench.run("list")[0].splitlines()[1:], "something is left")
    for detached in (bench.new_name(), bench.new_name()):
        output, _ = bench.run("restore", bundle, "--name", detached, "--detach")
        require(output == detached + "\n", f"the output is {output!r}")
        execute(bench, detached, "sh", "-c", "echo on the console >/dev/console")
        require("on the console" in bench.run("logs", detached)[0], "the log lacks what was said")
        bench.run("restore", bundle, "--name", detached, "--detach", status=1)
        bench.run("stop", detached)
        require("on the console" in bench.run("logs", detached)[0], "the log has gone with the machine")
    require(hashlib.sha256(bundle.read_bytes()).digest() == before, "the bundle has changed")
    bench.run("logs", bench.new_name(), status=1)


TESTS = [
    vsock_echoes, vsock_calls_the_host, vsock_survives_snapshots, commands_run, without_an_agent, many_commands,
    signals_and_terminals, files_are_copied, snapshot_during_a_copy, copies_differ, running_processes_differ, kernel_reseeds,
    run_and_detach, frozen_when_told, agent_is_init, debian_has_the_agent,
]
