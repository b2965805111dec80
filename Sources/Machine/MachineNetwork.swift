// SPDX-License-Identifier: Apache-2.0
// The machine's network card and the host's side of it, out of the configuration.

public import Bundle
internal import Network
internal import Virtio

extension NetworkConfiguration {
    /// The card, with its cable plugged in. What the configuration has of the host, such as ports, is taken now.
    func makeDevice() throws(MachineError) -> NetworkDevice {
        guard let address = MACAddress(address) else {
            throw .invalidConfiguration(
                field: "the network's address", value: "'\(address)'", allowed: "one card's, like 02:00:00:00:00:01")
        }
        do throws(NetworkError) {
            return NetworkDevice(address: address, mtu: mtu, backend: try makeBackend())
        } catch {
            throw .network(error.description)
        }
    }

    private func makeBackend() throws(NetworkError) -> (any NetworkBackend)? {
        switch attachment {
        case .user(let allow, let publish):
            var policy: OutboundPolicy?
            if let allow { policy = try OutboundPolicy(allow) }
            return try UserNetwork(
                mtu: mtu, policy: policy,
                publish: publish.map { port in
                    PortForward(
                        isDatagram: port.transport == .udp, hostAddress: port.hostAddress, hostPort: port.hostPort,
                        guestPort: port.guestPort)
                })
        case .tap(let interface): return try TapNetwork(interface: interface)
        case .none: return nil
        }
    }
}

/// What a user may ask of networks, before there is a machine.
public enum MachineNetwork {
    /// The MTU that is offered to the guest. Behind NAT packets end in this process, so large ones cost the least, as long as
    /// some of them fit in libslirp's windows of 64 KiB.
    public static func defaultMTU(_ attachment: NetworkAttachment) -> UInt16 {
        switch attachment {
        case .user: 16000
        case .tap, .none: 1500
        }
    }

    /// A new card's address.
    public static func randomAddress() -> String { MACAddress.random().description }

    /// Whether `text` is a card's address.
    public static func isValid(address text: String) -> Bool { MACAddress(text) != nil }

    /// Whether `text` is an IPv4 address.
    public static func isValid(hostAddress text: String) -> Bool { IPv4Address(text) != nil }

    /// Why `rules` cannot be an outbound policy; nil when they can.
    public static func refusal(of rules: [String]) -> String? {
        do throws(NetworkError) {
            _ = try OutboundPolicy(rules)
            return nil
        } catch {
            return error.description
        }
    }
}
