// SPDX-License-Identifier: Apache-2.0
// The socket device between a driver and clients: streams, credit, ends, guests that break the rules, restores.

import Snapshot
import TestSupport
import Testing
@testable import Virtio

struct VsockStreamTests {
    @Test func `a client's stream carries bytes both ways`() throws {
        let guest = try VsockGuest()
        let client = try guest.client("CONNECT 1000\nearly")
        let request = try guest.expect(.request).header
        #expect(request.source == 2 && request.destination == 3 && request.destinationPort == 1000)
        #expect(request.type == 1 && request.bufferSize == VsockConnection.capacity)
        // Nothing is the guest's before it has answered.
        #expect(try guest.receive() == nil)
        let ports = VsockPorts(host: request.sourcePort, guest: 1000)
        guest.send(.response, ports)
        #expect(guest.read(client) == Array("OK \(ports.host)\n".utf8))
        #expect(try guest.expect(.data).data == Array("early".utf8))
        guest.send(.data, ports, Array("answer".utf8))
        #expect(guest.read(client) == Array("answer".utf8))
        let more = [UInt8](repeating: 7, count: 10_000)
        #expect(client.send(more[...]) == .done(more.count))
        var got: [UInt8] = []
        while let packet = try guest.receive() { got += packet.data }
        #expect(got == more)
    }

    @Test func `the guest's own connections go to the socket with the port's number`() throws {
        let guest = try VsockGuest()
        let ports = VsockPorts(host: 52, guest: 2000)
        guest.send(.request, ports)
        try guest.expect(.reset)
        let listener = try #require(HostSocket.listen(at: guest.path + "_52"))
        guest.send(.request, ports)
        try guest.expect(.response)
        let accepted = try #require(listener.accept())
        guest.send(.data, ports, [1, 2, 3])
        #expect(guest.read(accepted) == [1, 2, 3])
    }

    @Test func `a refusal closes the client`() throws {
        let guest = try VsockGuest()
        let client = try guest.client("connect 5\r\n")
        let request = try guest.expect(.request).header
        guest.send(.reset, VsockPorts(host: request.sourcePort, guest: 5))
        #expect(guest.hasEnded(client))
    }

    @Test(arguments: ["CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", "GET 5\n", "\n", "CONNECT 5 6\n"])
    func `a greeting that is none closes the client`(greeting: String) throws {
        let guest = try VsockGuest()
        let client = try guest.client(greeting)
        #expect(guest.hasEnded(client))
        #expect(try guest.receive() == nil)
    }

    @Test func `a greeting may come in pieces, but not for ever`() throws {
        let guest = try VsockGuest()
        let client = try guest.client("CONN")
        #expect(guest.read(client) == [])
        #expect(client.send(Array("ECT 9\n".utf8)[...]) == .done(6))
        #expect(try guest.expect(.request).header.destinationPort == 9)
        let endless = try guest.client(String(repeating: "x", count: 64))
        #expect(guest.hasEnded(endless))
    }

    @Test func `without a driver a client is turned away`() throws {
        let guest = try VsockGuest()
        let (open, _) = try guest.connected()
        guest.driver.write(.status, 0)
        #expect(guest.hasEnded(open))
        #expect(guest.hasEnded(try guest.client("CONNECT 1000\n")))
    }
}

struct VsockCreditTests {
    @Test func `the guest gets what it has room for`() throws {
        let guest = try VsockGuest()
        let (client, ports) = try guest.connected(bufferSize: 10)
        #expect(client.send([UInt8](0..<25)[...]) == .done(25))
        #expect(try guest.expect(.data).data == [UInt8](0..<10))
        #expect(try guest.receive() == nil)
        guest.send(.creditUpdate, ports, bufferSize: 10, forwarded: 4)
        #expect(try guest.expect(.data).data == [UInt8](10..<14))
        // More handed on than was ever sent: it gets nothing.
        guest.send(.creditUpdate, ports, bufferSize: 10, forwarded: 1000)
        #expect(try guest.receive() == nil)
        guest.send(.creditUpdate, ports, bufferSize: 1 << 20, forwarded: 14)
        #expect(try guest.expect(.data).data == [UInt8](14..<25))
    }

    @Test func `the guest hears of new room when the client reads`() throws {
        let guest = try VsockGuest()
        let (client, ports) = try guest.connected()
        var sent = 0
        let piece = [UInt8](repeating: 1, count: 1 << 15)
        // As much as the host's socket takes, and then as much as the device keeps.
        while guest.driver.isBroken == false, sent < 8 << 20 {
            let connection = try #require(guest.device.byPorts[ports])
            guard connection.accepts(UInt32(piece.count)) else { break }
            guest.send(.data, ports, piece)
            sent += piece.count
            while let packet = try guest.receive() {
                #expect(packet.header.operation == VsockOperation.creditUpdate.rawValue)
            }
        }
        #expect(sent >= Int(VsockConnection.capacity))
        var got = 0
        var told: UInt32 = 0
        while let bytes = guest.read(client), !bytes.isEmpty {
            got += bytes.count
            while let packet = try guest.receive() {
                #expect(packet.header.operation == VsockOperation.creditUpdate.rawValue)
                told = packet.header.forwarded
            }
        }
        #expect(got == sent)
        #expect(sent - Int(told) < Int(VsockConnection.capacity) / 4)
        guest.send(.creditRequest, ports)
        #expect(try guest.expect(.creditUpdate).header.forwarded == UInt32(sent))
    }

    @Test func `a guest that sends more than it may loses that connection only`() throws {
        let guest = try VsockGuest()
        let (client, ports) = try guest.connected()
        let (other, otherPorts) = try guest.connected()
        let piece = [UInt8](repeating: 1, count: 1 << 15)
        for _ in 0..<64 where guest.device.byPorts[ports] != nil { guest.send(.data, ports, piece) }
        var last: VsockHeader?
        while let packet = try guest.receive() { last = packet.header }
        #expect(last?.operation == VsockOperation.reset.rawValue)
        // What was taken still arrives, then the end.
        var got = 0
        while let bytes = guest.read(client) {
            got += bytes.count
            guest.device.poll()
        }
        #expect(got > 0 && got.isMultiple(of: piece.count))
        guest.send(.data, otherPorts, [9])
        #expect(guest.read(other) == [9])
    }
}

struct VsockEndTests {
    @Test func `the client's half end and end are told`() throws {
        let guest = try VsockGuest()
        var (client, ports): (HostSocket?, VsockPorts) = try guest.connected()
        #expect(client?.send([5][...]) == .done(1))
        client?.shutDown(reading: false)
        #expect(try guest.expect(.data).data == [5])
        #expect(try guest.expect(.shutdown).header.flags == VsockShutdown.send.rawValue)
        guest.send(.data, ports, [6])
        #expect(try guest.read(#require(client)) == [6])
        client = nil
        #expect(try guest.expect(.shutdown).header.flags == VsockShutdown.both.rawValue)
        guest.send(.reset, ports)
        #expect(guest.device.connections.isEmpty && guest.device.byPorts.isEmpty)
    }

    @Test func `the guest's end is told behind its last bytes`() throws {
        let guest = try VsockGuest()
        let (client, ports) = try guest.connected()
        guest.send(.data, ports, [1, 2])
        guest.send(.shutdown, ports, flags: .send)
        #expect(guest.read(client) == [1, 2])
        #expect(guest.hasEnded(client))
        // The other direction is still open.
        #expect(client.send([3][...]) == .done(1))
        #expect(try guest.expect(.data).data == [3])
        guest.send(.shutdown, ports, flags: .receive)
        try guest.expect(.reset)
        #expect(guest.device.connections.isEmpty)
    }

    @Test func `a client that gives up while the guest is asked leaves nothing`() throws {
        let guest = try VsockGuest()
        for _ in 0..<600 {
            _ = try guest.client("CONNECT 1000\n")
            guest.device.poll()
        }
        // A program that another test starts has copies of the clients' sockets for a moment.
        guest.poll { guest.device.connections.isEmpty }
        #expect(guest.device.connections.isEmpty && guest.device.byPorts.isEmpty)
        #expect(guest.device.saveDeviceState().unanswered.count <= 1)
    }
}

struct VsockHostileTests {
    @Test func `packets of no connection are reset, resets are not answered`() throws {
        let guest = try VsockGuest()
        let ports = VsockPorts(host: 77, guest: 88)
        for operation in [VsockOperation.data, .response, .shutdown, .creditUpdate, .creditRequest] {
            guest.send(operation, ports)
            let answer = try guest.expect(.reset).header
            #expect(answer.sourcePort == 77 && answer.destinationPort == 88)
        }
        guest.send(.reset, ports)
        #expect(try guest.receive() == nil)
        guest.send(.data, ports) { $0.source = 9 }
        #expect(try guest.receive() == nil)
    }

    @Test(
        arguments: [
            { $0.type = 2 }, { $0.operation = 99 }, { $0.operation = 0 }, { $0.destination = 5 }, { $0.length = 1 },
            { $0.length = .max }, { $0.operation = VsockOperation.request.rawValue },
            { $0.operation = VsockOperation.response.rawValue },
        ] as [@Sendable (inout VsockHeader) -> Void])
    func `a packet that cannot be costs the guest its connection`(
        change: @Sendable (inout VsockHeader) -> Void
    ) throws {
        let guest = try VsockGuest()
        let (client, ports) = try guest.connected()
        guest.send(.data, ports, change: change)
        try guest.expect(.reset)
        #expect(guest.hasEnded(client))
        #expect(!guest.driver.isBroken)
    }

    @Test func `chains without room for a header break the driver, and end the clients`() throws {
        for queue in 0...1 {
            let guest = try VsockGuest()
            let (client, ports) = try guest.connected()
            let place = GuestDriver<VsockDevice>.data
            if queue == 0 {
                guest.driver.lend(writable: [(place, 20)], queue: 0)
                guest.send(.creditRequest, ports)
            } else {
                guest.driver.lend(readable: [(place, 43)], queue: 1)
            }
            #expect(guest.driver.isBroken)
            #expect(guest.hasEnded(client))
        }
    }

    @Test func `a guest that takes no answers is not listened to for ever`() throws {
        let guest = try VsockGuest()
        let count = VsockDevice.controlCapacity + Int(guest.driver.size)
        for _ in 0..<count { guest.send(.data, VsockPorts(host: 1, guest: 2)) }
        #expect(guest.device.saveDeviceState().unanswered.count == VsockDevice.controlCapacity)
        var answers = 0
        while try guest.receive() != nil { answers += 1 }
        #expect(answers == count)
    }

    @Test(arguments: 0..<40 as Range<UInt64>)
    func `the device lives through packets and clients of every kind, and works afterwards`(seed: UInt64) throws {
        var chance = SplitMix64(seed: seed)
        let guest = try VsockGuest()
        var clients: [HostSocket] = []
        var known = [VsockPorts(host: 1, guest: 2)]
        func word() -> UInt32 { UInt32(truncatingIfNeeded: chance.next() % 3 == 0 ? chance.next() : chance.next() % 8) }
        for _ in 0..<300 {
            switch chance.next() % 8 {
            case 0: clients.append(try guest.client("CONNECT \(chance.next() % 4)\n"))
            case 1:
                if let client = clients.randomElement(using: &chance) {
                    _ = client.send([UInt8](repeating: 1, count: Int(chance.next() % 9000))[...])
                }
            case 2: if !clients.isEmpty { clients.remove(at: Int(chance.next() % UInt64(clients.count))) }
            case 3: if let client = clients.randomElement(using: &chance) { _ = guest.read(client) }
            case 4:
                if let header = try guest.receive()?.header {
                    known.append(VsockPorts(host: header.sourcePort, guest: header.destinationPort))
                }
            default:
                let data = [UInt8](repeating: 2, count: Int(chance.next() % 3000))
                guest.send(.data, known.randomElement(using: &chance) ?? known[0], data, bufferSize: word()) { header in
                    header.operation = UInt16(chance.next() % 9)
                    header.flags = word()
                    header.forwarded = word()
                    switch chance.next() % 8 {
                    case 0: header.length = word()
                    case 1: header.type = UInt16(truncatingIfNeeded: word())
                    case 2: header.source = UInt64(word())
                    case 3: header.destinationPort = word()
                    default: break
                    }
                }
            }
        }
        guest.restart()
        let (client, ports) = try guest.connected()
        guest.send(.data, ports, [1, 2, 3])
        #expect(guest.read(client) == [1, 2, 3])
    }
}

struct VsockRestoreTests {
    /// The guest on another device over the same memory, as after a restore.
    private func restore(_ guest: VsockGuest) throws -> VsockDevice {
        let device = VsockDevice()
        #expect(device.listen(at: guest.path + ".restored") == 0)
        try guest.driver.replace(by: device)
        return device
    }

    @Test func `streams end with a reset that the guest sees before anything new`() throws {
        let guest = try VsockGuest()
        let (_, ports) = try guest.connected()
        guest.lendEvent()
        let device = try restore(guest)
        #expect(device.hasWork)
        let client = try #require(HostSocket.connect(to: guest.path + ".restored"))
        #expect(client.send(Array("CONNECT 1000\n".utf8)[...]) == .done(13))
        device.poll()
        #expect(guest.takeEvent() == 0)
        #expect(guest.driver.interrupts.isAsserted)
        #expect(try guest.receive() == nil)
        // The driver has dealt with it.
        guest.lendEvent()
        let request = try guest.expect(.request).header
        #expect(request.destinationPort == 1000)
        // A guest that has not yet closed its old end would mistake the new stream for it.
        #expect(request.sourcePort != ports.host)
        #expect(guest.takeEvent() == nil)
    }

    @Test func `a driver without a buffer for the event is told when it has one`() throws {
        let guest = try VsockGuest()
        let device = try restore(guest)
        device.poll()
        #expect(guest.takeEvent() == nil)
        guest.lendEvent()
        #expect(guest.takeEvent() == 0)
    }

    @Test func `a connection that the guest asked for and never heard of is reset`() throws {
        let guest = try VsockGuest()
        guest.send(.request, VsockPorts(host: 52, guest: 2000))
        let state = guest.device.saveDeviceState()
        #expect(state.unanswered == [VsockPorts(host: 52, guest: 2000)])
        guest.lendEvent()
        _ = try restore(guest)
        _ = try guest.receive()
        #expect(guest.takeEvent() == 0)
        guest.lendEvent()
        let answer = try guest.expect(.reset).header
        #expect(answer.destinationPort == 2000)
    }

    @Test func `a state that cannot be is refused`() throws {
        let guest = try VsockGuest()
        var state = guest.device.saveDeviceState()
        state.contextID = 4
        #expect(throws: SnapshotError.self) { try guest.device.validate(state) }
        state = guest.device.saveDeviceState()
        state.unanswered = Array(repeating: VsockPorts(host: 1, guest: 1), count: 5000)
        #expect(throws: SnapshotError.self) { try guest.device.validate(state) }
    }
}
