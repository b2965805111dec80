// SPDX-License-Identifier: Apache-2.0
// Bytes in a file that nobody else can open and that ends with the process.

package import Host

/// A file without a name that is written once.
package final class ScratchFile {
    private let file: ImageFile

    package init(_ bytes: FileBytes, in folder: String) throws(DiskImageError) {
        file = try ImageFile.scratch(in: folder)
        var failure: DiskImageError?
        bytes.withSpan {
            // SAFETY: the buffer is only used inside the closure.
            unsafe $0.withUnsafeBytes { buffer in
                do throws(DiskImageError) { unsafe try file.write(buffer, at: 0) } catch { failure = error }
            }
        }
        if let failure { throw failure }
    }

    package func read() throws(DiskImageError) -> [UInt8] {
        try file.read("a scratch file", at: 0, count: Int(file.size))
    }
}
