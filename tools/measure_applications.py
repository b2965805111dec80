# SPDX-License-Identifier: Apache-2.0
"""Measures Python and PostgreSQL in Debian guests of smolvmm and of QEMU; measure.py runs it."""

import tempfile

from harness import CACHE, qemu, require_file
from measure_cpu import NATIVE, PEER, Guest, Job, Native, compare, engines

MEMORY = 512
# The shell is process 1: what is measured is not to share its processor with services.
COMMAND_LINE = "quiet init=/bin/sh"
PROMPT = rb"^# "
PREPARATION = (
    "stty -echo; PS1=; PS2=; export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin; "
    "mkdir /dev/shm; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /tmp; cd /tmp; start-postgres > /dev/null")

QUEENS = """
import json
def queens(size, row=0, columns=0, left=0, right=0):
    if row == size:
        return 1
    count, free = 0, ~(columns | left | right) & ((1 << size) - 1)
    while free:
        bit = free & -free
        free ^= bit
        count += queens(size, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return count
words = {}
for number in range(COUNT * 2000):
    words.setdefault("word %d" % (number * 7919 % 1009), []).append(number * 0.5)
text = json.dumps(words, sort_keys=True)
print([queens(6) for _ in range(COUNT)][0], len(text), sum(map(len, json.loads(text).values())))
"""


def applications(scale):
    """Python's jobs, which run natively, too, and PostgreSQL's."""

    def command(name, *words):
        return Job(name, "applications", ["command", name, *words], runs_natively=words[0] != "su")

    def pgbench(name, *options):
        # Its report tells times; what counts is that all transactions were done.
        script = (
            f"pgbench -n --random-seed=1 {' '.join(options)} bench | grep -E '^number of (transactions|failed)'")
        return command(name, "su", "postgres", "-c", script)

    return [
        command("python", "/usr/bin/python3", "-c", QUEENS.replace("COUNT", str(4 * scale))),
        command("pystart", "/usr/bin/python3", "-c", "import json; print(json.dumps({}))"),
        pgbench("pgselect", "-S", "-t", str(30 * scale)),
        pgbench("pgupdate", "-t", str(10 * scale)),
    ]


def measure_applications(setup):
    """Python and PostgreSQL in a Debian guest: on the software CPU and under QEMU's TCG, in turn; Python here, too"""
    guest = CACHE / "guest-bench"
    disk = require_file(guest / "root.qcow2", "tools/bench applications, which makes it")
    kernel, initramfs = guest / "vmlinuz", guest / "initramfs"
    program = require_file(CACHE / "smolbench", "guest/build-bench cache/smolbench")
    with tempfile.TemporaryDirectory(prefix="smolvmm-bench-") as folder:
        compare(setup, applications(setup.scale), {
            NATIVE: Native(program, folder),
            PEER: Guest(
                qemu(kernel, initramfs, COMMAND_LINE, MEMORY, [f"file={disk},format=qcow2,snapshot=on"]), PREPARATION,
                PROMPT),
            **engines(
                setup, kernel, initramfs, MEMORY, ["--disk", f"{disk},overlay", "--cmdline", COMMAND_LINE], PREPARATION,
                PROMPT)})
