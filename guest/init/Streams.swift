// SPDX-License-Identifier: Apache-2.0
// The test guest's vsock ports: an echo server, and calls to ports of the host. Spec: vsock(7).

import CLibc

enum Streams {
    static let echoPort: UInt32 = 7
    private static let anyContext = UInt32.max
    private static let hostContext: UInt32 = 2

    /// Serves port 7 in processes of their own: what comes in goes out again. Without vsock there is no such server.
    static func serveEcho() {
        let listener = vsock_stream(anyContext, echoPort, 1)
        guard listener >= 0 else { return }
        defer { Kernel.close(listener) }
        guard fork() == 0 else { return }
        ignore_children()
        while true {
            let connection = accept(listener, nil, nil)
            guard connection >= 0 else { continue }
            if fork() == 0 {
                echo(connection)
                _exit(0)
            }
            Kernel.close(connection)
        }
    }

    private static func echo(_ connection: Int32) {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: reads at most the buffer's own size.
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(connection, $0.baseAddress, $0.count) }
            guard count > 0, send(buffer[..<count], to: connection) else { return }
        }
    }

    private static func send(_ bytes: ArraySlice<UInt8>, to connection: Int32) -> Bool {
        var rest = bytes
        while !rest.isEmpty {
            // SAFETY: writes the slice's own bytes.
            let count = unsafe rest.withUnsafeBytes { unsafe write(connection, $0.baseAddress, $0.count) }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    /// `PORT TEXT`: sends the text as a line to the host's port and shows the line that comes back.
    static func call(_ words: ArraySlice<UInt8>) {
        var port: UInt32 = 0
        var rest = words
        while let digit = rest.first, digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") {
            port = port &* 10 &+ UInt32(digit - UInt8(ascii: "0"))
            rest = rest.dropFirst()
        }
        let connection = vsock_stream(hostContext, port, 0)
        guard connection >= 0 else {
            var line = Line("smolvmm-guest: call failed: error ")
            line.add(Int(last_error()))
            line.write()
            return
        }
        defer { Kernel.close(connection) }
        var text = Array(rest.dropFirst())
        text.append(UInt8(ascii: "\n"))
        var answer = [UInt8](repeating: 0, count: 256)
        guard send(text[...], to: connection) else { return }
        // SAFETY: reads at most the buffer's own size.
        let count = unsafe answer.withUnsafeMutableBytes { unsafe read(connection, $0.baseAddress, $0.count) }
        var line = Line("smolvmm-guest: answer: ")
        line.add(answer[..<max(count, 0)].filter { $0 != UInt8(ascii: "\n") })
        line.write()
    }
}
