// SPDX-License-Identifier: Apache-2.0
// Descriptors of the host that are waited for as one.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A set of descriptors: its own is readable while one of them has an event.
final class DescriptorSet {
    struct Events: OptionSet {
        let rawValue: UInt32
        static let readable = Self(rawValue: UInt32(CHOST_SET_READABLE))
        static let writable = Self(rawValue: UInt32(CHOST_SET_WRITABLE))
        static let urgent = Self(rawValue: UInt32(CHOST_SET_URGENT))
        static let error = Self(rawValue: UInt32(CHOST_SET_ERROR))
        static let hangup = Self(rawValue: UInt32(CHOST_SET_HANGUP))
    }

    let descriptor: Int32
    /// What is waited for.
    private var members: [Int32: Events] = [:]
    private var found = [chost_event](repeating: chost_event(), count: Int(CHOST_EVENT_LIMIT))

    init() throws(NetworkError) {
        descriptor = chost_set_create()
        guard descriptor >= 0 else { throw .hostRefused(what: "a set of sockets to wait for", errno: errno) }
    }

    deinit { close(descriptor) }

    /// From now on the members are those of `wanted`.
    func update(_ wanted: [Int32: Events]) {
        for member in members.keys where wanted[member] == nil { chost_set_remove(descriptor, member) }
        for (member, events) in wanted where members[member] != events {
            _ = chost_set_put(descriptor, member, events.rawValue)
        }
        members = wanted
    }

    /// A member is about to be closed, and its number may come again.
    func forget(_ member: Int32) {
        if members.removeValue(forKey: member) != nil { chost_set_remove(descriptor, member) }
    }

    /// What has happened to members so far.
    func poll() -> [Int32: Events] {
        // SAFETY: `found` has room for the limit.
        let count = unsafe chost_set_poll(descriptor, &found)
        guard count > 0 else { return [:] }
        return Dictionary(
            found.prefix(Int(count)).map { ($0.descriptor, Events(rawValue: $0.events)) }, uniquingKeysWith: { $1 })
    }
}
