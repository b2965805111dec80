// SPDX-License-Identifier: Apache-2.0
// The kernel and the initramfs of a machine, which a reboot or a snapshot of it takes.

internal import Bundle
internal import DiskImage

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
struct KeptBytes {
    private let file: ScratchFile?
    /// All of them, where there is no room for such a file.
    private let bytes: [UInt8]

    init(_ bytes: [UInt8], scratchFolder: String) {
        file = try? ScratchFile(bytes, in: scratchFolder)
        self.bytes = file == nil ? bytes : []
    }

    func read() throws(MachineError) -> [UInt8] {
        guard let file else { return bytes }
        do throws(DiskImageError) { return try file.read() } catch { throw .disk(error.description) }
    }
}
