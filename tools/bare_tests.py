# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of the guest without an operating system under hardware KVM, on the emulated host of tools/kvm-host;
end-to-end-test.py runs them."""

import os
import subprocess

from harness import ROOT, Skip, require, run

HOST_SECONDS = 600
GUEST_SECONDS = 60
# What guest/bare/platform.S says for each errand, its lines joined by spaces.
EXPECTED = {
    "t": "timer", "d": "deadline", "m": "pic timer", "n": "nmi", "e": "ready received ab", "l": "ready received ab",
    "s": "started 0000000000000001 0000000000000001 woken started again", "x": "", "f": "FREEZE", "u": "",
}
SAME = "same timer"

# Prints "ERRAND: what the guest said" for each errand, then what the frozen guests say when they go on.
SCRIPT = r"""
export XDG_RUNTIME_DIR=/run
flat() { tr -s '\r\n' ' '; echo; }
boot() {
    errand=$1
    shift
    printf '%s: ' "$errand"
    timeout SECONDS smolvmm boot bare initramfs --name b --memory 32M --accel kvm --cmdline "$errand" "$@" | flat
}
for errand in t d m n x; do boot $errand </dev/null; done
for errand in e l; do printf ab | boot $errand; done
boot s --cpus 2 </dev/null
boot f --snapshot-when FREEZE -o kvm </dev/null
boot u </dev/null
for bundle in kvm software; do
    printf '%s: ' $bundle
    printf x | timeout SECONDS smolvmm restore $bundle --name b --accel kvm | flat
done
""".replace("SECONDS", str(GUEST_SECONDS))


def freeze(bench, kernel, bundle):
    bench.run(
        "boot", kernel, bench.initramfs, "--name", bench.new_name(), "--memory", "32M", "--accel", "software",
        "--cmdline", "f", "--snapshot-when", "FREEZE", "-o", bundle)


def bare_guest_runs_under_kvm(bench):
    """interrupts, clocks, processors and registers of a guest without an operating system are right under hardware KVM"""
    _, help_text, _ = run([bench.smolvmm, "boot", "--help"])
    if "kvm" not in help_text:
        raise Skip("this smolvmm has no KVM")
    kernel, software, kvm = bench.file("bare"), bench.file("bare-software"), bench.file("bare-kvm")
    subprocess.run([ROOT / "guest/build-bare-kernel", kernel], check=True)
    freeze(bench, kernel, software)
    status, output, errors = run(
        [ROOT / "tools/kvm-host", "--smolvmm", bench.smolvmm, "--timeout", HOST_SECONDS, "--file", f"{kernel}:bare",
         "--file", f"{bench.initramfs}:initramfs", "--file", f"{software}:software", "--output", f"kvm:{kvm}", "--",
         "sh", "-c", SCRIPT], HOST_SECONDS + 60)
    require(status == 0, f"status {status}\n{output}{errors}")
    found = {}
    for line in output.splitlines():
        errand, _, said = line.partition(": ")
        found[errand] = said.strip()
    expected = EXPECTED | {"kvm": SAME, "software": SAME}
    require(found == expected, f"expected {expected}\n   found {found}\n{errors}")
    # PSHUFB XMM0, [RBX]
    require("cannot emulate the instruction" in errors and "66 0f 38 00 03" in errors, f"of errand u: {errors}")
    with bench.restore(kvm, "--accel", "software") as machine:
        os.write(machine.writing, b"x")
        machine.expect(rb"same\r*\ntimer", GUEST_SECONDS)


TESTS = [bare_guest_runs_under_kvm]
