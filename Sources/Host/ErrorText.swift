// SPDX-License-Identifier: Apache-2.0
// The host's words for its error numbers.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// What the error number `code` means, such as "No space left on device".
package func errorText(_ code: Int32) -> String {
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    // SAFETY: strerror gives a NUL-terminated string, copied at once.
    return unsafe String(cString: text)
}
