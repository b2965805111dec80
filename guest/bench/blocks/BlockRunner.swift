// SPDX-License-Identifier: Apache-2.0
// Runs a random block from a random state at fixed addresses, and folds all that it does into a checksum: registers,
// flags, memory, and every exception with its registers, error code and address.

import CBench
import CLibc

/// Where everything is, so that pointers have the same values wherever a block runs.
enum BlockLayout {
    /// Below 2 GiB, where instructions have absolute addresses, and above where the kernel may put the heap: within 1 GiB of the
    /// program.
    static let base = 0x6000_0000
    /// Registers in and out: 16 general-purpose ones by number, flags, MXCSR, the caller's stack, the loop's count, where
    /// the block is, the count of a loop in it; at 0x100 the SSE registers.
    static let state = base
    static let flags = state + 16 * 8
    static let control = state + 17 * 8
    static let callersStack = state + 18 * 8
    static let count = state + 19 * 8
    static let start = state + 20 * 8
    static let innerCount = state + 21 * 8
    static let vectors = state + 0x100
    static let entry = base + 0x1000
    static let exit = base + 0x1400
    /// Blocks are between here and the stack's guard page, a half of them around the last page boundary before it.
    static let blocks = base + 0x1800
    static let pageBoundary = base + 0x3000
    static let stack = base + 0x5000
    static let stackEnd = base + 0x7000
    static let data = base + 0x8000
    /// In the midst of the data; R15 points here.
    static let middle = base + 0xa000
    /// A page that cannot be accessed, and one that cannot be written.
    static let guardPage = base + 0xc000
    static let readOnly = base + 0xd000
    static let end = base + 0xe000
}

/// The numbers of `gregs` in the kernel's signal frame.
private enum SavedRegister {
    static let stackPointer = 15
    static let instructionPointer = 16
    static let flags = 17
    static let error = 19
    static let trap = 20
    static let address = 22
}

/// What the signal handler needs of the block that runs.
private struct RunningBlock {
    var start = 0
    var boundaries: [Int] = []
    var checksum: UInt64 = 0
    var exceptions = 0
    var steps = 0
    var isShown = false
}

private nonisolated(unsafe) var running = RunningBlock()

enum BlockRunner {
    /// All arithmetic flags but AF, which logical instructions leave undefined, and the direction flag.
    private static let definedFlags: UInt64 = 0xcc5
    private static let trapFlag: UInt64 = 0x100
    private static let pageFault: UInt64 = 14
    private static let debugTrap: UInt64 = 1
    private static let mostExceptions = 24
    private static let mostSteps = 40

    /// `smolbench blocks SEED COUNT`: one checksum of all blocks from `seed` on.
    static func run(seed: Int, count: Int) -> Outcome {
        guard prepare() else { return .refused }
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for index in 0..<count { checksum = folded(checksum, runBlock(seed: UInt64(seed + index), isShown: false)) }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: true)
    }

    /// `smolbench block SEED`: a block's code, each of its exceptions, and the state in which it ends.
    static func show(seed: Int) -> Bool {
        guard prepare() else { return false }
        let checksum = runBlock(seed: UInt64(seed), isShown: true)
        for register in 0..<18 {
            var line = Line(register == 16 ? "flags " : register == 17 ? "mxcsr " : "r")
            if register < 16 { line.add(register) }
            line.add(" ")
            line.add(word: unsafe load_64(pointer(BlockLayout.state + register * 8)))
            line.write()
        }
        for half in 0..<32 {
            var line = Line("xmm half ")
            line.add(half)
            line.add(" ")
            line.add(word: unsafe load_64(pointer(BlockLayout.vectors + half * 8)))
            line.write()
        }
        for page in 0..<4 {
            var line = Line("data page ")
            line.add(page)
            line.add(" ")
            line.add(word: foldedMemory(BlockLayout.data + page * Pages.size, Pages.size, 0))
            line.write()
        }
        var line = Line("checksum ")
        line.add(word: checksum)
        line.write()
        return true
    }

    private static func runBlock(seed: UInt64, isShown: Bool) -> UInt64 {
        let block = RandomBlock(seed: seed)
        var numbers = Numbers(seed: seed ^ 0x5eed)
        // SAFETY: the layout is mapped; the block is shorter than its place.
        for (offset, byte) in block.bytes.enumerated() {
            unsafe pointer(block.start + offset).storeBytes(of: byte, as: UInt8.self)
        }
        for offset in stride(from: 0, to: 4 * Pages.size, by: 8) {
            unsafe store_64(pointer(BlockLayout.data + offset), RandomBlock.value(&numbers))
        }
        for offset in stride(from: 0, to: 2 * Pages.size, by: 8) {
            unsafe store_64(pointer(BlockLayout.stack + offset), 0)
        }
        for register in 0..<16 {
            unsafe store_64(pointer(BlockLayout.state + register * 8), RandomBlock.value(&numbers))
        }
        unsafe store_64(pointer(BlockLayout.state + 4 * 8), UInt64(BlockLayout.stackEnd - 256))
        unsafe store_64(pointer(BlockLayout.state + 15 * 8), UInt64(BlockLayout.middle))
        unsafe store_64(pointer(BlockLayout.flags), numbers.next() & 0x8d5 | 0x202)
        unsafe store_64(pointer(BlockLayout.control), 0x1f80)
        unsafe store_64(pointer(BlockLayout.count), UInt64(block.rounds))
        unsafe store_64(pointer(BlockLayout.start), UInt64(block.start))
        for half in 0..<32 {
            unsafe store_64(pointer(BlockLayout.vectors + half * 8), RandomBlock.value(&numbers))
        }
        unsafe running = RunningBlock(start: block.start, boundaries: block.boundaries, isShown: isShown)
        if isShown {
            show(block.bytes)
            var line = Line("rounds ")
            line.add(block.rounds)
            line.add(" start ")
            line.add(word: UInt64(block.start))
            line.write()
        }
        _ = unsafe call_generated(pointer(BlockLayout.entry), 0)
        var checksum = unsafe folded(running.checksum, UInt64(running.exceptions + running.steps))
        unsafe store_64(pointer(BlockLayout.flags), load_64(pointer(BlockLayout.flags)) & definedFlags)
        checksum = foldedMemory(BlockLayout.state, 18 * 8, checksum)
        checksum = foldedMemory(BlockLayout.vectors, 256, checksum)
        return foldedMemory(BlockLayout.data, 4 * Pages.size, checksum)
    }

    private static func show(_ code: [UInt8]) {
        for start in stride(from: 0, to: code.count, by: 64) {
            var line = Line("code ")
            for byte in code[start..<min(start + 64, code.count)] { line.add(hex: byte) }
            line.write()
        }
    }

    private static func foldedMemory(_ address: Int, _ length: Int, _ checksum: UInt64) -> UInt64 {
        var checksum = checksum
        for offset in stride(from: 0, to: length, by: 8) {
            // SAFETY: the layout is mapped.
            checksum = unsafe folded(checksum, load_64(pointer(address + offset)))
        }
        return checksum
    }

    private static func pointer(_ address: Int) -> UnsafeMutableRawPointer {
        // SAFETY: addresses of the layout, which `prepare` mapped and which is never unmapped.
        unsafe UnsafeMutableRawPointer(bitPattern: UInt(address)).unsafelyUnwrapped
    }

    /// Maps the layout, writes what comes before and after a block, and installs the signal handlers.
    private static func prepare() -> Bool {
        let all = PROT_READ | PROT_WRITE | PROT_EXEC
        let fixed = MAP_PRIVATE | MAP_ANON | MAP_FIXED
        // SAFETY: nothing else of this program is there: code and heap are below, stack and other mappings far above.
        let mapped = unsafe mmap(pointer(BlockLayout.base), BlockLayout.end - BlockLayout.base, all, fixed, -1, 0)
        guard unsafe mapped == pointer(BlockLayout.base) else { return false }
        write(BlockCode.entry(), to: BlockLayout.entry)
        write(BlockCode.exit(), to: BlockLayout.exit)
        // SAFETY: pages of the layout. The one that cannot be written must be there, for the error code says so.
        unsafe store_64(pointer(BlockLayout.readOnly), 0x0123_4567_89ab_cdef)
        let readWrite = PROT_READ | PROT_WRITE
        guard unsafe mprotect(pointer(BlockLayout.base), Pages.size, readWrite) == 0,
            unsafe mprotect(pointer(BlockLayout.stack - Pages.size), Pages.size, PROT_NONE) == 0,
            unsafe mprotect(pointer(BlockLayout.stack), BlockLayout.guardPage - BlockLayout.stack, readWrite) == 0,
            unsafe mprotect(pointer(BlockLayout.guardPage), Pages.size, PROT_NONE) == 0,
            unsafe mprotect(pointer(BlockLayout.readOnly), Pages.size, PROT_READ) == 0,
            use_signal_stack()
        else { return false }
        for signal in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP] {
            unsafe on_exception(signal) { _, _, context in unsafe BlockRunner.handle(saved_registers(context)) }
        }
        return true
    }

    private static func write(_ code: [UInt8], to address: Int) {
        for (offset, byte) in code.enumerated() {
            // SAFETY: entry and exit are shorter than their places.
            unsafe pointer(address + offset).storeBytes(of: byte, as: UInt8.self)
        }
    }

    /// Notes an exception and goes on with the next instruction, or leaves the block when there were enough.
    private static func handle(_ registers: UnsafeMutablePointer<UInt64>) {
        // SAFETY: the kernel's signal frame has 23 registers, and everything here is on the one thread.
        let trap = unsafe registers[SavedRegister.trap]
        let place = unsafe Int(truncatingIfNeeded: registers[SavedRegister.instructionPointer])
        var checksum = unsafe folded(running.checksum, trap)
        checksum = folded(checksum, UInt64(truncatingIfNeeded: place))
        if trap == debugTrap {
            unsafe running.steps += 1
            if unsafe running.steps % 8 == 0 || running.steps > mostSteps {
                unsafe registers[SavedRegister.flags] &= ~trapFlag
            }
        } else {
            unsafe running.exceptions += 1
            for register in 0...SavedRegister.stackPointer { checksum = unsafe folded(checksum, registers[register]) }
            checksum = unsafe folded(checksum, registers[SavedRegister.flags] & definedFlags)
            if trap == pageFault {
                checksum = unsafe folded(checksum, registers[SavedRegister.error] & 0x1f)
                checksum = unsafe folded(checksum, registers[SavedRegister.address])
            }
        }
        unsafe running.checksum = checksum
        if unsafe running.isShown { unsafe show(registers, checksum) }
        if trap == debugTrap || trap == 3 { return }
        let next = unsafe running.boundaries.first { unsafe running.start + $0 > place }
        guard let next, unsafe place >= running.start, unsafe running.exceptions < mostExceptions else {
            unsafe registers[SavedRegister.instructionPointer] = UInt64(BlockLayout.exit)
            return
        }
        unsafe registers[SavedRegister.instructionPointer] = UInt64(running.start + next)
    }

    private static func show(_ registers: UnsafeMutablePointer<UInt64>, _ checksum: UInt64) {
        let isPageFault = unsafe registers[SavedRegister.trap] == pageFault
        var line = Line("exception ")
        line.add(unsafe Int(registers[SavedRegister.trap]))
        line.add(" rip ")
        line.add(word: unsafe registers[SavedRegister.instructionPointer])
        line.add(" flags ")
        line.add(word: unsafe registers[SavedRegister.flags] & definedFlags)
        line.add(" error ")
        line.add(word: isPageFault ? unsafe registers[SavedRegister.error] & 0x1f : 0)
        line.add(" address ")
        line.add(word: isPageFault ? unsafe registers[SavedRegister.address] : 0)
        line.add(" checksum ")
        line.add(word: checksum)
        line.write()
        // In the order of `gregs`: R8 to R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP.
        for start in [0, 8] {
            var line = Line(start == 0 ? "  r8-r15 " : "  rdi rsi rbp rbx rdx rax rcx rsp ")
            for register in start..<start + 8 {
                line.add(word: unsafe registers[register])
                line.add(" ")
            }
            line.write()
        }
    }
}

extension Line {
    mutating func add(word: UInt64) {
        for index in 0..<8 { add(hex: UInt8(truncatingIfNeeded: word >> UInt64(56 - index * 8))) }
    }
}

/// What loads the state before a block and stores it after one.
private enum BlockCode {
    private static let stackPointer = 4

    static func entry() -> [UInt8] {
        var code = BlockEncoder(address: BlockLayout.entry)
        for push: UInt8 in [0x53, 0x55] { code.raw(push) }
        for push: UInt8 in 0x54...0x57 { code.raw(0x41, push) }
        code.instruction(0x89, width: .quadword, reg: stackPointer, place: .absolute(BlockLayout.callersStack))
        for vector in 0..<16 {  // movups
            code.instruction(0x0f, 0x10, reg: vector, place: .absolute(BlockLayout.vectors + vector * 16))
        }
        code.instruction(0x0f, 0xae, reg: 2, place: .absolute(BlockLayout.control))  // ldmxcsr
        code.instruction(0xff, reg: 6, place: .absolute(BlockLayout.flags))  // push
        code.raw(0x9d)  // popfq
        for register in 0..<16 {
            code.instruction(
                0x8b, width: .quadword, reg: register, place: .absolute(BlockLayout.state + register * 8))
        }
        code.instruction(0xff, reg: 4, place: .absolute(BlockLayout.start))  // jmp
        return code.bytes
    }

    static func exit() -> [UInt8] {
        var code = BlockEncoder(address: BlockLayout.exit)
        for register in 0..<16 {
            code.instruction(
                0x89, width: .quadword, reg: register, place: .absolute(BlockLayout.state + register * 8))
        }
        code.instruction(0x8b, width: .quadword, reg: stackPointer, place: .absolute(BlockLayout.callersStack))
        code.raw(0x9c)  // pushfq
        code.instruction(0x8f, reg: 0, place: .absolute(BlockLayout.flags))  // pop
        for vector in 0..<16 {  // movups
            code.instruction(0x0f, 0x11, reg: vector, place: .absolute(BlockLayout.vectors + vector * 16))
        }
        code.instruction(0x0f, 0xae, reg: 3, place: .absolute(BlockLayout.control))  // stmxcsr
        code.raw(0xfc)  // cld
        // Without the trap flag that a block may have left.
        code.raw(0x9c)  // pushfq
        code.instruction(
            0x81, width: .quadword, reg: 4, place: .memory(base: stackPointer, index: nil, scale: 0, displacement: 0),
            immediate: (~0x100, 4))  // and
        code.raw(0x9d)  // popfq
        for pop: UInt8 in (0x5c...0x5f).reversed() { code.raw(0x41, pop) }
        for pop: UInt8 in [0x5d, 0x5b] { code.raw(pop) }
        code.raw(0xc3)  // ret
        return code.bytes
    }
}
