// SPDX-License-Identifier: Apache-2.0
// A datagram socket at this host's loopback.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

final class HostSocket {
    struct Refused: Error { let code: Int32 }

    private let descriptor: Int32
    /// A free one of the host's choice.
    let port: UInt16

    init() throws(Refused) {
        #if canImport(Glibc)
            let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        #else
            let descriptor = socket(AF_INET, SOCK_DGRAM, 0)
        #endif
        var place = Self.loopback(port: 0)
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = unsafe withUnsafeMutablePointer(to: &place) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { general in
                unsafe bind(descriptor, general, size) == 0 ? unsafe getsockname(descriptor, general, &size) : -1
            }
        }
        self.descriptor = descriptor
        port = UInt16(bigEndian: place.sin_port)
        guard result == 0 else { throw Refused(code: errno) }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        unsafe _ = setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    private static func loopback(port: UInt16) -> sockaddr_in {
        var place = sockaddr_in()
        place.sin_family = sa_family_t(AF_INET)
        place.sin_port = port.bigEndian
        place.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return place
    }

    func send(_ bytes: [UInt8], to port: UInt16) {
        var place = Self.loopback(port: port)
        unsafe withUnsafeMutablePointer(to: &place) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { general in
                unsafe _ = sendto(
                    descriptor, bytes, bytes.count, 0, general, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    /// The next datagram; empty when none comes within ten seconds.
    func receive() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 2048)
        let count = unsafe recv(descriptor, &bytes, bytes.count, 0)
        return Array(bytes.prefix(max(0, count)))
    }

    /// Lets others run for a millisecond.
    func pause() { usleep(1000) }
}
