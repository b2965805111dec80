// SPDX-License-Identifier: Apache-2.0
// Model-specific registers between KVM and the neutral state. Intel SDM volume 4; Linux Documentation/virt/kvm/x86/msr.rst.

#if os(Linux)

    internal import CHost
    internal import Glibc
    internal import X86

    /// MSR numbers.
    enum MSR {
        static let timeStampCounter: UInt32 = 0x10
        static let sysenterCS: UInt32 = 0x174
        static let sysenterESP: UInt32 = 0x175
        static let sysenterEIP: UInt32 = 0x176
        static let miscEnable: UInt32 = 0x1a0
        static let pat: UInt32 = 0x277
        static let mtrrDefaultType: UInt32 = 0x2ff
        static let tscDeadline: UInt32 = 0x6e0
        static let star: UInt32 = 0xc000_0081
        static let lstar: UInt32 = 0xc000_0082
        static let cstar: UInt32 = 0xc000_0083
        static let syscallMask: UInt32 = 0xc000_0084
        static let kernelGSBase: UInt32 = 0xc000_0102
        static let tscAux: UInt32 = 0xc000_0103
        static let kvmWallClock: UInt32 = 0x4b56_4d00
        static let kvmSystemTime: UInt32 = 0x4b56_4d01
    }

    extension KVMVirtualCPU {
        /// Where each register is in the neutral state. EFER and the bases of FS and GS come with the segments.
        private static var places: [(number: UInt32, place: WritableKeyPath<ModelSpecificRegisters, UInt64>)] {
            [
                (MSR.star, \.star), (MSR.lstar, \.lstar), (MSR.cstar, \.cstar), (MSR.syscallMask, \.syscallMask),
                (MSR.kernelGSBase, \.kernelGSBase), (MSR.sysenterCS, \.sysenterCS), (MSR.sysenterESP, \.sysenterESP),
                (MSR.sysenterEIP, \.sysenterEIP), (MSR.pat, \.pat), (MSR.tscAux, \.tscAux),
                (MSR.miscEnable, \.miscEnable), (MSR.mtrrDefaultType, \.mtrrDefaultType),
                (MSR.kvmSystemTime, \.kvmSystemTime), (MSR.kvmWallClock, \.kvmWallClock),
            ]
        }

        /// Registers that some kernels do not have for every guest, or do not list; there a guest leaves them as they are.
        private static let optional: Set<UInt32> = [MSR.mtrrDefaultType, MSR.miscEnable, MSR.tscAux, MSR.pat]

        func saveRegisters(into registers: inout ModelSpecificRegisters) {
            for (number, place) in Self.places {
                if let value = readRegister(number) { registers[keyPath: place] = value }
            }
        }

        func restoreRegisters(_ registers: ModelSpecificRegisters) throws(KVMError) {
            var values: [(UInt32, UInt64)] = []
            for (number, place) in Self.places {
                let value = registers[keyPath: place]
                if savedRegisters.contains(number) || !Self.optional.contains(number) {
                    values.append((number, value))
                } else if value != readRegister(number) {
                    try writeRegisters([(number, value)])
                }
            }
            try writeRegisters(values)
        }

        /// Nil when this kernel has no such register.
        func readRegister(_ number: UInt32) -> UInt64? {
            var list = Self.list([(number, 0)])
            // SAFETY: a struct kvm_msrs with one entry.
            let count = unsafe list.withUnsafeMutableBytes { unsafe chost_kvm_get_msrs(descriptor, $0.baseAddress) }
            return count == 1 ? list[2] : nil
        }

        func writeRegisters(_ values: [(UInt32, UInt64)]) throws(KVMError) {
            let list = Self.list(values)
            // SAFETY: a struct kvm_msrs with as many entries as `values`.
            let count = unsafe list.withUnsafeBytes { unsafe chost_kvm_set_msrs(descriptor, $0.baseAddress) }
            try accepted(count, "model-specific registers")
            guard count == values.count else {
                let (number, value) = values[Int(count)]
                throw .refused(
                    what: "0x\(String(value, radix: 16)) for model-specific register 0x\(String(number, radix: 16))",
                    errno: EINVAL)
            }
        }

        /// A struct kvm_msrs: a count, then two words for each register, its number and its value.
        private static func list(_ values: [(UInt32, UInt64)]) -> [UInt64] {
            [UInt64(values.count)] + values.flatMap { [UInt64($0), $1] }
        }
    }

#endif
