// SPDX-License-Identifier: Apache-2.0
// A virtio console with any number of ports: port 0 is the guest's /dev/hvc0. Spec: virtio 1.2 §5.3.

public import Bus
public import Snapshot

/// Gets what the guest writes to ports. The machine's thread.
public protocol ConsolePortSink: AnyObject {
    func transmit(_ bytes: [UInt8], port: Int)
}

/// The machine's thread only.
public final class ConsoleDevice: VirtioDevice {
    public struct DeviceState: Codable, Equatable, Sendable {
        public struct Port: Codable, Equatable, Sendable {
            /// What the guest has not read.
            public var input: [UInt8]
            /// The driver knows the port; somebody in the guest has it open.
            public var isReady: Bool
            public var isOpen: Bool
        }
        public var columns: UInt16
        public var rows: UInt16
        public var ports: [Port]
        /// Control messages that the driver has no buffers for yet.
        public var control: [[UInt8]]
    }

    /// Bytes that wait for the guest, of one port.
    public static let inputCapacity = 64 << 10
    /// Control messages that wait for the guest: a driver that takes none gets no more.
    private static let controlCapacity = 256
    /// Bytes of one buffer of the driver's that are passed on.
    private static let largestOutput = 1 << 20

    private enum Queue {
        static let controlReceive = 2
        static let controlTransmit = 3
        /// Of a port, as multiples of two: ports 0 has 0 and 1, port 1 has 4 and 5.
        static func receive(_ port: Int) -> Int { port == 0 ? 0 : 2 + 2 * port }
        static func port(_ queue: Int) -> Int { queue < 2 ? 0 : queue / 2 - 1 }
    }

    private enum Register {
        static let columns = 0
        static let rows = 2
        static let ports = 4  // max_nr_ports
    }

    public weak var sink: (any ConsolePortSink)?
    /// Of the ports behind the first one.
    private let names: [String]
    private weak var transport: (any VirtioTransport)?
    private var queues: [Virtqueue] = []
    private var hasMultiplePorts = false
    private var chain = DescriptorChain()
    private var state: DeviceState

    /// - Parameter names: of further ports, which the guest sees under `/dev/virtio-ports`; at most 30.
    public init(names: [String] = []) {
        self.names = Array(names.prefix(30))
        state = DeviceState(
            columns: 80, rows: 25,
            ports: Array(repeating: .init(input: [], isReady: false, isOpen: false), count: self.names.count + 1),
            control: [])
    }

    // MARK: Registers

    public var kind: VirtioDeviceKind { .console }
    public var deviceFeatures: UInt64 { ConsoleFeatures.size | ConsoleFeatures.multiplePorts }
    public var queueSizes: [UInt16] { Array(repeating: 128, count: 4 + 2 * names.count) }

    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 {
        guard offset < 8 else { return 0 }
        let registers = UInt64(state.columns) | UInt64(state.rows) << 16 | UInt64(state.ports.count) << 32
        return registers >> (offset * 8) & width.openBus
    }

    /// Emergency writes are not offered.
    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {}

    // MARK: The driver

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        self.queues = queues
        hasMultiplePorts = features & ConsoleFeatures.multiplePorts != 0
    }

    public func reset() {
        transport = nil
        queues = []
        state.control = []
        for index in state.ports.indices { state.ports[index] = .init(input: [], isReady: false, isOpen: false) }
    }

    public func notify(queue index: Int) {
        guard let transport, queues.indices.contains(index) else { return }
        do throws(VirtqueueFault) {
            switch index {
            case Queue.controlReceive: try sendControl()
            case Queue.controlTransmit: try receiveControl()
            default:
                let port = Queue.port(index)
                if index == Queue.receive(port) { try sendInput(port) } else { try receiveOutput(index, port) }
            }
        } catch {
            transport.fail(error)
        }
        signal()
    }

    private func signal() {
        for queue in queues where queue.shouldInterrupt() { transport?.raiseQueueInterrupt() }
    }

    /// What the guest writes to a port.
    private func receiveOutput(_ index: Int, _ port: Int) throws(VirtqueueFault) {
        repeat {
            while try queues[index].pop(into: &chain) {
                let bytes = chain.readBytes(limit: Self.largestOutput)
                if !bytes.isEmpty { sink?.transmit(bytes, port: port) }
                try queues[index].complete(chain.head, written: 0)
            }
        } while queues[index].enableNotifications()
    }

    /// Input into the buffers that the driver has made available.
    private func sendInput(_ port: Int) throws(VirtqueueFault) {
        guard let transport, Queue.receive(port) < queues.count else { return }
        let queue = queues[Queue.receive(port)]
        while !state.ports[port].input.isEmpty, try queue.pop(into: &chain) {
            let count = Int(min(chain.writableCount, UInt64(state.ports[port].input.count)))
            _ = chain.write(Array(state.ports[port].input.prefix(count)), at: 0, transport.memory)
            state.ports[port].input.removeFirst(count)
            try queue.complete(chain.head, written: UInt32(count))
        }
        _ = queue.enableNotifications()
    }

    // MARK: Control

    private func queueControl(_ message: ConsoleMessage) {
        if state.control.count < Self.controlCapacity { state.control.append(message.bytes) }
    }

    private func sendControl() throws(VirtqueueFault) {
        guard let transport, hasMultiplePorts, Queue.controlReceive < queues.count else { return }
        let queue = queues[Queue.controlReceive]
        while let message = state.control.first, try queue.pop(into: &chain) {
            let sent = chain.write(message, at: 0, transport.memory)
            try queue.complete(chain.head, written: sent ? UInt32(message.count) : 0)
            state.control.removeFirst()
        }
        _ = queue.enableNotifications()
    }

    private func receiveControl() throws(VirtqueueFault) {
        let queue = queues[Queue.controlTransmit]
        repeat {
            while try queue.pop(into: &chain) {
                if let port = chain.readInteger(UInt32.self, at: 0), let event = chain.readInteger(UInt16.self, at: 4),
                    let value = chain.readInteger(UInt16.self, at: 6)
                {
                    handle(port, event, value)
                }
                try queue.complete(chain.head, written: 0)
            }
        } while queue.enableNotifications()
        try sendControl()
    }

    /// Spec: virtio 1.2 §5.3.6.2.
    private func handle(_ port: UInt32, _ event: UInt16, _ value: UInt16) {
        switch ConsoleEvent(rawValue: event) {
        case .deviceReady where value == 1:
            for index in state.ports.indices { queueControl(ConsoleMessage(port: UInt32(index), event: .portAdd)) }
        case .portReady where value == 1 && port < UInt32(state.ports.count):
            state.ports[Int(port)].isReady = true
            if port == 0 {
                queueControl(ConsoleMessage(port: 0, event: .consolePort, value: 1))
                queueResize()
            } else {
                queueControl(
                    ConsoleMessage(port: port, event: .portName, value: 1, extra: Array(names[Int(port) - 1].utf8)))
            }
            // The host's side is always there.
            queueControl(ConsoleMessage(port: port, event: .portOpen, value: 1))
        case .portOpen where port < UInt32(state.ports.count):
            state.ports[Int(port)].isOpen = value == 1
        default: break
        }
    }

    /// Rows before columns: what drivers read, though the specification's text has them the other way round.
    private func queueResize() {
        let size = [state.columns, state.rows].flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
        queueControl(ConsoleMessage(port: 0, event: .resize, extra: size))
    }

    // MARK: Host events

    /// How much input a port takes now: none before a driver knows it, which would throw it away.
    public func receiveSpace(port: Int) -> Int {
        guard transport != nil, state.ports.indices.contains(port) else { return 0 }
        guard hasMultiplePorts ? state.ports[port].isReady : port == 0 else { return 0 }
        return max(0, Self.inputCapacity - state.ports[port].input.count)
    }

    /// Whether a port's input has a reader in the guest.
    public func isOpen(port: Int) -> Bool { state.ports.indices.contains(port) && state.ports[port].isOpen }

    /// Input for the guest. Returns how many bytes were taken.
    @discardableResult public func receive(_ bytes: [UInt8], port: Int) -> Int {
        let count = min(bytes.count, receiveSpace(port: port))
        guard count > 0 else { return 0 }
        state.ports[port].input += bytes.prefix(count)
        push { () throws(VirtqueueFault) in try sendInput(port) }
        return count
    }

    /// The host's terminal has another size.
    public func resize(columns: UInt16, rows: UInt16) {
        guard columns != state.columns || rows != state.rows else { return }
        state.columns = columns
        state.rows = rows
        if hasMultiplePorts, state.ports[0].isReady {
            queueResize()
            push { () throws(VirtqueueFault) in try sendControl() }
        }
        transport?.raiseConfigurationChange()
    }

    private func push(_ body: () throws(VirtqueueFault) -> Void) {
        guard let transport else { return }
        do throws(VirtqueueFault) { try body() } catch { transport.fail(error) }
        signal()
    }

    // MARK: Save and restore

    public func saveDeviceState() -> DeviceState { state }

    public func validate(_ state: DeviceState) throws(SnapshotError) {
        func check(_ isRight: Bool, _ field: String, _ value: Int, _ allowed: String) throws(SnapshotError) {
            try require(isRight, layer: "virtio-console", field: field, value: value, allowed: allowed)
        }
        try check(state.ports.count == self.state.ports.count, "ports", state.ports.count, "\(self.state.ports.count)")
        for port in state.ports {
            try check(
                port.input.count <= Self.inputCapacity, "input", port.input.count, "at most \(Self.inputCapacity) bytes"
            )
        }
        try check(
            state.control.count <= Self.controlCapacity && state.control.allSatisfy { $0.count <= 4096 }, "control",
            state.control.count, "at most \(Self.controlCapacity) messages of 4096 bytes")
    }

    public func assign(_ state: DeviceState) { self.state = state }
}
