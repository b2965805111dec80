// SPDX-License-Identifier: Apache-2.0
// The kernel and initramfs of a machine: needed for each reboot and each snapshot, and not for a restore.

internal import Bundle

/// Where a machine's kernel and initramfs are.
enum BootFiles {
    case loaded(kernel: [UInt8], initramfs: [UInt8])
    /// In the bundle that the machine was restored from, which is checked when they are read.
    case bundle(BundleReader)

    func read() throws(MachineError) -> (kernel: [UInt8], initramfs: [UInt8]) {
        switch self {
        case .loaded(let kernel, let initramfs): return (kernel, initramfs)
        case .bundle(let bundle):
            do throws(BundleError) {
                return (try bundle.kernel(), try bundle.initramfs())
            } catch { throw .bundle(error.description) }
        }
    }
}
