// SPDX-License-Identifier: Apache-2.0
// The guest's TCP connections, followed from outside: a copy of the machine has to end them.

internal import Virtio

/// Connections by what the packets say.
struct ConnectionTable {
    private struct Key: Hashable {
        var guestAddress: IPv4Address
        var guestPort: UInt16
        var peerAddress: IPv4Address
        var peerPort: UInt16
    }

    private struct Entry {
        /// What the guest acknowledged last.
        var expected: UInt32
        var guestHasFinished = false
        var peerHasFinished = false
        /// When the guest sent last, in packets of all connections.
        var lastUse: UInt64

        var isOver: Bool { guestHasFinished && peerHasFinished }
    }

    private var entries: [Key: Entry] = [:]
    private var clock: UInt64 = 0

    /// The guest sends a segment.
    mutating func sent(_ segment: InternetPacket.Segment, of packet: InternetPacket) {
        let key = Key(
            guestAddress: packet.source, guestPort: segment.sourcePort, peerAddress: packet.destination,
            peerPort: segment.destinationPort)
        // Without an acknowledgement there is no connection yet, or no more.
        guard segment.flags.contains(.acknowledge), !segment.flags.contains(.reset) else {
            entries[key] = nil
            return
        }
        clock += 1
        if entries[key] == nil, entries.count >= NetworkSession.largestConnections { makeRoom() }
        entries[key, default: Entry(expected: 0, lastUse: 0)].expected = segment.acknowledgement
        entries[key]?.lastUse = clock
        if segment.flags.contains(.finish) { entries[key]?.guestHasFinished = true }
    }

    /// The guest gets a segment.
    mutating func received(_ segment: InternetPacket.Segment, of packet: InternetPacket) {
        guard !segment.flags.isDisjoint(with: [.reset, .finish, .synchronize]) else { return }
        let key = Key(
            guestAddress: packet.destination, guestPort: segment.destinationPort, peerAddress: packet.source,
            peerPort: segment.sourcePort)
        switch segment.flags {
        case _ where segment.flags.contains(.reset): entries[key] = nil
        case _ where segment.flags.contains(.finish): entries[key]?.peerHasFinished = true
        // The peer begins anew.
        case _ where !segment.flags.contains(.acknowledge): entries[key] = nil
        default: break
        }
    }

    private mutating func makeRoom() {
        // The last acknowledgements of connections that are over may still come: they stay as long as there is room.
        entries = entries.filter { !$0.value.isOver }
        guard entries.count >= NetworkSession.largestConnections else { return }
        if let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse })?.key { entries[oldest] = nil }
    }

    /// Those that are open on either side.
    var open: [NetworkSession.Connection] {
        entries.filter { !$0.value.isOver }
            .map { key, entry in
                NetworkSession.Connection(
                    guestAddress: key.guestAddress, guestPort: key.guestPort, peerAddress: key.peerAddress,
                    peerPort: key.peerPort, expected: entry.expected)
            }
            .sorted {
                ($0.guestAddress, $0.guestPort, $0.peerAddress, $0.peerPort)
                    < ($1.guestAddress, $1.guestPort, $1.peerAddress, $1.peerPort)
            }
    }
}
