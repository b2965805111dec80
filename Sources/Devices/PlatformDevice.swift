// SPDX-License-Identifier: Apache-2.0
// What every device of the platform offers beside its registers: a name, validated state, and power-on reset.

public import Snapshot

/// A device of the platform whose state is one layer of a snapshot.
///
/// Not thread-safe: whoever calls holds the machine's device lock.
public protocol PlatformDevice: Snapshottable {
    /// The layer's name in a bundle, such as `serial` or `apic0`.
    var layerName: String { get }

    /// Refuses a state that the device could not have saved.
    func validate(_ state: State) throws(SnapshotError)

    /// Takes over a validated state. Touches no other device: those restore their own state.
    func assign(_ state: State)

    /// Goes to the state after power-on.
    func reset()
}

extension PlatformDevice {
    public func restoreState(_ state: State) throws(SnapshotError) {
        try validate(state)
        assign(state)
    }

    /// `restoreState` refuses with this unless `condition` holds.
    func check(
        _ condition: Bool, _ field: String, _ value: some CustomStringConvertible, _ allowed: String
    ) throws(SnapshotError) {
        try require(condition, layer: layerName, field: field, value: value, allowed: allowed)
    }

    /// Refuses a register value with a bit set outside `mask`.
    func check<Value: FixedWidthInteger>(
        _ field: String, _ value: Value, within mask: Value
    ) throws(SnapshotError) {
        try check(value & ~mask == 0, field, value, "no bit outside 0x" + String(mask, radix: 16))
    }

    /// Refuses an instant of guest time that arithmetic could overflow on.
    func check(_ field: String, instant: UInt64) throws(SnapshotError) {
        try check(instant < 1 << 62, field, instant, "below 2^62")
    }
}
