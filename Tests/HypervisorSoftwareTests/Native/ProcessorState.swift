// SPDX-License-Identifier: Apache-2.0
// Registers and data window of one run, and the host's own processor as a runner.

import TestSupport
import CNative

/// What an instruction can see and change: registers and the data window.
struct ProcessorState {
    static let windowStart = UInt64(NATIVE_WINDOW)
    static let windowSize = Int(NATIVE_WINDOW_SIZE)
    static let codeStart = UInt64(NATIVE_CODE)

    /// The words of `native.h`: sixteen registers, RFLAGS, RIP, an FXSAVE64 image.
    var words = [UInt64](repeating: 0, count: Int(NATIVE_WORDS))
    var window = [UInt8](repeating: 0, count: windowSize)

    init() {
        flags = 0x202
        fxsave(0x037f, at: 0, bytes: 2)
        fxsave(0x1f80, at: 24, bytes: 4)
        self[4] = Self.windowStart + 0x1000
    }

    /// General register `number`, 0 to 15.
    subscript(number: Int) -> UInt64 {
        get { words[number] }
        set { words[number] = newValue }
    }

    var flags: UInt64 {
        get { words[Int(NATIVE_FLAGS)] }
        set { words[Int(NATIVE_FLAGS)] = newValue }
    }

    var rip: UInt64 {
        get { words[Int(NATIVE_RIP)] }
        set { words[Int(NATIVE_RIP)] = newValue }
    }

    /// Word `number` of the FXSAVE image, 0 to 63.
    subscript(fx number: Int) -> UInt64 {
        get { words[Int(NATIVE_FX) + number] }
        set { words[Int(NATIVE_FX) + number] = newValue }
    }

    /// Sets a field of the FXSAVE image that lies in one 64-bit word.
    mutating func fxsave(_ value: UInt64, at offset: Int, bytes: Int) {
        let shift = UInt64(offset % 8 * 8)
        let mask: UInt64 = bytes == 8 ? .max : (1 << UInt64(bytes * 8)) - 1
        self[fx: offset / 8] = self[fx: offset / 8] & ~(mask << shift) | (value & mask) << shift
    }

    /// XMM register `number`, low and high half.
    func xmm(_ number: Int) -> (UInt64, UInt64) { (self[fx: 20 + number * 2], self[fx: 21 + number * 2]) }

    /// Writes little-endian bytes to the window as far as they lie in it.
    mutating func poke(_ value: UInt64, at address: UInt64, bytes: Int) {
        for position in 0..<bytes {
            let offset = Int(truncatingIfNeeded: address &- Self.windowStart &+ UInt64(position))
            if window.indices.contains(offset) {
                window[offset] = UInt8(truncatingIfNeeded: value >> UInt64(position * 8))
            }
        }
    }
}

/// How a run ended: at its end, or with an exception.
struct Outcome: Equatable {
    /// -1 when no exception happened.
    var vector = -1
    var errorCode: UInt32 = 0
    /// CR2 of a page fault.
    var address: UInt64 = 0
}

/// The host's own processor.
enum NativeRunner {
    static var isAvailable: Bool { native_available() != 0 }

    /// Runs `code` from `state`; nil when the host cannot.
    static func run(_ code: [UInt8], _ state: inout ProcessorState) -> Outcome? {
        guard isAvailable else { return nil }
        native_lock()
        defer { native_unlock() }
        var outcome = native_outcome()
        // SAFETY: the window has `windowSize` bytes, `words` NATIVE_WORDS, `code` its own count.
        unsafe native_set_window(state.window)
        let result = unsafe native_run(code, code.count, &state.words, &outcome)
        unsafe native_get_window(&state.window)
        guard result == 0 else { return nil }
        let isPageFault = outcome.vector == 14
        return Outcome(
            vector: Int(outcome.vector), errorCode: outcome.vector < 0 ? 0 : outcome.error_code,
            address: isPageFault ? outcome.address : 0)
    }
}

extension SplitMix64 {
    /// 0 to `bound` - 1.
    mutating func below(_ bound: Int) -> Int { Int(truncatingIfNeeded: ((next() >> 32) &* UInt64(bound)) >> 32) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
    mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
}
