// SPDX-License-Identifier: Apache-2.0
// A guest's vsock driver and the host's clients, for tests of the socket device.

import GuestMemory
import TestSupport
import Testing
@testable import Virtio

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A socket device in a folder of its own, and a driver that lends one receive buffer at a time.
final class VsockGuest {
    static let bufferSize: UInt32 = 4096
    private static let transmitPlace = GuestDriver<VsockDevice>.data
    private static let receivePlace = GuestDriver<VsockDevice>.data + 0x10_0000
    private static let eventPlace = GuestDriver<VsockDevice>.data + 0x20_0000

    let folder: TemporaryFolder
    var driver: GuestDriver<VsockDevice>
    private var hasBuffer = false

    var device: VsockDevice { driver.transport.device }
    var path: String { folder.file("socket") }

    init() throws {
        folder = try TemporaryFolder()
        let device = VsockDevice()
        #expect(device.listen(at: folder.file("socket")) == 0)
        driver = try GuestDriver(device)
        driver.start()
        device.poll()
    }

    // MARK: The driver

    /// The driver starts again, with none of what was there.
    func restart() {
        driver.start()
        hasBuffer = false
        device.poll()
    }

    func put(_ header: VsockHeader, _ data: [UInt8] = []) {
        for (offset, byte) in (header.bytes + data).enumerated() {
            driver.store(byte, at: Self.transmitPlace + UInt64(offset))
        }
    }

    /// Sends a packet; `bufferSize` and `forwarded` are the guest's side of the credit.
    func send(
        _ operation: VsockOperation, _ ports: VsockPorts, _ data: [UInt8] = [], flags: VsockShutdown = [],
        bufferSize: UInt32 = 1 << 16, forwarded: UInt32 = 0, change: (inout VsockHeader) -> Void = { _ in }
    ) {
        var header = VsockHeader(operation, ports, guest: VsockContext.guest, flags: flags)
        swap(&header.source, &header.destination)
        swap(&header.sourcePort, &header.destinationPort)
        header.length = UInt32(data.count)
        header.bufferSize = bufferSize
        header.forwarded = forwarded
        change(&header)
        put(header, data)
        driver.lend(readable: [(Self.transmitPlace, UInt32(VsockHeader.size + data.count))], queue: 1)
        _ = driver.takeUsed(1)
    }

    /// The next packet for the guest; nil when there is none.
    func receive() throws -> (header: VsockHeader, data: [UInt8])? {
        if !hasBuffer { driver.lend(writable: [(Self.receivePlace, Self.bufferSize)], queue: 0) }
        hasBuffer = true
        device.poll()
        guard let used = driver.takeUsed(0) else { return nil }
        hasBuffer = false
        let bytes = try driver.memory.read(at: .init(Self.receivePlace), count: Int(used.written))
        return (try #require(VsockHeader(bytes)), Array(bytes.dropFirst(VsockHeader.size)))
    }

    /// The next packet, which must be of this kind, and come within some seconds: a program that another test is about to
    /// start may have copies of the clients' sockets for a moment, so that their end is not seen at once.
    @discardableResult func expect(_ operation: VsockOperation) throws -> (header: VsockHeader, data: [UInt8]) {
        var received = try receive()
        for _ in 0..<1000 where received == nil {
            usleep(5000)
            received = try receive()
        }
        let packet = try #require(received)
        #expect(packet.header.operation == operation.rawValue)
        return packet
    }

    func lendEvent() { driver.lend(writable: [(Self.eventPlace, 4)], first: 8, queue: 2) }

    func takeEvent() -> UInt32? {
        guard let used = driver.takeUsed(2), used.written == 4 else { return nil }
        return driver.load(UInt32.self, at: Self.eventPlace)
    }

    // MARK: The host

    func client(_ greeting: String = "") throws -> HostSocket {
        let client = try #require(HostSocket.connect(to: path))
        if !greeting.isEmpty { #expect(client.send(Array(greeting.utf8)[...]) == .done(greeting.utf8.count)) }
        device.poll()
        return client
    }

    /// A client whose connection to the guest's port 1000 is open.
    func connected(bufferSize: UInt32 = 1 << 16) throws -> (client: HostSocket, ports: VsockPorts) {
        let client = try client("CONNECT 1000\n")
        let request = try expect(.request).header
        let ports = VsockPorts(host: request.sourcePort, guest: request.destinationPort)
        send(.response, ports, bufferSize: bufferSize)
        #expect(read(client) == Array("OK \(ports.host)\n".utf8))
        return (client, ports)
    }

    /// Whether a client's stream has ended, with nothing left to read, within some seconds (as for `expect`).
    func hasEnded(_ client: HostSocket) -> Bool {
        for _ in 0..<1000 {
            guard let bytes = read(client) else { return true }
            guard bytes.isEmpty else { return false }
            usleep(5000)
        }
        return false
    }

    /// Has the device look after its clients until `holds` does, for some seconds.
    func poll(until holds: () -> Bool) {
        for _ in 0..<1000 where !holds() {
            usleep(5000)
            device.poll()
        }
    }

    /// All that has arrived at a client; nil behind the end.
    func read(_ client: HostSocket) -> [UInt8]? {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            switch client.receive(&buffer, limit: buffer.count) {
            case .done(let count): bytes += buffer[..<count]
            case .later: return bytes
            case .end: return bytes.isEmpty ? nil : bytes
            }
        }
    }
}
