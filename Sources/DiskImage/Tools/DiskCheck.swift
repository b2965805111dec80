// SPDX-License-Identifier: Apache-2.0
// Checks of an image's own structure.

extension DiskTools {
    /// Checks the qcow2 image at `path`; with `repair`, fixes what it allows, and tells what is left.
    public static func check(path: String, repair: DiskRepair? = nil) throws(DiskImageError) -> DiskCheckReport {
        let file = try ImageFile(path: path, isWritable: repair != nil, direct: false)
        guard try DiskFormat.probe(file) == .qcow2 else {
            throw .unsupported(path: path, feature: "the format raw, in which nothing can be checked")
        }
        var check = Qcow2Check(try Qcow2Layer(file, for: .examination))
        guard let repair else { return try check.run() }
        return try check.run(repair)
    }
}
