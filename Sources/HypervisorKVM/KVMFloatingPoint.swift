// SPDX-License-Identifier: Apache-2.0
// x87, MMX, SSE and AVX state between KVM's XSAVE area and the neutral state. Intel SDM volume 1, sections 10.5.1 and 13.4.

#if os(Linux)

    internal import CHost
    internal import X86

    /// An XSAVE area in standard form: the legacy region as FXSAVE64 writes it, the header, and the upper halves of YMM
    /// registers, which every processor has at the same place.
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
            static let upperHalves = 576
        }
        private static let registerSize = 16
        /// In XSTATE_BV.
        private enum Component {
            static let legacy: UInt64 = 3  // x87 and SSE
            static let upperHalves: UInt64 = 1 << 2
        }

        var bytes = [UInt8](repeating: 0, count: ExtendedArea.size)

        private func load(_ offset: Int, _ count: Int) -> UInt64 {
            bytes[offset..<offset + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }

        private mutating func store(_ value: UInt64, _ offset: Int, _ count: Int) {
            for index in 0..<count { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8)) }
        }

        init() {}

        init(_ state: FloatingPointState, _ extended: ExtendedState?) {
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
            var components = Component.legacy
            if let extended {
                components |= Component.upperHalves
                for (index, half) in extended.upperHalves.enumerated() {
                    store(half, Offset.upperHalves + index * 8, 8)
                }
            }
            store(components, Offset.components, 8)
        }

        /// Zeros where the processor has them at their initial value.
        var upperHalves: [UInt64] { (0..<32).map { load(Offset.upperHalves + $0 * 8, 8) } }

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
        func saveFloatingPoint(into state: inout CPUState) throws(KVMError) {
            var area = ExtendedArea()
            // SAFETY: 4096 bytes, which is what the kernel writes.
            let result = unsafe area.bytes.withUnsafeMutableBytes {
                unsafe chost_kvm_get_xsave(descriptor, $0.baseAddress)
            }
            try accepted(result, "to show its x87, SSE and AVX state")
            state.floatingPoint = area.state
            guard machine.model.features.contains(.xsave) else { return }
            var extended = ExtendedState()
            try accepted(unsafe chost_kvm_get_xcr0(descriptor, &extended.xcr0), "to show XCR0")
            if machine.model.features.contains(.avx) { extended.upperHalves = area.upperHalves }
            state.extended = extended
        }

        func restoreFloatingPoint(_ state: CPUState) throws(KVMError) {
            let extended = machine.model.features.contains(.xsave) ? state.extended ?? ExtendedState() : nil
            if let extended { try accepted(chost_kvm_set_xcr0(descriptor, extended.xcr0), "XCR0") }
            let area = ExtendedArea(state.floatingPoint, machine.model.features.contains(.avx) ? extended : nil)
            // SAFETY: 4096 bytes, which is what the kernel reads.
            let result = unsafe area.bytes.withUnsafeBytes { unsafe chost_kvm_set_xsave(descriptor, $0.baseAddress) }
            try accepted(result, "the x87, SSE and AVX state")
        }
    }

#endif
