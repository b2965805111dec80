// SPDX-License-Identifier: Apache-2.0
// What is accepted on the command line, and what the help says.

import ArgumentParser
import Bundle
import Machine
import Testing

@testable import smolvmm

struct CommandLineTests {
    private func boot(_ words: String...) throws -> BootCommand {
        try #require(try Smolvmm.parseAsRoot(["boot"] + words) as? BootCommand)
    }

    private func refusal(_ words: [String]) -> (status: Int32, message: String)? {
        do {
            _ = try Smolvmm.parseAsRoot(words)
            return nil
        } catch {
            return (Smolvmm.exitCode(for: error).rawValue, Smolvmm.fullMessage(for: error))
        }
    }

    @Test func `boot has the documented defaults`() throws {
        let command = try boot("kernel", "initramfs")
        #expect(command.kernel == "kernel")
        #expect(command.initramfs == "initramfs")
        #expect(command.name == nil)
        #expect(command.memory.bytes == 256 << 20)
        #expect(command.cpus == 1)
        #expect(command.cpu == "x86-64-v2")
        #expect(command.acceleration.accel == .auto)
        #expect(command.snapshotWhen == nil)
        #expect(command.fullCommandLine == "console=ttyS0 panic=-1")
    }

    @Test func `boot takes every documented option`() throws {
        let command = try boot(
            "k", "i", "--name", "n", "--memory", "1G", "--cpus", "2", "--cmdline", "quiet x=1", "--cpu", "x86-64-v2",
            "--accel", "software", "--snapshot-when", "READY", "-o", "f")
        #expect(command.name?.text == "n")
        #expect(command.memory.bytes == 1 << 30)
        #expect(command.cpus == 2)
        #expect(command.fullCommandLine == "console=ttyS0 panic=-1 quiet x=1")
        #expect(command.acceleration.accel == .software)
        #expect(command.snapshotWhen == "READY")
        #expect(command.output == "f")
    }

    @Test func `a network is none unless it is asked for, and is what it was asked for`() throws {
        #expect(try boot("k", "i").net == nil)
        let command = try boot(
            "k", "i", "--net", "user,allow=example.org,allow=192.0.2.0/24,mac=02:00:00:00:00:0A,mtu=1500", "--publish",
            "8080:80", "--publish", "0.0.0.0:53:53/udp")
        let network = try #require(command.net).configuration(publish: command.publish.map(\.port))
        #expect(network.address == "02:00:00:00:00:0a")
        #expect(network.mtu == 1500)
        #expect(
            network.attachment
                == .user(
                    allow: ["example.org", "192.0.2.0/24"],
                    publish: [
                        .init(transport: .tcp, hostAddress: "127.0.0.1", hostPort: 8080, guestPort: 80),
                        .init(transport: .udp, hostAddress: "0.0.0.0", hostPort: 53, guestPort: 53),
                    ]))
        #expect(try boot("k", "i", "--net", "user").net?.attachment == .user(allow: nil, publish: []))
        #expect(try boot("k", "i", "--net", "user,allow=").net?.attachment == .user(allow: [], publish: []))
        #expect(try boot("k", "i", "--net", "tap,ifname=tap0").net?.attachment == .tap(interface: "tap0"))
    }

    @Test func `restore changes of the network what it is told, and nothing else`() throws {
        func change(_ words: String...) throws -> NetworkChange {
            try #require(try Smolvmm.parseAsRoot(["restore", "f"] + words) as? RestoreCommand).networkChange
        }
        #expect(try change() == NetworkChange())
        #expect(try change("--publish", "none") == NetworkChange(publish: []))
        #expect(try change("--net", "none") == NetworkChange(attachment: NetworkAttachment.none))
        #expect(
            try change("--publish", "81:80").publish
                == [.init(transport: .tcp, hostAddress: "127.0.0.1", hostPort: 81, guestPort: 80)])
    }

    @Test(arguments: [
        ["boot", "k", "i", "--net", "tap"], ["boot", "k", "i", "--net", "tap,ifname=a/b"],
        ["boot", "k", "i", "--net", "user,ifname=a"], ["boot", "k", "i", "--net", "user,mtu=100"],
        ["boot", "k", "i", "--net", "user,mac=1"], ["boot", "k", "i", "--net", "user,allow=a b"],
        ["boot", "k", "i", "--publish", "80:80"], ["boot", "k", "i", "--net", "user", "--publish", "0:80"],
        ["boot", "k", "i", "--net", "user", "--publish", "80"],
        ["boot", "k", "i", "--net", "user", "--publish", "80:80/sctp"],
        ["boot", "k", "i", "--net", "user", "--publish", "host:80:80"],
        ["restore", "f", "--net", "user,mtu=1500"], ["restore", "f", "--publish", "nothing"],
        ["boot"], ["boot", "k"], ["boot", "k", "i", "--memory", "256"], ["boot", "k", "i", "--memory", "512K"],
        ["boot", "k", "i", "--memory", "2T"], ["boot", "k", "i", "--cpus", "0"], ["boot", "k", "i", "--cpus", "65"],
        ["boot", "k", "i", "--cpu", "x86-64-v2+avx9"], ["boot", "k", "i", "--accel", "xen"],
        ["boot", "k", "i", "--name", "../x"],
        ["boot", "k", "i", "--snapshot-when", "X"], ["boot", "k", "i", "-o", "f"],
        ["boot", "k", "i", "--snapshot-when", "", "-o", "f"], ["snapshot", "n"], ["snapshot", "-o", "f"],
        ["restore"], ["restore", "f", "--reset-clock", "tomorrow"], ["pause"], ["stop", "a", "b"], ["fly"],
        ["boot", "k", "i", "--cmdline", String(repeating: "x", count: 2048)],
    ])
    func `wrong usage ends with status 64 and shows the usage`(_ words: [String]) throws {
        let told = try #require(refusal(words))
        #expect(told.status == 64)
        #expect(told.message.contains("Usage: smolvmm"))
    }

    @Test(arguments: ["now", "keep"])
    func `restore resets the clock as told`(_ word: String) throws {
        let command = try #require(
            try Smolvmm.parseAsRoot(["restore", "f", "--reset-clock", word]) as? RestoreCommand)
        #expect(command.resetClock == (word == "now" ? .now : .keep))
        #expect(command.name == nil)
    }

    @Test func `restore takes a time and by default the host's`() throws {
        let told = try #require(
            try Smolvmm.parseAsRoot(["restore", "f", "--reset-clock", "1970-01-01T00:00:01Z"]) as? RestoreCommand)
        #expect(told.resetClock == .at(Timestamp(nanoseconds: 1_000_000_000)))
        let untold = try #require(try Smolvmm.parseAsRoot(["restore", "f"]) as? RestoreCommand)
        #expect(untold.resetClock == .now)
    }

    @Test(arguments: ["boot", "snapshot", "restore", "list", "pause", "resume", "stop", "inspect", "verify", "disk"])
    func `every command has help that begins with what it does`(_ word: String) throws {
        var command = try Smolvmm.parseAsRoot([word, "--help"])
        let shown = #expect(throws: (any Error).self) { try command.run() }
        let help = try #require(shown)
        #expect(Smolvmm.exitCode(for: help).isSuccess)
        let message = Smolvmm.fullMessage(for: help)
        #expect(message.hasPrefix("OVERVIEW: "))
        #expect(message.contains("USAGE: smolvmm \(word)"))
    }

    @Test func `the root's help lists exit statuses`() {
        let help = Smolvmm.helpMessage(columns: 120)
        for status in [ExitStatus.panic, .tripleFault, .textNotSeen] {
            #expect(help.contains("  \(status.rawValue)    "))
        }
    }
}
