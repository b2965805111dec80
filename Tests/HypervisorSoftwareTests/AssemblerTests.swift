// SPDX-License-Identifier: Apache-2.0
// The translator's assembler: the bytes of instructions. Intel SDM volume 2, chapter 2.

import Testing

@testable import HypervisorSoftware

struct AssemblerTests {
    /// What `body` writes at `position` of a buffer of `size` bytes.
    private func bytes(from position: Int = 0, size: Int = 64, _ body: (inout Assembler) -> Void) -> [UInt8] {
        var buffer = [UInt8](repeating: 0xee, count: size)
        var end = 0
        // SAFETY: the assembler stays within the buffer while it is borrowed.
        unsafe buffer.withUnsafeMutableBufferPointer { buffer in
            guard let start = buffer.baseAddress else { return }
            var code = unsafe Assembler(start, size: size, section: position..<size)
            body(&code)
            end = code.position
        }
        return Array(buffer[position..<end])
    }

    @Test func `memory operands take the shortest form that their registers have`() {
        let cases: [(HostMemory, [UInt8])] = [
            (HostMemory(.rax), [0x48, 0x8b, 0x10]),
            (HostMemory(.rbp), [0x48, 0x8b, 0x55, 0x00]),
            (HostMemory(.r13), [0x49, 0x8b, 0x55, 0x00]),
            (HostMemory(.rsp), [0x48, 0x8b, 0x14, 0x24]),
            (HostMemory(.r12, -128), [0x49, 0x8b, 0x54, 0x24, 0x80]),
            (HostMemory(.rbp, 128), [0x48, 0x8b, 0x95, 0x80, 0, 0, 0]),
            (HostMemory(.rbx, index: .r9, scale: 3, 4), [0x4a, 0x8b, 0x54, 0xcb, 0x04]),
            (HostMemory(.r13, index: .r12), [0x4b, 0x8b, 0x54, 0x25, 0x00]),
            (HostMemory(nil, index: .rcx, scale: 2, 0x1234), [0x48, 0x8b, 0x14, 0x8d, 0x34, 0x12, 0, 0]),
            (HostMemory(nil, -1), [0x48, 0x8b, 0x14, 0x25, 0xff, 0xff, 0xff, 0xff]),
        ]
        for (memory, expected) in cases { #expect(bytes { $0.load(.rdx, memory) } == expected, "\(memory)") }
    }

    @Test func `byte registers 4 to 7 take a REX prefix unless they are AH to BH`() {
        // MOV CL, SIL and MOV CL, DH
        #expect(
            bytes { $0.instruction(wide: false, 0x8a, reg: 1, rm: .number(6), isByte: true) } == [0x40, 0x8a, 0xce])
        #expect(bytes { $0.instruction(wide: false, 0x8a, reg: 1, rm: .number(6)) } == [0x8a, 0xce])
        #expect(
            bytes { $0.instruction(wide: false, 0x88, reg: 5, rm: .memory(HostMemory(.rax)), isByte: true) }
                == [0x40, 0x88, 0x28])
    }

    @Test func `prefixes come before REX, and the opcode map after it`() {
        // CVTSI2SD XMM9, R10; PSHUFB XMM1, XMM8
        #expect(
            bytes { $0.instruction(prefix: 0xf2, wide: true, .map0F, 0x2a, reg: 9, rm: .register(.r10)) }
                == [0xf2, 0x4d, 0x0f, 0x2a, 0xca])
        #expect(
            bytes { $0.instruction(prefix: 0x66, wide: false, .map0F38, 0x00, reg: 1, rm: .number(8)) }
                == [0x66, 0x41, 0x0f, 0x38, 0x00, 0xc8])
    }

    @Test func `constants are moved in the shortest form`() {
        #expect(bytes { $0.moveImmediate(.rcx, 0) } == [0xb9, 0, 0, 0, 0])
        #expect(bytes { $0.moveImmediate(.r11, 0xffff_ffff) } == [0x41, 0xbb, 0xff, 0xff, 0xff, 0xff])
        #expect(bytes { $0.moveImmediate(.r10, .max) } == [0x49, 0xc7, 0xc2, 0xff, 0xff, 0xff, 0xff])
        #expect(
            bytes { $0.moveImmediate(.r15, 0x1_0000_0002) } == [0x49, 0xbf, 0x02, 0, 0, 0, 0x01, 0, 0, 0])
    }

    @Test func `arithmetic with a constant takes one byte where that is enough`() {
        #expect(bytes { $0.arithmetic(7, wide: true, .register(.r10), -1) } == [0x49, 0x83, 0xfa, 0xff])
        #expect(
            bytes { $0.arithmetic(4, wide: false, .register(.r11), 0x7fe0) } == [0x41, 0x81, 0xe3, 0xe0, 0x7f, 0, 0])
    }

    @Test func `jumps lead to where they are linked`() {
        let code = bytes {
            let forward = $0.jump(if: HostCondition.equal)
            $0.byte(0x90)
            $0.land(forward)
            $0.jump(0)
            $0.call(2)
        }
        #expect(
            code == [
                0x0f, 0x84, 1, 0, 0, 0, 0x90, 0xe9, 0xf4, 0xff, 0xff, 0xff, 0xe8, 0xf1, 0xff, 0xff, 0xff,
            ])
    }

    @Test func `what does not fit is dropped, and nothing behind the buffer is written`() {
        var overflowed = false
        let code = bytes(from: 60) {
            $0.moveImmediate(.rax, .max)
            overflowed = $0.overflowed
        }
        #expect(overflowed)
        #expect(code == [0x48, 0xc7, 0xc0])
    }
}
