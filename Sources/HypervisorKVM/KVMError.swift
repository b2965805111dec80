// SPDX-License-Identifier: Apache-2.0
// Why KVM cannot run a machine, and what the user can do about it.

#if os(Linux)

    internal import Glibc
    internal import Host

    /// Why the KVM backend did not do what was asked.
    public enum KVMError: Error, Equatable, CustomStringConvertible {
        /// There is no /dev/kvm.
        case missing
        /// /dev/kvm is there, but not for this user.
        case notPermitted
        case cannotOpen(errno: Int32)
        case unsupportedVersion(Int32)
        /// The kernel's KVM lacks something that this backend is built on.
        case lacks(capability: String)
        /// The CPU model has a feature that the host's processor, or its KVM, has not.
        case missingFeatures(model: String, features: [String])
        /// An ioctl failed.
        case refused(what: String, errno: Int32)

        public var description: String {
            switch self {
            case .missing:
                "this host has no /dev/kvm: load the kernel's module kvm_intel or kvm_amd, or use --accel software"
            case .notPermitted:
                "/dev/kvm is there, but you may not open it: join its group (usermod -aG kvm USER), or use --accel software"
            case .cannotOpen(let code): "/dev/kvm cannot be opened: \(errorText(code)); --accel software does without"
            case .unsupportedVersion(let version): "/dev/kvm speaks version \(version) of its interface, must be 12"
            case .lacks(let capability):
                "KVM of this kernel lacks \(capability): a newer kernel has it, and --accel software does without"
            case .missingFeatures(let model, let features):
                "the CPU model '\(model)' has \(features.joined(separator: ", ")), which this host's KVM does not offer: "
                    + "use another host, or --accel software"
            case .refused(let what, let code):
                "KVM refused \(what): \(errorText(code)); 'smolvmm doctor' tells more of this host"
            }
        }
    }

    /// Throws `refused` with the error number when an ioctl's `result` says that it failed.
    @discardableResult func accepted(_ result: Int32, _ what: @autoclosure () -> String) throws(KVMError) -> Int32 {
        guard result >= 0 else { throw .refused(what: what(), errno: errno) }
        return result
    }

#endif
