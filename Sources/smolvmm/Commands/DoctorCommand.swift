// SPDX-License-Identifier: Apache-2.0
// `smolvmm doctor`: what this host offers to machines, and what to do where it offers less than it could.

import ArgumentParser
import CHost
import Host
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Examine this host: what machines can use here, and what to do about the rest.",
        discussion: """
            Machines run on every host; this tells how well, and why --accel auto chooses what it chooses. The exit status \
            is 0 whatever is found.
            """)

    func run() throws {
        var findings = [Self.kvm(), Self.cpuModel()]
        #if os(Linux)
            findings += [Self.userfaultfd(), Self.libaio()]
        #endif
        findings += [Self.files(), Self.memory()]
        for finding in findings { writeAll(finding.text, to: STDOUT_FILENO) }
    }

    private struct Finding {
        var subject: String
        var isGood: Bool
        var result: String
        var advice: String?

        var text: String {
            let mark = isGood ? "ok" : "--"
            let padded = subject + String(repeating: " ", count: max(1, 14 - subject.utf8.count))
            return "\(mark)  \(padded)\(result)\n"
                + (advice.map { "    \(String(repeating: " ", count: 14))\($0)\n" } ?? "")
        }
    }

    private static func kvm() -> Finding {
        let found = Accelerator.examineKVM()
        let choice = found.isUsable ? "KVM" : "the software CPU"
        return Finding(
            subject: "KVM", isGood: found.isUsable, result: "\(found.finding); --accel auto takes \(choice)",
            advice: found.advice)
    }

    private static func cpuModel() -> Finding {
        let best = Accelerator.bestKVMModel()
        return Finding(
            subject: "CPU models", isGood: true,
            result: best.map { "up to \($0) under KVM; the software CPU has \(CPUModelName.standard)" }
                ?? "\(CPUModelName.standard) and less, the software CPU's",
            advice: nil)
    }

    #if os(Linux)
        private static func userfaultfd() -> Finding {
            let descriptor = chost_fault_open()
            guard descriptor < 0 else {
                close(descriptor)
                return Finding(
                    subject: "userfaultfd", isGood: true, result: "memory can be filled as it is used", advice: nil)
            }
            let advice =
                errno == EPERM
                ? "sysctl vm.unprivileged_userfaultfd=1, or run as root: restores can then fill memory as it is used"
                : "a kernel with CONFIG_USERFAULTFD has it"
            return Finding(subject: "userfaultfd", isGood: false, result: errorText(errno), advice: advice)
        }

        private static func libaio() -> Finding {
            let most = number(in: "/proc/sys/fs/aio-max-nr") ?? 0
            let used = number(in: "/proc/sys/fs/aio-nr") ?? 0
            // Each machine with disks takes 256.
            let machines = most > used ? (most - used) / 256 : 0
            return Finding(
                subject: "libaio", isGood: machines >= 8, result: "room for the requests of \(machines) more machines",
                advice: machines >= 8 ? nil : "sysctl fs.aio-max-nr=1048576; without, disks do one request at a time")
        }

        private static func number(in path: String) -> Int? { readSmall(path).flatMap(Int.init) }
    #endif

    private static func files() -> Finding {
        var limit = rlimit()
        #if canImport(Glibc)
            // SAFETY: `limit` outlives the call.
            unsafe _ = getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        #else
            unsafe _ = getrlimit(RLIMIT_NOFILE, &limit)
        #endif
        let isGood = limit.rlim_cur >= 256
        return Finding(
            subject: "open files", isGood: isGood, result: "\(limit.rlim_cur) for each process",
            advice: isGood ? nil : "ulimit -n 1024: a machine with all its disks and connections needs some hundred")
    }

    private static func memory() -> Finding {
        let page = UInt64(max(0, sysconf(Int32(_SC_PAGESIZE))))
        let total = UInt64(max(0, sysconf(Int32(_SC_PHYS_PAGES)))) * page
        return Finding(
            subject: "memory", isGood: true,
            result: "\(total >> 20) MiB; a machine takes what its guest has touched, clones share their bundle's cache",
            advice: nil)
    }
}
