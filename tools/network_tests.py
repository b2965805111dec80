# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of networks; end-to-end-test.py runs them. Packets go to this host's loopback, or to networks that a
test makes for itself in a name space."""

import contextlib
import hashlib
import http.server
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

from disk_tests import Shell, name_of, snapshot
from harness import CACHE, FAILED, INIT, ROOT, USAGE, Failure, Process, Skip, require, run

BOOT_SECONDS = 180
RESTORE_SECONDS = 30
WORK_SECONDS = 180
PROMPT = rb"/ # "
GATEWAY = "10.0.2.2"
MIB = 1 << 20


# The host's side.


class Server:
    """A web server at this host's loopback: /N is N bytes, always the same."""

    def __init__(self, address="127.0.0.1"):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                data = content(int(self.path[1:]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def content(count):
    return random.Random(count).randbytes(count)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def free_port(kind=socket.SOCK_STREAM):
    """A port that nobody has, of those that no system gives out by itself: it stays free until it is published."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket(socket.AF_INET, kind) as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def exchange(port, data, timeout=30):
    """Sends `data` to a port of this host and returns all that comes back until the other side ends."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# The guest's side.


@contextlib.contextmanager
def shell(bench, *options, prefix=(), name=None):
    """A booted machine with a network, at its shell's prompt."""
    initramfs = CACHE / "initramfs-disk.cpio"
    if not initramfs.exists():
        raise Skip("guest/build-initramfs --modules was not run")
    machine = Process([
        *prefix, bench.smolvmm, "boot", bench.kernel, initramfs, "--name", name or bench.new_name(), "--memory", "256M",
        "--accel", "software", "--cmdline", "quiet smolvmm.run=shell", *options])
    bench.running.append(machine)
    with machine:
        machine.expect(PROMPT, BOOT_SECONDS)
        yield Shell(machine)


@contextlib.contextmanager
def copy(bench, bundle, *options, running=0):
    with bench.restore(bundle, *options) as machine:
        yield Shell(machine, running)


def configure(guest):
    return guest.run("udhcpc -i eth0 -n -q -t 10")


def fetch(guest, port, count, address=GATEWAY):
    """Downloads `count` bytes into the guest; they must be right."""
    text = guest.run(f"wget -q -O - http://{address}:{port}/{count} | sha256sum")
    require(digest(content(count)) in text, f"{count} bytes came with another hash: {text}")


# Answers at the guest's port 7 with what it gets, in capitals.
ECHO = "#!/bin/sh\ntr a-z A-Z"
START_ECHO = f"printf '{ECHO}' > /tmp/echo; chmod +x /tmp/echo; nc -ll -p 7 -e /tmp/echo & "


# The tests, in the order in which they run.


def guest_reaches_the_host(bench):
    """a network by DHCP: out to the host's loopback by TCP and UDP, in by published ports, and again after a reboot"""
    tcp, web, udp = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
    with Server() as server, shell(bench, "--net", "user", "--publish", f"{tcp}:7", "--publish",
                                   f"0.0.0.0:{web}:80", "--publish", f"127.0.0.1:{udp}:9/udp") as guest:
        text = configure(guest)
        require("lease of 10.0.2.15 obtained from 10.0.2.2" in text, text)
        text = guest.run("cat /sys/class/net/eth0/carrier /etc/resolv.conf; ip route")
        require("nameserver 10.0.2.3" in text and "default via 10.0.2.2" in text, text)
        guest.run("ping -c 2 -W 5 10.0.2.2")
        for count in (0, 1, 70_001, 5 * MIB):
            fetch(guest, server.port, count)
        guest.run(f"mkdir /tmp/www; wget -q -O /tmp/www/data http://{GATEWAY}:{server.port}/{3 * MIB}; httpd -h /tmp/www")
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/data", timeout=60) as answer:
            require(answer.read() == content(3 * MIB), "what the guest serves is damaged")
        guest.run(START_ECHO + "sleep 0.3")
        for text in (b"hello", b"a" * 200_000):
            require(exchange(tcp, text) == text.upper(), "the guest's answer through the published port is wrong")

        # Nobody listens there in the guest, whose kernel counts such datagrams.
        counter = "awk '/^Udp: [0-9]/ { print \"NoPorts\", $3 }' /proc/net/snmp"
        before = re.search(r"NoPorts (\d+)", guest.run(counter))[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"datagram", ("127.0.0.1", udp))
        guest.run(f"until [ \"$({counter})\" != \"NoPorts {before}\" ]; do sleep 0.1; done", timeout=30)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            one.settimeout(30)
            guest.run(f"syslogd -R {GATEWAY}:{one.getsockname()[1]}; sleep 0.2; logger words to the host")
            while b"words to the host" not in one.recv(2000):
                pass

        guest.machine.send("reboot -f")
        guest.machine.expect(INIT, BOOT_SECONDS)
        guest.machine.expect(PROMPT, BOOT_SECONDS)
        configure(guest)
        fetch(guest, server.port, MIB)


def copies_have_their_own_ports(bench):
    """copies run at the same time with ports of their own; a port that is taken is refused by its number"""
    port, first, second = (free_port() for _ in range(3))
    bundle = bench.file("network.smolmachine")
    with Server() as server:
        with shell(bench, "--net", "user,mac=02:00:00:00:00:42", "--publish", f"{port}:7") as guest:
            configure(guest)
            guest.run(START_ECHO + "sleep 0.3")
            require(exchange(port, b"one") == b"ONE", "the original does not answer")
            snapshot(bench, guest, bundle)
            require(exchange(port, b"two") == b"TWO", "the original does not answer after its snapshot")
            _, errors = bench.run("restore", bundle, status=FAILED)
            require(f"127.0.0.1:{port}:7" in errors and "--publish" in errors, errors)
            text, _ = bench.run("inspect", bundle)
            require("02:00:00:00:00:42" in text and f"127.0.0.1:{port}:7" in text, text)
            with copy(bench, bundle, "--publish", f"{first}:7") as a, copy(bench, bundle, "--publish", f"{second}:7") as b:
                for number, guest_copy in ((first, a), (second, b)):
                    text = guest_copy.run("ip addr show eth0")
                    require("10.0.2.15/24" in text and "02:00:00:00:00:42" in text, text)
                    require(exchange(number, b"copy") == b"COPY", "a copy does not answer")
                    fetch(guest_copy, server.port, 100_000)
                require(exchange(port, b"still") == b"STILL", "the original does not answer beside its copies")
        with copy(bench, bundle) as guest:
            guest.run("true")
            require(exchange(port, b"again") == b"AGAIN", "a copy does not take the bundle's port")
        with copy(bench, bundle, "--publish", "none", "--net", "none") as guest:
            # The driver notices a little later.
            guest.run("for i in $(seq 50); do grep -q 0 /sys/class/net/eth0/carrier && break; sleep 0.1; done")
            require(guest.run("cat /sys/class/net/eth0/carrier").strip().endswith("0"), "the cable is not out")
            guest.run(f"timeout 3 wget -q -O - http://{GATEWAY}:{server.port}/1", status=143)
            with contextlib.suppress(ConnectionRefusedError):
                exchange(port, b"nobody")
                raise Failure("a port is published that should not be")


def open_connections_are_reset(bench):
    """connections that were open at the snapshot go on in the original, and in a copy are reset at once"""
    port = free_port()
    bundle = bench.file("connected.smolmachine")
    with socket.create_server(("127.0.0.1", 0)) as listener, shell(
            bench, "--net", "user", "--publish", f"{port}:8") as guest:
        configure(guest)
        guest.run("mkfifo /tmp/a /tmp/b; sleep 9999 > /tmp/a & sleep 9999 > /tmp/b & sleep 0.1")
        guest.run("(nc -l -p 8 < /tmp/b > /dev/null; echo inbound ended >> /tmp/log) & sleep 0.3")
        with socket.create_connection(("127.0.0.1", port)) as inbound:
            inbound.sendall(b"established")
            guest.begin(f"nc {GATEWAY} {listener.getsockname()[1]} < /tmp/a; cat /tmp/log")
            outbound, _ = listener.accept()
            outbound.sendall(b"greeting\n")
            guest.machine.expect(rb"greeting", 30)
            snapshot(bench, guest, bundle)
            running = guest.count
            with copy(bench, bundle, "--publish", "none", running=running) as other:
                status, text = other.end(30)
                require(status == 0 and "inbound ended" in text, f"connections of a copy: {status}, {text}")
            outbound.sendall(b"later\n")
            guest.machine.expect(rb"later", 30)
            outbound.close()
            inbound.close()
            guest.end(30)


def transfer_survives_a_snapshot(bench):
    """a transfer goes on in the original during snapshots, and ends with an error in copies, whose next one is right"""
    count = 100 * MIB
    with Server() as server, shell(bench, "--net", "user") as guest:
        configure(guest)
        guest.begin(f"wget -q -O - http://{GATEWAY}:{server.port}/{count} | sha256sum")
        bundles = [bench.file(f"transfer-{number}.smolmachine") for number in range(3)]
        for bundle in bundles:
            time.sleep(0.2)
            snapshot(bench, guest, bundle)
        _, text = guest.end()
        require(digest(content(count)) in text, "the original's transfer is damaged")
        for bundle in bundles:
            with copy(bench, bundle, running=guest.count) as other:
                _, text = other.end(30)
                require(digest(content(count)) not in text, f"the copy has all of the original's transfer: {text}")
                fetch(other, server.port, 5 * MIB)


NAMESPACE = """
import http.server, socketserver, sys, threading
allowed, refused = "198.18.0.1", "198.18.0.2"

class Resolver(socketserver.BaseRequestHandler):
    def handle(self):
        query, answer = self.request
        end = query.index(b"\\0", 12) + 5
        known = query[12:end - 4] == b"\\7allowed\\4test\\0"
        kind = query[end - 4:end - 2]
        records = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes(map(int, allowed.split("."))) if kind == b"\\0\\1" else b""
        flags = b"\\x81\\x80" if known else b"\\x81\\x83"
        count = b"\\0\\1" if records and known else b"\\0\\0"
        answer.sendto(query[:2] + flags + b"\\0\\1" + count + b"\\0\\0\\0\\0" + query[12:end] + (records if known else b""),
                      self.client_address)
        with open(sys.argv[1], "ab") as log:
            log.write(query[12:end - 4] + b"\\n")

class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the web")
    def log_message(self, *_):
        pass

threading.Thread(target=socketserver.ThreadingUDPServer(("127.0.0.1", 53), Resolver).serve_forever, daemon=True).start()
for address in (allowed, refused, "127.0.0.1"):
    server = http.server.ThreadingHTTPServer((address, 80), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
threading.Event().wait()
"""


def tool(name):
    if not shutil.which(name):
        raise Skip(f"there is no {name} on this host")
    return name


@contextlib.contextmanager
def namespace(bench, setup):
    """A network name space of the test's own, after `setup` has run in it: the prefix of commands to run there."""
    name = f"smolvmm-{os.getpid()}-{random.randrange(1 << 20)}"
    status, _, errors = run([tool("ip"), "netns", "add", name])
    if status != 0:
        raise Skip(f"network name spaces are not permitted here: {errors.strip()}")
    try:
        status, output, errors = run(["ip", "netns", "exec", name, "sh", "-ec", setup])
        if status != 0:
            raise Skip(f"the network for the test cannot be made: {output}{errors}".strip())
        yield ["ip", "netns", "exec", name]
    finally:
        run(["ip", "netns", "del", name])


@contextlib.contextmanager
def internet(bench):
    """A name space with a resolver and web servers of its own; the prefix, and the file with the names it was asked for."""
    log = bench.file(f"queries-{bench.new_name()}")
    log.write_bytes(b"")
    resolv = bench.file("resolv.conf")
    resolv.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    script = bench.file("internet.py")
    script.write_text(NAMESPACE, encoding="ascii")
    setup = "ip link set lo up; ip addr add 198.18.0.1/32 dev lo; ip addr add 198.18.0.2/32 dev lo"
    with namespace(bench, setup) as prefix:
        # The resolver's address is read from /etc/resolv.conf: another one, for whoever runs behind this prefix.
        prefix = [*prefix, "unshare", "-m", "--propagation", "private", "sh", "-c",
                  f"mount --bind {resolv} /etc/resolv.conf && exec \"$@\"", "sh"]
        server = subprocess.Popen([*prefix, "python3", script, log])
        try:
            yield prefix, log
        finally:
            server.kill()
            server.wait()


def names_are_resolved(bench):
    """names are resolved by the host's resolver"""
    with internet(bench) as (prefix, _), shell(bench, "--net", "user", prefix=prefix) as guest:
        configure(guest)
        require("198.18.0.1" in guest.run("nslookup -type=a allowed.test"), "the name has another address")
        require("the web" in guest.run("timeout 30 wget -q -O - http://198.18.0.1:80/"), "the web is not there")
        require("the web" in guest.run("timeout 30 wget -q -O - http://198.18.0.2:80/"), "its other address is not there")


def policy_lets_nothing_else_out(bench):
    """with allow= names and addresses that are not in it are refused at once, in copies too; published ports answer"""
    bundle = bench.file("policy.smolmachine")
    with internet(bench) as (prefix, log):
        with shell(bench, "--net", "user,allow=allowed.test", "--publish", "7777:7", prefix=prefix) as guest:
            configure(guest)
            # An address that no allowed name has been resolved to yet.
            text = guest.run("timeout 30 wget -O - http://198.18.0.1:80/ 2>&1", status=1)
            require("No route to host" in text, f"the refusal is: {text}")
            # A static busybox cannot resolve names in wget, only in nslookup.
            require("198.18.0.1" in guest.run("nslookup -type=a allowed.test"), "the name has another address")
            require("the web" in guest.run("timeout 30 wget -q -O - http://198.18.0.1:80/"), "its address is not allowed")
            for where in ("198.18.0.2:80", f"{GATEWAY}:80", "10.0.2.3:53"):
                text = guest.run(f"timeout 30 wget -O - http://{where}/ 2>&1", status=1)
                require("No route to host" in text, f"{where} is not refused: {text}")
            began = time.monotonic()
            text = guest.run("nslookup -type=a secret.test 2>&1", status=1)
            require("REFUSED" in text and time.monotonic() - began < 20, f"a name is not refused: {text}")
            require(b"secret" not in log.read_bytes(), "a name that is not allowed has got out")
            text = guest.run("ping -c 1 -W 20 198.18.0.2 2>&1", status=1)
            guest.run(START_ECHO + "sleep 0.3")
            status, text, errors = run([
                *prefix, "python3", "-c",
                f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); sys.dont_write_bytecode = True\n"
                "import network_tests; print(network_tests.exchange(7777, b'in'))"])
            require("b'IN'" in text, f"the published port does not answer: {status}\n{text}{errors}")
            snapshot(bench, guest, bundle)
        machine = Process([*prefix, bench.smolvmm, "restore", bundle, "--name", bench.new_name()])
        bench.running.append(machine)
        with machine:
            other = Shell(machine, guest.count)
            require("the web" in other.run("timeout 30 wget -q -O - http://198.18.0.1:80/"), "the copy forgot the address")
            other.run("timeout 30 wget -q -O - http://198.18.0.2:80/", status=1)
        machine = Process([
            *prefix, bench.smolvmm, "restore", bundle, "--name", bench.new_name(), "--net", "user,allow="])
        bench.running.append(machine)
        with machine:
            other = Shell(machine, guest.count)
            other.run("timeout 30 wget -q -O - http://198.18.0.1:80/", status=1)


TAP = """
ip link set lo up
ip link add bridge0 type bridge
ip tuntap add tap0 mode tap
ip link set tap0 master bridge0
ip addr add 192.0.2.1/24 dev bridge0
ip link set bridge0 up
ip link set tap0 up
"""
SERVE = """
import sys
sys.path.insert(0, {tools!r})
sys.dont_write_bytecode = True
import network_tests, time
server = network_tests.Server("192.0.2.1")
print(server.port, flush=True)
time.sleep(9999)
"""


def tap_is_a_bridged_network(bench):
    """a TAP interface bridges the guest: ping, transfers both ways with offloads, a copy on the same interface"""
    if not pathlib.Path("/dev/net/tun").exists():
        raise Skip("there is no /dev/net/tun on this host")
    bundle = bench.file("tap.smolmachine")
    with namespace(bench, TAP) as prefix:
        server = subprocess.Popen(
            [*prefix, "python3", "-c", SERVE.format(tools=str(ROOT / "tools"))], stdout=subprocess.PIPE)
        try:
            port = int(server.stdout.readline())
            with shell(bench, "--net", "tap,ifname=tap0", prefix=prefix) as guest:
                guest.run("ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; sleep 1")
                guest.run("ping -c 2 -W 5 192.0.2.1")
                for count in (1, 70_001, 5 * MIB):
                    fetch(guest, port, count, "192.0.2.1")
                guest.run(f"mkdir /tmp/www; wget -q -O /tmp/www/data http://192.0.2.1:{port}/{5 * MIB}; httpd -h /tmp/www")
                status, text, errors = run([
                    *prefix, "python3", "-c",
                    "import urllib.request, hashlib; "
                    "print(hashlib.sha256(urllib.request.urlopen('http://192.0.2.2/data').read()).hexdigest())"])
                require(digest(content(5 * MIB)) in text, f"what the guest serves is damaged: {status} {text}{errors}")
                status, _, errors = run([
                    *prefix, bench.smolvmm, "boot", bench.kernel, bench.initramfs, "--net", "tap,ifname=tap0"])
                require(status == FAILED and "another machine has it" in errors, errors)
                snapshot(bench, guest, bundle)
                running = guest.count
            machine = Process([*prefix, bench.smolvmm, "restore", bundle, "--name", bench.new_name()])
            bench.running.append(machine)
            with machine:
                fetch(Shell(machine, running), port, 100_000, "192.0.2.1")
        finally:
            server.kill()
            server.wait()


def wrong_networks_are_refused(bench):
    """networks that cannot be are refused with what to do; without --net there is none"""
    def refused(*options, status, words):
        _, errors = bench.run("boot", bench.kernel, bench.initramfs, *options, status=status)
        require(all(word in errors for word in words), errors)

    refused("--net", "tap,ifname=no-such-tap", status=FAILED, words=["no-such-tap", "ip tuntap add"])
    refused("--net", "tap", status=USAGE, words=["--net"])
    refused("--net", "user,allow=300.1.1.1", status=USAGE, words=["allow"])
    refused("--publish", "8080:80", status=USAGE, words=["--net user"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused("--net", "user", "--publish", f"{port}:80", status=FAILED, words=[str(port), "in use"])
    refused("--net", "user", "--publish", "192.0.2.1:8080:80", status=FAILED, words=["192.0.2.1:8080:80"])
    _, errors = bench.run("restore", bench.original.bundle, "--publish", "8080:80", status=FAILED)
    require("no network" in errors, errors)


TESTS = [
    guest_reaches_the_host, copies_have_their_own_ports, open_connections_are_reset, transfer_survives_a_snapshot,
    names_are_resolved, policy_lets_nothing_else_out, tap_is_a_bridged_network, wrong_networks_are_refused,
]
