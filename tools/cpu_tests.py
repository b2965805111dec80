# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of the processor: guest/bench in a guest must compute what it computes here; end-to-end-test.py runs them."""

import contextlib
import os
import re
import shlex
import time

from harness import CACHE, Shell, Skip, require, run
from measure_cpu import Native, preparation, result, suite

# With both engines side by side a boot takes a minute, and more where others use the processors.
BOOT_SECONDS = 400
JOBS_SECONDS = 600
SNAPSHOTS = 4
# Programs must still run when the snapshot that is asked for in their midst is taken.
FROZEN_SCALE = 4
COPY_SECONDS = 120
BLOCKS = 500
ENGINES = ("interpret", "translate")
# When a block is translated is the same in each run, or left to chance.
WAYS = (("interpret",), ("translate", "--no-translation-thread"), ("translate", "--translation-thread"))
# What runs in both engines side by side; all programs with SMOLVMM_CHECK_ALL=1 in the environment, in some minutes.
CHECKED = ("quicksort", "sha256", "patch", "signal", "repmove", "x87", "packed", "gzip", "awk", "sort", "sh")
FEWEST_RUNS = 100_000
# Blocks are joined as they are when they get warm, and all code has been forgotten many times when the boot is over.
LITTLE_ROOM = ("--translation-cache", "4", "--translation-heat", "5")
FEWEST_EVICTIONS = 1000


def native_results(bench, scale):
    """The jobs and what each computes on this host."""
    program = CACHE / "smolbench"
    if not program.exists():
        raise Skip("guest/build-bench was not run")
    jobs = suite(program, scale)
    folder = bench.file(f"native-{scale}")
    folder.mkdir(exist_ok=True)
    native = Native(program, folder, preparation(scale))
    return {job: native.measure(job).checksum for job in jobs}


@contextlib.contextmanager
def shell(bench, name, scale, engine, *options):
    """A booted machine that has smolbench, at its shell's prompt."""
    initramfs = CACHE / "initramfs-bench.cpio"
    if not initramfs.exists():
        raise Skip("guest/build-initramfs --program was not run")
    with bench.start(
            "boot", bench.kernel, initramfs, "--name", name, "--memory", "256M", "--accel", "software",
            "--cpu-engine", engine, *options, "--cmdline", "quiet smolvmm.run=shell") as machine:
        machine.expect(rb"/ # ", BOOT_SECONDS)
        guest = Shell(machine)
        guest.run("PS1=; cd /tmp; " + preparation(scale))
        yield guest


def script(jobs):
    """One command for all jobs, that goes on after a wrong result."""
    return "; ".join("smolbench " + shlex.join(job.words) for job in jobs)


def compare(expected, text):
    """Every job must have printed the host's checksum."""
    wrong = []
    for job, right in expected.items():
        _, checksum = result(job, text)
        if checksum != right:
            wrong.append(f"{job.name}: {checksum} instead of {right}")
    require(not wrong, f"the guest's results differ from the host's: {', '.join(wrong)}")


def compute(guest, expected):
    """The guest must compute what is expected."""
    compare(expected, guest.run(script(expected), timeout=JOBS_SECONDS))


def programs_agree(bench):
    """programs of all kinds compute in the guest, by either engine, what they compute on the host's processor"""
    expected = native_results(bench, 1)
    for way in WAYS:
        with shell(bench, bench.new_name(), 1, *way) as guest:
            compute(guest, expected)


def frozen_programs_agree(bench):
    """programs frozen in their midst end with the host's results, in the original and in copies that either engine runs"""
    expected = native_results(bench, FROZEN_SCALE)
    jobs = list(expected)
    name = bench.new_name()
    frozen = []
    with shell(bench, name, FROZEN_SCALE, "translate") as guest:
        began = guest.machine.position
        for index in range(SNAPSHOTS):
            # Each time other programs run, which begin when the bundle before is written.
            part = jobs[index * len(jobs) // SNAPSHOTS:(index + 1) * len(jobs) // SNAPSHOTS]
            guest.begin(script(part))
            guest.machine.expect(rf"^{part[0].name} ".encode(), JOBS_SECONDS)
            time.sleep(0.02)
            bundle = bench.file(f"computing-{index}.smolmachine")
            bench.run("snapshot", name, "-o", bundle)
            frozen.append((bundle, part, guest.count))
            guest.end(JOBS_SECONDS)
        text = guest.machine.output[began:].decode(errors="replace")
    compare(expected, text)
    for index, (bundle, part, count) in enumerate(frozen):
        with bench.restore(bundle, "--cpu-engine", ENGINES[index % len(ENGINES)]) as machine:
            copy = Shell(machine, count)
            copy.end(COPY_SECONDS)
            text = machine.output.decode(errors="replace")
        # The line at which the machine was frozen may be cut.
        printed = [position for position, job in enumerate(part) if re.search(rf"^{job.name} \d", text, re.MULTILINE)]
        require(printed, f"a copy printed no result:\n{text[-800:]}")
        compare({job: expected[job] for job in part[printed[0]:]}, text)


def random_blocks_agree(bench):
    """random code with exceptions, single steps and changes of itself ends in the guest as on the host's processor"""
    program = CACHE / "smolbench"
    if not program.exists():
        raise Skip("guest/build-bench was not run")
    for way in WAYS:
        with shell(bench, bench.new_name(), 1, *way) as guest:
            for first in range(0, BLOCKS, BLOCKS // 10):
                words = ["blocks", str(first), str(BLOCKS // 10)]
                _, native, _ = run([program, *words])
                printed = guest.run(" ".join(["smolbench", *words]), timeout=JOBS_SECONDS)
                expected, actual = (
                    re.search(r"^blocks [\d.]+ ([0-9a-f]+)", text, re.MULTILINE)[1] for text in (native, printed))
                require(
                    actual == expected,
                    f"{' '.join(way)}: blocks {first} to {first + BLOCKS // 10} differ: tools/fuzz-blocks --cpu-engine "
                    f"{way[0]} --seed {first} shows the first that does, or with --translation-thread may")


def checked_results(bench):
    """The jobs that run in both engines side by side, and what each computes on this host."""
    return {
        job: checksum for job, checksum in native_results(bench, 1).items()
        if job.name in CHECKED or os.environ.get("SMOLVMM_CHECK_ALL")}


def check(bench, expected, *options):
    """The engines must agree on a boot and on the jobs of `expected`. Returns what --stats told."""
    with shell(bench, bench.new_name(), 1, "check", "--stats", *options) as guest:
        compute(guest, expected)
        guest.machine.send("poweroff -f")
        status = guest.machine.wait(BOOT_SECONDS)
        told = guest.machine.standard_error()
    require(status == 0, f"status {status}: {told}")
    require(count(told, "runs that both engines agreed on") >= FEWEST_RUNS, f"few runs were compared: {told}")
    return told


def engines_agree(bench):
    """translator and interpreter agree on a whole boot and on programs, run side by side from the same state"""
    check(bench, checked_results(bench))


def count(told, name):
    """The number that --stats told of `name`."""
    found = re.search(rf"{name}: (\d+)", told)
    require(found, f"nothing was told of {name}: {told}")
    return int(found[1])


def little_room_is_enough(bench):
    """code that makes room for other code again and again, and is translated when it is warm, runs as in the interpreter"""
    expected = checked_results(bench)
    with shell(bench, bench.new_name(), 1, "translate", "--translation-thread", *LITTLE_ROOM) as guest:
        compute(guest, expected)
    told = check(bench, dict(list(expected.items())[:2]), *LITTLE_ROOM)
    require(count(told, "times that blocks were forgotten for others") >= FEWEST_EVICTIONS, f"there was room: {told}")


TESTS = [programs_agree, frozen_programs_agree, random_blocks_agree, engines_agree, little_room_is_enough]
