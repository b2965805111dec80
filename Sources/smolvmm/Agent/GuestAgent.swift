// SPDX-License-Identifier: Apache-2.0
// What a machine's own process has to say to its guest's agent: before and after a snapshot, after a restore, and the
// waiting until it is ready.

import AgentProtocol
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The agent behind one machine's vsock socket. Any thread but the machine's.
struct GuestAgent: Sendable {
    /// Microseconds between looks at a guest that is not ready.
    private static let retry: UInt32 = 50_000
    /// Microseconds for the agent to get ready for its next conversation, so that copies have nothing to do before it.
    private static let settling: UInt32 = 20_000

    let path: String
    let control: MachineControl

    /// The guest writes to its disks what it has in memory, trims them, and holds its processes. A guest without an agent,
    /// or one that stands, is frozen as it is. Returns whether `proceed` has to follow.
    func prepare() -> Bool {
        guard ask(.prepare) else { return false }
        usleep(Self.settling)
        return true
    }

    /// The guest's processes go on.
    func proceed(wallClock: UInt64 = 0) { _ = ask(.proceed, wallClock: wallClock) }

    private func ask(_ kind: FrameKind, wallClock: UInt64 = 0) -> Bool {
        guard control.activity != .paused else { return false }
        do throws(AgentAbsence) {
            let connection = try AgentConnection(path: path, wallClock: wallClock, request: Frame(kind))
            return connection.finish().failure == nil
        } catch {
            return false
        }
    }

    /// In a copy: the agent stirs the random pool and sets the clock, then the guest's processes go on.
    /// - Parameter setsClock: to the host's time.
    func arrive(setsClock: Bool) {
        guard setsClock else { return proceed() }
        var now = timespec()
        // SAFETY: `now` outlives the call.
        unsafe _ = clock_gettime(CLOCK_REALTIME, &now)
        proceed(wallClock: UInt64(max(now.tv_sec, 0)) * 1_000_000_000 + UInt64(now.tv_nsec))
    }

    /// Waits until the agent says that the guest is ready; false when the machine ended before, or `seconds` have passed.
    func waitUntilReady(seconds: Int?) -> Bool {
        let end = seconds.map { time(nil) + $0 }
        while control.activity != .ended {
            do throws(AgentAbsence) {
                if try AgentConnection(path: path).greeting.isReady { return true }
            } catch {
                // Not there yet, most likely.
            }
            if let end, time(nil) >= end { return false }
            usleep(Self.retry)
        }
        return false
    }
}
