# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests of hardware KVM, on the emulated host of tools/kvm-host; end-to-end-test.py runs them."""

import hashlib
import os
import re
import time

from disk_tests import CHECK_FILES, WRITE_FILES
from harness import CACHE, INIT, ROOT, TICK, Failure, Tick, require, run

# An emulated host stands still at times, or ends: see kvm_host.Host. None of these tests takes longer than half of this.
HOST_SECONDS = 150
ATTEMPTS = 5
BOOT_SECONDS = 120


def kvm_host(*words, files=(), outputs=(), timeout=HOST_SECONDS, options=()):
    """What a command on the emulated host returns: status, standard output, standard error."""
    options = [*options, *(word for file in files for word in ("--file", file))]
    options += [word for output in outputs for word in ("--output", output)]
    return run([ROOT / "tools/kvm-host", "--timeout", timeout, *options, "--", *words], timeout + 60)


def succeed_on_kvm_host(*words, **options):
    """Standard output and standard error of a command on the emulated host, which is tried again where it fails, as the host
    itself does at times. What happened is shown all the same."""
    for attempt in range(1, ATTEMPTS + 1):
        status, output, errors = kvm_host(*words, **options)
        if status == 0:
            return output, errors
        told = f"status {status}\n{output[-4000:]}\n{errors[-4000:]}"
        if attempt < ATTEMPTS:
            print(f"    tried again after {told}", flush=True)
    raise Failure(told)


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


# What scripts on the emulated host have in common. `machine` starts smolvmm in the background with its console in the
# file `out` and what is typed from `in`; `await` waits for a pattern on the console; `type` types a line.
PRELUDE = r"""
export XDG_RUNTIME_DIR=/run
mkdir -p /var/tmp
fail() { echo "FAILED: $*"; tail -n 12 out; cat err; exit 1; }
machine() {
    rm -f in out; mkfifo in; : >out
    smolvmm "$@" <in >out 2>err &
    pid=$!
    exec 3>in
}
await() {
    i=0
    until grep -q "$1" out; do
        i=$((i + 1)); [ $i -lt 180 ] || fail "no '$1' in time"
        kill -0 $pid 2>/dev/null || grep -q "$1" out || fail "ended before '$1'"
        sleep 0.5
    done
}
type() { echo "$1" >&3; }
ended() {
    i=0
    while kill -0 $pid 2>/dev/null; do
        i=$((i + 1)); [ $i -lt 180 ] || fail 'still running'
        sleep 0.5
    done
    wait $pid; status=$?; [ $status = $1 ] || fail "status $status"
    exec 3>&-
}
"""


def on_host(bench, script, files=(), outputs=(), cpus=1):
    """Runs a shell script with PRELUDE on the emulated host and returns its output."""
    files = [f"{bench.kernel}:vmlinuz", f"{bench.initramfs}:initramfs", *files]
    output, _ = succeed_on_kvm_host(
        "sh", "-c", PRELUDE + script, files=files, outputs=outputs,
        options=["--cpus", cpus, "--smolvmm", bench.smolvmm])
    return output


def ticks(text):
    return [Tick(match, 0) for match in TICK.finditer(text.encode())]


def require_goes_on(before, after):
    """The machine of tick `before` has gone on with the ticks `after`, which miss none and know their digests."""
    require(len(after) > 1, f"{len(after)} ticks after the restore")
    require({tick.nonce for tick in after} == {before.nonce}, "another nonce: another machine")
    counts = [tick.count for tick in after]
    require(counts == list(range(counts[0], counts[0] + len(counts))), f"counts {counts}")
    require(counts[0] >= before.count, f"count {counts[0]} after {before.count}")
    require(after[-1].sha == after[-1].expected_sha(), "the digest is wrong")


def boots_and_reboots(bench):
    """under hardware KVM Debian's kernel boots with one and with two processors, reboots and powers off"""
    # With `nohz=off` a processor that the host let miss its wake-up (`kvm_host.Host`) is woken by the next tick.
    output = on_host(
        bench,
        """
        smolvmm doctor | grep -q '^ok  KVM' || { smolvmm doctor; exit 1; }
        for cpus in 1 2; do
            machine boot vmlinuz initramfs --cpus $cpus --memory 256M --cmdline 'smolvmm.run=test nohz=off' --stats
            await '^tick 3 '
            grep -q "smpboot: Total of $cpus processors activated" out || fail "not $cpus processors"
            type reboot
            i=0
            until [ $(grep -c 'smolvmm-guest: init' out) = 2 ]; do
                sleep 0.5; i=$((i + 1)); [ $i -lt 180 ] || fail 'no second boot'
            done
            type poweroff
            ended 0
            grep -q ' 0 slices' err || fail 'it ran on the software CPU'
            echo "booted $cpus"
        done
        """, cpus=2)
    require("booted 1" in output and "booted 2" in output, output)


def goes_on_across_backends(bench):
    """a machine frozen on the software CPU goes on under KVM, is frozen there, and goes on on the software CPU"""
    first, second = bench.file("software.smolmachine"), bench.file("kvm.smolmachine")
    name = bench.new_name()
    with bench.boot("test", name=name) as machine:
        machine.expect(INIT, BOOT_SECONDS)
        before = machine.tick()
        bench.run("snapshot", name, "-o", first)
    output = on_host(
        bench,
        """
        machine restore first --name k --accel kvm
        await '^tick '
        sleep 1
        smolvmm snapshot k -o second || fail snapshot
        count=$(grep -c '^tick ' out)
        sleep 1
        [ $(grep -c '^tick ' out) -gt $((count + 3)) ] || fail 'no ticks after the snapshot'
        cat out
        echo "host time=$(date +%s)"
        smolvmm stop k
        """, files=[f"{first}:first"], outputs=[f"second:{second}"])
    under_kvm = ticks(output)
    require_goes_on(before, under_kvm)
    host_time = int(re.search(r"host time=(\d+)", output)[1])
    require(abs(under_kvm[-1].time - host_time) < 3, f"guest {under_kvm[-1].time}, host {host_time}")
    with bench.restore(second, "--accel", "software") as machine:
        after = [machine.tick(), machine.tick()]
        wall = time.time()
    require_goes_on(under_kvm[0], after)
    require(abs(after[-1].time - wall) < 3, f"guest {after[-1].time}, host {wall}")


def disks_across_backends(bench):
    """files written under KVM while a snapshot is taken are whole there, in a copy there, and in one on the software CPU"""
    bundle = bench.file("kvm-disk.smolmachine")
    write, check = WRITE_FILES.format(count=20), CHECK_FILES.format(count=20)
    on_host(
        bench,
        f"""
        smolvmm disk create d.qcow2 256M >/dev/null
        machine boot vmlinuz initramfs-disk --disk d.qcow2 --disk tools.img,readonly --memory 256M --name d \\
            --accel kvm --cpus 2 --cmdline 'quiet smolvmm.run=shell'
        await '/ # '
        type 'mkdir -p /mnt /tools; mount -t ext4 -o ro /dev/vdb /tools; fsck() {{ /tools/run e2fsck "$@"; }}'
        type '/tools/run mke2fs -F -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt && echo made'
        await made
        type '{write}; echo end1:$?'
        await 'wrote 5'
        smolvmm snapshot d -o bundle || fail snapshot
        await 'wrote 20'
        type '{check} && echo che''cked'
        await checked
        type 'poweroff -f'
        ended 0
        machine restore bundle --name copy --accel kvm
        await 'wrote 20'
        type '{check} && echo che''cked'
        await checked
        smolvmm stop copy
        """,
        files=[f"{CACHE / 'initramfs-disk.cpio'}:initramfs-disk", f"{CACHE / 'tools-disk.img'}:tools.img"],
        outputs=[f"bundle:{bundle}"], cpus=2)
    with bench.restore(bundle, "--accel", "software") as machine:
        machine.expect(rb"wrote 20", BOOT_SECONDS)
        machine.send(check + " && echo che''cked")
        machine.expect(rb"checked", BOOT_SECONDS)


def refuses_what_the_host_lacks(bench):
    """without /dev/kvm, without permission and with a processor that lacks a feature, --accel kvm says what to do"""
    output = on_host(
        bench,
        """
        mv /dev/kvm /dev/hidden
        if smolvmm boot vmlinuz initramfs --accel kvm </dev/null 2>&1; then fail 'no refusal'; fi
        smolvmm doctor
        mv /dev/hidden /dev/kvm
        if smolvmm boot vmlinuz initramfs --accel kvm --cpu x86-64-v2+vaes </dev/null 2>&1; then fail 'no refusal'; fi
        """)
    require("this host has no /dev/kvm" in output, output)
    require("--accel auto takes the software CPU" in output, output)
    require("has vaes, which this host's KVM does not offer" in output, output)


TESTS = [
    host_returns_status_and_output, host_tells_what_failed, boots_and_reboots, goes_on_across_backends,
    disks_across_backends, refuses_what_the_host_lacks,
]
