// SPDX-License-Identifier: Apache-2.0
// What the guest's console says, on its way from the machine's thread to whoever shows it.

internal import Synchronization

/// Console output between two threads. Bounded: when nobody takes it, the machine waits, as a serial line with flow
/// control would make it.
public final class ConsoleChannel: Sendable {
    /// Bytes after which the machine is held.
    static let capacity = 1 << 20

    /// Set when there is output to take.
    public let outputReady: WakeSignal
    private let output = Mutex<[UInt8]>([])
    /// Set when a full channel has been emptied.
    private let machineWake: WakeSignal

    init(machineWake: WakeSignal) throws(MachineError) {
        outputReady = try WakeSignal()
        self.machineWake = machineWake
    }

    /// Everything that the guest has said since the last call. Any thread but the machine's.
    public func take() -> [UInt8] {
        outputReady.drain()
        let taken = output.withLock { output in
            defer { output = [] }
            return output
        }
        if taken.count >= Self.capacity { machineWake.set() }
        return taken
    }

    /// The machine's thread, once per time slice.
    func put(_ bytes: [UInt8]) {
        let wasEmpty = output.withLock { output in
            defer { output += bytes }
            return output.isEmpty
        }
        if wasEmpty { outputReady.set() }
    }

    var isFull: Bool { output.withLock { $0.count >= Self.capacity } }
}
