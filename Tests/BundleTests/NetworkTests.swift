// SPDX-License-Identifier: Apache-2.0
// A machine's network in its bundle.

import TestSupport
import Testing

@testable import Bundle

/// A network that cannot be.
struct BadNetwork: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let network: NetworkConfiguration

    init(_ description: String, address: String = "02:00:00:00:00:01", mtu: UInt16 = 1500, _ host: NetworkAttachment) {
        testDescription = description
        network = NetworkConfiguration(address: address, mtu: mtu, attachment: host)
    }

    static let port = PublishedPort(transport: .tcp, hostAddress: "127.0.0.1", hostPort: 8080, guestPort: 80)

    static let all = [
        Self("an address that is none", address: "02", .none), Self("a small MTU", mtu: 575, .none),
        Self("a large MTU", mtu: 65521, .none), Self("a path for an interface", .tap(interface: "../tap")),
        Self("a long interface", .tap(interface: "abcdefghijklmnop")),
        Self("an empty destination", .user(allow: [""], publish: [])),
        Self("too many destinations", .user(allow: Array(repeating: "a.b", count: 257), publish: [])),
        Self("too many ports", .user(allow: nil, publish: Array(repeating: port, count: 257))),
    ]
}

struct NetworkTests {
    private static let networks: [NetworkConfiguration?] = [
        nil, .init(address: "02:00:00:00:00:01", mtu: 65520, attachment: .none),
        .init(address: "02:00:00:00:00:01", mtu: 1500, attachment: .tap(interface: "tap0")),
        .init(address: "02:00:00:00:00:01", mtu: 1500, attachment: .user(allow: nil, publish: [])),
        .init(
            address: "02:00:00:00:00:01", mtu: 1500,
            attachment: .user(allow: ["example.org", "192.0.2.0/24"], publish: [BadNetwork.port])),
    ]

    @Test(arguments: networks)
    func `a network comes back as it was`(network: NetworkConfiguration?) throws {
        let folder = try TemporaryFolder()
        var contents = smallContents(memory: try smallMemory())
        contents.configuration.network = network
        _ = try BundleWriter.write(contents, to: folder.file("network.smolmachine"))
        let reader = try BundleReader(path: folder.file("network.smolmachine"))
        #expect(reader.manifest.configuration.network == network)
    }

    @Test(arguments: BadNetwork.all)
    func `a network that cannot be is refused`(bad: BadNetwork) throws {
        var configuration = smallContents(memory: try smallMemory()).configuration
        configuration.network = bad.network
        let error = #expect(throws: BundleError.self) { try configuration.validate() }
        #expect(error?.description.contains("configuration.network.") == true)
    }
}
