// SPDX-License-Identifier: Apache-2.0
// Typed addresses of the guest: only meaningful operators exist.

/// An address in guest-physical memory, in bytes.
public struct GuestPhysicalAddress: RawRepresentable, Hashable, Comparable, Codable, Sendable {
    public var rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    /// Moves up by `bytes`, wrapping at 2^64.
    @inlinable public static func + (left: Self, bytes: UInt64) -> Self { Self(left.rawValue &+ bytes) }
    /// The distance in bytes, wrapping when `right` is above `left`.
    @inlinable public static func - (left: Self, right: Self) -> UInt64 { left.rawValue &- right.rawValue }
}

extension GuestPhysicalAddress: CustomStringConvertible {
    public var description: String { "0x" + String(rawValue, radix: 16) }
}
