// SPDX-License-Identifier: Apache-2.0
// Takes a tree of files that the other side sends. Compiled into host and guest.

internal import CAgentFiles

/// Writes a tree below one folder, whatever the other side says: names are single parts, links are never followed, and a
/// file gets its name when it is whole.
public struct TreeReceiver {
    private struct OpenFolder {
        let descriptor: OwnedDescriptor
        let file: agent_file
    }

    /// A name that no other copy has at the same time.
    private static let temporary = [UInt8](".smolvmm-copy-") + [UInt8](decimal: Int(agent_process()))
    private static let mostSkipped = 100

    private let stream: FrameStream
    /// What is at the top goes there; its name there, or nil for the one it comes with.
    private let top: OwnedDescriptor
    private let topName: [UInt8]?
    /// The folders that were entered, and how each is to look when it is left.
    private var folders: [OpenFolder] = []
    private var hasBegun = false
    /// The frame that came last.
    private var frame = Frame(.done)
    /// What the other side could not send, one text for each.
    public private(set) var skipped: [[UInt8]] = []

    /// Into `path` when that is a folder, else to `path` in a folder that exists.
    public init(_ stream: FrameStream, into path: [UInt8]) throws(Failure) {
        self.stream = stream
        let existing = unsafe TreeName.with(path) { unsafe agent_open_path($0) }
        if existing >= 0 {
            top = OwnedDescriptor(existing)
            topName = nil
            return
        }
        let error = agent_error()
        let (folderPath, name) = TreeName.split(path)
        guard !name.isEmpty, path.last != UInt8(ascii: "/") else {
            throw TreeName.failure("cannot open the folder", path, error)
        }
        let folder = unsafe TreeName.with(folderPath) { unsafe agent_open_path($0) }
        guard folder >= 0 else { throw TreeName.failure("cannot open the folder", folderPath, agent_error()) }
        top = OwnedDescriptor(folder)
        topName = name
    }

    /// Takes the tree to its end.
    public mutating func receive() throws(TreeError) {
        while true {
            switch try next() {
            case .folder: try enter(try entry())
            case .file: try takeFile(try entry())
            case .link: try makeLink(try entry())
            case .leave: try leave()
            case .endOfTree:
                guard folders.isEmpty, hasBegun else { throw .conversation(.unexpected) }
                return
            default: throw .conversation(.unexpected)
            }
        }
    }

    /// Takes the next frame that is not a remark; returns its kind.
    private mutating func next() throws(TreeError) -> FrameKind {
        while true {
            do throws(FrameError) { try stream.receive(into: &frame) } catch { throw .conversation(error) }
            switch frame.kind {
            case .skipped: if skipped.count < Self.mostSkipped { skipped.append(frame.payload) }
            case .failure: throw .failure(Failure(payload: frame.payload))
            default: return frame.kind
            }
        }
    }

    /// The entry that came, with the name that it gets here.
    private mutating func entry() throws(TreeError) -> TreeEntry {
        var entry: TreeEntry
        do throws(FrameError) { entry = try TreeEntry(frame.payload) } catch { throw .conversation(error) }
        if folders.isEmpty {
            // One thing is at the top.
            guard !hasBegun else { throw .conversation(.unexpected) }
            if let topName { entry.name = topName }
        }
        hasBegun = true
        let isContents = folders.isEmpty && entry.name.isEmpty && frame.kind == .folder
        guard isContents || TreeName.isValid(entry.name) else {
            throw .failure(Failure(.other, [UInt8]("the other side sent the name '") + entry.name + [UInt8]("'")))
        }
        return entry
    }

    private var current: OwnedDescriptor { folders.last?.descriptor ?? top }

    private func failure(_ what: StaticString, _ name: [UInt8]) -> TreeError {
        .failure(TreeName.failure(what, name, agent_error()))
    }

    private mutating func enter(_ entry: TreeEntry) throws(TreeError) {
        guard folders.count < TreeName.deepest else {
            throw .failure(Failure(.other, [UInt8]("the folders are too deep at '") + entry.name + [UInt8]("'")))
        }
        // What is in a folder goes into the one that is there.
        let name = entry.name.isEmpty ? [UInt8](".") : entry.name
        if !entry.name.isEmpty {
            let made = unsafe TreeName.with(name) { unsafe agent_make_folder(current.number, $0) }
            guard made == 0 || agent_name_exists() != 0 else { throw failure("cannot make the folder", name) }
        }
        let descriptor = unsafe TreeName.with(name) { unsafe agent_open_folder(current.number, $0) }
        guard descriptor >= 0 else { throw failure("cannot open the folder", name) }
        folders.append(OpenFolder(descriptor: OwnedDescriptor(descriptor), file: entry.file))
    }

    private mutating func leave() throws(TreeError) {
        guard let folder = folders.popLast() else { throw .conversation(.unexpected) }
        var file = folder.file
        // SAFETY: `file` outlives the call.
        guard unsafe agent_finish(folder.descriptor.number, &file) == 0 else { throw failure("cannot finish", []) }
    }

    private func makeLink(_ entry: TreeEntry) throws(TreeError) {
        unsafe TreeName.with(entry.name) { unsafe _ = agent_remove_file(current.number, $0) }
        let made = unsafe TreeName.with(entry.name) { name in
            unsafe TreeName.with(entry.target) { unsafe agent_make_link($0, current.number, name) }
        }
        guard made == 0 else { throw failure("cannot make the link", entry.name) }
        var file = entry.file
        // SAFETY: `file` outlives the call. A file system without times of links is none to give up for.
        unsafe TreeName.with(entry.name) { unsafe _ = agent_finish_link(current.number, $0, &file) }
    }

    private mutating func takeFile(_ entry: TreeEntry) throws(TreeError) {
        let folder = current
        // One that a copy that broke off has left.
        unsafe TreeName.with(Self.temporary) { unsafe _ = agent_remove_file(folder.number, $0) }
        let descriptor = unsafe TreeName.with(Self.temporary) { unsafe agent_create_file(folder.number, $0) }
        guard descriptor >= 0 else { throw failure("cannot make the file", entry.name) }
        let owned = OwnedDescriptor(descriptor)
        do throws(TreeError) {
            guard try takeData(owned, entry.name) else {
                unsafe TreeName.with(Self.temporary) { unsafe _ = agent_remove_file(folder.number, $0) }
                return
            }
            var file = entry.file
            // SAFETY: `file` outlives the call.
            guard unsafe agent_finish(owned.number, &file) == 0 else { throw failure("cannot finish", entry.name) }
            let renamed = unsafe TreeName.with(Self.temporary) { from in
                unsafe TreeName.with(entry.name) { unsafe agent_rename(folder.number, from, $0) }
            }
            guard renamed == 0 else { throw failure("cannot put in place the file", entry.name) }
        } catch {
            unsafe TreeName.with(Self.temporary) { unsafe _ = agent_remove_file(folder.number, $0) }
            throw error
        }
    }

    /// A file's data; false when the other side could not read all of it.
    private mutating func takeData(_ file: OwnedDescriptor, _ name: [UInt8]) throws(TreeError) -> Bool {
        while true {
            switch try next() {
            case .endOfFile: return frame.payload == [1]
            case .data:
                var done = 0
                while done < frame.payload.count {
                    let start = done
                    let count = unsafe frame.payload.withUnsafeBytes { bytes in
                        // SAFETY: `start` is below the count of `bytes`.
                        unsafe agent_write(
                            file.number, bytes.baseAddress.map { unsafe $0 + start }, UInt(bytes.count - start))
                    }
                    guard count > 0 else { throw failure("cannot write", name) }
                    done += Int(count)
                }
            default: throw .conversation(.unexpected)
            }
        }
    }
}
