// SPDX-License-Identifier: Apache-2.0
// A machine at one instant, which another thread writes while the machine already runs again.

internal import Bundle
internal import Hypervisor
internal import Synchronization

/// Everything that a bundle needs of a machine, until it is written.
final class FrozenMachine: Sendable {
    private let contents: Mutex<BundleContents?>
    /// Host time of the request.
    private let requested: UInt64

    init(contents: BundleContents, requested: UInt64) {
        self.contents = Mutex(contents)
        self.requested = requested
    }

    /// Writes the bundle, once; nothing of it is in memory afterwards. `pauseNanoseconds` of the report is left to the
    /// machine, which knows when it went on.
    func write(
        to path: String, progress: (@Sendable (Double) -> Void)?
    ) -> Result<SnapshotReport, MachineError> {
        defer { Machine.returnUnusedMemory() }
        return writeContents(to: path, progress: progress)
    }

    private func writeContents(
        to path: String, progress: (@Sendable (Double) -> Void)?
    ) -> Result<SnapshotReport, MachineError> {
        guard let contents = contents.withLock({ $0.take() }) else {
            return .failure(.bundle("the bundle \(path) was written before"))
        }
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
