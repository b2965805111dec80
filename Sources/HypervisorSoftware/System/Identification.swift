// SPDX-License-Identifier: Apache-2.0
// CPUID, answered from the model that the machine promises. Intel SDM volume 2.

import X86

extension Core {
    mutating func identify() {
        let leaf = UInt32(truncatingIfNeeded: self[gpr: RegisterIndex.rax])
        let subleaf = UInt32(truncatingIfNeeded: self[gpr: RegisterIndex.rcx])
        let result = configuration.model.cpuid(
            leaf: leaf, subleaf: subleaf, index: index, count: configuration.processors)
        self[gpr: RegisterIndex.rax] = UInt64(result.eax)
        self[gpr: RegisterIndex.rbx] = UInt64(result.ebx)
        self[gpr: RegisterIndex.rcx] = UInt64(result.ecx)
        self[gpr: RegisterIndex.rdx] = UInt64(result.edx)
    }
}
