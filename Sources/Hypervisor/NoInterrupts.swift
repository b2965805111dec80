// SPDX-License-Identifier: Apache-2.0
// The local interrupt controller of a processor that gets no interrupts.

/// Never has an interrupt, and keeps what is written to it.
public final class NoInterrupts: LocalInterruptController {
    public var taskPriorityClass: UInt8 = 0
    public var apicBase: UInt64 = 0xfee0_0900
    public var tscDeadline: UInt64 = 0

    public init() {}

    public var hasPendingInterrupt: Bool { false }
    public func acknowledgeInterrupt() -> UInt8? { nil }
}
