// SPDX-License-Identifier: Apache-2.0
// Runs the register form of a vector instruction on the host's own processor, to compare with.

#if arch(x86_64)
    import HypervisorSoftware

    #if canImport(Glibc)
        import Glibc
    #else
        import Darwin
    #endif

    /// Registers before and after. ModRM.reg names number 1 of each kind (XMM1, MM1, RCX), ModRM.rm number 2 (RDX).
    struct NativeRegisters: BitwiseCopyable, Equatable {
        var xmm0 = Vector128.zero
        var xmm1 = Vector128.zero
        var xmm2 = Vector128.zero
        var rax: UInt64 = 0
        var rcx: UInt64 = 0
        var rdx: UInt64 = 0
        var mxcsr: UInt64 = 0x1f80
        var flags: UInt64 = 0
        var hostMXCSR: UInt64 = 0
        var mm1: UInt64 = 0
        var mm2: UInt64 = 0
    }

    /// Machine code of one instruction between loads and stores of `NativeRegisters`.
    @safe final class NativeVectorInstruction {
        private static let pageSize = 4096
        private let page: UnsafeMutableRawPointer

        init?(_ form: VectorForm, imm: UInt8 = 0, isWide: Bool = false) {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS
            guard
                let page = unsafe mmap(nil, Self.pageSize, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0),
                unsafe page != MAP_FAILED
            else { return nil }
            unsafe self.page = page
            let code = Self.prologue + Self.encoding(form, imm: imm, isWide: isWide) + Self.epilogue
            // SAFETY: the code is much shorter than the page.
            unsafe UnsafeMutableRawBufferPointer(start: page, count: Self.pageSize).copyBytes(from: code)
        }

        deinit { unsafe munmap(page, Self.pageSize) }

        func run(_ registers: NativeRegisters) -> NativeRegisters {
            var result = registers
            unsafe withUnsafeMutableBytes(of: &result) { bytes in
                typealias Entry = @convention(c) (UnsafeMutableRawPointer?) -> Void
                // SAFETY: the page holds a function of this type, which reaches `NativeRegisters` only.
                unsafe unsafeBitCast(page, to: Entry.self)(bytes.baseAddress)
            }
            return result
        }

        /// The bytes of the form with reg 1 (or the group's /n) and rm 2.
        static func encoding(_ form: VectorForm, imm: UInt8, isWide: Bool) -> [UInt8] {
            var code: [UInt8] =
                switch form.prefix {
                case .none: []
                case .x66: [0x66]
                case .xF3: [0xf3]
                case .xF2: [0xf2]
                }
            if isWide { code.append(0x48) }
            code.append(0x0f)
            if form.map == .map0F38 { code.append(0x38) }
            if form.map == .map0F3A { code.append(0x3a) }
            code.append(form.opcode)
            if form.operands != .none { code.append(0xc2 | (form.group < 0 ? 1 : UInt8(form.group)) << 3) }
            if form.operands.layout.hasImmediate { code.append(imm) }
            return code
        }

        /// Loads from the block at RDI; offsets are those of `NativeRegisters`.
        private static let prologue: [UInt8] = [
            0x0f, 0xae, 0x5f, 88,  // stmxcsr [rdi + 88]
            0x0f, 0xae, 0x57, 72,  // ldmxcsr [rdi + 72]
            0xf3, 0x0f, 0x6f, 0x47, 0,  // movdqu xmm0, [rdi]
            0xf3, 0x0f, 0x6f, 0x4f, 16,  // movdqu xmm1, [rdi + 16]
            0xf3, 0x0f, 0x6f, 0x57, 32,  // movdqu xmm2, [rdi + 32]
            0x0f, 0x6f, 0x4f, 96,  // movq mm1, [rdi + 96]
            0x0f, 0x6f, 0x57, 104,  // movq mm2, [rdi + 104]
            0x48, 0x8b, 0x47, 48,  // mov rax, [rdi + 48]
            0x48, 0x8b, 0x4f, 56,  // mov rcx, [rdi + 56]
            0x48, 0x8b, 0x57, 64,  // mov rdx, [rdi + 64]
        ]
        private static let epilogue: [UInt8] = [
            0x9c, 0x8f, 0x47, 80,  // pushfq; pop [rdi + 80]
            0x48, 0x89, 0x47, 48,  // mov [rdi + 48], rax
            0x48, 0x89, 0x4f, 56,  // mov [rdi + 56], rcx
            0x48, 0x89, 0x57, 64,  // mov [rdi + 64], rdx
            0xf3, 0x0f, 0x7f, 0x47, 0,  // movdqu [rdi], xmm0
            0xf3, 0x0f, 0x7f, 0x4f, 16,  // movdqu [rdi + 16], xmm1
            0xf3, 0x0f, 0x7f, 0x57, 32,  // movdqu [rdi + 32], xmm2
            0x0f, 0x7f, 0x4f, 96,  // movq [rdi + 96], mm1
            0x0f, 0x7f, 0x57, 104,  // movq [rdi + 104], mm2
            0x0f, 0xae, 0x5f, 72,  // stmxcsr [rdi + 72]
            0x0f, 0xae, 0x57, 88,  // ldmxcsr [rdi + 88]
            0x0f, 0x77, 0xc3,  // emms; ret
        ]
    }

    /// Random operands from a fixed seed, one lane in four a special value.
    struct VectorOperandSource {
        private var state: UInt64

        init(seed: UInt64) { state = seed }

        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var value = state
            value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
            value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
            return value ^ (value >> 31)
        }

        private static let singles: [UInt32] = [
            0, 0x8000_0000, 0x3f80_0000, 0xbf80_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0xffa0_0002, 0x7fa0_0003,
            0x0000_0001, 0x807f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x4f00_0000, 0xcf00_0000, 0x3f00_0000, 0x4020_0000,
            0xffff_ffff, 0x7fff_7fff, 0x8000_8000, 0x0100_0100, 0x0001_ffff, 0x7f80_7f80, 0x0041_0042,
        ]
        private static let doubles: [UInt64] = [
            0, 0x8000_0000_0000_0000, 0x3ff0_0000_0000_0000, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0001, 0xfff4_0000_0000_0002, 0x0000_0000_0000_0001, 0x800f_ffff_ffff_ffff,
            0x0010_0000_0000_0000, 0x7fef_ffff_ffff_ffff, 0x41e0_0000_0000_0000, 0xc1e0_0000_0020_0000,
            0x43e0_0000_0000_0000, 0x4004_0000_0000_0000, 0x3810_0000_0000_0000, 0x47ef_ffff_f000_0000, 5, 16, 63, 64,
            0x7f80_0000, 0x3690_0000_0000_0000, 0x380f_ffff_ffff_ffff,
        ]

        private mutating func half() -> UInt64 {
            let value = next()
            switch next() & 7 {
            case 0: return Self.doubles[Int(value % UInt64(Self.doubles.count))]
            case 1, 2:
                let low = Self.singles[Int(value & 0xffff) % Self.singles.count]
                let high = Self.singles[Int(value >> 16 & 0xffff) % Self.singles.count]
                return UInt64(low) | UInt64(high) << 32
            // Numbers of like size, so that sums and products stay finite.
            case 3: return value & 0x800f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000
            case 4: return value & 0x80ff_ffff_80ff_ffff | 0x3f00_0000_3f00_0000
            default: return value
            }
        }

        mutating func vector() -> Vector128 { Vector128(low: half(), high: half()) }

        mutating func registers() -> NativeRegisters {
            var result = NativeRegisters()
            result.xmm0 = vector()
            result.xmm1 = vector()
            result.xmm2 = next() & 15 == 0 ? result.xmm1 : vector()
            result.rax = next() & 1 == 0 ? next() : next() & 0x1f
            result.rcx = next()
            result.rdx = next() & 1 == 0 ? next() : next() & 0x1f
            result.mm1 = half()
            result.mm2 = half()
            return result
        }
    }
#endif
