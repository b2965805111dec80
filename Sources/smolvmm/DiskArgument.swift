// SPDX-License-Identifier: Apache-2.0
// The value of --disk: FILE[,readonly][,overlay][,format=…][,id=…][,cached][,backing=any].

import ArgumentParser
import Bundle
import DiskImage

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A disk as the command line names it.
struct DiskArgument: Equatable, ExpressibleByArgument {
    static let grammar = "FILE[,readonly][,overlay][,format=raw|qcow2][,id=NAME][,cached][,backing=any]"

    var path: String
    var id: String?
    var isReadOnly = false
    /// Writes go to an overlay that ends with the machine.
    var hasOverlay = false
    var format: DiskFormat?
    /// Through the host's cache.
    var isCached = false
    var allowsAnyBacking = false

    /// Nil unless `argument` follows the grammar. A comma in the file's name is doubled.
    init?(argument: String) {
        let escaped = argument.replacing(",,", with: "\0")
        var words = escaped.split(separator: ",", omittingEmptySubsequences: false)
            .map { String($0).replacing("\0", with: ",") }
        path = words.removeFirst()
        guard !path.isEmpty else { return nil }
        for word in words {
            switch word {
            case "readonly": isReadOnly = true
            case "overlay": hasOverlay = true
            case "cached": isCached = true
            case "backing=any": allowsAnyBacking = true
            default:
                let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
                guard parts.count == 2 else { return nil }
                switch parts[0] {
                case "format":
                    guard let known = DiskFormat(rawValue: parts[1]) else { return nil }
                    format = known
                case "id":
                    guard DiskConfiguration.isValid(id: parts[1]) else { return nil }
                    id = parts[1]
                default: return nil
                }
            }
        }
        if isReadOnly, hasOverlay { return nil }
    }

    /// Opens the image, `index` being its place among the machine's.
    func open(_ index: Int) throws -> (configuration: DiskConfiguration, image: DiskImage) {
        var options = DiskOpenOptions()
        options.isReadOnly = isReadOnly
        options.format = format
        options.isDirect = !isCached
        options.allowsAnyBacking = allowsAnyBacking
        if hasOverlay { options.scratchFolder = HostFile.scratchFolder }
        let image = try DiskImage.open(path: path, options)
        return (
            DiskConfiguration(id: id ?? "disk\(index)", size: image.size, isReadOnly: isReadOnly), image
        )
    }
}
