# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of vsock; end-to-end-test.py runs them."""

import contextlib
import hashlib
import os
import random
import socket
import threading

from harness import CACHE, INIT, Skip, require

BOOT_SECONDS = 120
RESTORE_SECONDS = 30
STREAM_SECONDS = 120
ECHO_PORT = 7
ECHO_BYTES = 64 << 20


@contextlib.contextmanager
def booted(bench, name):
    """A test guest with drivers, ticking, with an echo server at vsock port 7."""
    initramfs = CACHE / "initramfs-disk.cpio"
    if not initramfs.exists():
        raise Skip("guest/build-initramfs --modules was not run")
    with bench.start(
            "boot", bench.kernel, initramfs, "--name", name, "--memory", "256M", "--accel", "software", "--cmdline",
            "smolvmm.run=test quiet") as machine:
        machine.expect(INIT, BOOT_SECONDS)
        machine.tick()
        yield machine


def vsock_path(bench, name):
    return str(bench.runtime / "smolvmm" / f"{name}.vsock")


def connect(bench, name, port):
    """A stream to a port of the guest's, or None when it refused."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(STREAM_SECONDS)
    stream.connect(vsock_path(bench, name))
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
            while not os.path.exists(vsock_path(bench, copy)):
                require(restored.process.poll() is None, "the copy did not start")
            echoes(connect(bench, copy, ECHO_PORT), 1 << 20)
            restored.tick(RESTORE_SECONDS)
        data = b""
        while part := stream.recv(1 << 16):
            data += part
        require(data == b"y" * count + b"z" * 5000, f"{len(data)} of {count + 5000} bytes came back in the original")


TESTS = [vsock_echoes, vsock_calls_the_host, vsock_survives_snapshots]
