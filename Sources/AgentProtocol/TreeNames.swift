// SPDX-License-Identifier: Apache-2.0
// Names of files in copied trees: bytes, for file systems know no encoding. Compiled into host and guest.

internal import CAgentFiles

/// Why a copy ended early.
public enum TreeError: Error, Equatable, Sendable {
    case conversation(FrameError)
    case failure(Failure)
}

/// A descriptor that is closed with its owner.
final class OwnedDescriptor {
    let number: Int32
    init(_ number: Int32) { self.number = number }
    deinit { agent_close(number) }
}

enum TreeName {
    /// Folders in each other, of which each takes a descriptor.
    static let deepest = 200

    /// Whether `name` names something in its folder and nowhere else.
    static func isValid(_ name: [UInt8]) -> Bool {
        !name.isEmpty && name.count <= 255 && !name.contains(UInt8(ascii: "/")) && !name.contains(0)
            && name != [UInt8](".") && name != [UInt8]("..")
    }

    /// Folder and last part of `path`. The last part is empty when the path names a folder by itself: `/`, `.`, `a/..`.
    static func split(_ path: [UInt8]) -> (folder: [UInt8], name: [UInt8]) {
        let slash = UInt8(ascii: "/")
        var end = path.count
        while end > 1, path[end - 1] == slash { end -= 1 }
        let trimmed = path[..<end]
        let start = trimmed.lastIndex(of: slash).map { $0 + 1 } ?? 0
        let name = Array(trimmed[start...])
        guard isValid(name) else { return (Array(trimmed), []) }
        return (start == 0 ? [UInt8](".") : Array(trimmed[..<max(start - 1, 1)]), name)
    }

    /// Calls `body` with `name` as C has it.
    static func with<Value>(_ name: [UInt8], _ body: (UnsafePointer<CChar>) -> Value) -> Value {
        var text = name
        text.append(0)
        return unsafe text.withUnsafeBytes { bytes in
            // SAFETY: not empty, ends with NUL, and lives for the call; CChar has the size of UInt8.
            unsafe body(bytes.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: CChar.self))
        }
    }

    /// `WHAT 'NAME': TEXT OF THE ERROR`
    static func failure(_ what: StaticString, _ name: [UInt8], _ error: Int32) -> Failure {
        Failure(.other, [UInt8](what) + [UInt8](" '") + name + [UInt8]("': ") + [UInt8](error: error))
    }
}

/// What is sent of a file, a folder or a link before anything else.
struct TreeEntry {
    /// One part; empty at the top when the receiver names it.
    var name: [UInt8]
    /// Mode and time.
    var file: agent_file
    /// Of a link.
    var target: [UInt8] = []

    init(_ name: [UInt8], _ file: agent_file, target: [UInt8] = []) {
        self.name = name
        self.file = file
        self.target = target
    }

    func frame(_ kind: FrameKind) -> Frame {
        var fields = FieldWriter()
        fields.add(name)
        fields.add(file.mode)
        fields.add(file.modified_seconds)
        fields.add(file.modified_nanoseconds)
        fields.add(target)
        return Frame(kind, fields.bytes)
    }

    init(_ payload: [UInt8]) throws(FrameError) {
        var fields = FieldReader(payload)
        name = try fields.readName()
        file = agent_file()
        file.mode = try fields.read(UInt32.self)
        file.modified_seconds = try fields.read(Int64.self)
        file.modified_nanoseconds = try fields.read(Int32.self)
        target = try fields.readName()
        try fields.finish()
        guard (0..<1_000_000_000).contains(file.modified_nanoseconds) else { throw .malformed }
    }
}
