// SPDX-License-Identifier: Apache-2.0
// The keys that are for smolvmm and not for the guest: Ctrl-A and one more.

/// Separates what is typed into what the guest gets and what smolvmm does.
struct EscapeFilter {
    enum Action: Equatable {
        case send([UInt8])
        case leave
        case help
    }

    static let escape: UInt8 = 0x01  // Ctrl-A
    static let helpText = """
        Ctrl-A X       leave: the machine ends, as if its power were cut
        Ctrl-A Ctrl-A  send Ctrl-A to the guest (Ctrl-A A, too)
        Ctrl-A H       this help
        """

    private var isEscaped = false

    /// What `bytes`, however they are cut into pieces, ask for, in order.
    mutating func process(_ bytes: [UInt8]) -> [Action] {
        var actions: [Action] = []
        var plain: [UInt8] = []
        func flush() {
            if !plain.isEmpty { actions.append(.send(plain)) }
            plain = []
        }
        for byte in bytes {
            guard isEscaped else {
                if byte == Self.escape { isEscaped = true } else { plain.append(byte) }
                continue
            }
            isEscaped = false
            switch byte {
            case Self.escape, UInt8(ascii: "a"), UInt8(ascii: "A"): plain.append(Self.escape)
            case UInt8(ascii: "x"), UInt8(ascii: "X"):
                flush()
                actions.append(.leave)
            case UInt8(ascii: "h"), UInt8(ascii: "H"), UInt8(ascii: "?"):
                flush()
                actions.append(.help)
            default: break
            }
        }
        flush()
        return actions
    }
}
