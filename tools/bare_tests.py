# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of the guest without an operating system under hardware KVM, on the emulated host of tools/kvm-host;
end-to-end-test.py runs them."""

import os
import signal
import subprocess

from harness import FAILED, ROOT, Skip, require, run
from kvm_tests import succeed_on_kvm_host

# A guest needs less than a second.
GUEST_SECONDS = 15
MODULE_TESTS = ROOT / ".build-tests/release/smolvmmPackageTests.xctest"
# What guest/bare/platform.S says for each errand, its lines joined by spaces.
EXPECTED = {
    "t": "timer", "d": "deadline", "m": "pic timer", "n": "nmi", "e": "ready received ab", "l": "ready received ab",
    "a": "FREEZE", "s": "started 0000000000000001 0000000000000001 woken started again", "x": "", "f": "FREEZE", "u": "",
}
SAME = "same timer"
# Beyond what the software CPU has.
VECTOR_EXTENSION = "x86-64-v3"

# Prints "ERRAND: what the guest said" for each errand, then what the frozen guests say when they go on.
#
# A guest that stands still is started again, for the reason that kvm_host.Host gives: one wait in 500 has no end.
SCRIPT = r"""
export XDG_RUNTIME_DIR=/run
# INPUT NAME WORD…: what the guest says that smolvmm WORD… runs.
tell() {
    input=$1
    printf '%s: ' $2
    shift 2
    attempts=0
    while
        attempts=$((attempts + 1))
        printf "$input" | timeout SECONDS smolvmm "$@" --name b --accel kvm >said
        [ $? = TIMED_OUT ] && [ $attempts -lt ATTEMPTS ]
    do :; done
    tr -s '\r\n' ' ' <said
    echo
}
boot() {
    input=$1
    errand=$2
    shift 2
    tell "$input" $errand boot bare initramfs --memory 32M --cmdline $errand "$@"
}
for errand in t d m n x; do boot '' $errand; done
for errand in e l; do boot ab $errand; done
boot '' s --cpus 2
boot '' f --snapshot-when FREEZE -o kvm
boot '' u
boot '' a --snapshot-when FREEZE -o avx --cpu VECTOR_EXTENSION
for bundle in avx kvm software; do tell x $bundle restore $bundle; done
"""
for word, value in [("SECONDS", GUEST_SECONDS), ("TIMED_OUT", 128 + signal.SIGTERM), ("ATTEMPTS", 4),
                    ("VECTOR_EXTENSION", VECTOR_EXTENSION)]:
    SCRIPT = SCRIPT.replace(word, str(value))


def freeze(bench, kernel, bundle):
    bench.run(
        "boot", kernel, bench.initramfs, "--name", bench.new_name(), "--memory", "32M", "--accel", "software",
        "--cmdline", "f", "--snapshot-when", "FREEZE", "-o", bundle)


def bare_guest_runs_under_kvm(bench):
    """interrupts, clocks, processors and registers of a guest without an operating system are right under hardware KVM"""
    _, help_text, _ = run([bench.smolvmm, "boot", "--help"])
    if "kvm" not in help_text:
        raise Skip("this smolvmm has no KVM")
    kernel, software, kvm, avx = (bench.file(name) for name in ["bare", "bare-software", "bare-kvm", "bare-avx"])
    subprocess.run([ROOT / "guest/build-bare-kernel", kernel], check=True)
    freeze(bench, kernel, software)
    output, errors = succeed_on_kvm_host(
        "sh", "-c", SCRIPT, files=[f"{kernel}:bare", f"{bench.initramfs}:initramfs", f"{software}:software"],
        outputs=[f"kvm:{kvm}", f"avx:{avx}"], options=["--smolvmm", bench.smolvmm])
    found = {}
    for line in output.splitlines():
        errand, _, said = line.partition(": ")
        found[errand] = said.strip()
    expected = EXPECTED | {"kvm": SAME, "software": SAME, "avx": "same"}
    require(found == expected, f"expected {expected}\n   found {found}\n{errors}")
    # PSHUFB XMM0, [RBX]
    require("cannot emulate the instruction" in errors and "66 0f 38 00 03" in errors, f"of errand u: {errors}")
    require(VECTOR_EXTENSION in bench.run("inspect", avx)[0], "inspect does not name the CPU model")
    errors = bench.run("restore", avx, "--accel", "software", status=FAILED)[1]
    require("has xsave, avx, avx2" in errors and "the software CPU does not" in errors, errors)
    with bench.restore(kvm, "--accel", "software") as machine:
        os.write(machine.writing, b"x")
        machine.expect(rb"same\r*\ntimer", GUEST_SECONDS)


def module_tests_pass_under_kvm(bench):
    """the modules' own guests are right under hardware KVM, too, with the registers of AVX"""
    if not MODULE_TESTS.exists():
        raise Skip("'tools/test --fast' was not run")
    output, errors = succeed_on_kvm_host(
        "./tests", "--testing-library", "swift-testing", "--filter", "HypervisorTests", files=[f"{MODULE_TESTS}:tests"],
        options=["--memory", "3G"])
    output += errors
    require("guests are tried under KVM, too\" passed" in output, f"KVM was not tried\n{output[-3000:]}")
    require("skipped" not in output, f"something was not tried\n{output[-3000:]}")


TESTS = [module_tests_pass_under_kvm, bare_guest_runs_under_kvm]
