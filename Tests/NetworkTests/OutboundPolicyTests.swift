// SPDX-License-Identifier: Apache-2.0
// What an outbound policy lets out, and what it takes for one.

import Testing
import Virtio
@testable import Network

struct OutboundPolicyTests {
    @Test func `ranges contain what they contain, and nothing else`() throws {
        let policy = try OutboundPolicy(["192.0.2.7", "198.51.100.0/24", "10.0.0.0/8"])
        for text in ["192.0.2.7", "198.51.100.0", "198.51.100.255", "10.255.0.1"] {
            #expect(policy.allows(address(text)), "\(text)")
        }
        for text in ["192.0.2.6", "198.51.101.0", "198.51.99.255", "11.0.0.0", "9.255.255.255"] {
            #expect(!policy.allows(address(text)), "\(text)")
        }
        #expect(try OutboundPolicy(["0.0.0.0/0"]).allows(address("203.0.113.1")))
        #expect(try !OutboundPolicy([]).allows(address("203.0.113.1")))
    }

    @Test func `no range means the host's loopback: it has to be named`() throws {
        #expect(try !OutboundPolicy(["10.0.0.0/8", "0.0.0.0/0", "10.0.2.0/24"]).allows(UserNetworkLayout.gateway))
        #expect(try OutboundPolicy(["10.0.2.2"]).allows(UserNetworkLayout.gateway))
    }

    @Test(arguments: [
        "", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "300.1.1.1", "1.2.3", "a..b", "ex ample.org", "example.org/8",
        "-.5", "*.example.org",
    ])
    func `what is no destination is refused`(rule: String) {
        #expect(throws: NetworkError.invalidRule(rule)) { try OutboundPolicy([rule]) }
    }

    @Test func `names are learnt, but not where they must not lead`() throws {
        var policy = try OutboundPolicy(["Example.org"])
        #expect(policy.allows(name: "example.org"))
        #expect(!policy.allows(name: "www.example.org"))
        func resolution(_ address: IPv4Address, _ name: String = "example.org") -> NetworkSession.Resolution {
            .init(name: name, address: address)
        }
        let wrong = ["127.0.0.1", "10.0.2.2", "169.254.169.254", "0.0.0.0", "224.0.0.1"]
        policy.learn((wrong + ["192.0.2.1"]).map { resolution(address($0)) })
        policy.learn([resolution(address("192.0.2.2"), "www.example.org")])
        #expect(policy.resolved == [resolution(address("192.0.2.1"))])
        #expect(policy.allows(address("192.0.2.1")))
        policy.learn((0..<2000 as Range<UInt32>).map { resolution(IPv4Address(0xc633_0000 + $0)) })
        #expect(policy.resolved.count == NetworkSession.largestResolved)
        #expect(!policy.allows(address("192.0.2.1")))
    }
}

struct DomainMessageTests {
    @Test func `a question is read and refused`() throws {
        let message = try #require(DomainMessage(question("WWW.Example.org")))
        #expect(message.name == "www.example.org")
        #expect(message.isPlainQuestion)
        let refusal = try #require(DomainMessage(message.refusal))
        #expect(refusal.name == message.name)
        #expect(Array(message.refusal.prefix(4)) == [0x12, 0x34, 0x81, 5])
        #expect(refusal.addresses.isEmpty)
    }

    @Test func `what hides other words in a question is not plain`() {
        let size: [UInt8] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]
        #expect(DomainMessage(question("a.b", more: size, records: 1))?.isPlainQuestion == true)
        var cookie = size
        cookie[10] = 4
        #expect(DomainMessage(question("a.b", more: cookie + [1, 2, 3, 4], records: 1))?.isPlainQuestion == false)
        #expect(DomainMessage(question("a.b", more: [1]))?.isPlainQuestion == false)
        #expect(DomainMessage(question("a.b", records: 2))?.isPlainQuestion == false)
        var answer = question("a.b")
        answer[2] |= 0x80
        #expect(DomainMessage(answer)?.isPlainQuestion == false)
    }

    @Test func `addresses come out of an answer with aliases`() throws {
        var answer = question("a.example")
        answer[2] |= 0x80
        answer[7] = 3
        let alias: [UInt8] = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 98, 0xc0, 14]
        let first: [UInt8] = [1, 98, 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]
        let second: [UInt8] = [1, 98, 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 2]
        #expect(
            try #require(DomainMessage(answer + alias + first + second)).addresses
                == ["192.0.2.1", "192.0.2.2"].map(address))
        // Cut anywhere it gives fewer, and never traps.
        let whole = answer + alias + first + second
        for count in 0..<whole.count { _ = DomainMessage(whole.prefix(count))?.addresses }
        answer[3] |= 3
        #expect(try #require(DomainMessage(answer + alias + first)).addresses.isEmpty)
    }

    @Test func `bytes at random are refused or read`() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var bytes = (0..<Int.random(in: 0..<80)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            if bytes.count > 6 {
                bytes[4] = 0
                bytes[5] = 1
            }
            let message = DomainMessage(bytes)
            _ = message?.isPlainQuestion
            _ = message?.addresses
            _ = message?.refusal
        }
    }
}
