// SPDX-License-Identifier: Apache-2.0
// What every layer that has state offers: save it as a value, restore it from a hostile one.

/// Why saved state was refused. Nothing has changed when one is thrown.
public enum SnapshotError: Error, Equatable, CustomStringConvertible {
    /// `field` of `layer` had `value`; `allowed` says what it takes.
    case invalidValue(layer: String, field: String, value: String, allowed: String)
    case unsupportedVersion(layer: String, version: Int, newest: Int)

    public var description: String {
        switch self {
        case .invalidValue(let layer, let field, let value, let allowed):
            "state of \(layer): \(field) is \(value), must be \(allowed)"
        case .unsupportedVersion(let layer, let version, let newest):
            "state of \(layer) has version \(version); this smolvmm reads up to \(newest)"
        }
    }
}

/// A layer whose whole guest-visible state is a value.
public protocol Snapshottable: AnyObject {
    associatedtype State: Codable & Equatable & Sendable

    /// Copies everything that the guest can observe, and nothing of the host.
    func saveState() -> State

    /// Validates all of `state`, then assigns it once.
    func restoreState(_ state: State) throws(SnapshotError)
}

/// Throws `invalidValue` unless `condition` holds.
public func require(
    _ condition: Bool, layer: String, field: String, value: some CustomStringConvertible, allowed: String
) throws(SnapshotError) {
    guard condition else {
        throw .invalidValue(layer: layer, field: field, value: value.description, allowed: allowed)
    }
}
