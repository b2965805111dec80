// SPDX-License-Identifier: Apache-2.0
// What translated code reaches through one register: guest registers without a host register of their own, where a
// run ended, the table of jump targets, and the soft TLB.

/// Byte offsets in the execution context of a processor.
enum ContextLayout {
    /// The context register points here, so that the first fields are within 8-bit displacements.
    static let bias = 128

    /// Guest R10, R11, R14 and R15.
    static let spilled = 0
    /// RIP minus the page offset of the running block.
    static let pageBase = 32
    /// The `Core`.
    static let core = 40
    /// The status flags: OF in bit 0, and bits 8 to 15 as LAHF has them.
    static let flags = 48
    /// Instructions left in the time slice, 32 bits.
    static let budget = 52
    /// Bases of FS and GS.
    static let fsBase = 56
    static let gsBase = 64
    /// RIP after a run.
    static let exitRIP = 72
    /// 32 bits: `ExitKind`, and what it says more.
    static let exitKind = 80
    static let exitDetail = 84
    /// The number of what the jump table tells now: another after every change of translations. Bits 0 and 1 have that of
    /// the access set plus one, in which one bit tells whether SMAP is suspended.
    static let salt = 88
    static let suspensionInSalt: UInt8 = 2
    /// Whether the guest's XMM registers and MXCSR are in the host's, and whether they may be. One byte each.
    static let vectorLoaded = 96
    static let vectorAllowed = 97
    /// The same of the x87 unit.
    static let x87Loaded = 98
    static let x87Allowed = 99
    /// The host's MXCSR, 32 bits.
    static let hostControl = 100
    /// The function that runs one instruction in the interpreter.
    static let interpret = 104
    /// A value that outlives the making of an address.
    static let temporary = 112
    /// The function that writes the guest's x87 unit to `x87Image`.
    static let prepareX87 = 120
    /// The last instruction of the x87 unit: its page; its offset there, and from bit 16 its opcode as FOP has it.
    static let x87Page = 128
    static let x87Recorded = 136
    /// Whether the x87 unit is in `x87Image` and nowhere else. One byte.
    static let x87Saved = 140
    /// The address of the x87 unit's last memory operand.
    static let x87Data = 144
    /// Whether an interrupt may wait. One byte.
    static let interruptWaits = 141
    /// Whether entries of user code in the jump table that are good no longer may be so again. One byte.
    static let mayRevalidate = 142
    /// For each group of accesses of the running block, the host address of its lowest byte. Streams (`AccessStreams`) take
    /// places from the end.
    static let groups = 152
    static let groupCount = 12
    /// Another value that outlives the making of an address.
    static let otherTemporary = 248
    /// What FXSAVE stores: 512 bytes.
    static let x87Image = 256
    /// The host's stack pointer in a block that was entered from outside.
    static let hostStack = 768
    /// The same as the salt for far targets: another also when one of them may have led to invalid code. Bits 12 to 47, in
    /// which the addresses of pages differ, are 0.
    static let farSalt = 776
    /// What was taken from the time slice so that a loop with streams ends while they are in their pages, 32 bits.
    static let heldBack = 784
    /// Times that loops go round in their second copies before the third is tried, 32 bits.
    static let patience = 788
    /// Whether SYSCALL and SYSRET can run here. One byte.
    static let systemCallsAllowed = 792
    /// CS and SS as SYSCALL makes them, and as SYSRET does: a `Segment` each.
    static let systemCallSegments = 800
    static let systemReturnSegments = 832
    static let segmentSize = 16
    /// Where SYSCALL leads.
    static let systemCallTarget = 864
    /// The flags that SYSCALL keeps: of those that the core has, and of those above, as they are there.
    static let systemCallFlags = 872
    static let systemCallStatus = 880
    /// `salt` and `farSalt` of the supervisor, and of the user.
    static let supervisorSalts = 888
    static let userSalts = 904
    /// The function that finds out where a target of user code is now.
    static let findTarget = 920
    /// The host's stack pointer while that runs.
    static let stackMeanwhile = 928
    /// The end of a page and the beginning of the next, 16 bytes of each, for an access that lies in both (`CrossingAccesses`).
    static let crossing = 936
    /// Where such a write belongs, and how many bytes of it to the second page.
    static let crossingStart = 968
    static let crossingEnd = 976
    static let crossingCount = 984
    /// How often each stream could move on in its page when the loop began to go round in its third copy last, 32 bits.
    static let streamRooms = 992
    /// How often the loop goes round there then, at most, 32 bits.
    static let times = 1016
    /// Whether one of the pages below is known. One byte.
    static let keepsPages = 1020
    /// Pages that were found before (`KeptPage`), for each way of access: the page, or `noKeptPage`, and what must be added to an
    /// address in it to have the host's; 8 bytes each.
    private static let keptPages = 1024
    static let keptPageCount = 32
    /// No page, nor the end of one that an address is compared with, too.
    static let noKeptPage: UInt8 = 0x80
    static func keptPage(_ number: Int, _ set: AccessSet) -> Int {
        keptPages + (set.rawValue * keptPageCount + number) * 16
    }
    /// The function that finds out what the next page is.
    static let findNextPage = 2560
    /// For each way of access the page that an access through the stack pointer found last, which may be written, and its host
    /// address. In place of such a page it is one that is not canonical and that nobody can guess, and the host's is `noPage`.
    private static let stackPages = 2576
    static func stackPage(_ set: AccessSet) -> Int { stackPages + set.rawValue * 16 }
    static let stackHost = 8
    /// Bits of a number of changes that are in it.
    static let changeBits: UInt64 = 26

    /// Entries of `jumpEntrySize` bytes: linear address, code, page base, and the salt that they are good for.
    static let jumpTable = 4096
    static let jumpEntrySize = 32
    static let jumpIndexBits = 14
    static let jumpLinear = 0
    static let jumpCode = 8
    static let jumpPage = 16
    static let jumpSalt = 24
    /// For each entry the host address of the code's page, if it is user code; 0 if not.
    static let jumpHosts = jumpTable + jumpEntrySize << jumpIndexBits
    static let jumpHostSize = 8

    /// The soft TLB.
    static let translations = jumpHosts + jumpHostSize << jumpIndexBits

    /// What the soft TLB knows of its entries besides, and where addresses led last (`BlockCache`). Translated code needs neither, but
    /// what is looked up often lies in one large page with them.
    static let frames = translations + TranslationBuffer.entryCount * MemoryLayout<TranslationBuffer.Entry>.stride
    static let globals = frames + TranslationBuffer.entryCount * MemoryLayout<UInt32>.stride
    static let recentBlocks = globals + TranslationBuffer.entryCount

    /// Where direct jumps and calls to other pages led last, in entries of `farTargetSize` bytes: the page base then
    /// exclusive-or the far salt, and the code. Few are used.
    static let farTargets = recentBlocks + BlockCache.recentBytes
    static let farTargetSize = 16
    static let farTargetCount = 1 << 18
    static let farKey = 0
    static let farCode = 8

    /// A page of no guest's.
    static let noPage = (farTargets + farTargetSize * farTargetCount + 4095) & ~4095

    static let size = noPage + 4096
}

/// Why translated code was left.
enum ExitKind: UInt32 {
    /// To go on at RIP. The detail is the place of a jump that can be linked to the code there, 0, or `invalidCode`.
    case dispatch = 0
    /// To run the instruction in the slot that the detail names, in the interpreter. RIP is stale.
    case interpret = 1
    /// An instruction that the interpreter ran from translated code threw, or made code invalid: RIP is exact.
    case stopped = 2
    /// The accesses of a group cannot be reached as one. The detail is the slot of the first one's instruction, RIP the
    /// place of a jump to lead to code without groups from there on. RIP is stale.
    case tail = 3
}
