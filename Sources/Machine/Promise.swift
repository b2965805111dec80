// SPDX-License-Identifier: Apache-2.0
// A result that one thread waits for and another delivers.

internal import Synchronization

/// Delivered once; the first delivery counts.
public final class Promise<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let signal: WakeSignal

    public init() throws(MachineError) { signal = try WakeSignal() }

    /// Any thread.
    public func deliver(_ result: Value) {
        let isFirst = value.withLock { value in
            guard value == nil else { return false }
            value = result
            return true
        }
        if isFirst { signal.set() }
    }

    /// Waits for the value. One thread only.
    public func wait() -> Value {
        while true {
            if let result = value.withLock({ $0 }) { return result }
            signal.wait()
        }
    }
}
