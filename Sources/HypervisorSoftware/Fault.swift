// SPDX-License-Identifier: Apache-2.0
// Exceptions that an instruction raises. Intel SDM volume 3, chapter 6.

/// An exception before it is delivered: the instruction that throws one has changed no architectural state.
package struct Fault: Error, Equatable {
    /// Interrupt vector, 0 to 31.
    package let vector: UInt8
    package let hasErrorCode: Bool
    package let errorCode: UInt32
    /// #GP for an address that is not canonical; becomes #SS when the access was to the stack segment.
    let isNonCanonical: Bool

    package init(vector: UInt8) {
        self.vector = vector
        hasErrorCode = false
        errorCode = 0
        isNonCanonical = false
    }

    package init(vector: UInt8, errorCode: UInt32, isNonCanonical: Bool = false) {
        self.vector = vector
        hasErrorCode = true
        self.errorCode = errorCode
        self.isNonCanonical = isNonCanonical
    }

    /// Not an exception: a repeated instruction made way for the end of the time slice. RIP is still its own, and the
    /// registers say how far it got.
    static let interrupted = Fault(vector: .max)
    /// Not an exception: an instruction that is not part of a checked run, because what it does cannot be done twice.
    static let deferred = Fault(vector: .max - 1)
    package static let divideError = Fault(vector: 0)  // #DE
    package static let debug = Fault(vector: 1)  // #DB
    package static let breakpoint = Fault(vector: 3)  // #BP
    package static let overflow = Fault(vector: 4)  // #OF
    package static let boundRange = Fault(vector: 5)  // #BR
    package static let invalidOpcode = Fault(vector: 6)  // #UD
    package static let deviceNotAvailable = Fault(vector: 7)  // #NM
    package static let x87Error = Fault(vector: 16)  // #MF
    package static let simdError = Fault(vector: 19)  // #XM

    package static func invalidTSS(_ selector: UInt16) -> Fault { Fault(vector: 10, errorCode: UInt32(selector)) }
    package static func segmentNotPresent(_ code: UInt16) -> Fault { Fault(vector: 11, errorCode: UInt32(code)) }
    package static func stackFault(_ code: UInt16) -> Fault { Fault(vector: 12, errorCode: UInt32(code)) }
    package static func generalProtection(_ code: UInt16) -> Fault { Fault(vector: 13, errorCode: UInt32(code)) }
    package static func pageFault(_ code: PageFaultCode) -> Fault { Fault(vector: 14, errorCode: code.rawValue) }
    static let nonCanonical = Fault(vector: 13, errorCode: 0, isNonCanonical: true)
    package static func alignmentCheck() -> Fault { Fault(vector: 17, errorCode: 0) }
}

/// The error code of a page fault. SDM volume 3, figure 4-12.
package struct PageFaultCode: OptionSet {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let present = PageFaultCode(rawValue: 1 << 0)  // P
    package static let write = PageFaultCode(rawValue: 1 << 1)  // W/R
    package static let user = PageFaultCode(rawValue: 1 << 2)  // U/S
    package static let reserved = PageFaultCode(rawValue: 1 << 3)  // RSVD
    package static let instruction = PageFaultCode(rawValue: 1 << 4)  // I/D
}
