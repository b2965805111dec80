// SPDX-License-Identifier: Apache-2.0
// Notifications of virtio queues that do not stop the processor: the kernel sets an eventfd, the machine's thread looks.

internal import CHost
internal import Devices
internal import GuestMemory
internal import Host
internal import Hypervisor
internal import Virtio

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// One eventfd for the queues of all devices of a machine.
final class QueueNotifications {
    /// Readable when some queue was notified.
    let descriptor: Int32
    private let slots: [any VirtioSlot]

    /// Nil when the backend, or this host, is better off with a processor that notifies a device itself: on a single
    /// processor the machine's thread would only take it away from the guest.
    init?(_ slots: [any VirtioSlot], of machine: any VirtualMachine) {
        #if os(Linux)
            guard machine.runsConcurrently, usableProcessors() > 1 else { return nil }
            let event = chost_eventfd()
            guard event >= 0 else { return nil }
            self.slots = slots
            descriptor = event
            for index in slots.indices {
                let register = PlatformLayout.virtioWindow(index) + queueNotifyOffset
                // Where the kernel refuses, writes come by the bus as before.
                _ = machine.setNotification(at: register, event: event)
            }
        #else
            return nil
        #endif
    }

    deinit { close(descriptor) }

    /// Lets the devices look at their queues, if any was notified.
    func take() {
        var count: UInt64 = 0
        // SAFETY: eight bytes, which is what an eventfd gives.
        guard unsafe read(descriptor, &count, 8) == 8 else { return }
        for slot in slots { slot.notifyQueues() }
    }
}
