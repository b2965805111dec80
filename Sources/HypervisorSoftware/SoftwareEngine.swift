// SPDX-License-Identifier: Apache-2.0
// How the software CPU runs code: a choice of the host, which no guest can tell.

/// What runs a guest's instructions.
public enum SoftwareEngine: String, Sendable, CaseIterable {
    /// The interpreter alone.
    case interpret
    /// The interpreter, and translated code for what runs often.
    case translate
    /// Both from the same state, which stops at the first difference: to find faults of the translator.
    case check

    /// The engine of this host when nobody chose one.
    #if arch(x86_64) && os(Linux)
        public static let standard = SoftwareEngine.translate
    #else
        public static let standard = SoftwareEngine.interpret
    #endif
}
