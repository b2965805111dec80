// SPDX-License-Identifier: Apache-2.0
// Sends a file or a folder with everything in it. Compiled into host and guest.

internal import CAgentFiles

/// Reads a tree and sends it. What cannot be read is told as skipped; the rest goes on.
public struct TreeSender {
    private let stream: FrameStream
    private var buffer = [UInt8](repeating: 0, count: AgentProtocol.dataSize)

    public init(_ stream: FrameStream) { self.stream = stream }

    /// Sends what is at `path`. A path that names a folder by itself, such as `dir/.`, sends what is in it.
    public mutating func send(_ path: [UInt8]) throws(TreeError) {
        let (folderPath, name) = TreeName.split(path)
        let folder = unsafe TreeName.with(folderPath) { unsafe agent_open_path($0) }
        guard folder >= 0 else { throw .failure(TreeName.failure("cannot open", folderPath, agent_error())) }
        let owned = OwnedDescriptor(folder)
        if name.isEmpty {
            var file = agent_file()
            // SAFETY: `file` outlives the call.
            guard unsafe agent_inspect_open(folder, &file) == 0 else {
                throw .failure(TreeName.failure("cannot read", folderPath, agent_error()))
            }
            try sendFolder(owned, [], file, depth: 0)
        } else {
            try sendEntry(owned, name, depth: 0)
        }
        try queue(Frame(.endOfTree))
        do throws(FrameError) { try stream.flush() } catch { throw .conversation(error) }
    }

    private func queue(_ frame: Frame) throws(TreeError) {
        do throws(FrameError) { try stream.queue(frame) } catch { throw .conversation(error) }
    }

    /// At the top what fails is a failure; deeper it is left out.
    private func fail(_ what: StaticString, _ name: [UInt8], _ error: Int32, depth: Int) throws(TreeError) {
        let failure = TreeName.failure(what, name, error)
        if depth == 0 { throw .failure(failure) }
        try queue(Frame(.skipped, failure.text))
    }

    private mutating func sendEntry(_ folder: OwnedDescriptor, _ name: [UInt8], depth: Int) throws(TreeError) {
        var file = agent_file()
        // SAFETY: `file` outlives the call.
        guard unsafe TreeName.with(name, { unsafe agent_inspect(folder.number, $0, &file) }) == 0 else {
            return try fail("cannot read", name, agent_error(), depth: depth)
        }
        switch Int(file.kind) {
        case AGENT_FILE: try sendFile(folder, name, depth: depth)
        case AGENT_LINK: try sendLink(folder, name, file, depth: depth)
        case AGENT_FOLDER:
            let descriptor = unsafe TreeName.with(name) { unsafe agent_open_folder(folder.number, $0) }
            guard descriptor >= 0 else { return try fail("cannot open", name, agent_error(), depth: depth) }
            try sendFolder(OwnedDescriptor(descriptor), name, file, depth: depth)
        default:
            let text = [UInt8]("'") + name + [UInt8]("' is neither a file, a folder nor a link")
            if depth == 0 { throw .failure(Failure(.other, text)) }
            try queue(Frame(.skipped, text))
        }
    }

    private mutating func sendFolder(
        _ folder: OwnedDescriptor, _ name: [UInt8], _ file: agent_file, depth: Int
    ) throws(TreeError) {
        guard depth < TreeName.deepest, let list = unsafe agent_list(folder.number) else {
            return try fail("cannot list", name, agent_error(), depth: depth)
        }
        // SAFETY: ended once, here.
        defer { unsafe agent_end_list(list) }
        try queue(TreeEntry(name, file).frame(.folder))
        while var next = unsafe agent_next(list) {
            var entry: [UInt8] = []
            // SAFETY: the name ends with NUL and is copied before the next call.
            while unsafe next.pointee != 0 {
                entry.append(UInt8(bitPattern: unsafe next.pointee))
                unsafe next += 1
            }
            if TreeName.isValid(entry) { try sendEntry(folder, entry, depth: depth + 1) }
        }
        try queue(Frame(.leave))
    }

    private func sendLink(
        _ folder: OwnedDescriptor, _ name: [UInt8], _ file: agent_file, depth: Int
    ) throws(TreeError) {
        var target = [CChar](repeating: 0, count: 4096)
        // SAFETY: `target` has the count that is passed.
        let count = unsafe TreeName.with(name) { unsafe agent_read_link(folder.number, $0, &target, 4096) }
        guard count > 0 else { return try fail("cannot read the link", name, agent_error(), depth: depth) }
        let text = target[..<Int(count)].map { UInt8(bitPattern: $0) }
        try queue(TreeEntry(name, file, target: text).frame(.link))
    }

    private mutating func sendFile(_ folder: OwnedDescriptor, _ name: [UInt8], depth: Int) throws(TreeError) {
        let descriptor = unsafe TreeName.with(name) { unsafe agent_open_file(folder.number, $0) }
        guard descriptor >= 0 else { return try fail("cannot open", name, agent_error(), depth: depth) }
        let owned = OwnedDescriptor(descriptor)
        var file = agent_file()
        // SAFETY: `file` outlives the call.
        guard unsafe agent_inspect_open(owned.number, &file) == 0, Int(file.kind) == AGENT_FILE else {
            return try fail("cannot read", name, agent_error(), depth: depth)
        }
        try queue(TreeEntry(name, file).frame(.file))
        var isWhole = true
        while true {
            // SAFETY: the buffer's own count.
            let count = unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe agent_read(owned.number, bytes.baseAddress, UInt(bytes.count))
            }
            guard count > 0 else {
                isWhole = count == 0
                break
            }
            do throws(FrameError) {
                try stream.queue(.data, buffer[..<Int(count)])
            } catch {
                throw .conversation(error)
            }
        }
        if !isWhole { try queue(Frame(.skipped, TreeName.failure("cannot read", name, agent_error()).text)) }
        try queue(Frame(.endOfFile, [isWhole ? 1 : 0]))
    }
}
