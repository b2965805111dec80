// SPDX-License-Identifier: Apache-2.0
// Indirect jumps whose target can be told from the way to them. Switches and interpreters of programs have one for many ways: what
// follows depends on what was done before. So for a block is known where the next indirect jump led after control came there,
// and the code that begins with it goes on at that target, if the jump leads there again.

extension DecodedInstruction {
    /// How many times in a row a jump has led to the same target before it is expected to.
    private static let sureTimes: UInt32 = 6

    /// Of a block's closing slot: the next indirect jump behind the block, in the slot `site`, led to `target`, an offset from its page base.
    mutating func noteJump(at site: UInt32, to target: UInt64) {
        if immediate == target, displacement == Int32(bitPattern: site) {
            link &+= 1
        } else {
            (immediate, displacement, link) = (target, Int32(bitPattern: site), 0)
        }
    }

    /// Of a block's closing slot: the target in its page that the next indirect jump behind the block is expected to lead to.
    var expectedTarget: UInt64? {
        handler == .endOfBlock && link >= Self.sureTimes && immediate < 4096 ? immediate : nil
    }

    /// The same if that is the jump in the slot `site`.
    func expectedTarget(ofJumpAt site: UInt32) -> UInt64? {
        displacement == Int32(bitPattern: site) ? expectedTarget : nil
    }
}

extension BlockCache {
    /// The interpreter comes to a block: if to the first one behind an indirect jump or translated code, the next jump is noted for it.
    @inline(__always)
    mutating func noteEntry(_ slot: UInt32) { if jumpOrigin == 0 { jumpOrigin = slot } }

    /// The indirect jump in the slot `site` leads to `target`, an offset from its page base.
    mutating func noteJump(at site: UInt32, to target: UInt64) {
        let origin = jumpOrigin
        jumpOrigin = 0
        // SAFETY: `synchronize` forgets a block whose slots may be others'.
        guard origin != 0, origin != Self.scratch, unsafe header(origin).pointee.isValid else { return }
        // SAFETY: the closing slot follows the instructions.
        unsafe instruction(origin + 1 + UInt32(header(origin).pointee.count)).pointee.noteJump(at: site, to: target)
    }
}
