// SPDX-License-Identifier: Apache-2.0
// MMX and SSE instructions as themselves, on the guest's registers in the host's. Intel SDM volume 2.

extension BlockTranslator {
    /// Translates an instruction of the vector group.
    mutating func translateVector(_ i: DecodedInstruction) {
        guard let operation = VectorOperation(rawValue: i.operation), let shape = VectorOperands(rawValue: i.shape),
            let encoding = VectorEncoding.of(operation, shape)
        else { return }
        let layout = encoding.layout
        if layout.reg == .xmm || layout.rm == .xmm { loadVectors() }
        if operation == .emms || shape.isMMX { loadX87() }
        if operation == .emms {
            code.byte(0x0f)
            code.byte(0x77)
            return
        }
        let isGeneral = layout.rm != .xmm && layout.rm != .mm
        let writesFlags = FlagUse.vector(operation).changes
        if i.isMemory {
            sparesFirst = layout.reg == .xmm
            let memory = access(
                i, size: Int32(layout.memoryBytes), layout.storesToRM ? .write : .read, aligned: layout.isAligned)
            sparesFirst = false
            encode(encoding, i, .memory(memory))
        } else if isGeneral, layout.storesToRM {
            keepFlags()
            let host = begin(i.rm, .first, reads: false)
            encode(encoding, i, .number(host))
            end(i.rm, .first)
        } else {
            keepFlags()
            encode(encoding, i, isGeneral ? source(i.rm) : .number(i.rm & (layout.rm == .mm ? 7 : 15)))
        }
        if writesFlags { flags = FlagState(inHost: true, inContext: false) }
    }

    /// Writes the store `i` of a vector register, which is loaded, to `memory`.
    mutating func storeVector(_ i: DecodedInstruction, _ memory: HostMemory) {
        guard let operation = VectorOperation(rawValue: i.operation), let shape = VectorOperands(rawValue: i.shape),
            let encoding = VectorEncoding.of(operation, shape)
        else { return }
        encode(encoding, i, .memory(memory))
    }

    private mutating func encode(_ encoding: VectorEncoding, _ i: DecodedInstruction, _ rm: HostOperand) {
        let layout = encoding.layout
        let reg: UInt8
        switch layout.reg {
        case .xmm: reg = i.reg & 15
        case .general32, .general64: reg = begin(i.reg, .first, reads: layout.storesToRM)
        case .mm: reg = i.reg & 7
        case .none: reg = UInt8(bitPattern: max(encoding.form.group, 0))
        }
        code.instruction(
            prefix: encoding.prefix, wide: i.operandSize == 8, encoding.form.map, encoding.form.opcode, reg: reg, rm: rm
        )
        if layout.hasImmediate { code.byte(UInt8(truncatingIfNeeded: i.immediate)) }
        if layout.reg == .general32 || layout.reg == .general64, !layout.storesToRM { end(i.reg, .first) }
    }

    /// Makes sure, once in a block, that the guest's vector registers are the host's.
    private mutating func loadVectors() {
        guard !vectorsLoaded else { return }
        vectorsLoaded = true
        load(ContextLayout.vectorLoaded, allowed: ContextLayout.vectorAllowed, routines.loadVectors)
    }

    /// Calls `routine` if the byte `loaded` of the context is 0; the interpreter runs the instruction if `allowed` is, too.
    mutating func load(_ loaded: Int, allowed: Int, _ routine: Int) {
        giveUpHostFlags()
        code.instruction(wide: false, 0x80, reg: 7, rm: .context(loaded))  // CMP
        code.byte(0)
        let place = code.jump(if: HostCondition.equal)
        aside(place, .load(allowed: allowed, routine: routine, resume: code.position, count: count))
    }
}
