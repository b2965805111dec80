// SPDX-License-Identifier: Apache-2.0
// Runs translated blocks, translates those that run often, and interprets the rest.

import Hypervisor
import X86

extension Core {
    /// Runs from RIP until the time slice ends or the processor's mode may have changed.
    mutating func execute() throws(Fault) {
        #if arch(x86_64) && os(Linux)
            if configuration.engine != .interpret, mode == .bits64, let translator = code.translator {
                if let lockstep = code.lockstep { return try executeChecked(translator, lockstep) }
                return try executeTranslated(translator)
            }
        #endif
        try executeBlocks(.slice)
    }
}

#if arch(x86_64) && os(Linux)
    extension Core {
        /// Makes the machine's translator, if it shall have one.
        mutating func prepareTranslator() {
            unsafe translations.context.storeBytes(
                of: interpretForTranslatedCode, toByteOffset: ContextLayout.interpret, as: InterpretFunction.self)
            unsafe translations.context.storeBytes(
                of: prepareX87ForTranslatedCode, toByteOffset: ContextLayout.prepareX87, as: PrepareFunction.self)
            unsafe translations.context.storeBytes(
                of: findTargetForTranslatedCode, toByteOffset: ContextLayout.findTarget, as: FindFunction.self)
            unsafe translations.context.storeBytes(
                of: findNextPageForTranslatedCode, toByteOffset: ContextLayout.findNextPage, as: FindFunction.self)
            guard configuration.engine != .interpret, code.translator == nil else { return }
            code.translator = Translator(
                coreOffsets(), size: configuration.translationCache / 2, leavesSystem: configuration.engine == .check,
                isBeside: configuration.translatesBeside)
        }

        private mutating func coreOffsets() -> SharedRoutines.CoreOffsets {
            // SAFETY: only distances between fields of one structure are taken.
            unsafe withUnsafeMutablePointer(to: &self) { core in
                let start = UnsafeRawPointer(core)
                func offset<Field>(_ field: inout Field) -> Int {
                    unsafe withUnsafePointer(to: &field) { unsafe UnsafeRawPointer($0) - start }
                }
                return unsafe SharedRoutines.CoreOffsets(
                    general: offset(&core.pointee.general), xmm: offset(&core.pointee.xmm),
                    mxcsr: offset(&core.pointee.mxcsr), systemFlags: offset(&core.pointee.systemFlags),
                    privilege: offset(&core.pointee.privilege), accessSet: offset(&core.pointee.accessSet),
                    segments: offset(&core.pointee.segments), segmentBases: offset(&core.pointee.segmentBase),
                    rip: offset(&core.pointee.rip), kernelGSBase: offset(&core.pointee.msr.kernelGSBase))
            }
        }

        mutating func executeTranslated(_ translator: Translator) throws(Fault) {
            /// A jump that can be linked to the block that comes next.
            var site = 0
            while true {
                let evictions = blocks.evictions
                let slot = try findBlock()
                guard let entry = translation(of: slot, translator) else {
                    site = 0
                    counts.interpretedBlocks &+= 1
                    let isSystem = try executeBlocks(.block)
                    if budget < 0 || mode != .bits64 || isSystem && mustLook { return }
                    continue
                }
                if site != 0, blocks.evictions == evictions { translator.link(site, to: entry) }
                site = 0
                counts.entries &+= 1
                enter(entry, slot, translator)
                let context = unsafe translations.context
                // SAFETY: fields of the context.
                let detail = unsafe context.load(fromByteOffset: ContextLayout.exitDetail, as: UInt32.self)
                switch unsafe ExitKind(rawValue: context.load(fromByteOffset: ContextLayout.exitKind, as: UInt32.self))
                {
                case .dispatch:
                    rip = unsafe context.load(fromByteOffset: ContextLayout.exitRIP, as: UInt64.self)
                    if detail == BlockTranslator.invalidCode { translator.noteDetour() } else { site = Int(detail) }
                    counts.dispatches &+= 1
                case .interpret:
                    counts.interpretations &+= 1
                    if try interpretAlone(detail), mustLook { return }
                case .tail:
                    counts.interpretations &+= 1
                    // SAFETY: a field of the context.
                    let place = unsafe context.load(fromByteOffset: ContextLayout.exitRIP, as: UInt64.self)
                    translateRest(detail, site: Int(truncatingIfNeeded: place), translator)
                    budget -= 1
                    if try interpretAlone(detail), mustLook { return }
                case .stopped, nil:
                    counts.stops &+= 1
                    if let fault = pendingFault {
                        pendingFault = nil
                        throw fault
                    }
                    if mustLook { return }
                }
                if budget < 0 || mode != .bits64 { return }
            }
        }

        /// Whether something may have to be done between two instructions, after one of the system's.
        private var mustLook: Bool {
            mutating get {
                mode != .bits64 || failure != nil || activity != .running || interruptShadow || has(.trap)
                    || debug[5] & DebugControl.enabled != 0 || pendingNMI
                    || has(.interrupt) && interrupts.hasPendingInterrupt
            }
        }

        /// The valid block at RIP.
        @inline(__always)
        private mutating func findBlock() throws(Fault) -> UInt32 {
            // SAFETY: a slot from the cache is a block's header.
            if let slot = blocks.findRecent(rip, mode, accessSet), unsafe blocks.header(slot).pointee.isValid {
                return slot
            }
            return try lookUp(rip)
        }

        /// The code of a block that has some for the present access set, or runs often enough to get it now.
        @inline(__always)
        private mutating func translation(of slot: UInt32, _ translator: Translator) -> Int? {
            guard slot != BlockCache.scratch else { return crossingTranslation(translator) }
            // SAFETY: as above.
            let header = unsafe blocks.header(slot)
            if unsafe header.pointee.code != 0 {
                return unsafe Int(header.pointee.code)
            }
            unsafe header.pointee.heat = min(header.pointee.heat, .max - 1) + 1
            guard unsafe header.pointee.heat >= configuration.translationHeat else { return nil }
            return unsafe header.pointee.isAwaited ? awaitedTranslation(slot, translator) : translate(slot, translator)
        }

        /// The code of the instruction in the scratch slots, if it lies in two pages and runs often enough.
        @inline(never)
        private mutating func crossingTranslation(_ translator: Translator) -> Int? {
            // Its code comes back to where it was entered when the next page is not the one that it was made for.
            guard var crossing = blocks.scratchCrossing(), lastCrossing != rip else {
                lastCrossing = 1
                return nil
            }
            guard let entry = code(of: &crossing, translator) else { return nil }
            lastCrossing = rip
            return entry
        }

        /// That of `crossing`, which is at RIP and has run once more.
        private mutating func code(of crossing: inout CrossingInstruction, _ translator: Translator) -> Int? {
            if let entry = blocks.code(of: crossing, accessSet) { return entry }
            crossing.heat = min(crossing.heat, .max - 1) + 1
            blocks.remember(crossing)
            guard crossing.heat >= configuration.translationHeat else { return nil }
            if blocks.isAwaited(crossing, accessSet) { return awaitedTranslation(crossing.slot, translator) }
            guard let next = translations.fetchable(rip &+ 4096, accessSet) else { return nil }
            crossing.slot = blocks.add(crossing, next, accessSet)
            blocks.remember(crossing)
            return translate(crossing.slot, translator)
        }

        @inline(never)
        private mutating func translate(_ slot: UInt32, _ translator: Translator) -> Int? {
            // SAFETY: as above.
            let header = unsafe blocks.header(slot)
            let longer = min(.max / 3, configuration.translationHeat) * 3
            if unsafe header.pointee.heat < longer, blocks.needsPatience(slot) { return nil }
            takeTranslations(translator)
            blocks.reserve(for: translator)
            let source = source(of: slot)
            guard !translator.ask(for: source) else {
                unsafe header.pointee.isAwaited = true
                return nil
            }
            return translateHere(source, translator)
        }

        /// Translates a block, or the rest of one, on this thread. Returns where the block's code is; nil while the other one writes.
        private mutating func translateHere(_ source: TranslationSource, _ translator: Translator) -> Int? {
            translator.translate(source).flatMap { code.install($0) }
        }

        /// The block in `slot`, which is at RIP, for its translation.
        private mutating func source(of slot: UInt32) -> TranslationSource {
            blocks.source(
                of: slot, heat: max(1, configuration.translationHeat / 4 * 3),
                nextPage: translations.fetchable(rip &+ 4096, accessSet))
        }

        /// Has the rest of a block from `slot` on translated without groups, and a jump in the block lead there. The code is the block's:
        /// nothing else leads to it.
        @inline(never)
        private mutating func translateRest(_ slot: UInt32, site: Int, _ translator: Translator) {
            takeTranslations(translator)
            guard !translator.isAwaited(site),
                let source = blocks.source(ofRestAt: slot, site: site, accessSet), !translator.ask(for: source)
            else { return }
            _ = translateHere(source, translator)
        }

        /// The code of a block that another thread translates, if it has come.
        @inline(never)
        private mutating func awaitedTranslation(_ slot: UInt32, _ translator: Translator) -> Int? {
            translator.want(slot)
            takeTranslations(translator)
            // SAFETY: as above.
            let header = unsafe blocks.header(slot)
            if unsafe header.pointee.code != 0 { return unsafe Int(header.pointee.code) }
            guard translator.isLate() else { return nil }
            blocks.reserve(for: translator)
            return translateHere(source(of: slot), translator)
        }

        /// What another thread has translated runs from now on.
        private mutating func takeTranslations(_ translator: Translator) {
            while let (translation, isStale) = translator.takeTranslation() {
                _ = code.install(translation, isStale: isStale)
            }
        }

        /// Enters translated code at `entry`, which is for RIP and the block in `slot`, and comes back when it is left.
        @inline(__always)
        private mutating func enter(_ entry: Int, _ slot: UInt32, _ translator: Translator) {
            let context = unsafe translations.context
            blocks.jumpOrigin = 0
            let page = rip & ~4095
            let salt = storeSalts(translator)
            let place = JumpTable.offset(rip)
            let jump = ContextLayout.jumpTable + place
            // SAFETY: the slot is a block's header.
            let frame = unsafe blocks.header(slot).pointee.physical & ~4095
            let codePage = unsafe accessSet == .user ? physical.pointer(frame) : nil
            // SAFETY: all are fields of the context, which has `ContextLayout.size` bytes.
            if unsafe context.load(fromByteOffset: jump + ContextLayout.jumpLinear, as: UInt64.self) != rip {
                keepOther(place)
            }
            unsafe context.storeBytes(of: rip, toByteOffset: jump + ContextLayout.jumpLinear, as: UInt64.self)
            unsafe context.storeBytes(
                of: translator.address(entry), toByteOffset: jump + ContextLayout.jumpCode, as: UInt64.self)
            unsafe context.storeBytes(of: page, toByteOffset: jump + ContextLayout.jumpPage, as: UInt64.self)
            unsafe context.storeBytes(of: salt, toByteOffset: jump + ContextLayout.jumpSalt, as: UInt64.self)
            unsafe context.storeBytes(
                of: UInt64(UInt(bitPattern: codePage)), toByteOffset: JumpTable.hosts(place), as: UInt64.self)
            unsafe context.storeBytes(of: page, toByteOffset: ContextLayout.pageBase, as: UInt64.self)
            storeSystemState()
            unsafe context.storeBytes(
                of: allowsHostVectors, toByteOffset: ContextLayout.vectorAllowed, as: Bool.self)
            unsafe context.storeBytes(of: allowsHostX87, toByteOffset: ContextLayout.x87Allowed, as: Bool.self)
            storeFlags()
            storeBudget()
            unsafe withUnsafeMutablePointer(to: &self) { core in
                let context = unsafe core.pointee.translations.context
                unsafe context.storeBytes(
                    of: UInt64(UInt(bitPattern: core)), toByteOffset: ContextLayout.core, as: UInt64.self)
                unsafe translator.enter(context, entry)
            }
            loadFlags()
            loadBudget()
            // SAFETY: a field of the context.
            budget += unsafe Int(translations.context.load(fromByteOffset: ContextLayout.heldBack, as: Int32.self))
            unsafe translations.context.storeBytes(of: 0, toByteOffset: ContextLayout.heldBack, as: Int32.self)
            takeX87()
        }

        /// Stores the numbers of what the table of jump targets and far targets tell now, for each way of access that code may go
        /// on in. Returns the one of the table for the present way.
        @inline(__always)
        private mutating func storeSalts(_ translator: Translator) -> UInt64 {
            storeSalts(.user, ContextLayout.userSalts, translator)
            storeSalts(.supervisor, ContextLayout.supervisorSalts, translator)
            return storePresentSalts()
        }

        @inline(__always)
        private mutating func storeSalts(_ set: AccessSet, _ place: Int, _ translator: Translator) {
            let generation = blocks.generation(set)
            // Grows with either.
            let changes = generation &+ translator.detours
            let farNumber = changes << 2 | UInt64(set.rawValue + 1)
            if changes >> ContextLayout.changeBits != farEpochs[set == .user ? 0 : 1] { forgetFarTargets(changes, set) }
            // SAFETY: fields of the context.
            unsafe translations.context.storeBytes(
                of: generation << 2 | UInt64(set.rawValue + 1), toByteOffset: place, as: UInt64.self)
            unsafe translations.context.storeBytes(
                of: farNumber & 0xfff | (farNumber >> 12) << 48, toByteOffset: place + 8, as: UInt64.self)
        }

        /// The entry at `place` of the table of jump targets, which another address will have, goes to its second place if it is good.
        private mutating func keepOther(_ place: Int) {
            let context = unsafe translations.context
            func field(_ place: Int) -> UInt64 {
                // SAFETY: fields of the context.
                unsafe context.load(fromByteOffset: place, as: UInt64.self)
            }
            let entry = ContextLayout.jumpTable + place
            let salt = field(entry + ContextLayout.jumpSalt)
            guard salt == field(ContextLayout.userSalts) || salt == field(ContextLayout.supervisorSalts) else { return }
            let linear = field(entry + ContextLayout.jumpLinear)
            // If this is its second place, another has its first.
            guard JumpTable.offset(linear) == place else { return }
            let second = JumpTable.secondOffset(linear)
            // SAFETY: two entries of the table, and what belongs to them.
            unsafe (context + ContextLayout.jumpTable + second).copyMemory(
                from: context + entry, byteCount: ContextLayout.jumpEntrySize)
            unsafe context.storeBytes(
                of: field(JumpTable.hosts(place)), toByteOffset: JumpTable.hosts(second), as: UInt64.self)
        }

        /// Makes the numbers for the present way of access those that code compares with. Returns the one of the table.
        @inline(__always)
        private mutating func storePresentSalts() -> UInt64 {
            let context = unsafe translations.context
            let place = accessSet == .user ? ContextLayout.userSalts : ContextLayout.supervisorSalts
            let suspension: UInt64 = accessSet == .supervisorToUser ? UInt64(ContextLayout.suspensionInSalt) : 0
            // SAFETY: fields of the context.
            let salt = unsafe context.load(fromByteOffset: place, as: UInt64.self) | suspension
            let farSalt = unsafe context.load(fromByteOffset: place + 8, as: UInt64.self) | suspension
            unsafe context.storeBytes(of: salt, toByteOffset: ContextLayout.salt, as: UInt64.self)
            unsafe context.storeBytes(of: farSalt, toByteOffset: ContextLayout.farSalt, as: UInt64.self)
            return salt
        }

        /// What SYSCALL and SYSRET do, for translated code.
        private mutating func storeSystemCalls() {
            knowsSystemCalls = true
            let context = unsafe translations.context
            func store(_ segment: Segment, _ place: Int) {
                // SAFETY: a field of the context, which has room for a segment.
                unsafe context.storeBytes(of: segment, toByteOffset: place, as: Segment.self)
            }
            let (call, back) = systemCallSegments()
            store(call.code, ContextLayout.systemCallSegments)
            store(call.stack, ContextLayout.systemCallSegments + ContextLayout.segmentSize)
            store(back.code, ContextLayout.systemReturnSegments)
            store(back.stack, ContextLayout.systemReturnSegments + ContextLayout.segmentSize)
            let kept = ~msr.syscallMask & ~Flags.resume.rawValue
            // In the context they are as `storeFlags` has them.
            let status = UInt64(kept >> 11 & 1 | (kept & 0xd5 | 2) << 8)
            // The way of access does not depend on RFLAGS.AC then.
            let isAllowed = msr.efer & ExtendedFeatures.syscall != 0 && kept & Flags.alignmentCheck.rawValue == 0
            // SAFETY: fields of the context.
            unsafe context.storeBytes(of: msr.lstar, toByteOffset: ContextLayout.systemCallTarget, as: UInt64.self)
            unsafe context.storeBytes(of: kept | 2, toByteOffset: ContextLayout.systemCallFlags, as: UInt64.self)
            unsafe context.storeBytes(of: status, toByteOffset: ContextLayout.systemCallStatus, as: UInt64.self)
            unsafe context.storeBytes(of: isAllowed, toByteOffset: ContextLayout.systemCallsAllowed, as: Bool.self)
        }

        /// Whether vector instructions can run as they are: they are enabled and no exception of theirs is.
        private var allowsHostVectors: Bool {
            mutating get {
                cr0 & (ControlRegister0.emulation | ControlRegister0.taskSwitched) == 0
                    && cr4 & ControlRegister4.fxsave != 0 && mxcsr & MXCSR.masks == MXCSR.masks
            }
        }

        /// The numbers in the keys of far targets begin again.
        private mutating func forgetFarTargets(_ changes: UInt64, _ set: AccessSet) {
            farEpochs[set == .user ? 0 : 1] = changes >> ContextLayout.changeBits
            let count = ContextLayout.farTargetSize * ContextLayout.farTargetCount
            // SAFETY: they have that many bytes.
            unsafe (translations.context + ContextLayout.farTargets)
                .initializeMemory(as: UInt8.self, repeating: 0, count: count)
        }

        @inline(__always)
        private mutating func storeFlags() {
            let bits = flags.bits
            let word = UInt16(truncatingIfNeeded: bits >> 11 & 1 | (bits & 0xd5 | 2) << 8)
            // SAFETY: fields of the context.
            unsafe translations.context.storeBytes(of: word, toByteOffset: ContextLayout.flags, as: UInt16.self)
        }

        @inline(__always)
        private mutating func storeSystemState() {
            if !knowsSystemCalls { storeSystemCalls() }
            // SAFETY: fields of the context.
            unsafe translations.context.storeBytes(
                of: pendingNMI || interrupts.hasPendingInterrupt, toByteOffset: ContextLayout.interruptWaits,
                as: Bool.self)
            unsafe translations.context.storeBytes(
                of: segmentBase[Int(SegmentIndex.fs)], toByteOffset: ContextLayout.fsBase, as: UInt64.self)
            unsafe translations.context.storeBytes(
                of: segmentBase[Int(SegmentIndex.gs)], toByteOffset: ContextLayout.gsBase, as: UInt64.self)
        }

        @inline(__always)
        private mutating func storeBudget() {
            // SAFETY: a field of the context.
            unsafe translations.context.storeBytes(
                of: Int32(truncatingIfNeeded: budget), toByteOffset: ContextLayout.budget, as: Int32.self)
        }

        @inline(__always)
        private mutating func loadFlags() {
            // SAFETY: a field of the context.
            let word = unsafe UInt64(translations.context.load(fromByteOffset: ContextLayout.flags, as: UInt16.self))
            flags.bits = word >> 8 & 0xd5 | (word & 1) << 11
        }

        /// What is left of the time slice, and the page that code runs in.
        @inline(__always)
        private mutating func loadBudget() {
            // SAFETY: fields of the context.
            budget = unsafe Int(translations.context.load(fromByteOffset: ContextLayout.budget, as: Int32.self))
            general[Int(RegisterIndex.pageBase)] = unsafe translations.context.load(
                fromByteOffset: ContextLayout.pageBase, as: UInt64.self)
        }

        // MARK: The interpreter, for translated code

        /// Runs the instruction in `slot`, which was left for that. Returns whether it is a system instruction.
        private mutating func interpretAlone(_ slot: UInt32) throws(Fault) -> Bool {
            // SAFETY: the slot of an instruction of the block that just ran.
            let i = unsafe blocks.instruction(slot).pointee
            let base = general[Int(RegisterIndex.pageBase)]
            rip = base &+ i.nextPageOffset
            do throws(Fault) {
                switch i.handler {
                case .system:
                    try executeSystem(i)
                    return true
                case .invalid, .blockInvalid, .endOfBlock: throw .invalidOpcode
                case .call:
                    try pushReturn(rip, i.operandSize)
                    rip = base &+ i.immediate
                case .ret: try executeReturn(i)
                case .jmpIndirect: rip = try indirectTarget(i)
                case .callIndirect:
                    let target = try indirectTarget(i)
                    try pushReturn(rip, i.operandSize)
                    rip = target
                case .loop: if executeLoop(i) { rip = base &+ i.immediate }
                default: try executeAlone(i)
                }
                return false
            } catch {
                rip = base &+ UInt64(i.pageOffset)
                if error.isNonCanonical, i.accessesStack { throw .stackFault(0) }
                throw error
            }
        }

        /// Runs an instruction after which control goes on behind it.
        private mutating func executeAlone(_ i: DecodedInstruction) throws(Fault) {
            switch i.handler {
            case .vector: try executeVector(i)
            case .x87: try executeX87(i)
            case .nop: break
            default: try executeInteger(i)
            }
        }

        /// The same for translated code, which can go on if it returns true.
        private mutating func executeInside(_ i: DecodedInstruction) throws(Fault) -> Bool {
            guard i.handler == .system else {
                try executeAlone(i)
                return true
            }
            let set = accessSet
            let (generation, userGeneration) = (blocks.generation(set), blocks.generation(.user))
            rip = general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset
            try executeSystem(i)
            if mustLook || blocks.generation(set) != generation { return false }
            if blocks.generation(.user) != userGeneration, let translator = code.translator {
                // INVLPG of a user's page, to whom code may go on without being left.
                storeSalts(.user, ContextLayout.userSalts, translator)
            }
            if accessSet != set {
                guard TranslationPlan.of(i) == .interruptReturn else { return false }
                _ = storePresentSalts()
            }
            storeSystemState()
            return true
        }

        /// Makes the entry at `place` of the table of jump targets good again if its user code is still where it was. It is about to
        /// be gone to; what that throws, it throws again.
        fileprivate mutating func findTarget(_ place: Int) {
            guard accessSet == .user else { return }
            let context = unsafe translations.context
            let entry = ContextLayout.jumpTable + place
            // SAFETY: an entry of the table.
            let linear = unsafe context.load(fromByteOffset: entry + ContextLayout.jumpLinear, as: UInt64.self)
            let host = unsafe context.load(fromByteOffset: JumpTable.hosts(place), as: UInt64.self)
            let address = cr2
            do throws(Fault) {
                let frame = try fetchFrame(linear)
                guard let page = unsafe physical.pointer(frame), UInt64(UInt(bitPattern: page)) == host else { return }
                let salt = unsafe context.load(fromByteOffset: ContextLayout.salt, as: UInt64.self)
                unsafe context.storeBytes(of: salt, toByteOffset: entry + ContextLayout.jumpSalt, as: UInt64.self)
            } catch { cr2 = address }
        }

        /// Runs the instruction in `slot` in the midst of translated code. Returns 1 if that must be left: RIP says where.
        fileprivate mutating func interpretInside(_ slot: UInt32) -> UInt32 {
            counts.helperCalls &+= 1
            // SAFETY: the slot of an instruction of the running block.
            let i = unsafe blocks.instruction(slot).pointee
            let usesFlags = i.usesFlags
            if usesFlags { loadFlags() }
            loadBudget()
            takeX87()
            let invalidations = code.invalidations
            do throws(Fault) {
                if try executeInside(i), code.invalidations == invalidations, failure == nil {
                    if usesFlags { storeFlags() }
                    storeBudget()
                    return 0
                }
                if i.handler != .system { rip = general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset }
            } catch {
                rip = general[Int(RegisterIndex.pageBase)] &+ UInt64(i.pageOffset)
                pendingFault = error.isNonCanonical && i.accessesStack ? .stackFault(0) : error
            }
            budget -= 1
            if usesFlags { storeFlags() }
            storeBudget()
            // SAFETY: a field of the context.
            unsafe translations.context.storeBytes(
                of: ExitKind.stopped.rawValue, toByteOffset: ContextLayout.exitKind, as: UInt32.self)
            return 1
        }
    }

    extension DecodedInstruction {
        /// Whether the interpreter may look at the status flags, or change them.
        fileprivate var usesFlags: Bool {
            switch handler {
            case .x87: return X87Operation(rawValue: operation)?.usesFlags ?? true
            case .vector: return VectorOperation(rawValue: operation).map { FlagUse.vector($0).changes } ?? true
            default:
                switch Operation(rawValue: operation) {
                case .rdtsc, .rdtscp, .rdmsr, .wrmsr, .cpuid, .in, .out, .movFromControl, .invlpg: return false
                case .mov, .movzx8, .movzx16, .movsx8, .movsx16, .movsxd, .push, .pop, .leave, .xchg, .lea: return false
                default: return true
                }
            }
        }
    }

    typealias FindFunction = @convention(c) (UnsafeMutableRawPointer, UInt32) -> Void

    /// What translated code calls to find out whether a target of user code is where it was.
    private let findTargetForTranslatedCode: FindFunction = { context, place in
        // SAFETY: as below.
        let core = unsafe context.load(fromByteOffset: ContextLayout.core, as: UnsafeMutablePointer<Core>.self)
        unsafe core.pointee.findTarget(Int(place))
    }

    private typealias InterpretFunction = @convention(c) (UnsafeMutableRawPointer, UInt32) -> UInt32

    /// What translated code calls to have one instruction interpreted.
    private let interpretForTranslatedCode: InterpretFunction = { context, slot in
        // SAFETY: `Core.enter` put the core's address there, and waits for the translated code to come back.
        let core = unsafe context.load(fromByteOffset: ContextLayout.core, as: UnsafeMutablePointer<Core>.self)
        return unsafe core.pointee.interpretInside(slot)
    }
#endif
