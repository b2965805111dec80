// SPDX-License-Identifier: Apache-2.0
// The kernel's part: system calls, processes that talk, processes that come and go, and other programs.

import CBench
import CLibc

enum SystemCalls {
    static func run(scale: Int) -> Outcome {
        let parent = getppid()
        var errors = 0
        let calls = scale * 30_000
        var stopwatch = Stopwatch()
        for _ in 0..<calls where getppid() != parent { errors += 1 }
        stopwatch.stop()
        return Outcome(stopwatch, UInt64(calls), isRight: errors == 0)
    }
}

/// Two ends of a pair of pipes.
private struct Channel {
    let reading: Int32
    let writing: Int32

    /// Each end sees what the other writes.
    static func pair() -> (Channel, Channel)? {
        guard let (first, toFirst) = pipe(), let (second, toSecond) = pipe() else { return nil }
        return (Channel(reading: first, writing: toSecond), Channel(reading: second, writing: toFirst))
    }

    private static func pipe() -> (reading: Int32, writing: Int32)? {
        var ends: (Int32, Int32) = (0, 0)
        // SAFETY: fills two descriptors, as a tuple lays them out.
        let result = unsafe withUnsafeMutableBytes(of: &ends) {
            unsafe CLibc.pipe($0.bindMemory(to: Int32.self).baseAddress)
        }
        return result == 0 ? (ends.0, ends.1) : nil
    }

    func send(_ value: UInt64) -> Bool {
        var value = value
        // SAFETY: writes the value's own bytes.
        return unsafe write(writing, &value, 8) == 8
    }

    func receive() -> UInt64? {
        var value: UInt64 = 0
        // SAFETY: fills at most the value's own bytes.
        return unsafe read(reading, &value, 8) == 8 ? value : nil
    }
}

/// Two processes that wait for each other: each round is two switches between address spaces.
enum PingPong {
    static func run(scale: Int) -> Outcome {
        guard let (here, there) = Channel.pair() else { return .refused }
        let child = fork()
        if child == 0 {
            while let value = there.receive(), value != 0 { _ = there.send(value &* 3 &+ 1) }
            _exit(0)
        }
        let rounds = UInt64(scale * 800)
        var errors = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 1...rounds {
            guard here.send(round), let answer = here.receive() else { return .refused }
            if answer != round &* 3 &+ 1 { errors += 1 }
            checksum = folded(checksum, answer)
        }
        stopwatch.stop()
        _ = here.send(0)
        _ = waitpid(child, nil, 0)
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}

/// fork, exec of this program, wait for its end.
enum Processes {
    /// The exit status of `smolbench nothing`.
    static let statusOfNothing: Int32 = 7

    static func run(scale: Int) -> Outcome {
        var errors = 0
        let children = scale * 16
        // SAFETY: the list ends with nil; its strings are literals, which the call only reads.
        let arguments = unsafe [("smolbench" as StaticString).cString, ("nothing" as StaticString).cString, nil].map {
            unsafe UnsafeMutablePointer(mutating: $0)
        }
        var stopwatch = Stopwatch()
        for _ in 0..<children {
            let child = fork()
            if child == 0 {
                _ = unsafe execv(("/proc/self/exe" as StaticString).cString, arguments)
                _exit(1)
            }
            var status: Int32 = 0
            // SAFETY: fills one status word.
            if unsafe waitpid(child, &status, 0) != child || exit_status(status) != statusOfNothing { errors += 1 }
        }
        stopwatch.stop()
        return Outcome(stopwatch, UInt64(children), isRight: errors == 0)
    }
}

/// Another program, from its start to its end; what it prints is its checksum.
enum Command {
    /// `arguments` ends with nil. Nothing when there is no such program or it fails.
    static func run(_ arguments: UnsafePointer<UnsafePointer<CChar>?>) -> Outcome? {
        guard let (here, there) = Channel.pair() else { return nil }
        var stopwatch = Stopwatch()
        let child = fork()
        if child == 0 {
            _ = dup2(there.writing, STDOUT_FILENO)
            for descriptor in [here.reading, here.writing, there.reading, there.writing] { _ = close(descriptor) }
            // SAFETY: execvp only reads the strings, which C declares as if it did not.
            let words = unsafe UnsafeRawPointer(arguments).assumingMemoryBound(to: UnsafeMutablePointer<CChar>?.self)
            _ = unsafe execvp(arguments[0], words)
            _exit(127)
        }
        for descriptor in [there.reading, there.writing, here.writing] { _ = close(descriptor) }
        var checksum: UInt64 = 0
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: reads at most the buffer's own size.
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(here.reading, $0.baseAddress, $0.count) }
            guard count > 0 else { break }
            for index in 0..<count { checksum = (checksum ^ UInt64(buffer[index])) &* 0x0000_0100_0000_01b3 }
        }
        var status: Int32 = 0
        // SAFETY: fills one status word.
        _ = unsafe waitpid(child, &status, 0)
        stopwatch.stop()
        return exit_status(status) == 127 ? nil : Outcome(stopwatch, checksum, isRight: exit_status(status) == 0)
    }
}
