// SPDX-License-Identifier: Apache-2.0
// libFuzzer's loop, called from a program's own start. Spec: LLVM, "Using libFuzzer as a library".

import Glibc

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<Int32>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ test: @convention(c) (UnsafePointer<UInt8>, Int) -> Int32
) -> Int32

/// Feeds `test` with inputs as the command line says.
public func fuzz(_ test: @convention(c) (UnsafePointer<UInt8>, Int) -> Int32) -> Never {
    var count = CommandLine.argc
    var arguments = unsafe CommandLine.unsafeArgv
    // SAFETY: the process's own arguments, which libFuzzer may reorder.
    exit(unsafe runDriver(&count, &arguments, test))
}
