// SPDX-License-Identifier: Apache-2.0
// A process that serves one conversation. The agent keeps one that waits for it: starting it takes longer than many commands.

import CLibc

struct Worker {
    let process: pid_t
    /// The agent's end of the channel on which the worker waits.
    private let channel: Int32

    /// A worker that waits; nil when the kernel has no room for it. `listener` is the agent's own.
    static func start(without listener: Int32) -> Worker? {
        var ends: [Int32] = [-1, -1]
        // SAFETY: socketpair writes two descriptors.
        guard unsafe make_channel(&ends) == 0 else { return nil }
        let process = fork()
        if process == 0 {
            Kernel.close(listener)
            Kernel.close(ends[0])
            serve(ends[1])
            _exit(0)
        }
        Kernel.close(ends[1])
        let worker = Worker(process: process, channel: ends[0])
        guard process > 0 else {
            worker.release()
            return nil
        }
        return worker
    }

    /// In the worker: everything that can be done before there is a conversation, and then that, in the channel's place.
    private static func serve(_ channel: Int32) {
        let session = Session(channel)
        var isReady: UInt8 = 0
        // SAFETY: writes one byte.
        guard unsafe receive_descriptor(channel, &isReady) == 0 else { return }
        session.run(isReady: isReady != 0)
    }

    /// Gives it its conversation; false when it has gone.
    func take(_ connection: Int32, isReady: Bool) -> Bool { pass_descriptor(channel, connection, isReady ? 1 : 0) == 0 }

    /// The agent has no more to say to it: a worker without a conversation ends.
    func release() { Kernel.close(channel) }
}
