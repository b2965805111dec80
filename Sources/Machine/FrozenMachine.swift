// SPDX-License-Identifier: Apache-2.0
// A machine at one instant, as a value that another thread writes while the machine already runs again.

internal import Bundle
internal import Hypervisor

/// Everything that a bundle needs of a machine.
struct FrozenMachine: Sendable {
    let contents: BundleContents
    /// Host time of the request.
    let requested: UInt64

    /// Writes the bundle. `pauseNanoseconds` of the report is left to the machine, which knows when it went on.
    func write(
        to path: String, progress: (@Sendable (Double) -> Void)?
    ) -> Result<SnapshotReport, MachineError> {
        do throws(BundleError) {
            let manifest = try BundleWriter.write(contents, to: path, progress: progress)
            return .success(
                SnapshotReport(
                    path: path, identifier: manifest.lineage.id, pauseNanoseconds: 0,
                    totalNanoseconds: GuestClock.hostMonotonic() - requested))
        } catch {
            return .failure(.bundle(error.description))
        }
    }
}
