// SPDX-License-Identifier: Apache-2.0
// The kernel and the initramfs of a machine, which a reboot or a snapshot of it takes.

internal import Bundle
internal import DiskImage
internal import Host
internal import Synchronization

/// Where a machine's kernel and initramfs are until somebody asks for them: not in memory.
enum BootFiles {
    case kept(kernel: KeptBytes, initramfs: KeptBytes)
    /// In the bundle that the machine was restored from, which is checked when they are read.
    case bundle(BundleReader)

    func read() throws(MachineError) -> (kernel: [UInt8], initramfs: [UInt8]) {
        switch self {
        case .kept(let kernel, let initramfs): return (try kernel.read(), try initramfs.read())
        case .bundle(let bundle):
            do throws(BundleError) {
                return (try bundle.kernel(), try bundle.initramfs())
            } catch { throw .bundle(error.description) }
        }
    }
}

/// Bytes in a file without a name, which the host can take out of memory; the files that they came from may change.
final class KeptBytes: Sendable {
    private enum Place {
        case file(ScratchFile)
        /// Until they are written, and where there is no room for such a file.
        case memory(FileBytes)
    }

    private let place: Mutex<Place>

    init(_ bytes: FileBytes) { place = Mutex(.memory(bytes)) }

    /// Moves them to a file in `folder`. Returns at once: the file is written meanwhile, and who reads waits for that.
    func store(in folder: String) {
        do { try HostThread.start { [self] in move(to: folder) } } catch { move(to: folder) }
    }

    private func move(to folder: String) {
        place.withLock { place in
            guard case .memory(let bytes) = place else { return }
            // In memory, where they cannot be written: a lease of the file must not last.
            place = (try? ScratchFile(bytes, in: folder)).map { .file($0) } ?? .memory(FileBytes(bytes.array))
        }
    }

    func read() throws(MachineError) -> [UInt8] {
        try place.withLock { place throws(MachineError) in
            switch place {
            case .memory(let bytes): return bytes.array
            case .file(let file):
                do throws(DiskImageError) { return try file.read() } catch { throw .disk(error.description) }
            }
        }
    }
}
