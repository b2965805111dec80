// SPDX-License-Identifier: Apache-2.0
// The reference itself: the runner that executes instruction bytes on the host's processor.

import Testing

@Suite(.enabled(if: NativeRunner.isAvailable))
struct NativeRunnerTests {
    private func run(_ code: [UInt8], _ prepare: (inout ProcessorState) -> Void = { _ in }) throws -> (
        ProcessorState, Outcome
    ) {
        var state = ProcessorState()
        prepare(&state)
        let outcome = try #require(NativeRunner.run(code, &state))
        return (state, outcome)
    }

    @Test func `ADD changes its destination and the flags and nothing else`() throws {
        let (state, outcome) = try run([0x48, 0x01, 0xc1]) {
            $0[0] = .max
            $0[1] = 1
            $0[15] = 0x1234
        }
        #expect(outcome == Outcome())
        #expect(state[1] == 0)
        #expect(state[0] == .max)
        #expect(state[15] == 0x1234)
        #expect(state.flags & 0x8d5 == 0x55)
    }

    @Test func `a write behind the window is a page fault at its address`() throws {
        let (state, outcome) = try run([0x89, 0x03]) { $0[3] = ProcessorState.windowStart + 0x1ffe }
        #expect(outcome == Outcome(vector: 14, errorCode: 6, address: ProcessorState.windowStart + 0x2000))
        #expect(state.rip == ProcessorState.codeStart)
    }

    @Test(arguments: [([0x0f, 0x0b], 6), ([0x48, 0xf7, 0xf1], 0), ([0xf4], 13), ([0xcc], 3)] as [([UInt8], Int)])
    func `exceptions carry their vector`(code: [UInt8], vector: Int) throws {
        #expect(try run(code).1.vector == vector)
    }

    @Test func `an unmasked x87 exception is reported by the next waiting instruction`() throws {
        // FLD1; FLDZ; FDIVP; FWAIT with the zero-divide exception unmasked.
        let (state, outcome) = try run([0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b]) {
            $0.fxsave(0x037b, at: 0, bytes: 2)
        }
        #expect(outcome.vector == 16)
        #expect(state.rip == ProcessorState.codeStart + 6)
    }

    @Test func `memory and SSE registers go in and come out`() throws {
        // MOVAPS XMM3, [RBX]; MOVAPS [RBX + 16], XMM3
        let (state, _) = try run([0x0f, 0x28, 0x1b, 0x0f, 0x29, 0x5b, 0x10]) {
            $0[3] = ProcessorState.windowStart + 32
            $0.poke(0x1122_3344_5566_7788, at: ProcessorState.windowStart + 40, bytes: 8)
        }
        #expect(state.xmm(3) == (0, 0x1122_3344_5566_7788))
        #expect(Array(state.window[56..<64]) == [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11])
    }
}
