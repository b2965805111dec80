// SPDX-License-Identifier: Apache-2.0
// The host's registers as translated code uses them, and where the guest's are meanwhile.

/// A general register of the host, by its number in instructions.
enum HostRegister: UInt8 {
    case rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15

    /// Points into the execution context.
    static let context = HostRegister.rbp
    /// Free between two translated instructions, and what an address is made in.
    static let first = HostRegister.r10
    static let second = HostRegister.r11
}

/// A memory operand of a host instruction.
struct HostMemory: Equatable {
    var base: HostRegister?
    var index: HostRegister?
    /// 0 to 3: the index register is shifted left by it.
    var scale: UInt8 = 0
    var displacement: Int32 = 0

    init(_ base: HostRegister?, index: HostRegister? = nil, scale: UInt8 = 0, _ displacement: Int32 = 0) {
        self.base = base
        self.index = index
        self.scale = scale
        self.displacement = displacement
    }

    /// A place in the execution context, `index` bytes further if there is such a register.
    static func context(_ offset: Int, index: HostRegister? = nil) -> HostMemory {
        HostMemory(.context, index: index, Int32(truncatingIfNeeded: offset - ContextLayout.bias))
    }
}

/// What ModRM.rm names in a host instruction: a register, or memory.
enum HostOperand: Equatable {
    /// Any register: general, or XMM by its number.
    case number(UInt8)
    case memory(HostMemory)

    static func register(_ register: HostRegister) -> HostOperand { .number(register.rawValue) }
    static func context(_ offset: Int) -> HostOperand { .memory(.context(offset)) }
}

/// Where a guest register is while translated code runs.
enum GuestHome: Equatable {
    case register(HostRegister)
    /// In the context: an offset of `ContextLayout`.
    case slot(Int)

    /// The guest's registers are in their namesakes but for RSP and RBP, which the translated code needs itself, and the
    /// four that programs use least.
    static func of(_ register: UInt8) -> GuestHome {
        switch register & 15 {
        case RegisterIndex.rsp: .register(.r15)
        case RegisterIndex.rbp: .register(.r14)
        case 10: .slot(ContextLayout.spilled)
        case 11: .slot(ContextLayout.spilled + 8)
        case 14: .slot(ContextLayout.spilled + 16)
        case 15: .slot(ContextLayout.spilled + 24)
        default: .register(HostRegister(rawValue: register & 15) ?? .rax)
        }
    }
}
