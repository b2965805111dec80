// SPDX-License-Identifier: Apache-2.0
// Bytes in a file that nobody else can open and that ends with the process.

/// A file without a name that is written once.
package final class ScratchFile {
    private let file: ImageFile

    package init(_ bytes: [UInt8], in folder: String) throws(DiskImageError) {
        file = try ImageFile.scratch(in: folder)
        try file.write(bytes, at: 0)
    }

    package func read() throws(DiskImageError) -> [UInt8] {
        try file.read("a scratch file", at: 0, count: Int(file.size))
    }
}
