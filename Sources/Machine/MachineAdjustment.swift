// SPDX-License-Identifier: Apache-2.0
// What can be changed of a running machine: the size of its balloon, of a disk, of the terminal that shows its console.

internal import Bundle
internal import DiskImage
internal import Virtio

/// A change to a running machine.
public enum MachineAdjustment: Equatable, Sendable {
    /// Memory that the guest shall give back, in bytes.
    case balloon(bytes: UInt64)
    /// Makes the disk with this id so many bytes long.
    case diskSize(id: String, bytes: UInt64)
    case window(columns: UInt16, rows: UInt16)
}

extension Machine {
    /// Carries out `adjustment` between two time slices.
    func adjust(_ adjustment: MachineAdjustment) -> Result<Bool, MachineError> {
        do throws(MachineError) {
            switch adjustment {
            case .balloon(let bytes): try setBalloon(bytes)
            case .diskSize(let id, let bytes): try growDisk(id, bytes)
            case .window(let columns, let rows): virtio.console?.resize(columns: columns, rows: rows)
            }
            return .success(true)
        } catch {
            return .failure(error)
        }
    }

    private func setBalloon(_ bytes: UInt64) throws(MachineError) {
        guard let balloon = virtio.balloon else { throw .refused("the machine has no balloon") }
        guard bytes < configuration.memoryBytes else {
            throw .refused("the guest cannot give back \(bytes) of its \(configuration.memoryBytes) bytes of memory")
        }
        balloon.setTarget(pages: UInt32(clamping: bytes / BalloonDevice.pageSize))
    }

    private func growDisk(_ id: String, _ bytes: UInt64) throws(MachineError) {
        guard freeze == nil else { throw .busy("a snapshot of it is being written; try again when it is done") }
        guard let index = configuration.disks.firstIndex(where: { $0.id == id }) else {
            let known = configuration.disks.map(\.id).joined(separator: ", ")
            throw .refused("the machine has no disk '\(id)'" + (known.isEmpty ? "" : ", only \(known)"))
        }
        let device = virtio.disks[index]
        do throws(DiskImageError) { try device.disk.grow(to: bytes) } catch { throw .disk(error.description) }
        device.sizeChanged()
    }
}
