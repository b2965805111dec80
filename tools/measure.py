#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the built command, in turn with QEMU where it is a peer; every claim is a ratio within one run.

boot      process start to the guest's init, beside QEMU's microvm under TCG
cpu       programs that compute, touch memory and call the kernel, beside QEMU's microvm under TCG and the host
applications  Python and PostgreSQL, the same way, in a guest made of Debian packages
loops     the software CPU's speed in million instructions a second, on loops of its own
restore   process start to the guest's next console line
snapshot  the snapshot command, and how long the guest stands still for it
size      the bundle, beside the memory that the guest uses and QEMU's migration stream through zstd -3
disk      requests to images beside qemu-img bench, fio in a guest beside QEMU's microvm, snapshots of a busy disk
net       transfers and round trips by user-mode NAT, beside QEMU's microvm with the same library
agent     exec in a running guest, run in a throw-away copy, vsock streams
kvm       boot, restore and round trips under hardware KVM on an emulated host, beside QEMU's microvm there
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import measure_agent
import measure_applications
import measure_cpu
import measure_disk
import measure_network
import measure_kvm
from harness import INIT, TICK, Failure, Process, add_machine_options, machine_parts, qemu, require, run

BOOT_SECONDS = 300
MEMORY_LINE = rb"smolvmm-guest: memory used=(\d+) total=(\d+) KiB"


class Setup:
    def __init__(self, arguments, folder):
        self.smolvmm, self.kernel, self.initramfs = machine_parts(arguments)
        self.runs = arguments.runs
        self.sizes = arguments.memory
        self.engines = arguments.cpu_engine
        self.scale = arguments.scale
        self.programs = arguments.program
        self.processor_time = arguments.processor_time
        self.folder = folder
        self.bundles = {}

    def boot(self, errand, memory, *options):
        return Process([
            self.smolvmm, "boot", self.kernel, self.initramfs, "--name", f"bench-{os.getpid()}", "--memory",
            f"{memory}M", "--accel", "software", "--cmdline", f"console=ttyS0 smolvmm.run={errand}", *options])

    def restore(self, bundle, name=None):
        return Process([self.smolvmm, "restore", bundle, "--name", name or f"bench-{os.getpid()}"])

    def provisioned(self, memory):
        """The bundle of a provisioned machine with this much memory, and the KiB that its guest uses."""
        if memory not in self.bundles:
            bundle = self.folder / f"provisioned-{memory}.smolmachine"
            with self.boot("provision", memory, "--snapshot-when", "PROVISIONED", "-o", bundle) as machine:
                match, _ = machine.expect(MEMORY_LINE, BOOT_SECONDS)
                status = machine.wait(BOOT_SECONDS)
                require(status == 0, f"boot ended with {status}: {machine.standard_error()}")
            self.bundles[memory] = bundle, int(match[1])
        return self.bundles[memory]


def processor_seconds(process):
    """User and system time that a process has taken so far."""
    fields = pathlib.Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(name, values, unit, scale=1.0):
    values = sorted(value * scale for value in values)
    last = values[min(len(values) - 1, int(len(values) * 0.99))]
    print(f"  {name:34} median {statistics.median(values):9.2f} {unit}   "
          f"from {values[0]:.2f} to {values[-1]:.2f}   p99 {last:.2f}   ({len(values)} runs)")


def measure_boot(setup):
    """process start to the guest's init"""
    memory = setup.sizes[0]
    commands = {
        "smolvmm": lambda: setup.boot("test", memory),
        "qemu microvm tcg": lambda: Process(qemu(setup.kernel, setup.initramfs, "smolvmm.run=test", memory)),
    }
    wall = {name: [] for name in commands}
    processor = {name: [] for name in commands}
    for _ in range(setup.runs):
        for name, start in commands.items():
            with start() as machine:
                _, moment = machine.expect(INIT, BOOT_SECONDS)
                processor[name].append(processor_seconds(machine))
                wall[name].append(moment - machine.started)
    for name in commands:
        spread(name, wall[name], "s")
        spread(f"{name}, processor time", processor[name], "s")
    ours, theirs = (statistics.median(wall[name]) for name in commands)
    pairs = [our / their for our, their in zip(*wall.values())]
    print(f"  smolvmm takes {ours / theirs:.2f} times as long as QEMU (pair by pair: {statistics.median(pairs):.2f})")


def measure_loops(setup):
    """the software CPU's speed on loops of its own"""
    status, output, errors = run([setup.smolvmm, "bench-cpu"], 600)
    require(status == 0, f"smolvmm bench-cpu: status {status}\n{errors}")
    for line in output.splitlines():
        print(f"  {line}")


def measure_restore(setup):
    """process start to the guest's next console line"""
    for memory in setup.sizes:
        bundle, _ = setup.provisioned(memory)
        times = []
        for index in range(setup.runs * 4 + 1):
            with setup.restore(bundle) as copy:
                _, moment = copy.expect(TICK, 60)
                if index > 0:  # the first brings the file into memory
                    times.append(moment - copy.started)
        spread(f"{memory} MiB guest", times, "ms", 1000)
    print("  the guest ticks every 100 ms of its own time: its next line can be due up to 100 ms after it runs")


def measure_snapshot(setup):
    """the snapshot command, and how long the guest stands still"""
    for memory in setup.sizes:
        bundle, _ = setup.provisioned(memory)
        name = f"bench-{os.getpid()}"
        times, gaps, pauses = [], [], []
        with setup.restore(bundle, name) as machine:
            for _ in range(10):
                machine.tick()
            usual = tick_gaps(machine, 0)
            for _ in range(setup.runs):
                began = time.monotonic()
                status, output, errors = run(
                    [setup.smolvmm, "snapshot", name, "-o", setup.folder / "bench.smolmachine"])
                times.append(time.monotonic() - began)
                require(status == 0, f"smolvmm snapshot: status {status}\n{errors}")
                stated = re.search(r"paused\D*([\d.]+) ms", output + errors)
                if stated:
                    pauses.append(float(stated[1]))
                for _ in range(3):
                    machine.latest_tick()
                gaps.append(max(tick_gaps(machine, began)))
        spread(f"{memory} MiB guest, command", times, "ms", 1000)
        if pauses:
            spread(f"{memory} MiB guest, stated pause", pauses, "ms")
        spread(f"{memory} MiB guest, longest tick gap", gaps, "ms", 1000)
        spread(f"{memory} MiB guest, usual tick gap", usual, "ms", 1000)


def tick_gaps(machine, since):
    """Seconds between one tick and the next on the console, for the ticks that came after `since`."""
    with machine.changed:
        moments = [machine._moment(match.end()) for match in TICK.finditer(machine.output)]
    return [later - earlier for earlier, later in zip(moments, moments[1:]) if later >= since]


def measure_size(setup):
    """the bundle, beside the guest's used memory and QEMU's migration stream"""
    for memory in setup.sizes:
        bundle, used = setup.provisioned(memory)
        size = bundle.stat().st_size / 1024
        stream = migrated(setup, memory) / 1024
        print(f"  {memory} MiB guest: bundle {size:.0f} KiB, guest uses {used} KiB ({size / used:.2f}), "
              f"qemu migrate | zstd -3 {stream:.0f} KiB ({size / stream:.2f})")


def migrated(setup, memory):
    """Bytes of QEMU's migration stream through zstd -3, of the same guest at the same point."""
    control = setup.folder / "qmp"
    stream = setup.folder / "stream.zst"
    command = qemu(setup.kernel, setup.initramfs, "smolvmm.run=provision", memory)
    with Process([*command, "-qmp", f"unix:{control},server=on,wait=off"]) as machine:
        machine.expect(rb"^PROVISIONED", BOOT_SECONDS)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control))
            lines = connection.makefile("rw")

            def execute(name, **arguments):
                lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                lines.flush()
                while True:
                    answer = json.loads(lines.readline())
                    require("error" not in answer, f"QEMU refuses {name}: {answer}")
                    if "return" in answer:
                        return answer["return"]

            lines.readline()
            execute("qmp_capabilities")
            execute("stop")
            execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            execute("migrate", uri=f"exec:zstd -3 -q -c > '{stream}'")
            while (state := execute("query-migrate")["status"]) != "completed":
                require(state not in ("failed", "cancelled"), f"QEMU's migration {state}")
                time.sleep(0.1)
            execute("quit")
        machine.wait(60)
    return stream.stat().st_size


MEASUREMENTS = {
    "boot": measure_boot, "cpu": measure_cpu.measure_cpu,
    "applications": measure_applications.measure_applications, "loops": measure_loops, "restore": measure_restore,
    "snapshot": measure_snapshot, "size": measure_size, "disk": measure_disk.measure_disk,
    "net": measure_network.measure_network,
    "agent": measure_agent.measure_agent,
    "kvm": measure_kvm.measure_kvm,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=[*MEASUREMENTS, "all"])
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--memory", type=int, nargs="+", default=[256], metavar="MIB", help="default: 256")
    processor = parser.add_argument_group("cpu and applications")
    processor.add_argument("--scale", type=int, default=10, help="how much work, 1 is 5 ms natively (default: 10)")
    processor.add_argument("--program", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    processor.add_argument(
        "--cpu-engine", nargs="+", default=[], metavar="ENGINE", help="compare these engines of smolvmm's software CPU")
    processor.add_argument(
        "--processor-time", action="store_true",
        help="count the processor time of the machine's process, for hosts that are busy with other things")
    add_machine_options(parser)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-") as folder:
        setup = Setup(arguments, pathlib.Path(folder))
        for name, measure in MEASUREMENTS.items():
            if arguments.what in (name, "all"):
                print(f"{name}: {measure.__doc__}")
                try:
                    measure(setup)
                except Failure as failure:
                    failed = True
                    print(f"  failed: {failure}")
                sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
