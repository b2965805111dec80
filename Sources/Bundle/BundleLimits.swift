// SPDX-License-Identifier: Apache-2.0
// What a bundle may contain at most, so that a hostile one cannot make its reader use memory without bound.

/// Limits of format version 1. Bytes, unless said otherwise.
enum BundleLimits {
    static let manifest = 1 << 20
    static let state = 16 << 20
    /// All of `state/` together.
    static let allStates = 64 << 20
    static let kernel = 256 << 20
    static let initramfs = 2 << 30
    static let centralDirectory = 1 << 20
    /// Members in the archive.
    static let members = 1024
    /// Bytes of a state's name.
    static let stateName = 64
    static let guestMemory: ClosedRange<UInt64> = (1 << 20)...(1 << 40)
    static let processors = 1...255
    /// The level and the features of a CPU model.
    static let cpuModelParts = 129
    static let commandLine = 4096
    static let memoryRanges = 16
    static let disks = 16
    /// Images outside of the bundle that one disk builds on.
    static let bases = 16
    /// One hash for each 64 KiB of a disk: 256 MiB cover half a TiB.
    static let diskHashes: UInt64 = 256 << 20
    static let chunk: ClosedRange<UInt64> = (64 << 10)...(1 << 20)
    /// Chunks in `memory.workingset`.
    static let workingSet = 4096
}

/// Rules for the names in a bundle.
enum BundleName {
    /// Letters, digits, dot, underscore and hyphen; 1 to 64 of them; the first neither dot nor hyphen.
    static func isValid(_ name: String) -> Bool {
        guard (1...BundleLimits.stateName).contains(name.utf8.count), let first = name.utf8.first else { return false }
        guard first != UInt8(ascii: "."), first != UInt8(ascii: "-") else { return false }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                true
            default: false
            }
        }
    }

    static let allowed = "1 to \(BundleLimits.stateName) letters, digits, '.', '_' or '-', not starting with '.' or '-'"

    /// `memory.data` and so on.
    static let manifest = "manifest.json"
    static let kernel = "kernel"
    static let initramfs = "initramfs"
    static let memoryData = "memory.data"
    static let memoryIndex = "memory.index"
    static let workingSet = "memory.workingset"

    static let disksFolder = "disks/"

    /// Whether a member's pieces have hashes of their own, in another member.
    static func hasOwnHashes(_ member: String) -> Bool {
        member == memoryData || (member.hasPrefix(disksFolder) && member.hasSuffix(".qcow2"))
    }

    /// The image of disk `index`, and the hashes of its pieces.
    static func disk(_ index: Int) -> String { "disks/\(index).qcow2" }
    static func diskHashes(_ index: Int) -> String { "disks/\(index).sha256" }
    /// The hashes of the pieces of image `base` that disk `index` builds on.
    static func baseHashes(_ index: Int, _ base: Int) -> String { "disks/\(index).base\(base).sha256" }

    static func state(_ name: String) -> String { "state/\(name).json" }

    /// NAME of `state/NAME.json`; nil for any other member.
    static func stateName(of member: String) -> String? {
        guard member.hasPrefix("state/"), member.hasSuffix(".json") else { return nil }
        let name = String(member.dropFirst("state/".count).dropLast(".json".count))
        return isValid(name) ? name : nil
    }
}
