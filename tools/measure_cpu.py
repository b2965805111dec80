# SPDX-License-Identifier: Apache-2.0
"""Measures the processor with guest/bench: in guests of smolvmm and of QEMU, and on this host; measure.py runs it."""

import collections
import math
import os
import pathlib
import re
import resource
import shlex
import statistics
import subprocess
import tempfile
import time

from harness import CACHE, Failure, Process, Shell, qemu, qemu_clock, require, require_file, run

BOOT_SECONDS = 120
JOB_SECONDS = 300
BUSYBOX = "/bin/busybox"
# A guest's clock that differs from the host's by more makes its figures worth nothing.
CLOCK_TOLERANCE = 0.02

NATIVE = "native"
PEER = "QEMU"

# Of a minimal standard generator (Park and Miller 1988), small enough for awk's doubles.
NUMBERS = "BEGIN {{ x = 1; for (i = 0; i < {count}; i++) {{ x = x * 16807 % 2147483647; print x }} }}"
COUNT_DIGITS = (
    "BEGIN {{ for (i = 0; i < {count}; i++) {{ word = \"w\" i * 7919 % 1000; seen[word]++; n += length(word) }} "
    "for (word in seen) if (seen[word] > most) most = seen[word]; print n, most }}")
COUNT_UP = "i=0; while [ $i -lt {count} ]; do i=$((i+1)); case $i in *00) n=$n.;; esac; done; echo $i ${{#n}}"
START_PROGRAMS = "i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i | {busybox} cat; done"


class Job:
    """A program of the suite, or another one that smolbench starts and times."""

    def __init__(self, name, group, words, runs_natively=True):
        self.name = name
        self.group = group
        self.words = words
        self.runs_natively = runs_natively


def suite(program, scale):
    """All jobs, with work for about 5 ms of this host's time at scale 1."""
    status, output, errors = run([program, "list"])
    require(status == 0, f"{program} list: status {status}\n{errors}")
    jobs = [Job(name, group, [name, str(scale)]) for name, group in map(str.split, output.splitlines())]

    def shell(name, script):
        jobs.append(Job(name, "programs", ["command", name, BUSYBOX, "sh", "-c", script]))

    shell("gzip", f"{BUSYBOX} head -c {200_000 * scale} {BUSYBOX} | {BUSYBOX} gzip -c")
    shell("awk", shlex.join([BUSYBOX, "awk", COUNT_DIGITS.format(count=8000 * scale)]))
    shell("sort", f"{BUSYBOX} sort -n numbers")
    shell("sh", COUNT_UP.format(count=4000 * scale))
    shell("shfork", START_PROGRAMS.format(count=4 * scale, busybox=BUSYBOX))
    return jobs


def preparation(scale):
    """The shell command that makes what the suite's jobs read."""
    return shlex.join([BUSYBOX, "awk", NUMBERS.format(count=3000 * scale)]) + " > numbers"


def result(job, text):
    """Seconds and checksum of smolbench's line."""
    match = re.search(rf"^{job.name} (\d+\.\d{{9}}) ([0-9a-f]{{16}})( WRONG)?\r*$", text, re.MULTILINE)
    require(match, f"{job.name} printed no result:\n{text[-800:]}")
    require(not match[3], f"{job.name} found a wrong result")
    return float(match[1]), match[2]


Measurement = collections.namedtuple("Measurement", "seconds checksum processor_seconds")


class Native:
    """This host, on one of its processors, as a guest has one."""

    def __init__(self, program, folder, preparation="true"):
        self.program = program
        self.folder = folder
        subprocess.run(["sh", "-c", preparation], cwd=folder, check=True)

    def measure(self, job):
        processors = os.sched_getaffinity(0)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [self.program, *job.words], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=JOB_SECONDS, check=False, preexec_fn=lambda: os.sched_setaffinity(0, {max(processors)}))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        require(done.returncode in (0, 1), f"{job.name}: status {done.returncode}\n{done.stderr[-800:]}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Measurement(*result(job, done.stdout), used)

    def end(self):
        """Nothing runs between two jobs."""


class Guest:
    """A guest at its shell's prompt; one that was lost is booted again for the next job."""

    def __init__(self, command, preparation, prompt=rb"/ # "):
        self.command = command
        self.preparation = preparation
        self.prompt = prompt
        self.shell = None
        self.boots = True

    def measure(self, job):
        require(self.boots, "it did not boot")
        try:
            if self.shell is None:
                self.boot()
            before = self.processor_seconds()
            text = self.shell.run("smolbench " + shlex.join(job.words) + " || [ $? = 1 ]", timeout=JOB_SECONDS)
            return Measurement(*result(job, text), self.processor_seconds() - before)
        except Failure:
            self.end()
            raise

    def boot(self):
        machine = Process(self.command)
        self.shell = Shell(machine)
        self.boots = False
        machine.expect(self.prompt, BOOT_SECONDS)
        self.boots = True
        self.shell.run(self.preparation, timeout=JOB_SECONDS)
        self.began = self.clocks()

    def processor_seconds(self):
        """Of all threads of the machine's process."""
        tasks = pathlib.Path(f"/proc/{self.shell.machine.process.pid}/task")
        times = [int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks.iterdir()]
        return sum(times) / 1e9

    def clocks(self):
        """The guest's clock and the host's, in seconds."""
        uptime = float(self.shell.run("cat /proc/uptime").split()[0])
        return uptime, time.monotonic()

    def check_clock(self):
        """Refuses what was measured if the guest's seconds are not the host's."""
        guest, host = (now - then for now, then in zip(self.clocks(), self.began))
        require(
            abs(guest - host) <= CLOCK_TOLERANCE * host + 0.1,
            f"{guest:.2f} s passed in the guest, {host:.2f} s on the host: its clock is wrong, and so are its figures")

    def end(self):
        if self.shell:
            self.shell.machine.kill()
        self.shell = None


def engines(setup, kernel, initramfs, memory, options, preparation, prompt=rb"/ # "):
    """Guests of smolvmm with each engine that was asked for, by name."""
    return {
        engine or "smolvmm": Guest([
            setup.smolvmm, "boot", kernel, initramfs, "--name", f"bench-{os.getpid()}-{engine}", "--memory", f"{memory}M",
            "--accel", "software", *(["--cpu-engine", engine] if engine else []), *options], preparation, prompt)
        for engine in setup.engines or [None]}


class Table:
    """Seconds of each side, how many times as fast as QEMU, how many times as slow as the host; means by group."""

    def __init__(self, names):
        self.names = names
        self.ours = [name for name in names if name not in (NATIVE, PEER)]
        columns = [f"{f'{name} s':>12}" for name in names]
        columns += [f"{f'{name}/{NATIVE}':>18}" for name in [PEER, *self.ours]]
        columns += [f"{f'{PEER}/{name}':>18}" for name in self.ours]
        print(f"  {'':12}{''.join(columns)}")

    def ratios(self, times):
        """In the order of the columns; nothing where a side has no time."""
        pairs = [(name, NATIVE) for name in [PEER, *self.ours]] + [(PEER, name) for name in self.ours]
        return [times[above] / times[below] if above in times and below in times else None for above, below in pairs]

    def row(self, title, times):
        cells = [f"{times[name]:12.4f}" if name in times else f"{'-':>12}" for name in self.names]
        self.show(title, cells, self.ratios(times))

    def mean(self, title, rows):
        columns = [[ratio for ratio in column if ratio is not None] for column in zip(*map(self.ratios, rows))]
        means = [math.exp(statistics.fmean(map(math.log, column))) if column else None for column in columns]
        self.show(title, [" " * 12 for _ in self.names], means)

    def show(self, title, cells, ratios):
        shown = [f"{ratio:18.2f}" if ratio is not None else f"{'-':>18}" for ratio in ratios]
        print(f"  {title:12}{''.join(cells)}{''.join(shown)}", flush=True)


def measure_job(job, compared, setup, failures):
    """The median of the times of each side that got the same result as the others."""
    times = {name: [] for name in compared if job.runs_natively or name != NATIVE}
    expected = None
    for _ in range(setup.runs):
        for name, side in compared.items():
            if name not in times:
                continue
            try:
                measured = side.measure(job)
                expected = expected or measured.checksum
                require(measured.checksum == expected, f"the result is {measured.checksum} instead of {expected}")
                times[name].append(measured.processor_seconds if setup.processor_time else measured.seconds)
            except Failure as failure:
                failures.append(f"{job.name}, {name}: {failure}")
                del times[name]
    return {name: statistics.median(values) for name, values in times.items()}


def measure_groups(jobs, compared, setup, table, failures):
    """Measures and shows group by group; returns the times of all jobs."""
    measured = []
    for group in dict.fromkeys(job.group for job in jobs):
        print(f" {group}")
        rows = []
        for job in jobs:
            if job.group == group:
                rows.append(measure_job(job, compared, setup, failures))
                table.row(job.name, rows[-1])
        if len(rows) > 1:
            table.mean("mean", rows)
        measured += rows
    return measured


def compare(setup, jobs, compared):
    """Measures those of the jobs that were asked for on all sides, in turn, and prints the table."""
    unknown = set(setup.programs) - {job.name for job in jobs}
    require(not unknown, f"there is no program {' '.join(sorted(unknown))}; there are {' '.join(j.name for j in jobs)}")
    jobs = [job for job in jobs if not setup.programs or job.name in setup.programs]
    failures = []
    table = Table(list(compared))
    try:
        measured = measure_groups(jobs, compared, setup, table, failures)
        if len({job.group for job in jobs}) > 1:
            table.mean("all", measured)
        for name, side in compared.items():
            if isinstance(side, Guest) and side.shell:
                try:
                    side.check_clock()
                except Failure as failure:
                    failures.append(f"{name}: {failure}")
    finally:
        for side in compared.values():
            side.end()
    require(not failures, "\n  ".join([f"{len(failures)} failures", *failures]))


def measure_cpu(setup):
    """guest/bench and programs of busybox: on this host, under QEMU's TCG, and on the software CPU, in turn"""
    program = require_file(CACHE / "smolbench", "guest/build-bench cache/smolbench")
    initramfs = require_file(
        CACHE / "initramfs-bench.cpio", "guest/build-initramfs cache/initramfs-bench.cpio --program cache/smolbench")
    command_line = "quiet smolvmm.run=shell"
    ready = "PS1=; cd /tmp; " + preparation(setup.scale)
    memory = setup.sizes[0]
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-") as folder:
        compare(setup, suite(program, setup.scale), {
            NATIVE: Native(program, folder, preparation(setup.scale)),
            PEER: Guest(qemu(setup.kernel, initramfs, f"{command_line} {qemu_clock()}", memory), ready),
            **engines(setup, setup.kernel, initramfs, memory, ["--cmdline", command_line], ready)})
