// SPDX-License-Identifier: Apache-2.0
// Values of the command line: sizes, names.

import Testing

@testable import smolvmm

struct ArgumentTests {
    private static let sizes: [(String, UInt64)] = [
        ("256M", 0x1000_0000), ("1G", 0x4000_0000), ("512k", 0x8_0000), ("1.5GiB", 0x6000_0000),
        ("2T", 0x200_0000_0000), ("0.25g", 0x1000_0000), ("64MB", 0x400_0000), ("1024mib", 0x4000_0000),
    ]

    @Test(arguments: sizes)
    func `sizes are powers of 1024`(_ text: String, _ bytes: UInt64) {
        #expect(ByteSize(argument: text)?.bytes == bytes)
    }

    @Test(arguments: [
        "", "M", "256", "-1G", "1.G", ".5G", "1.3K", "1GG", "1 G", "1e3M", "99999999999G", "0x10M", "1.2.3M", "١M",
    ])
    func `what is no size is refused`(_ text: String) {
        #expect(ByteSize(argument: text) == nil)
    }

    private static let shownSizes: [(UInt64, String)] = [
        (0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1 KiB"), (0x1000_0000, "256 MiB"),
        (25_270_681, "24.1 MiB"), (0x6000_0000, "1.5 GiB"), (.max, "16777216 TiB"),
    ]

    @Test(arguments: shownSizes)
    func `sizes are shown for people`(_ bytes: UInt64, _ text: String) {
        #expect(ByteSize(bytes: bytes).description == text)
    }

    @Test(arguments: ["a", "web-1", "_x", "9.lives", String(repeating: "n", count: 64)])
    func `names of machines are accepted`(_ text: String) {
        #expect(MachineName(argument: text)?.text == text)
    }

    @Test(arguments: ["", ".hidden", "-x", "a/b", "..", "a b", "ü", "a\n", String(repeating: "n", count: 65)])
    func `names that are no safe file names are refused`(_ text: String) {
        #expect(MachineName(argument: text) == nil)
    }

    @Test(arguments: [
        ("/boot/vmlinuz-6.1.0-cloud", "vmlinuz-6.1.0-cloud-77"), ("app.smolmachine", "app-77"),
        ("./-we ird-.smolmachine", "we_ird--77"), ("/", "machine-77"), (".smolmachine", "machine-77"),
    ])
    func `a name is made from the file's`(_ path: String, _ name: String) {
        #expect(MachineName(from: path, process: 77).text == name)
    }

    @Test func `a name made from a long file's is valid`() {
        let name = MachineName(from: String(repeating: "x", count: 300), process: 4_194_304)
        #expect(MachineName(argument: name.text) == name)
    }
}
