// SPDX-License-Identifier: Apache-2.0
// `exec` and `run` without ArgumentParser are `exec` and `run` with it.

import ArgumentParser
import Testing

@testable import smolvmm

struct PlainCommandLineTests {
    /// What ArgumentParser makes of the words; nil when it refuses them.
    private func parsed(_ words: [String]) -> PlainCommandLine? {
        switch try? Smolvmm.parseAsRoot(words) {
        case let command as ExecCommand: .exec(command.name, command.command.guestCommand)
        case let command as RunCommand: .run(file: command.file, command.command.guestCommand)
        default: nil
        }
    }

    @Test(arguments: [
        ["exec", "web", "--", "true"], ["exec", "web", "-i", "--", "cat", "-n", "--", "-i"],
        ["exec", "web-1", "-e", "A=b c", "-e", "B=", "-w", "/tmp", "-u", "1:2", "--", "sh", "-c", "exit 3"],
        ["run", "a.smolmachine", "--", "uname", "-a"], ["run", "/x/y", "-u", "root", "-i", "--", "x"],
        ["exec", "web", "--", "a", ""],
    ])
    func `plain command lines mean what they mean to ArgumentParser`(_ words: [String]) throws {
        let plain = try #require(PlainCommandLine(words))
        #expect(plain == parsed(words))
    }

    @Test(arguments: [
        [], ["exec"], ["exec", "web"], ["exec", "web", "--"], ["exec", "--", "true"], ["exec", ".web", "--", "true"],
        ["exec", "web", "--help", "--", "true"], ["exec", "web", "-e", "A", "--", "true"],
        ["exec", "web", "-e", "--", "x"],
        ["exec", "web", "more", "--", "true"], ["exec", "web", "-t", "--", "true"], ["run", "-i", "a", "--", "true"],
        ["run", "a", "--name", "b", "--", "true"], ["exec", "web", "-w", "-i", "--", "x"],
        ["list", "web", "--", "true"],
    ])
    func `all others are left to ArgumentParser`(_ words: [String]) {
        #expect(PlainCommandLine(words) == nil)
    }
}
