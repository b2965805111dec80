// SPDX-License-Identifier: Apache-2.0
// Builder for the bytecode that describes devices. Spec: ACPI 6.4 chapter 20, ACPI Machine Language.

public import GuestMemory

/// A piece of AML: an object, a statement or an expression, already encoded.
public struct AML: Equatable, Sendable {
    public let bytes: [UInt8]

    private enum Opcode {
        static let zero: UInt8 = 0x00
        static let one: UInt8 = 0x01
        static let name: UInt8 = 0x08
        static let byte: UInt8 = 0x0a
        static let word: UInt8 = 0x0b
        static let doubleWord: UInt8 = 0x0c
        static let string: UInt8 = 0x0d
        static let quadWord: UInt8 = 0x0e
        static let scope: UInt8 = 0x10
        static let buffer: UInt8 = 0x11
        static let package: UInt8 = 0x12
        static let method: UInt8 = 0x14
        static let dualName: UInt8 = 0x2e
        static let multiName: UInt8 = 0x2f
        static let extended: UInt8 = 0x5b
        static let region: UInt8 = 0x80  // after `extended`
        static let field: UInt8 = 0x81  // after `extended`
        static let device: UInt8 = 0x82  // after `extended`
        static let argument: UInt8 = 0x68
        static let store: UInt8 = 0x70
        static let notify: UInt8 = 0x86
        static let equal: UInt8 = 0x93
        static let `if`: UInt8 = 0xa0
        static let `return`: UInt8 = 0xa4
        static let serialized: UInt8 = 0x08  // method flag
        static let systemMemory: UInt8 = 0  // region space
        static let byteAccess: UInt8 = 1  // field flag
    }

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    // MARK: Data

    public static func integer(_ value: UInt64) -> AML {
        switch value {
        case 0: AML([Opcode.zero])
        case 1: AML([Opcode.one])
        case ...0xff: AML([Opcode.byte, UInt8(value)])
        case ...0xffff: AML([Opcode.word] + littleEndian(UInt16(value)))
        case ...0xffff_ffff: AML([Opcode.doubleWord] + littleEndian(UInt32(value)))
        default: AML([Opcode.quadWord] + littleEndian(value))
        }
    }

    /// An ASCII string; what is not ASCII or is NUL is left out.
    public static func string(_ text: String) -> AML {
        AML([Opcode.string] + text.utf8.filter { (0x01...0x7f).contains($0) } + [0])
    }

    public static func buffer(_ contents: [UInt8]) -> AML {
        AML([Opcode.buffer] + withLength(integer(UInt64(contents.count)).bytes + contents))
    }

    /// At most 255 elements.
    public static func package(_ elements: [AML]) -> AML {
        let kept = elements.prefix(255)
        return AML([Opcode.package] + withLength([UInt8(kept.count)] + kept.flatMap(\.bytes)))
    }

    /// The compressed form of an id such as `PNP0501`: three letters, four hexadecimal digits.
    public static func eisaID(_ id: String) -> AML {
        let letters = id.utf8.prefix(3).reduce(UInt32(0)) { $0 << 5 | UInt32($1 &- 0x40) & 0x1f }
        let product = UInt32(id.dropFirst(3).prefix(4), radix: 16) ?? 0
        // The two halves are big-endian.
        return AML([Opcode.doubleWord] + littleEndian((letters << 16 | product).byteSwapped))
    }

    /// A resource template: the descriptors and an end tag.
    public static func resources(_ descriptors: [AMLResource]) -> AML {
        buffer(descriptors.flatMap(\.bytes) + AMLResource.endTag)
    }

    // MARK: Named objects

    public static func name(_ path: String, _ value: AML) -> AML {
        AML([Opcode.name] + nameString(path) + value.bytes)
    }

    public static func scope(_ path: String, _ contents: [AML]) -> AML {
        AML([Opcode.scope] + withLength(nameString(path) + contents.flatMap(\.bytes)))
    }

    public static func device(_ path: String, _ contents: [AML]) -> AML {
        AML([Opcode.extended, Opcode.device] + withLength(nameString(path) + contents.flatMap(\.bytes)))
    }

    /// A method that one thread at a time runs, with 0 to 7 arguments.
    public static func method(_ path: String, arguments: Int = 0, _ body: [AML]) -> AML {
        let flags = UInt8(min(max(arguments, 0), 7)) | Opcode.serialized
        return AML([Opcode.method] + withLength(nameString(path) + [flags] + body.flatMap(\.bytes)))
    }

    /// Guest memory that fields lie in.
    public static func memoryRegion(_ path: String, at address: GuestPhysicalAddress, count: UInt64) -> AML {
        AML(
            [Opcode.extended, Opcode.region] + nameString(path) + [Opcode.systemMemory]
                + integer(address.rawValue).bytes + integer(count).bytes)
    }

    /// The first byte of a region.
    public static func byteField(_ name: String, in region: String) -> AML {
        let bits: UInt8 = 8
        return AML(
            [Opcode.extended, Opcode.field]
                + withLength(nameString(region) + [Opcode.byteAccess] + nameString(name) + [bits]))
    }

    // MARK: Statements and expressions

    public static func store(_ value: AML, in path: String) -> AML {
        AML([Opcode.store] + value.bytes + nameString(path))
    }

    /// Argument 0 to 6 of the method.
    public static func argument(_ index: Int) -> AML { AML([Opcode.argument + UInt8(min(max(index, 0), 6))]) }

    public static func equal(_ left: AML, _ right: AML) -> AML { AML([Opcode.equal] + left.bytes + right.bytes) }

    public static func when(_ condition: AML, _ body: [AML]) -> AML {
        AML([Opcode.if] + withLength(condition.bytes + body.flatMap(\.bytes)))
    }

    public static func notify(_ path: String, _ value: UInt64) -> AML {
        AML([Opcode.notify] + nameString(path) + integer(value).bytes)
    }

    public static func returning(_ value: AML) -> AML { AML([Opcode.return] + value.bytes) }

    // MARK: Encoding

    static func littleEndian<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        (0..<Value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    /// Prefixes and segments separated by dots, each padded to four characters: `\_SB.COM1`.
    static func nameString(_ path: String) -> [UInt8] {
        let prefix = path.utf8.prefix { $0 == UInt8(ascii: "\\") || $0 == UInt8(ascii: "^") }
        let segments = path.utf8.dropFirst(prefix.count).split(separator: UInt8(ascii: ".")).prefix(255)
        let padded = segments.flatMap { segment -> [UInt8] in
            Array(segment.prefix(4)) + Array(repeating: UInt8(ascii: "_"), count: max(0, 4 - segment.count))
        }
        return switch segments.count {
        case 0: Array(prefix) + [0]
        case 1: Array(prefix) + padded
        case 2: Array(prefix) + [Opcode.dualName] + padded
        default: Array(prefix) + [Opcode.multiName, UInt8(segments.count)] + padded
        }
    }

    /// `contents` behind a package length, which counts its own one to four bytes.
    static func withLength(_ contents: [UInt8]) -> [UInt8] {
        if contents.count + 1 < 1 << 6 { return [UInt8(contents.count + 1)] + contents }
        var following = 1
        while following < 3, contents.count + 1 + following >= 1 << (4 + 8 * following) { following += 1 }
        let length = contents.count + 1 + following
        let lead = UInt8(following << 6) | UInt8(length & 0xf)
        return [lead] + (0..<following).map { UInt8(truncatingIfNeeded: length >> (4 + 8 * $0)) } + contents
    }
}
