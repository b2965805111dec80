// SPDX-License-Identifier: Apache-2.0
// `manifest.json`: what the bundle is, what is in it, and the one hash that covers all of it.

/// 128 random bits that name one snapshot, as 32 lower-case hexadecimal digits.
public struct BundleIdentifier: Hashable, Codable, Sendable, CustomStringConvertible {
    /// 32 lower-case hexadecimal digits.
    public let text: String

    /// Nil unless `text` is 32 lower-case hexadecimal digits.
    public init?(_ text: String) {
        guard isHexadecimal(text, count: 32) else { return nil }
        self.text = text
    }

    private init(bytes: [UInt8]) { text = hexadecimal(bytes) }

    /// A new one from the host's random number generator.
    public static func random() -> Self {
        var generator = SystemRandomNumberGenerator()
        return Self(bytes: (0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) })
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let valid = Self(try container.decode(String.self)) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "not 32 hexadecimal digits")
        }
        self = valid
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }

    public var description: String { text }
}

/// What the machine is made of; its meaning is `Machine`'s.
public struct MachineConfiguration: Codable, Equatable, Sendable {
    /// 1 to 64 letters, digits, `.`, `_` or `-`, not starting with `.` or `-`.
    public var name: String
    /// Guest RAM, a multiple of 4096 from 1 MiB to 1 TiB.
    public var memoryBytes: UInt64
    /// 1 to 255.
    public var cpus: Int
    /// The named CPU contract, `LEVEL[+FEATURE…]`, such as `x86-64-v2`; each part has the characters of `name`.
    public var cpuModel: String
    /// The kernel's, at most 4096 bytes without NUL.
    public var commandLine: String
    /// In the guest's order.
    public var disks: [DiskConfiguration] = []
    /// Nil: the machine has no network.
    public var network: NetworkConfiguration?
    /// Virtio devices beside disks and network: `console`, `entropy`, `balloon`, each at most once, in the order of the bus.
    public var devices: [String] = []
    /// Where what is typed goes: `serial` or, with a device `console`, `hvc0`.
    public var console = Self.serialConsole

    public static let serialConsole = "serial"

    public init(name: String, memoryBytes: UInt64, cpus: Int, cpuModel: String, commandLine: String) {
        self.name = name
        self.memoryBytes = memoryBytes
        self.cpus = cpus
        self.cpuModel = cpuModel
        self.commandLine = commandLine
    }

    private enum CodingKeys: String, CodingKey {
        case name, memoryBytes, cpus, cpuModel, commandLine, disks, network, devices, console
    }

    /// Version 1 had neither disks nor devices; a machine without a network does not mention one.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        name = try container.decode(String.self, forKey: .name)
        memoryBytes = try container.decode(UInt64.self, forKey: .memoryBytes)
        cpus = try container.decode(Int.self, forKey: .cpus)
        cpuModel = try container.decode(String.self, forKey: .cpuModel)
        commandLine = try container.decode(String.self, forKey: .commandLine)
        disks = try container.decodeIfPresent([DiskConfiguration].self, forKey: .disks) ?? []
        network = try container.decodeIfPresent(NetworkConfiguration.self, forKey: .network)
        devices = try container.decodeIfPresent([String].self, forKey: .devices) ?? []
        console = try container.decodeIfPresent(String.self, forKey: .console) ?? Self.serialConsole
    }

    func validate() throws(BundleError) {
        guard disks.count <= BundleLimits.disks else {
            throw .tooLarge(
                member: "the list of disks", size: UInt64(disks.count), limit: UInt64(BundleLimits.disks))
        }
        for disk in disks { try disk.validate() }
        guard Set(disks.map(\.id)).count == disks.count else {
            throw .invalidValue(field: "configuration.disks", value: "with one id twice", allowed: "different ids")
        }
        try network?.validate()
        guard devices.count <= 16, devices.allSatisfy(BundleName.isValid), Set(devices).count == devices.count else {
            throw .invalidValue(
                field: "configuration.devices", value: "\(devices.count) names", allowed: "different names")
        }
        guard BundleName.isValid(console) else {
            throw .invalidValue(
                field: "configuration.console", value: "'\(console.prefix(80))'", allowed: BundleName.allowed)
        }
        guard BundleName.isValid(name) else {
            throw .invalidValue(field: "configuration.name", value: "'\(name.prefix(80))'", allowed: BundleName.allowed)
        }
        let parts = cpuModel.split(separator: "+", omittingEmptySubsequences: false)
        guard parts.count <= BundleLimits.cpuModelParts, parts.allSatisfy({ BundleName.isValid(String($0)) }) else {
            throw .invalidValue(
                field: "configuration.cpuModel", value: "'\(cpuModel.prefix(80))'",
                allowed: "a level and at most \(BundleLimits.cpuModelParts - 1) features, joined by '+'")
        }
        guard BundleLimits.guestMemory.contains(memoryBytes), memoryBytes.isMultiple(of: 4096) else {
            throw .invalidValue(
                field: "configuration.memoryBytes", value: "\(memoryBytes)",
                allowed: "a multiple of 4096 from 1 MiB to 1 TiB")
        }
        guard BundleLimits.processors.contains(cpus) else {
            throw .invalidValue(field: "configuration.cpus", value: "\(cpus)", allowed: "1 to 255")
        }
        guard commandLine.utf8.count <= BundleLimits.commandLine, !commandLine.utf8.contains(0) else {
            throw .invalidValue(
                field: "configuration.commandLine", value: "\(commandLine.utf8.count) bytes long or has a NUL",
                allowed: "at most \(BundleLimits.commandLine) bytes without NUL")
        }
    }
}

/// `manifest.json`.
public struct Manifest: Codable, Equatable, Sendable {
    /// Where a snapshot comes from.
    public struct Lineage: Codable, Equatable, Sendable {
        public var id: BundleIdentifier
        /// The snapshot that the machine was restored from; nil when it was booted.
        public var parent: BundleIdentifier?
        /// When it was written: UTC, `2026-01-31T23:59:59Z`.
        public var created: String
    }

    /// One member of the archive, in the order of the file.
    public struct Member: Codable, Equatable, Sendable {
        public var name: String
        /// Bytes.
        public var size: UInt64
        /// SHA-256 as 64 lower-case hexadecimal digits; absent for `memory.data`, whose chunks `memory.index` covers.
        public var sha256: String?
    }

    /// The newest format that this code reads, and the one it writes.
    public static let newestFormat = 3

    public var formatVersion: Int
    /// The program that wrote the bundle.
    public var generator: String
    public var lineage: Lineage
    public var configuration: MachineConfiguration
    /// Every member but the manifest itself, in the order of the file.
    public var members: [Member]
    /// SHA-256 of the manifest's own bytes with these 64 digits replaced by zeros.
    public var root: String

    static let blankRoot = String(repeating: "0", count: 64)
}

extension Manifest {
    /// The manifest's bytes, with `root` set in them and in the manifest.
    mutating func seal() throws(BundleError) -> [UInt8] {
        do {
            root = Self.blankRoot
            root = hexadecimal(Digest.of(try JSONText.encode(self)))
            return try JSONText.encode(self)
        } catch {
            throw .invalidValue(field: BundleName.manifest, value: "not encodable", allowed: "JSON")
        }
    }

    /// Decodes and checks a manifest: version first, then the root hash, then every value.
    static func open(_ bytes: [UInt8], path: String) throws(BundleError) -> Manifest {
        struct Version: Decodable { let formatVersion: Int }
        let manifest: Manifest
        do {
            let version = try JSONText.decode(bytes, as: Version.self).formatVersion
            guard version <= newestFormat else {
                throw BundleError.newerFormat(path: path, version: version, newest: newestFormat)
            }
            manifest = try JSONText.decode(bytes, as: Manifest.self)
        } catch let error as BundleError {
            throw error
        } catch {
            throw .damaged(member: BundleName.manifest, reason: JSONText.reason(for: error, in: bytes))
        }
        guard isHexadecimal(manifest.root, count: 64) else {
            throw .damaged(member: BundleName.manifest, reason: "root is not 64 hexadecimal digits")
        }
        guard manifest.root == rootHash(of: bytes, digits: Array(manifest.root.utf8)) else {
            throw .damaged(member: BundleName.manifest, reason: "its bytes do not have the root hash that it states")
        }
        try manifest.validate()
        return manifest
    }

    /// The hash of `bytes` with the only occurrence of `digits` zeroed; nil when there is not exactly one.
    private static func rootHash(of bytes: [UInt8], digits: [UInt8]) -> String? {
        var found: Int?
        var start = 0
        while start + digits.count <= bytes.count {
            if bytes[start] == digits[0], bytes[start..<(start + digits.count)].elementsEqual(digits) {
                guard found == nil else { return nil }
                found = start
            }
            start += 1
        }
        guard let found else { return nil }
        var blank = bytes
        blank.replaceSubrange(found..<(found + digits.count), with: Array(blankRoot.utf8))
        return hexadecimal(Digest.of(blank))
    }

    private func validate() throws(BundleError) {
        guard formatVersion >= 1 else {
            throw .invalidValue(field: "formatVersion", value: "\(formatVersion)", allowed: "1 or more")
        }
        guard generator.utf8.count <= 256 else {
            throw .invalidValue(
                field: "generator", value: "\(generator.utf8.count) bytes long", allowed: "at most 256 bytes")
        }
        guard UTCTime.isValid(lineage.created) else {
            throw .invalidValue(
                field: "lineage.created", value: "'\(lineage.created.prefix(40))'",
                allowed: "UTC like 2026-01-31T23:59:59Z")
        }
        try configuration.validate()
        try validate(members)
    }

    /// Each member once, in their order: kernel, initramfs, states, disks with their hashes, memory.data, memory.index,
    /// and perhaps memory.workingset.
    private func validate(_ members: [Member]) throws(BundleError) {
        guard members.count <= BundleLimits.members else {
            throw .tooLarge(
                member: "the list of members", size: UInt64(members.count), limit: UInt64(BundleLimits.members))
        }
        var disks: Set<String> = []
        for (index, disk) in configuration.disks.enumerated() {
            disks.formUnion([BundleName.disk(index), BundleName.diskHashes(index)])
            for base in disk.bases.indices { disks.insert(BundleName.baseHashes(index, base)) }
        }
        var seen: Set<String> = []
        var stateBytes: UInt64 = 0
        var lastRank = 0
        for member in members {
            guard let (rank, limit) = Self.place(of: member.name, disks: disks) else {
                throw .damaged(
                    member: BundleName.manifest, reason: "it lists a member '\(member.name.prefix(80))' that cannot be")
            }
            guard seen.insert(member.name).inserted else {
                throw .damaged(member: member.name, reason: "it is listed twice")
            }
            guard rank >= lastRank else {
                throw .damaged(member: member.name, reason: "it is out of order")
            }
            lastRank = rank
            guard member.size <= limit else {
                throw .tooLarge(member: member.name, size: member.size, limit: limit)
            }
            if BundleName.stateName(of: member.name) != nil { stateBytes += member.size }
            guard stateBytes <= UInt64(BundleLimits.allStates) else {
                throw .tooLarge(member: "state/", size: stateBytes, limit: UInt64(BundleLimits.allStates))
            }
            let hashIsRight =
                if let hash = member.sha256 {
                    !BundleName.hasOwnHashes(member.name) && isHexadecimal(hash, count: 64)
                } else {
                    BundleName.hasOwnHashes(member.name)
                }
            guard hashIsRight else {
                throw .damaged(member: member.name, reason: "its hash is missing or cannot be")
            }
        }
        let required = [BundleName.kernel, BundleName.initramfs, BundleName.memoryData, BundleName.memoryIndex]
        for name in required + disks.sorted() where !seen.contains(name) { throw .noSuchMember(name) }
    }

    /// Where a member may stand, and its largest size; nil for a name that nothing has. `disks` are those of the disks.
    private static func place(of name: String, disks: Set<String>) -> (rank: Int, limit: UInt64)? {
        switch name {
        case BundleName.kernel: (1, UInt64(BundleLimits.kernel))
        case BundleName.initramfs: (2, UInt64(BundleLimits.initramfs))
        case BundleName.memoryData: (5, 1 << 41)
        case BundleName.memoryIndex: (6, 1 << 30)
        case BundleName.workingSet: (7, UInt64(4 * BundleLimits.workingSet))
        default:
            if disks.contains(name) {
                BundleName.hasOwnHashes(name) ? (4, 1 << 43) : (4, BundleLimits.diskHashes)
            } else {
                BundleName.stateName(of: name) == nil ? nil : (3, UInt64(BundleLimits.state))
            }
        }
    }
}
