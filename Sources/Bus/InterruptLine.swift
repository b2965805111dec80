// SPDX-License-Identifier: Apache-2.0
// How a device signals: a numbered line into whichever interrupt controller the backend has.

/// Takes the level of global system interrupt lines; the VMM's IOAPIC and PIC, or the kernel's.
public protocol InterruptController: AnyObject {
    /// Sets the level of global system interrupt `line` (0 to 23).
    func setLine(_ line: Int, asserted: Bool)
}

/// One device's interrupt output.
public struct InterruptLine {
    public let controller: any InterruptController
    /// Global system interrupt number, 0 to 23.
    public let number: Int

    public init(_ controller: any InterruptController, _ number: Int) {
        self.controller = controller
        self.number = number
    }

    public func set(_ asserted: Bool) { controller.setLine(number, asserted: asserted) }

    /// One edge: asserted, then not.
    public func pulse() {
        set(true)
        set(false)
    }
}
