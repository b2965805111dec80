// SPDX-License-Identifier: Apache-2.0
// `memory.workingset`: the chunks that a copy will most likely want first. docs/bundle-format.md.

internal import GuestMemory

/// Numbers of chunks, in the order in which they are read before anybody asks for them.
enum WorkingSet {
    private static let entrySize = 4

    /// The member for the chunks that hold `addresses`; empty without any that is in memory.
    static func encode(
        _ addresses: [GuestPhysicalAddress], chunkSize: UInt64, ranges: [(start: GuestPhysicalAddress, size: UInt64)]
    ) -> [UInt8] {
        var seen: Set<UInt32> = []
        var bytes: [UInt8] = []
        for address in addresses where seen.count < BundleLimits.workingSet {
            let number = UInt32(truncatingIfNeeded: address.rawValue / chunkSize)
            guard isInMemory(number, chunkSize, ranges), seen.insert(number).inserted else { continue }
            bytes.append(littleEndian: number)
        }
        return bytes
    }

    /// Checks all of it.
    static func decode(
        _ bytes: [UInt8], chunkSize: UInt64, ranges: [(start: GuestPhysicalAddress, size: UInt64)]
    ) throws(BundleError) -> [GuestPhysicalAddress] {
        func damaged(_ reason: String) -> BundleError { .damaged(member: BundleName.workingSet, reason: reason) }
        guard bytes.count.isMultiple(of: entrySize) else { throw damaged("\(bytes.count) bytes are no list of chunks") }
        var seen: Set<UInt32> = []
        var addresses: [GuestPhysicalAddress] = []
        for offset in stride(from: 0, to: bytes.count, by: entrySize) {
            guard let number = bytes.integer(UInt32.self, at: offset), isInMemory(number, chunkSize, ranges) else {
                throw damaged("entry \(offset / entrySize) is not in memory")
            }
            guard seen.insert(number).inserted else { throw damaged("it has chunk \(number) twice") }
            addresses.append(GuestPhysicalAddress(UInt64(number) * chunkSize))
        }
        return addresses
    }

    private static func isInMemory(
        _ number: UInt32, _ chunkSize: UInt64, _ ranges: [(start: GuestPhysicalAddress, size: UInt64)]
    ) -> Bool {
        let address = UInt64(number) * chunkSize
        return ranges.contains { address >= $0.start.rawValue && address - $0.start.rawValue < $0.size }
    }
}
