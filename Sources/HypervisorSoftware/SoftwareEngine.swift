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

/// How the translator goes about it: choices of the host, too.
public struct TranslationOptions: Equatable, Sendable {
    /// What `cacheSize` may be.
    public static let cacheSizes = 4...1024
    /// What `heat` may be.
    public static let heats: ClosedRange<UInt8> = 1...100

    /// MiB for decoded blocks and translated code, half of them for each, taken as they are used. When all are in use, the
    /// oldest code is forgotten.
    public var cacheSize = 256
    /// How often a block is interpreted before it is translated, half as often where code seldom changes. Nil for the
    /// engine's own: 40, and 1 to check.
    public var heat: UInt8?

    /// Whether blocks are translated on a thread of their own. Nil for where this process may run on more than one processor;
    /// the check's are not.
    public var isBeside: Bool?

    public init() {}
}
