// SPDX-License-Identifier: Apache-2.0
// The two sides of a network device: what it asks of the host, and what the host's side asks of it.

/// The host's side of a network device. The machine's thread only.
public protocol NetworkBackend: AnyObject {
    /// Gets frames; the backend does not keep it alive.
    var guest: (any NetworkGuest)? { get set }

    /// What the driver leaves to others in frames that it sends, and takes in those that it gets.
    func setOffloads(_ offloads: NetworkOffloads)
    /// Takes a frame of the guest's: a `NetworkHeader`, then an Ethernet frame of 14 bytes or more, which the backend may
    /// change. What the host has no room for is lost, as on any network.
    func transmit(_ packet: inout [UInt8])
    /// Hands to `guest` what has arrived.
    func poll()
    /// What the machine's thread may wait for before it calls `poll` again.
    func prepareToWait() -> NetworkWait

    /// What has to be known of open connections when the machine goes on as a copy.
    func saveSession() -> NetworkSession
    /// The machine is a copy: of the connections in `session` nothing is left but the guest's end.
    func resume(_ session: NetworkSession, guest address: MACAddress)
}

/// The guest's side, for the host's. The machine's thread only.
public protocol NetworkGuest: AnyObject {
    /// Whether the driver has lent buffers for frames.
    var hasRoom: Bool { get }
    /// Copies a frame into the driver's buffers; false when there is no room for it.
    func receive(_ header: NetworkHeader, _ frame: UnsafeRawBufferPointer) -> Bool
}

/// What may be left undone in frames between guest and host.
public struct NetworkOffloads: OptionSet, Sendable {
    public let rawValue: UInt8

    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The guest takes frames without, or with a verified, checksum.
    public static let checksum = Self(rawValue: 1)
    /// The guest takes TCP segments that are longer than a frame may be, over IPv4 and IPv6.
    public static let segmentation4 = Self(rawValue: 2)
    public static let segmentation6 = Self(rawValue: 4)
}

/// Until when there is nothing to do for a backend.
public struct NetworkWait: Equatable, Sendable {
    /// Readable when something has happened.
    public var descriptor: Int32?
    /// Time until then at most.
    public var nanoseconds: UInt64?

    public init(descriptor: Int32? = nil, nanoseconds: UInt64? = nil) {
        self.descriptor = descriptor
        self.nanoseconds = nanoseconds
    }
}

/// What a copy of a machine has to know of its network.
public struct NetworkSession: Codable, Equatable, Sendable {
    /// One TCP connection of the guest.
    public struct Connection: Codable, Hashable, Sendable {
        public var guestAddress: IPv4Address
        public var guestPort: UInt16
        public var peerAddress: IPv4Address
        public var peerPort: UInt16
        /// The sequence number that the guest expects next.
        public var expected: UInt32

        public init(
            guestAddress: IPv4Address, guestPort: UInt16, peerAddress: IPv4Address, peerPort: UInt16, expected: UInt32
        ) {
            self.guestAddress = guestAddress
            self.guestPort = guestPort
            self.peerAddress = peerAddress
            self.peerPort = peerPort
            self.expected = expected
        }
    }

    /// What an allowed host name was resolved to.
    public struct Resolution: Codable, Hashable, Sendable {
        /// In lower case.
        public var name: String
        public var address: IPv4Address

        public init(name: String, address: IPv4Address) {
            self.name = name
            self.address = address
        }
    }

    public static let largestConnections = 4096
    public static let largestResolved = 1024

    public var connections: [Connection] = []
    /// The newest last.
    public var resolved: [Resolution] = []

    public init() {}
}
