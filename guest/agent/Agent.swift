// SPDX-License-Identifier: Apache-2.0
// smolvmm's agent in the guest: serves the host's conversations on a vsock port, each by a worker. As process 1 it is the
// guest's init as well.

import CLibc

@main
struct Agent {
    private static let anyContext = UInt32.max
    /// Milliseconds between looks for the vsock driver, which somebody else may load.
    private static let retry: UInt32 = 200
    private static let longRetryAfter = 50
    /// Milliseconds that pass without a conversation before there is a new worker on standby: in a copy that has just begun,
    /// everything takes a while.
    private static let lull: Int32 = 200

    static func main() {
        ignore_broken_pipes()
        let isInit = getpid() == 1
        if isInit { Boot.prepare() }
        let listener = listen()
        Freezer.settle()
        let children = child_signals()
        var script = isInit ? Boot.start() : nil
        var standby: Worker?
        while true {
            var waiting = [
                pollfd(fd: listener, events: Int16(POLLIN), revents: 0),
                pollfd(fd: children, events: Int16(POLLIN), revents: 0),
            ]
            // SAFETY: two descriptors, as the count says.
            var hasTime = unsafe poll(&waiting, 2, standby == nil ? lull : -1) == 0
            if waiting[1].revents != 0 {
                drain_signals(children)
                while let ended = collect() {
                    if ended == script { script = nil }
                    if let worker = standby, worker.process == ended {
                        worker.release()
                        standby = nil
                    }
                    hasTime = true
                }
            }
            if waiting[0].revents != 0 {
                serve(listener, standby, isReady: script == nil)
                standby = nil
            } else if hasTime, standby == nil {
                standby = Worker.start(without: listener)
            }
        }
    }

    /// A listener at the agent's port, as soon as there is vsock.
    private static func listen() -> Int32 {
        var tries = 0
        while true {
            let listener = vsock_stream(anyContext, AgentProtocol.port, 1)
            if listener >= 0 { return listener }
            tries += 1
            if tries == 1 { say("smolvmm-agent: waiting for vsock (the module vmw_vsock_virtio_transport)") }
            _ = usleep(retry * (tries < longRetryAfter ? 1000 : 10_000))
        }
    }

    /// The number of a child that has ended.
    private static func collect() -> pid_t? {
        let ended = waitpid(-1, nil, WNOHANG)
        return ended > 0 ? ended : nil
    }

    /// Gives the next conversation to `standby`, or to a new worker if it has gone.
    private static func serve(_ listener: Int32, _ standby: Worker?, isReady: Bool) {
        let connection = accept_stream(listener)
        if connection >= 0, standby?.take(connection, isReady: isReady) != true {
            let worker = Worker.start(without: listener)
            _ = worker?.take(connection, isReady: isReady)
            worker?.release()
        }
        standby?.release()
        if connection >= 0 { Kernel.close(connection) }
    }
}
