// SPDX-License-Identifier: Apache-2.0
// `smolvmm boot`.

import ArgumentParser
import Bundle
import DiskImage
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct BootCommand: ParsableCommand {
    /// What the kernel needs to be told of every machine: where its console is, and to restart at once when it
    /// panics, which ends smolvmm with a status of its own.
    static func defaultCommandLine(_ console: MachineConsole) -> String {
        switch console {
        case .serial: "console=ttyS0 panic=-1"
        case .hvc0: "console=hvc0 panic=-1"
        }
    }

    private static let largestKernel = 256 << 20
    private static let largestInitramfs = 2 << 30

    static let configuration = CommandConfiguration(
        commandName: "boot",
        abstract: "Boot a Linux kernel in a new machine, with this terminal as its console.",
        discussion: """
            The console is the guest's first serial port. On a terminal, Ctrl-A X leaves and Ctrl-A H shows the other \
            keys; pipes work, too, and the end of the input is not the end of the machine.

            The machine ends when the guest powers off (status 0), when its kernel panics (status 3) or its processor \
            shuts down (status 4). A reboot in the guest boots the kernel again.

            EXAMPLES:
              smolvmm boot vmlinuz initramfs.cpio
              smolvmm boot vmlinuz initramfs.cpio --name web --memory 1G
              smolvmm boot vmlinuz initramfs.cpio --snapshot-when READY -o web.smolmachine
            """)

    @Argument(help: "The kernel: a bzImage (/boot/vmlinuz-...) or an ELF vmlinux.", completion: .file())
    var kernel: String

    @Argument(help: "The initial RAM file system, a cpio archive, compressed or not.", completion: .file())
    var initramfs: String

    @Option(help: "The machine's name for the other commands. (default: made from the kernel's)")
    var name: MachineName?

    @Option(help: ArgumentHelp("Guest memory: 256M, 1G, ...", valueName: "size"))
    var memory = ByteSize(bytes: 256 << 20)

    @Option(help: ArgumentHelp("Virtual processors.", valueName: "n"))
    var cpus = 1

    @Option(
        name: .customLong("disk"),
        help: ArgumentHelp(
            "A disk: an image, raw or qcow2. Once for each; the guest sees them in this order as /dev/vda, /dev/vdb, ...",
            discussion: """
                readonly: the guest cannot write it; several machines can use it. overlay: what the guest writes goes to \
                an overlay that ends with the machine. id: the serial number that the guest sees (disk0, disk1, ...). \
                cached: through the host's page cache. backing=any: the image's backing file may be outside of its folder.
                """,
            valueName: DiskArgument.grammar))
    var disks: [DiskArgument] = []

    @Option(
        help: ArgumentHelp(
            "A network: user, behind this process, which takes no privileges; or tap, an interface of the host.",
            discussion: """
                user: the guest gets 10.0.2.15 by DHCP, reaches what the host reaches, and the host itself as 10.0.2.2. \
                allow: an address, a range (192.0.2.0/24) or a host's name that the guest may reach, and nothing else; \
                once for each, 'allow=' alone is nothing at all. tap: ifname is an interface made with 'ip tuntap'.
                """,
            valueName: NetworkArgument.grammar))
    var net: NetworkArgument?

    @Option(
        help: ArgumentHelp(
            "A port of the host that leads to one of the guest's, with --net user. Once for each.",
            discussion: "At 127.0.0.1 unless another address of the host is given; 0.0.0.0 is all of them.",
            valueName: PublishArgument.grammar))
    var publish: [PublishArgument] = []

    @Option(
        help: ArgumentHelp(
            "The console that gets what you type: serial (ttyS0) or hvc0, the virtio console.",
            discussion: """
                hvc0 is faster and follows the terminal's size, but shows nothing before the guest has loaded its driver \
                (virtio_console). What the guest says is shown from both.
                """,
            valueName: "name"))
    var console = MachineConsole.serial

    @Option(
        help: ArgumentHelp(
            "More for the kernel's command line.",
            discussion: """
                It comes after '\(BootCommand.defaultCommandLine(.serial))', so that where the two disagree, yours counts.
                """,
            valueName: "text"))
    var cmdline = ""

    @Option(
        help: ArgumentHelp(
            "The CPU model: \(CPUModelName.levels.joined(separator: ", ")), or host for the best that there is.",
            discussion: """
                A model is a promise that the bundle keeps: it restores on hosts that can honour it, the software CPU \
                included up to \(CPUModelName.standard). Single features can be added: \(CPUModelName.standard)+aes.
                """,
            valueName: "model"))
    var cpu = CPUModelName.standard

    @OptionGroup var acceleration: AccelerationArguments

    @Option(
        help: ArgumentHelp(
            "Freeze the machine into --output the first time this text appears on the console, and exit.",
            discussion: """
                The guest's agent, if there is one, first writes to the disks what is in memory, and holds the guest's \
                processes: the guest should not power off right behind the text.
                """,
            valueName: "text"))
    var snapshotWhen: String?

    @Option(
        name: [.customShort("o"), .customLong("output")],
        help: ArgumentHelp("The bundle that --snapshot-when writes.", valueName: "file"), completion: .file())
    var output: String?

    @OptionGroup var snapshot: SnapshotArguments

    @OptionGroup var detachment: DetachArguments

    @Flag(help: .hidden)
    var stats = false

    func validate() throws {
        guard memory.bytes >= 1 << 20, memory.bytes <= 1 << 40, memory.bytes.isMultiple(of: 1 << 20) else {
            throw ValidationError("--memory is \(memory): it must be whole MiB, from 1M to 1T")
        }
        guard (1...64).contains(cpus) else { throw ValidationError("--cpus is \(cpus): it must be 1 to 64") }
        if let problem = CPUModelName.problem(of: cpu) { throw ValidationError("--cpu: \(problem)") }
        guard fullCommandLine.utf8.count < 2048, !cmdline.utf8.contains(0) else {
            throw ValidationError(
                "--cmdline makes a command line of \(fullCommandLine.utf8.count) bytes: Linux takes 2047")
        }
        let ids = disks.enumerated().map { $1.id ?? "disk\($0)" }
        guard Set(ids).count == ids.count else { throw ValidationError("two of the disks have the same id") }
        if !publish.isEmpty {
            guard case .user? = net?.attachment else { throw ValidationError("--publish needs --net user") }
        }
        if let snapshotWhen {
            guard !snapshotWhen.isEmpty else { throw ValidationError("--snapshot-when needs a text") }
            guard output != nil else { throw ValidationError("--snapshot-when needs -o FILE, the bundle to write") }
        } else if snapshot.baseByReference {
            throw ValidationError("--base-by-reference is for --snapshot-when")
        } else if output != nil {
            throw ValidationError("-o is for --snapshot-when; a running machine is frozen with 'smolvmm snapshot'")
        }
    }

    var fullCommandLine: String {
        let start = Self.defaultCommandLine(console)
        return cmdline.isEmpty ? start : start + " " + cmdline
    }

    func run() throws {
        let kernelBytes = try HostFile.read(kernel, purpose: "kernel", limit: Self.largestKernel)
        let initramfsBytes = try HostFile.read(initramfs, purpose: "initramfs", limit: Self.largestInitramfs)
        if let output { try HostFile.checkWritable(output) }
        let name = name ?? MachineName(from: kernel, process: getpid())
        if detachment.detach {
            return try Detachment.start(name, in: .own(), timeout: detachment.readyTimeout)
        }
        let server = try ControlServer(name, in: .own())
        defer { server.remove() }

        var configuration = MachineConfiguration(
            name: name.text, memoryBytes: memory.bytes, cpus: cpus, cpuModel: cpu, commandLine: fullCommandLine)
        configuration.devices = MachineDevice.standard
        configuration.console = console.rawValue
        configuration.network = net?.configuration(publish: publish.map(\.port))
        var images: [DiskImage] = []
        for (index, disk) in disks.enumerated() {
            let opened = try disk.open(index)
            configuration.disks.append(opened.configuration)
            images.append(opened.image)
        }
        let progress = Progress("freezing \(name)")
        let trigger: FreezeTrigger? =
            if let snapshotWhen, let output {
                FreezeTrigger(
                    text: snapshotWhen, path: output, SnapshotOptions(refersToBases: snapshot.baseByReference),
                    prepare: { [path = server.vsockPath] in _ = GuestAgent(path: path, control: $0).prepare() },
                    progress: { progress.update($0) })
            } else {
                nil
            }
        let machine = try Machine.boot(
            configuration, kernel: consume kernelBytes, initramfs: consume initramfsBytes, disks: images,
            scratchFolder: HostFile.scratchFolder, trigger: trigger, backend: acceleration.chosen)
        let attachment = Attachment(
            name: name, server: server, source: try HostFile.absolute(kernel), showsStatistics: stats,
            detachment: detachment, awaitedText: snapshotWhen)
        let status = try attachment.run(machine)
        if status != .success { throw ExitCode(status.rawValue) }
    }
}
