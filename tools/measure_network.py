# SPDX-License-Identifier: Apache-2.0
"""Measures networks: a guest behind user-mode NAT, and on a TAP interface, beside QEMU's microvm with the same; measure.py
runs it."""

import ctypes
import os
import re
import statistics
import threading
import time
import urllib.request
from typing import NamedTuple

from harness import CACHE, Failure, Process, Shell, beside, qemu, require, require_file, run
from network_tests import GATEWAY, MIB, PROMPT, Server, free_port

BOOT_SECONDS = 300
TRANSFER = 64 * MIB
ROUND_TRIPS = 50
CLONE_NEWNET = 0x40000000  # unshare(2)


class Attachment(NamedTuple):
    """How a guest is attached to the network."""
    title: str
    ours: tuple  # options of smolvmm boot
    theirs: str  # QEMU's -netdev
    configure: str  # what the guest does for an address
    host: str  # the host as the guest sees it
    guest: str  # the guest's web server as the host sees it


def download(guest, attachment, port):
    """Into the guest, in MiB/s."""
    began = time.monotonic()
    guest.run(f"wget -q -O /dev/null http://{attachment.host}:{port}/{TRANSFER}")
    return TRANSFER / MIB / (time.monotonic() - began)


def upload(_guest, attachment, _port):
    """Out of the guest, whose kernel sends a file, in MiB/s."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://{attachment.guest}/data", timeout=600) as answer:
        count = 0
        while piece := answer.read(MIB):
            count += len(piece)
    require(count == TRANSFER, f"{count} bytes came instead of {TRANSFER}")
    return TRANSFER / MIB / (time.monotonic() - began)


def echo(guest, attachment, _port):
    """ICMP to the host's end and back, in milliseconds."""
    text = guest.run(f"ping -q -c {ROUND_TRIPS} -i 0.02 {attachment.host}")
    return float(re.search(r"= [\d.]+/([\d.]+)/", text)[1])


def request(_guest, attachment, _port):
    """A connection to the guest, a request and its answer of one byte, in milliseconds."""
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.monotonic()
        with urllib.request.urlopen(f"http://{attachment.guest}/byte", timeout=60) as answer:
            answer.read()
        times.append((time.monotonic() - began) * 1000)
    return statistics.median(times)


CASES = {
    "64 MiB into the guest (wget)": (download, "MiB/s", False),
    "64 MiB out of the guest (httpd)": (upload, "MiB/s", False),
    "ping": (echo, "ms", True),
    "connection to the guest, request, answer": (request, "ms", True),
}


def compare(setup, attachment):
    initramfs = require_file(CACHE / "initramfs-disk.cpio", "guest/build-initramfs --modules")
    memory = max(512, setup.sizes[0])
    command_line = "quiet smolvmm.run=shell"

    def ours():
        return Process([
            setup.smolvmm, "boot", setup.kernel, initramfs, "--name", f"bench-{os.getpid()}", "--memory", f"{memory}M",
            "--accel", "software", *attachment.ours, "--cmdline", command_line])

    def theirs():
        return Process(qemu(setup.kernel, initramfs, command_line, memory, network=attachment.theirs))

    values = {case: ([], []) for case in CASES}
    with Server("0.0.0.0") as server:
        for _ in range(setup.runs):
            for side, start in enumerate((ours, theirs)):
                with start() as machine:
                    machine.expect(PROMPT, BOOT_SECONDS)
                    guest = Shell(machine)
                    guest.run(attachment.configure)
                    guest.run(
                        f"mkdir /tmp/www; head -c {TRANSFER} /dev/zero > /tmp/www/data; echo > /tmp/www/byte; "
                        "httpd -h /tmp/www")
                    for case, (measure, _, _) in CASES.items():
                        values[case][side].append(measure(guest, attachment, server.port))
    print(f"  {attachment.title}:")
    for case, (_, unit, less_is_better) in CASES.items():
        beside(case, *values[case], unit, less_is_better)


def alone(body):
    """Runs `body` on a thread that has a network of its own, as have the programs that it starts."""
    failures = []

    def work():
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                raise Failure(f"the host does not permit it a network: {os.strerror(ctypes.get_errno())}")
            body()
        except Failure as failure:
            failures.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for failure in failures:
        print(f"  TAP was not measured: {failure}")


def measure_network(setup):
    """a guest behind user-mode NAT and one on a TAP interface, beside QEMU's microvm under TCG with the same and virtio-net
    over MMIO, in turn"""
    published = free_port()
    compare(setup, Attachment(
        "user-mode NAT, by libslirp on both sides", ("--net", "user", "--publish", f"{published}:80"),
        f"user,hostfwd=tcp:127.0.0.1:{published}-:80", "udhcpc -i eth0 -n -q -t 10", GATEWAY, f"127.0.0.1:{published}"))

    def tap():
        for command in ("ip link set lo up", "ip tuntap add tap0 mode tap", "ip addr add 192.0.2.1/24 dev tap0",
                        "ip link set tap0 up"):
            status, _, errors = run(command.split())
            require(status == 0, f"{command}: {errors.strip()}")
        compare(setup, Attachment(
            "TAP interface", ("--net", "tap,ifname=tap0"), "tap,ifname=tap0,script=no,downscript=no",
            "ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; sleep 1", "192.0.2.1", "192.0.2.2"))

    alone(tap)
