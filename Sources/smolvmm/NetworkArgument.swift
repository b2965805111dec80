// SPDX-License-Identifier: Apache-2.0
// The values of --net and --publish.

import ArgumentParser
import Bundle
import Machine

/// A network as the command line names it.
struct NetworkArgument: Equatable, ExpressibleByArgument {
    static let grammar = "user[,allow=DESTINATION]...|tap,ifname=NAME[,mac=ADDRESS][,mtu=BYTES]"

    var attachment: NetworkAttachment
    var address: String?
    var mtu: UInt16?

    /// Nil unless `argument` follows the grammar.
    init?(argument: String) {
        let words = argument.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        var allow: [String]?
        var interface: String?
        for word in words.dropFirst() {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2 else { return nil }
            switch (words[0], parts[0]) {
            case ("user", "allow"): allow = (allow ?? []) + (parts[1].isEmpty ? [] : [parts[1]])
            case ("tap", "ifname"):
                guard interface == nil, NetworkConfiguration.isValid(interface: parts[1]) else { return nil }
                interface = parts[1]
            case (_, "mac"):
                guard MachineNetwork.isValid(address: parts[1]) else { return nil }
                address = parts[1].lowercased()
            case (_, "mtu"):
                guard let value = UInt16(parts[1]), NetworkConfiguration.mtuRange.contains(value) else { return nil }
                mtu = value
            default: return nil
            }
        }
        switch words[0] {
        case "user":
            guard (allow?.count ?? 0) <= NetworkConfiguration.largestList,
                MachineNetwork.refusal(of: allow ?? []) == nil
            else { return nil }
            attachment = .user(allow: allow, publish: [])
        case "tap":
            guard let interface else { return nil }
            attachment = .tap(interface: interface)
        case "none": attachment = .none
        default: return nil
        }
    }

    /// A new machine's network.
    func configuration(publish: [PublishedPort]) -> NetworkConfiguration {
        var attachment = attachment
        if case .user(let allow, _) = attachment { attachment = .user(allow: allow, publish: publish) }
        return NetworkConfiguration(
            address: address ?? MachineNetwork.randomAddress(), mtu: mtu ?? MachineNetwork.defaultMTU(attachment),
            attachment: attachment)
    }
}

/// A published port as the command line names it.
struct PublishArgument: Equatable, ExpressibleByArgument {
    static let grammar = "[ADDRESS:]HOST:GUEST[/udp]"
    private static let defaultAddress = "127.0.0.1"

    var port: PublishedPort

    /// Nil unless `argument` follows the grammar.
    init?(argument: String) {
        let parts = argument.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        var transport = PublishedPort.Transport.tcp
        if parts.count == 2 {
            guard let told = PublishedPort.Transport(rawValue: parts[1]) else { return nil }
            transport = told
        }
        var words = parts[0].split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        let address = words.count == 3 ? words.removeFirst() : Self.defaultAddress
        guard words.count == 2, MachineNetwork.isValid(hostAddress: address), let host = UInt16(words[0]), host > 0,
            let guest = UInt16(words[1]), guest > 0
        else { return nil }
        port = PublishedPort(transport: transport, hostAddress: address, hostPort: host, guestPort: guest)
    }
}

/// The same, or none.
struct RestorePublishArgument: Equatable, ExpressibleByArgument {
    /// Nil: none.
    var port: PublishedPort?

    init?(argument: String) {
        guard argument != "none" else { return }
        guard let told = PublishArgument(argument: argument) else { return nil }
        port = told.port
    }
}
