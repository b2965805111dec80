// SPDX-License-Identifier: Apache-2.0
// Why the host's side of a network could not be made.

internal import Host

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Why there is no network.
public enum NetworkError: Error, Equatable, CustomStringConvertible {
    /// Neither an address, nor a range of addresses, nor a host's name.
    case invalidRule(String)
    /// A port of the host that cannot be listened at.
    case portRefused(PortForward, errno: Int32)
    case noInterface(String)
    /// The interface is there, but not for us.
    case interfaceRefused(String, errno: Int32)
    case hostRefused(what: String, errno: Int32)

    public var description: String {
        switch self {
        case .invalidRule(let text):
            "'\(text)' is no destination: give an address (192.0.2.7), a range (192.0.2.0/24) or a host's name"
        case .portRefused(let forward, let code):
            "cannot publish \(forward): \(errorText(code))"
                + (code == EADDRINUSE ? "; choose another port of the host with --publish" : "")
        case .noInterface(let name):
            "there is no interface '\(name)': make it with 'ip tuntap add \(name) mode tap user USER'"
        case .interfaceRefused(let name, let code):
            "cannot use the interface '\(name)': \(errorText(code))"
                + (code == EBUSY ? "; another machine has it" : "; it must be a TAP interface of this user's")
        case .hostRefused(let what, let code): "the host refused \(what): \(errorText(code))"
        }
    }
}

/// A port of the host that leads to one of the guest's.
public struct PortForward: Equatable, Sendable, CustomStringConvertible {
    public var isDatagram: Bool
    public var hostAddress: String
    public var hostPort: UInt16
    public var guestPort: UInt16

    /// - Parameter hostAddress: an IPv4 address of the host; 0.0.0.0 is all of them.
    public init(isDatagram: Bool, hostAddress: String, hostPort: UInt16, guestPort: UInt16) {
        self.isDatagram = isDatagram
        self.hostAddress = hostAddress
        self.hostPort = hostPort
        self.guestPort = guestPort
    }

    public var description: String { "\(hostAddress):\(hostPort):\(guestPort)" + (isDatagram ? "/udp" : "") }
}
