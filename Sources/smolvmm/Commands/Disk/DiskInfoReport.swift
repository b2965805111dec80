// SPDX-License-Identifier: Apache-2.0
// An image's description as qemu-img tells it to programs.

import DiskImage

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// JSON as the commands for disks write it.
enum DiskJSON {
    static func text(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self) + "\n"
    }
}

struct DiskInfoReport: Encodable {
    private enum CodingKeys: String, CodingKey {
        case filename
        case format
        case virtualSize = "virtual-size"
        case actualSize = "actual-size"
        case clusterSize = "cluster-size"
        case dirty = "dirty-flag"
        case backing = "backing-filename"
        case fullBacking = "full-backing-filename"
        case backingFormat = "backing-filename-format"
        case snapshots
        case specific = "format-specific"
    }

    struct Snapshot: Encodable {
        private enum CodingKeys: String, CodingKey {
            case id
            case name
            case stateSize = "vm-state-size"
            case seconds = "date-sec"
            case nanoseconds = "date-nsec"
            case clockSeconds = "vm-clock-sec"
            case clockNanoseconds = "vm-clock-nsec"
            case instructions = "icount"
        }

        var id: String
        var name: String
        var stateSize: UInt64
        var seconds: UInt32
        var nanoseconds: UInt32
        var clockSeconds: UInt64
        var clockNanoseconds: UInt64
        var instructions: UInt64?
    }

    struct Specific: Encodable {
        struct Facts: Encodable {
            private enum CodingKeys: String, CodingKey {
                case compat
                case compression = "compression-type"
                case lazy = "lazy-refcounts"
                case refcountBits = "refcount-bits"
                case corrupt
                case extended = "extended-l2"
            }

            var compat: String
            var compression: String
            var lazy: Bool?
            var refcountBits: Int
            var corrupt: Bool?
            var extended: Bool?
        }

        var type = "qcow2"
        var data: Facts
    }

    var filename: String
    var format: String
    var virtualSize: UInt64
    var actualSize: UInt64
    var dirty = false
    var clusterSize: UInt64?
    var backing: String?
    var fullBacking: String?
    var backingFormat: String?
    var snapshots: [Snapshot]?
    var specific: Specific?

    init(_ information: DiskInformation) {
        filename = information.path
        format = information.format.rawValue
        virtualSize = information.size
        actualSize = information.storedBytes
        guard let qcow2 = information.qcow2 else { return }
        dirty = qcow2.isDirty
        clusterSize = qcow2.clusterSize
        backing = qcow2.backingFile
        fullBacking = qcow2.backingPath
        backingFormat = qcow2.backingFormat
        if !qcow2.snapshots.isEmpty { snapshots = qcow2.snapshots.map(Self.snapshot) }
        let isNew = qcow2.version > 2
        specific = Specific(
            data: Specific.Facts(
                compat: isNew ? "1.1" : "0.10", compression: qcow2.compression.name,
                lazy: isNew ? qcow2.hasLazyRefcounts : nil, refcountBits: qcow2.refcountBits,
                corrupt: isNew ? qcow2.isCorrupt : nil, extended: isNew ? qcow2.hasExtendedL2 : nil))
    }

    private static func snapshot(_ snapshot: DiskSnapshot) -> Snapshot {
        Snapshot(
            id: snapshot.id, name: snapshot.name, stateSize: snapshot.vmStateSize, seconds: snapshot.date,
            nanoseconds: snapshot.dateNanoseconds, clockSeconds: snapshot.vmClock / 1_000_000_000,
            clockNanoseconds: snapshot.vmClock % 1_000_000_000, instructions: snapshot.instructions)
    }
}
