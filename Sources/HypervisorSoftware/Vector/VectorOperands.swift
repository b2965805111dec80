// SPDX-License-Identifier: Apache-2.0
// Operand shapes of MMX and SSE instructions: what the decoder must know of them. Intel SDM volume 2, 3.1.1.

/// What one operand of a vector instruction is.
package enum VectorOperandKind: UInt8, Sendable {
    case none
    case xmm
    case mm
    case general32
    case general64
}

/// How ModRM.reg and ModRM.rm are used. The left name is the operand that ModRM.reg names, except for the `store`
/// shapes, which write to r/m. "Memory" in a name: only the memory form exists; "Register": only the register form.
package enum VectorOperands: UInt8, CaseIterable, Sendable {
    case none
    // xmm, xmm/m
    case xmmXmm128
    case xmmXmm128Immediate
    case xmmXmm128Unaligned
    case xmmXmm128UnalignedImmediate
    case xmmXmm64
    case xmmXmm64Immediate
    case xmmXmm32
    case xmmXmm32Immediate
    case xmmXmm16
    case xmmXmmRegister
    case xmmMemory128
    case xmmMemory128Unaligned
    case xmmMemory64
    // xmm, something else
    case xmmGeneral32
    case xmmGeneral64
    case xmmGeneral8Immediate
    case xmmGeneral16Immediate
    case xmmGeneral32Immediate
    case xmmGeneral64Immediate
    case xmmMm64
    case xmmMmRegister
    // mm, something
    case mmMm64
    case mmMm64Immediate
    case mmMm32
    case mmMmRegister
    case mmGeneral32
    case mmGeneral64
    case mmGeneral16Immediate
    case mmXmm64
    case mmXmm128
    case mmXmmRegister
    // general register, something
    case general32Xmm32
    case general64Xmm32
    case general32Xmm64
    case general64Xmm64
    case general32XmmRegister
    case general32XmmRegisterImmediate
    case general32MmRegister
    case general32MmRegisterImmediate
    // r/m is written
    case storeXmm128
    case storeXmm128Unaligned
    case storeXmm128Memory
    case storeXmm64
    case storeXmm64Memory
    case storeXmm32
    case storeMm64
    case storeMm64Memory
    case storeGeneral32Xmm
    case storeGeneral64Xmm
    case storeGeneral32Mm
    case storeGeneral64Mm
    case storeGeneral8XmmImmediate
    case storeGeneral16XmmImmediate
    case storeGeneral32XmmImmediate
    case storeGeneral64XmmImmediate
    /// EXTRACTPS: REX.W does not widen it.
    case storeSingleXmmImmediate
    // r/m is the destination register, ModRM.reg selects the row
    case shiftXmmImmediate
    case shiftMmImmediate
    // memory only, no vector register
    case loadMemory32
    case storeMemory32
    case storeMemoryGeneral32
    case storeMemoryGeneral64

    /// Which encodings of r/m exist; the others are #UD.
    package enum Encodings: UInt8, Sendable {
        case any
        case registerOnly
        case memoryOnly
    }

    /// A shape taken apart.
    package struct Layout: Sendable {
        /// What ModRM.reg names.
        package var reg: VectorOperandKind
        /// What ModRM.rm names when it is a register.
        package var rm: VectorOperandKind
        /// Bytes moved when r/m is memory; 0 when it cannot be.
        package var memoryBytes: UInt8
        package var encodings: Encodings
        /// Memory must be 16-byte aligned: else #GP(0).
        package var isAligned: Bool
        /// An immediate byte follows.
        package var hasImmediate: Bool
        /// r/m is the destination.
        package var storesToRM: Bool

        init(
            _ reg: VectorOperandKind, _ rm: VectorOperandKind, _ memoryBytes: UInt8, _ encodings: Encodings = .any,
            aligned: Bool = false, immediate: Bool = false, store: Bool = false
        ) {
            self.reg = reg
            self.rm = rm
            self.memoryBytes = memoryBytes
            self.encodings = encodings
            isAligned = aligned
            hasImmediate = immediate
            storesToRM = store
        }
    }

    package var layout: Layout {
        switch self {
        case .none: Layout(.none, .none, 0, .registerOnly)
        case .xmmXmm128: Layout(.xmm, .xmm, 16, aligned: true)
        case .xmmXmm128Immediate: Layout(.xmm, .xmm, 16, aligned: true, immediate: true)
        case .xmmXmm128Unaligned: Layout(.xmm, .xmm, 16)
        case .xmmXmm128UnalignedImmediate: Layout(.xmm, .xmm, 16, immediate: true)
        case .xmmXmm64: Layout(.xmm, .xmm, 8)
        case .xmmXmm64Immediate: Layout(.xmm, .xmm, 8, immediate: true)
        case .xmmXmm32: Layout(.xmm, .xmm, 4)
        case .xmmXmm32Immediate: Layout(.xmm, .xmm, 4, immediate: true)
        case .xmmXmm16: Layout(.xmm, .xmm, 2)
        case .xmmXmmRegister: Layout(.xmm, .xmm, 0, .registerOnly)
        case .xmmMemory128: Layout(.xmm, .none, 16, .memoryOnly, aligned: true)
        case .xmmMemory128Unaligned: Layout(.xmm, .none, 16, .memoryOnly)
        case .xmmMemory64: Layout(.xmm, .none, 8, .memoryOnly)
        case .xmmGeneral32: Layout(.xmm, .general32, 4)
        case .xmmGeneral64: Layout(.xmm, .general64, 8)
        case .xmmGeneral8Immediate: Layout(.xmm, .general32, 1, immediate: true)
        case .xmmGeneral16Immediate: Layout(.xmm, .general32, 2, immediate: true)
        case .xmmGeneral32Immediate: Layout(.xmm, .general32, 4, immediate: true)
        case .xmmGeneral64Immediate: Layout(.xmm, .general64, 8, immediate: true)
        case .xmmMm64: Layout(.xmm, .mm, 8)
        case .xmmMmRegister: Layout(.xmm, .mm, 0, .registerOnly)
        case .mmMm64: Layout(.mm, .mm, 8)
        case .mmMm64Immediate: Layout(.mm, .mm, 8, immediate: true)
        case .mmMm32: Layout(.mm, .mm, 4)
        case .mmMmRegister: Layout(.mm, .mm, 0, .registerOnly)
        case .mmGeneral32: Layout(.mm, .general32, 4)
        case .mmGeneral64: Layout(.mm, .general64, 8)
        case .mmGeneral16Immediate: Layout(.mm, .general32, 2, immediate: true)
        case .mmXmm64: Layout(.mm, .xmm, 8)
        case .mmXmm128: Layout(.mm, .xmm, 16, aligned: true)
        case .mmXmmRegister: Layout(.mm, .xmm, 0, .registerOnly)
        case .general32Xmm32: Layout(.general32, .xmm, 4)
        case .general64Xmm32: Layout(.general64, .xmm, 4)
        case .general32Xmm64: Layout(.general32, .xmm, 8)
        case .general64Xmm64: Layout(.general64, .xmm, 8)
        case .general32XmmRegister: Layout(.general32, .xmm, 0, .registerOnly)
        case .general32XmmRegisterImmediate: Layout(.general32, .xmm, 0, .registerOnly, immediate: true)
        case .general32MmRegister: Layout(.general32, .mm, 0, .registerOnly)
        case .general32MmRegisterImmediate: Layout(.general32, .mm, 0, .registerOnly, immediate: true)
        case .storeXmm128: Layout(.xmm, .xmm, 16, aligned: true, store: true)
        case .storeXmm128Unaligned: Layout(.xmm, .xmm, 16, store: true)
        case .storeXmm128Memory: Layout(.xmm, .none, 16, .memoryOnly, aligned: true, store: true)
        case .storeXmm64: Layout(.xmm, .xmm, 8, store: true)
        case .storeXmm64Memory: Layout(.xmm, .none, 8, .memoryOnly, store: true)
        case .storeXmm32: Layout(.xmm, .xmm, 4, store: true)
        case .storeMm64: Layout(.mm, .mm, 8, store: true)
        case .storeMm64Memory: Layout(.mm, .none, 8, .memoryOnly, store: true)
        case .storeGeneral32Xmm: Layout(.xmm, .general32, 4, store: true)
        case .storeGeneral64Xmm: Layout(.xmm, .general64, 8, store: true)
        case .storeGeneral32Mm: Layout(.mm, .general32, 4, store: true)
        case .storeGeneral64Mm: Layout(.mm, .general64, 8, store: true)
        case .storeGeneral8XmmImmediate: Layout(.xmm, .general32, 1, immediate: true, store: true)
        case .storeGeneral16XmmImmediate: Layout(.xmm, .general32, 2, immediate: true, store: true)
        case .storeGeneral32XmmImmediate: Layout(.xmm, .general32, 4, immediate: true, store: true)
        case .storeGeneral64XmmImmediate: Layout(.xmm, .general64, 8, immediate: true, store: true)
        case .storeSingleXmmImmediate: Layout(.xmm, .general32, 4, immediate: true, store: true)
        case .shiftXmmImmediate: Layout(.none, .xmm, 0, .registerOnly, immediate: true, store: true)
        case .shiftMmImmediate: Layout(.none, .mm, 0, .registerOnly, immediate: true, store: true)
        case .loadMemory32: Layout(.none, .none, 4, .memoryOnly)
        case .storeMemory32: Layout(.none, .none, 4, .memoryOnly, store: true)
        case .storeMemoryGeneral32: Layout(.general32, .none, 4, .memoryOnly, store: true)
        case .storeMemoryGeneral64: Layout(.general64, .none, 8, .memoryOnly, store: true)
        }
    }

    /// The shape that REX.W makes of this one.
    package var widened: VectorOperands {
        switch self {
        case .xmmGeneral32: .xmmGeneral64
        case .xmmGeneral32Immediate: .xmmGeneral64Immediate
        case .mmGeneral32: .mmGeneral64
        case .general32Xmm32: .general64Xmm32
        case .general32Xmm64: .general64Xmm64
        case .storeGeneral32Xmm: .storeGeneral64Xmm
        case .storeGeneral32Mm: .storeGeneral64Mm
        case .storeGeneral32XmmImmediate: .storeGeneral64XmmImmediate
        case .storeMemoryGeneral32: .storeMemoryGeneral64
        default: self
        }
    }

    /// Whether the instruction uses an MMX register even when r/m is memory.
    package var isMMX: Bool {
        let layout = layout
        return layout.reg == .mm || layout.rm == .mm
    }
}
