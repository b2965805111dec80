// SPDX-License-Identifier: Apache-2.0
// A TAP interface of the host: the guest is a machine of the host's network, or of a bridge that has the interface.

internal import CHost
public import Virtio

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Frames go through as they are, unfinished checksums and long segments included. The machine's thread only.
public final class TapNetwork: NetworkBackend {
    /// The header and the longest frame that the interface has.
    private static let bufferSize = NetworkHeader.size + 14 + 4 + 65535
    /// Frames that are read before the guest runs again.
    private static let batch = 256

    public weak var guest: (any NetworkGuest)?
    private let descriptor: Int32
    private var buffer = [UInt8](repeating: 0, count: bufferSize)
    /// Bytes of a frame in `buffer` that the guest had no room for.
    private var kept = 0

    /// - Parameter name: of an interface that exists.
    public init(interface name: String) throws(NetworkError) {
        guard unsafe chost_interface_index(name) != 0 else { throw .noInterface(name) }
        descriptor = unsafe chost_open_tap(name, Int32(NetworkHeader.size))
        guard descriptor >= 0 else { throw .interfaceRefused(name, errno: errno) }
    }

    deinit { close(descriptor) }

    public func setOffloads(_ offloads: NetworkOffloads) {
        // Without them the host finishes frames before it hands them out.
        _ = chost_set_tap_offload(
            descriptor, offloads.contains(.checksum) ? 1 : 0, offloads.contains(.segmentation4) ? 1 : 0,
            offloads.contains(.segmentation6) ? 1 : 0)
    }

    /// The host checks the header, and refuses what cannot be.
    public func transmit(_ packet: inout [UInt8]) {
        // SAFETY: the array has the count that is passed.
        unsafe _ = write(descriptor, packet, packet.count)
    }

    public func poll() {
        guard let guest else { return }
        for _ in 0..<Self.batch {
            if kept == 0 {
                guard guest.hasRoom else { return }
                // SAFETY: `buffer` has the count that is passed.
                kept = unsafe max(0, read(descriptor, &buffer, Self.bufferSize))
            }
            guard kept > 0 else { return }
            guard let header = NetworkHeader(buffer), kept > NetworkHeader.size else {
                kept = 0
                continue
            }
            // SAFETY: `kept` is at most the buffer's count.
            let isTaken = unsafe buffer.withUnsafeBytes { bytes in
                unsafe guest.receive(header, UnsafeRawBufferPointer(rebasing: bytes[NetworkHeader.size..<kept]))
            }
            guard isTaken else { return }
            kept = 0
        }
    }

    public func prepareToWait() -> NetworkWait {
        // Without room for a frame there is nothing to do with the next: the driver tells of room.
        NetworkWait(descriptor: kept == 0 && guest?.hasRoom == true ? descriptor : nil)
    }

    /// Its connections are those of the host's network, whose peers know what to do with a copy's packets.
    public func saveSession() -> NetworkSession { NetworkSession() }
    public func resume(_ session: NetworkSession, guest address: MACAddress) {}
}
