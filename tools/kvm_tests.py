# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of hardware KVM, on the emulated host of tools/kvm-host; end-to-end-test.py runs them."""

import hashlib
import os

from harness import ROOT, require, run

HOST_SECONDS = 180


def kvm_host(*words, files=(), outputs=(), timeout=HOST_SECONDS):
    """What a command on the emulated host returns: status, standard output, standard error."""
    options = [word for file in files for word in ("--file", file)]
    options += [word for output in outputs for word in ("--output", output)]
    return run([ROOT / "tools/kvm-host", "--timeout", timeout, *options, "--", *words], timeout + 60)


def host_returns_status_and_output(bench):
    """the emulated KVM host has /dev/kvm, and returns a command's status, both outputs and files"""
    content = os.urandom(3_000_000) + bytes(5000)
    given, made = bench.file("given"), bench.file("made")
    given.write_bytes(content)
    status, output, errors = kvm_host(
        "sh", "-c", "test -c /dev/kvm && echo out && echo err >&2 && cp given made && sha256sum <made && exit 7",
        files=[f"{given}:given"], outputs=[f"made:{made}"])
    require(status == 7, f"status {status}: {errors}")
    require(output == f"out\n{hashlib.sha256(content).hexdigest()}  -\n", f"output {output!r}")
    require(errors == "err\n", f"errors {errors!r}")
    require(made.read_bytes() == content, "the file that came out differs")


def host_tells_what_failed(bench):
    """the emulated KVM host tells apart a command without end, a host that died and a file that was not made"""
    status, _, errors = kvm_host("sleep", "1000", timeout=1)
    require(status == 124 and "did not end within 1 s" in errors, f"status {status}: {errors}")
    status, _, errors = kvm_host("sh", "-c", "echo c >/proc/sysrq-trigger")
    require(status == 125 and "sysrq triggered crash" in errors, f"status {status}: {errors}")
    status, _, errors = kvm_host("true", outputs=[f"made:{bench.file('missing')}"])
    require(status == 125 and "left no file /root/made" in errors, f"status {status}: {errors}")


TESTS = [host_returns_status_and_output, host_tells_what_failed]
