// SPDX-License-Identifier: Apache-2.0
// Status flags that instructions leave undefined: host code and the interpreter need not agree on them.

extension Flags {
    /// By the operation of the integer group, what its forms leave undefined.
    private static let undefinedByOperation: [Flags] = {
        var table = [Flags](repeating: [], count: Operation.allCases.count)
        for form in InstructionTable.primary() + InstructionTable.extended() {
            table[Int(form.operation.rawValue)].formUnion(form.undefinedFlags)
        }
        return table
    }()

    /// The undefined flags after `i`, when these were before it.
    func undefined(after i: DecodedInstruction) -> Flags {
        switch i.handler {
        case .vector:
            guard let operation = VectorOperation(rawValue: i.operation) else { return self }
            return subtracting(FlagUse.vector(operation).replaces)
        case .x87: return self
        default:
            guard let operation = Operation(rawValue: i.operation) else { return self }
            return subtracting(FlagUse.integer(operation, i).replaces)
                .union(Self.undefinedByOperation[Int(operation.rawValue)])
        }
    }
}
