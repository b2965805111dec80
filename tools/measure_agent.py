# SPDX-License-Identifier: Apache-2.0
"""Measurements of vsock and the guest's agent: commands and streams; measure.py runs them."""

import os
import socket
import statistics
import struct
import subprocess
import threading
import time

from agent_tests import AGENT_PORT, ECHO_PORT, connect_at
from harness import CACHE, INIT, Process, require, require_file, run

BOOT_SECONDS = 300
# Kinds of frames: docs/agent-protocol.md.
HELLO, EXECUTE, EXITED, FAILURE = 1, 2, 37, 39
STREAM_BYTES = 1 << 30
ROUNDS = 200


def timed(command):
    """Milliseconds that a command takes, process and all."""
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    require(done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return (time.perf_counter() - started) * 1000


def show(title, values, unit="ms"):
    print(f"  {title:58} {statistics.median(values):9.2f} {unit}  ({min(values):.2f} to {max(values):.2f})")


def connect(path, port):
    stream = connect_at(path, port)
    require(stream, f"nobody listens at port {port}")
    return stream


def throughput(path):
    """MB/s of an echo, both ways at once, with every byte compared."""
    stream = connect(path, ECHO_PORT)
    piece = os.urandom(1 << 20)
    started = time.perf_counter()

    def send():
        for _ in range(STREAM_BYTES // len(piece)):
            stream.sendall(piece)
        stream.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = 0
    while part := stream.recv(1 << 18):
        offset = received % len(piece)
        wanted = (piece[offset:] + piece)[:len(part)]
        require(part == wanted, f"the echo differs behind {received} bytes")
        received += len(part)
    sender.join()
    require(received == STREAM_BYTES, f"{received} of {STREAM_BYTES} bytes came back")
    return received / (time.perf_counter() - started) / 1e6


def round_trips(path):
    """Milliseconds for each of many echoes of one byte."""
    stream = connect(path, ECHO_PORT)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        stream.sendall(b"x")
        stream.recv(1)
        times.append((time.perf_counter() - started) * 1000)
    return times


def frame(kind, payload):
    return struct.pack("<IB", len(payload), kind) + payload


def text(value):
    return struct.pack("<I", len(value)) + value


def execution(path):
    """Milliseconds from the connection to the agent to the end of a command, for a client that runs already."""
    hello = frame(HELLO, struct.pack("<HQ", 1, 0) + text(os.urandom(32)))
    words = struct.pack("<I", 1) + text(b"true")
    execute = frame(EXECUTE, words + struct.pack("<I", 0) + text(b"") + text(b"") + struct.pack("<BBHH", 0, 0, 0, 0))
    started = time.perf_counter()
    with connect(path, AGENT_PORT) as stream, stream.makefile("rb") as answers:
        stream.sendall(hello + execute)
        kind = None
        while kind != EXITED:
            header = answers.read(5)
            require(len(header) == 5, "the agent ended the conversation")
            length, kind = struct.unpack("<IB", header)
            payload = answers.read(length)
            require(kind != FAILURE, payload.decode(errors="replace"))
    require(payload == b"\0\0", f"true ended with {payload!r}")
    return (time.perf_counter() - started) * 1000


def measure_agent(setup):
    """commands in a guest and in throw-away copies, vsock streams; nothing here has a peer without an agent of its own"""
    initramfs = require_file(CACHE / "initramfs-disk.cpio", "tools/bench")
    for memory in setup.sizes:
        name = f"bench-{os.getpid()}"
        bundle = setup.folder / f"agent-{memory}.smolmachine"
        runtime = setup.folder / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        with Process([
                setup.smolvmm, "boot", setup.kernel, initramfs, "--name", name, "--memory", f"{memory}M", "--accel",
                "software", "--cmdline", "smolvmm.run=shell quiet"]) as machine:
            machine.expect(INIT, BOOT_SECONDS)
            machine.expect(rb"/ # ", BOOT_SECONDS)
            path = str(runtime / "smolvmm" / f"{name}.vsock")
            command = [setup.smolvmm, "exec", name, "--", "true"]
            timed(command)
            show(f"exec NAME -- true, the whole command, {memory} MiB", [timed(command) for _ in range(4 * setup.runs)])
            show("exec round trip, of a client that runs already", [execution(path) for _ in range(4 * setup.runs)])
            show("vsock round trip of one byte through the guest's echo", round_trips(path))
            show("vsock echo of 1 GiB, each way", [throughput(path)], "MB/s")
            status, _, errors = run([setup.smolvmm, "snapshot", name, "-o", bundle])
            require(status == 0, errors)
        command = [setup.smolvmm, "run", bundle, "--", "true"]
        timed(command)
        show(f"run FILE -- true, the whole command, {memory} MiB", [timed(command) for _ in range(4 * setup.runs)])
