// SPDX-License-Identifier: Apache-2.0
// Where a guest may send to: addresses, ranges of them, and hosts by name.

public import Virtio

/// What gets out; everything else does not.
public struct OutboundPolicy: Equatable, Sendable {
    private struct Range: Equatable {
        var start: UInt32
        /// 0 to 32.
        var prefix: Int

        func contains(_ address: IPv4Address) -> Bool {
            prefix == 0 || (address.rawValue ^ start) >> UInt32(32 - prefix) == 0
        }
    }

    private var ranges: [Range] = []
    private var names: Set<String> = []
    /// What the names were resolved to, the newest last.
    private(set) var resolved: [NetworkSession.Resolution] = []

    /// - Parameter rules: addresses, ranges like `192.0.2.0/24`, names of hosts.
    public init(_ rules: [String]) throws(NetworkError) {
        for rule in rules {
            let parts = rule.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            if let address = IPv4Address(parts[0]) {
                let prefix = parts.count == 1 ? 32 : Self.prefix(parts[1])
                guard let prefix else { throw .invalidRule(rule) }
                ranges.append(Range(start: address.rawValue, prefix: prefix))
            } else {
                guard parts.count == 1, Self.isName(rule) else { throw .invalidRule(rule) }
                names.insert(rule.lowercased())
            }
        }
    }

    private static func prefix(_ text: String) -> Int? {
        guard text.utf8.count <= 2, let value = UInt8(text), value <= 32, !text.hasPrefix("+") else { return nil }
        return Int(value)
    }

    /// Letters, digits, dashes and underscores between dots; the last part is not a number, which would be an address.
    private static func isName(_ text: String) -> Bool {
        let labels = text.lowercased().split(separator: ".", omittingEmptySubsequences: false)
        let isRight = labels.allSatisfy { label in
            (1...63).contains(label.utf8.count)
                && label.utf8.allSatisfy { byte in
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || "-_".utf8.contains(byte)
                }
        }
        let isNumber = labels.last?.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ?? true
        return isRight && !isNumber && text.utf8.count <= 253
    }

    func allows(_ address: IPv4Address) -> Bool {
        // Inside of the guest's own network are the host's loopback and resolver: no range means those by accident.
        if UserNetworkLayout.contains(address) {
            return ranges.contains { $0.prefix == 32 && $0.start == address.rawValue }
        }
        return ranges.contains { $0.contains(address) } || resolved.contains { $0.address == address }
    }

    /// Whether the guest may ask for the address of `name`, in lower case.
    func allows(name: String) -> Bool { names.contains(name) }

    /// Notes addresses of names, as far as those are allowed. Addresses that no resolver has any business to give are left
    /// out.
    mutating func learn(_ resolutions: [NetworkSession.Resolution]) {
        for resolution in resolutions where names.contains(resolution.name) {
            let address = resolution.address
            guard UserNetworkLayout.isRoutable(address), !UserNetworkLayout.contains(address) else { continue }
            resolved.removeAll { $0 == resolution }
            resolved.append(resolution)
        }
        let excess = resolved.count - NetworkSession.largestResolved
        if excess > 0 { resolved.removeFirst(excess) }
    }
}

/// The network that a guest sees itself in.
public enum UserNetworkLayout {
    static let network = IPv4Address(0x0a00_0200)  // 10.0.2.0/24
    static let mask = IPv4Address(0xffff_ff00)
    /// Leads to the host's loopback.
    public static let gateway = IPv4Address(0x0a00_0202)  // 10.0.2.2
    public static let resolver = IPv4Address(0x0a00_0203)  // 10.0.2.3
    /// What DHCP gives the guest.
    public static let guest = IPv4Address(0x0a00_020f)  // 10.0.2.15
    static let broadcast = IPv4Address(0xffff_ffff)
    /// Ethernet's, of everything in the network but the guest: libslirp's.
    static let gatewayMAC: [UInt8] = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]

    static func contains(_ address: IPv4Address) -> Bool { address.rawValue & mask.rawValue == network.rawValue }

    /// Whether packets to `address` have a place to go: it is neither nobody, nor the sender itself, nor a group.
    static func isRoutable(_ address: IPv4Address) -> Bool {
        switch address.rawValue >> 24 {
        case 0, 127, 224...255: false
        // Of the link: cloud providers keep their machines' credentials at 169.254.169.254, which a guest is not one of.
        case 169: address.rawValue >> 16 & 0xff != 254
        default: true
        }
    }
}
