// SPDX-License-Identifier: Apache-2.0
// Values and options that the commands for disk images share.

public import ArgumentParser
public import DiskImage

extension DiskFormat: ExpressibleByArgument {}
extension DiskRepair: ExpressibleByArgument {}

extension Qcow2Compression: ExpressibleByArgument {
    public init?(argument: String) {
        switch argument {
        case "zlib": self = .zlib
        case "zstd": self = .zstd
        default: return nil
        }
    }

    public static var allValueStrings: [String] { ["zlib", "zstd"] }
    public var defaultValueDescription: String { self == .zlib ? "zlib" : "zstd" }
}

/// A number of bytes: plain, or with a unit as everywhere else.
struct DiskSize: Equatable, ExpressibleByArgument {
    var bytes: UInt64

    init(bytes: UInt64) { self.bytes = bytes }

    init?(argument: String) {
        if !argument.isEmpty, argument.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt64(argument) {
            bytes = number
        } else if let size = ByteSize(argument: argument) {
            bytes = size.bytes
        } else {
            return nil
        }
    }

    var defaultValueDescription: String { ByteSize(bytes: bytes).defaultValueDescription }
}

/// A new size: as it is, or more or less than the old one.
struct DiskSizeChange: Equatable, ExpressibleByArgument {
    enum Direction: Equatable {
        case to
        case more
        case less
    }

    var direction: Direction
    var size: DiskSize

    init?(argument: String) {
        direction = argument.hasPrefix("+") ? .more : argument.hasPrefix("-") ? .less : .to
        guard let size = DiskSize(argument: String(argument.dropFirst(direction == .to ? 0 : 1))) else { return nil }
        self.size = size
    }

    /// The new size of a disk of `old` bytes; nil where there is none.
    func applied(to old: UInt64) -> UInt64? {
        let (value, overflow) =
            switch direction {
            case .to: (size.bytes, false)
            case .more: old.addingReportingOverflow(size.bytes)
            case .less: old.subtractingReportingOverflow(size.bytes)
            }
        return overflow ? nil : value
    }
}

/// Where backing files may be.
enum BackingPlace: String, ExpressibleByArgument, CaseIterable {
    case beside
    case any
}

struct BackingOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Where backing files may be: beside (in the image's folder or below) or any.", valueName: "place"))
    var backing = BackingPlace.beside

    var allowsAny: Bool { backing == .any }
}
