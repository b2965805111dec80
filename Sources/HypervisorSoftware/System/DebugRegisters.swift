// SPDX-License-Identifier: Apache-2.0
// Breakpoints on instructions and data through DR0 to DR3 and DR7. Intel SDM volume 3, 18.2.
//
// They cost nothing while DR7 enables none: with one enabled, instructions run one by one, and pages with a data
// breakpoint stay out of the soft TLB, so that each access takes the slow path, which compares addresses.

/// DR6 bits.
enum DebugStatus {
    static let singleStep: UInt64 = 1 << 14  // BS
}

/// DR7 bits.
enum DebugControl {
    /// L0 to G3.
    static let enabled: UInt64 = 0xff
}

/// R/W fields of DR7.
private enum BreakpointKind: UInt64 {
    case execution = 0
    case write = 1
    case port = 2
    case access = 3
}

extension Core {
    /// Whether breakpoint `number` is enabled, locally or globally.
    private mutating func isEnabled(_ number: Int) -> Bool { debug[5] >> UInt64(number * 2) & 3 != 0 }

    private mutating func kind(_ number: Int) -> BreakpointKind? {
        BreakpointKind(rawValue: debug[5] >> UInt64(16 + number * 4) & 3)
    }

    /// Bytes watched, and the address aligned to them.
    private mutating func range(_ number: Int) -> (start: UInt64, count: UInt64) {
        let count: UInt64 =
            switch debug[5] >> UInt64(18 + number * 4) & 3 {
            case 0: 1
            case 1: 2
            case 2: 8
            default: 4
            }
        return (debug[number] & ~(count - 1), count)
    }

    /// Whether there is an instruction breakpoint at `linear`; then DR6 says which.
    mutating func executionBreakpoint(_ linear: UInt64) -> Bool {
        var hits: UInt64 = 0
        for number in 0..<4 where isEnabled(number) && kind(number) == .execution && debug[number] == linear {
            hits |= 1 << UInt64(number)
        }
        debug[4] |= hits
        return hits != 0
    }

    /// Whether a data breakpoint lies in the page of `linear`.
    @inline(__always)
    mutating func isWatched(_ linear: UInt64) -> Bool {
        debug[5] & DebugControl.enabled != 0 && hasDataBreakpoint(inPageOf: linear)
    }

    @inline(never)
    private mutating func hasDataBreakpoint(inPageOf linear: UInt64) -> Bool {
        for number in 0..<4 where isEnabled(number) && (kind(number) == .write || kind(number) == .access) {
            if (debug[number] ^ linear) & ~4095 == 0 { return true }
        }
        return false
    }

    /// Notes the data breakpoints that an access of `size` bytes meets.
    @inline(never)
    mutating func noteDataAccess(_ linear: UInt64, _ size: UInt64, isWrite: Bool) {
        for number in 0..<4 where isEnabled(number) {
            guard let kind = kind(number), kind == .access || (kind == .write && isWrite) else { continue }
            let range = range(number)
            if linear < range.start &+ range.count, range.start < linear &+ size { watchHits |= 1 << UInt64(number) }
        }
    }
}
