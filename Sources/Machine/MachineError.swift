// SPDX-License-Identifier: Apache-2.0
// Why a machine could not be made, restored, snapshotted or kept running.

internal import Host

/// Why the machine did not do what was asked.
public enum MachineError: Error, Equatable, CustomStringConvertible {
    /// A setting of the configuration that this smolvmm cannot honour.
    case invalidConfiguration(field: String, value: String, allowed: String)
    /// A CPU contract with a level or feature that this smolvmm does not know; `part` says which.
    case unknownCPUModel(String, part: String, known: String)
    /// The CPU contract has features that the software CPU lacks.
    case hardwareOnly(model: String, features: [String])
    /// The kernel, the initramfs or the bundle; the text is the layer's own.
    case boot(String)
    case bundle(String)
    /// A saved state that was refused, or one that is missing or too many.
    case state(String)
    /// Memory, the bus or the virtual processor; the text is the layer's own.
    case assembly(String)
    /// A disk; the text is the image's own.
    case disk(String)
    /// The network; the text is its own.
    case network(String)
    case hostRefused(what: String, errno: Int32)
    /// The machine ended before it got to the request.
    case ended
    case busy(String)
    /// An adjustment that the machine cannot make.
    case refused(String)

    public var description: String {
        switch self {
        case .invalidConfiguration(let field, let value, let allowed): "\(field) is \(value), must be \(allowed)"
        case .unknownCPUModel(let model, let part, let known):
            "the CPU model '\(model)' has the \(part), which this smolvmm does not know: it knows \(known)"
        case .hardwareOnly(let model, let features):
            "the CPU model '\(model)' has \(features.joined(separator: ", ")), which the software CPU does not: it runs on a "
                + "host with hardware KVM only ('smolvmm doctor' tells of this one)"
        case .boot(let text), .bundle(let text), .state(let text), .assembly(let text), .disk(let text),
            .network(let text), .refused(let text):
            text
        case .hostRefused(let what, let code): "the host refused \(what): \(errorText(code))"
        case .ended: "the machine has ended"
        case .busy(let what): "the machine is busy: \(what)"
        }
    }
}
