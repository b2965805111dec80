// SPDX-License-Identifier: Apache-2.0
// x87, MMX and SSE state between KVM's XSAVE area and the neutral state. Intel SDM volume 1, sections 10.5.1 and 13.4.

#if os(Linux)

    internal import CHost
    internal import X86

    /// The legacy region of an XSAVE area, as FXSAVE64 writes it, and the header behind it.
    private struct ExtendedArea {
        static let size = 4096

        private enum Offset {
            static let control = 0
            static let status = 2
            static let abridgedTag = 4
            static let lastOpcode = 6
            static let lastInstruction = 8
            static let lastData = 16
            static let mxcsr = 24
            static let stack = 32
            static let xmm = 160
            static let components = 512  // XSTATE_BV
        }
        private static let registerSize = 16
        /// x87 and SSE.
        private static let components: UInt64 = 3

        var bytes = [UInt8](repeating: 0, count: ExtendedArea.size)

        private func load(_ offset: Int, _ count: Int) -> UInt64 {
            bytes[offset..<offset + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }

        private mutating func store(_ value: UInt64, _ offset: Int, _ count: Int) {
            for index in 0..<count { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8)) }
        }

        init() {}

        init(_ state: FloatingPointState) {
            store(UInt64(state.control), Offset.control, 2)
            store(UInt64(state.status), Offset.status, 2)
            bytes[Offset.abridgedTag] = state.abridgedTag
            store(UInt64(state.lastOpcode), Offset.lastOpcode, 2)
            store(state.lastInstruction, Offset.lastInstruction, 8)
            store(state.lastData, Offset.lastData, 8)
            store(UInt64(state.mxcsr), Offset.mxcsr, 4)
            for (index, register) in state.stack.enumerated() {
                let start = Offset.stack + index * Self.registerSize
                bytes.replaceSubrange(start..<start + register.count, with: register)
            }
            for (index, half) in state.xmm.enumerated() { store(half, Offset.xmm + index * 8, 8) }
            store(Self.components, Offset.components, 8)
        }

        var state: FloatingPointState {
            var state = FloatingPointState()
            state.control = UInt16(load(Offset.control, 2))
            state.status = UInt16(load(Offset.status, 2))
            state.abridgedTag = bytes[Offset.abridgedTag]
            state.lastOpcode = UInt16(load(Offset.lastOpcode, 2)) & 0x7ff
            state.lastInstruction = load(Offset.lastInstruction, 8)
            state.lastData = load(Offset.lastData, 8)
            state.mxcsr = UInt32(load(Offset.mxcsr, 4)) & 0xffff
            state.stack = (0..<8).map { index in
                let start = Offset.stack + index * Self.registerSize
                return Array(bytes[start..<start + 10])
            }
            state.xmm = (0..<32).map { load(Offset.xmm + $0 * 8, 8) }
            return state
        }
    }

    extension KVMVirtualCPU {
        func saveFloatingPoint() throws(KVMError) -> FloatingPointState {
            var area = ExtendedArea()
            // SAFETY: 4096 bytes, which is what the kernel writes.
            let result = unsafe area.bytes.withUnsafeMutableBytes {
                unsafe chost_kvm_get_xsave(descriptor, $0.baseAddress)
            }
            try accepted(result, "to show its x87 and SSE state")
            return area.state
        }

        func restoreFloatingPoint(_ state: FloatingPointState) throws(KVMError) {
            let area = ExtendedArea(state)
            // SAFETY: 4096 bytes, which is what the kernel reads.
            let result = unsafe area.bytes.withUnsafeBytes { unsafe chost_kvm_set_xsave(descriptor, $0.baseAddress) }
            try accepted(result, "the x87 and SSE state")
        }
    }

#endif
