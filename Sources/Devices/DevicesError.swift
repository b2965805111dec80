// SPDX-License-Identifier: Apache-2.0
// What can be wrong with a platform's configuration.

public import Bus
public import GuestMemory

/// Why a platform could not be built.
public enum DevicesError: Error, Equatable, CustomStringConvertible {
    case processorCount(Int, limit: Int)
    case tablesTooLarge(bytes: UInt64, limit: UInt64)
    case bus(BusError)
    case memory(GuestMemoryError)

    public var description: String {
        switch self {
        case .processorCount(let count, let limit): "\(count) processors: must be 1 to \(limit)"
        case .tablesTooLarge(let bytes, let limit):
            "ACPI tables of \(bytes) bytes do not fit in \(limit); configure fewer devices"
        case .bus(let error): error.description
        case .memory(let error): error.description
        }
    }
}
