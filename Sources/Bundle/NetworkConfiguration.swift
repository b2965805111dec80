// SPDX-License-Identifier: Apache-2.0
// A machine's network as its bundle describes it.

/// A port of the host that leads to one of the guest's.
public struct PublishedPort: Codable, Equatable, Sendable, CustomStringConvertible {
    public enum Transport: String, Codable, Sendable {
        case tcp
        case udp
    }

    public var transport: Transport
    /// An IPv4 address of the host.
    public var hostAddress: String
    public var hostPort: UInt16
    public var guestPort: UInt16

    public init(transport: Transport, hostAddress: String, hostPort: UInt16, guestPort: UInt16) {
        self.transport = transport
        self.hostAddress = hostAddress
        self.hostPort = hostPort
        self.guestPort = guestPort
    }

    public var description: String {
        "\(hostAddress):\(hostPort):\(guestPort)" + (transport == .udp ? "/udp" : "")
    }
}

/// The host's side of a machine's network.
public enum NetworkAttachment: Equatable, Sendable {
    /// A network of its own; what it sends leaves through the host's sockets.
    /// - Parameters:
    ///   - allow: destinations that the guest can reach: addresses, ranges, names of hosts; nil is all of them.
    ///   - publish: ports of the host that lead to the guest.
    case user(allow: [String]?, publish: [PublishedPort])
    /// An interface of the host.
    case tap(interface: String)
    /// The cable is out.
    case none

    /// The kinds' names.
    public static let kinds = ["user", "tap", "none"]
}

/// The machine's network card.
public struct NetworkConfiguration: Codable, Equatable, Sendable {
    /// Six pairs of hexadecimal digits with colons between them.
    public var address: String
    /// 576 to 65520 bytes.
    public var mtu: UInt16
    public var attachment: NetworkAttachment

    public static let mtuRange = 576...65520 as ClosedRange<UInt16>
    public static let largestList = 256
    /// Bytes of the longest name that an interface may have.
    public static let longestInterface = 15

    public init(address: String, mtu: UInt16, attachment: NetworkAttachment) {
        self.address = address
        self.mtu = mtu
        self.attachment = attachment
    }

    private enum CodingKeys: String, CodingKey {
        case kind, address, mtu, allow, publish, interface
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        address = try container.decode(String.self, forKey: .address)
        mtu = try container.decode(UInt16.self, forKey: .mtu)
        switch try container.decode(String.self, forKey: .kind) {
        case "user":
            attachment = .user(
                allow: try container.decodeIfPresent([String].self, forKey: .allow),
                publish: try container.decodeIfPresent([PublishedPort].self, forKey: .publish) ?? [])
        case "tap": attachment = .tap(interface: try container.decode(String.self, forKey: .interface))
        case "none": attachment = .none
        default:
            throw DecodingError.dataCorruptedError(
                forKey: .kind, in: container,
                debugDescription: "not one of \(NetworkAttachment.kinds.joined(separator: ", "))")
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(address, forKey: .address)
        try container.encode(mtu, forKey: .mtu)
        switch attachment {
        case .user(let allow, let publish):
            try container.encode("user", forKey: .kind)
            try container.encodeIfPresent(allow, forKey: .allow)
            try container.encode(publish, forKey: .publish)
        case .tap(let interface):
            try container.encode("tap", forKey: .kind)
            try container.encode(interface, forKey: .interface)
        case .none: try container.encode("none", forKey: .kind)
        }
    }

    /// Whether `name` may be an interface's.
    public static func isValid(interface name: String) -> Bool {
        BundleName.isValid(name) && name.utf8.count <= longestInterface
    }

    func validate() throws(BundleError) {
        func check(_ isRight: Bool, _ field: String, _ value: String, _ allowed: String) throws(BundleError) {
            guard isRight else {
                throw .invalidValue(field: "configuration.network.\(field)", value: value, allowed: allowed)
            }
        }
        try check(
            address.utf8.count == 17 && address.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f }, "address",
            "'\(address.prefix(80))'", "an Ethernet address like 02:00:00:00:00:01")
        try check(Self.mtuRange.contains(mtu), "mtu", "\(mtu)", "576 to 65520")
        switch attachment {
        case .user(let allow, let publish):
            let rules = allow ?? []
            try check(
                rules.count <= Self.largestList && rules.allSatisfy { (1...253).contains($0.utf8.count) }, "allow",
                "\(rules.count) destinations", "at most \(Self.largestList), each of 1 to 253 bytes")
            try check(
                publish.count <= Self.largestList && publish.allSatisfy { $0.hostAddress.utf8.count <= 15 }, "publish",
                "\(publish.count) ports", "at most \(Self.largestList), with IPv4 addresses")
        case .tap(let interface):
            try check(
                Self.isValid(interface: interface), "interface", "'\(interface.prefix(80))'",
                "1 to \(Self.longestInterface) letters, digits, '.', '_' or '-'")
        case .none: break
        }
    }
}
