// SPDX-License-Identifier: Apache-2.0
// `--cpu-engine check`: the translator and the interpreter run the same instructions from the same state, and must agree.

#if arch(x86_64) && os(Linux)
    internal import GuestMemory

    /// The check of a machine: what its runs have in common.
    final class Lockstep {
        /// Instructions in a run, and in one that shall show where a difference begins: one block.
        static let longRun = 4000
        static let shortRun = 0

        let journal: MemoryJournal
        /// What a report's files begin with; nil for none.
        let reportPath: String?
        /// Runs that were compared.
        var runs: UInt64 = 0
        /// A run that differed is repeated in short ones: instructions left of it.
        var narrowing = 0
        var isNarrowing = false
        /// What the report says in one line.
        var difference: String?

        init(_ journal: MemoryJournal, reportPath: String?) {
            self.journal = journal
            self.reportPath = reportPath
        }
    }

    /// How a run ended: at the end of its time slice, or by what an instruction threw.
    enum RunEnd: Equatable {
        case finished
        case fault(Fault)
    }

    /// Both sides of a run.
    struct CheckedRun {
        var start: Checkpoint
        /// What the translator made of it.
        var translated: Checkpoint
        var end: RunEnd
        /// What the translator took from the time slice: about the number of instructions.
        var work: Int
        /// What the interpreter made of it.
        var interpreted: Checkpoint
        var interpretedEnd: RunEnd
    }

    extension Core {
        /// Most instructions that a block, or that a step of a repeated one, takes from a time slice beyond its end.
        private static var margin: Int { 200 }

        /// Does what `executeTranslated` does, and compares it with the interpreter. What is not the translator's work is
        /// done once: system instructions, and accesses to devices.
        mutating func executeChecked(_ translator: Translator, _ lockstep: Lockstep) throws(Fault) {
            while try checkRun(translator, lockstep) {}
        }

        /// One run. Returns whether another follows before anything else may happen to the processor.
        private mutating func checkRun(_ translator: Translator, _ lockstep: Lockstep) throws(Fault) -> Bool {
            let before = budget
            let slice = min(max(budget, 0), lockstep.isNarrowing ? Lockstep.shortRun : Lockstep.longRun)
            var run = translatedRun(slice, translator, lockstep)
            let agrees = repeatRun(&run, lockstep, stepwise: false) || repeatRun(&run, lockstep, stepwise: true)
            lockstep.runs += 1
            if !agrees {
                report(run, translator, lockstep)
                takeBack(run, lockstep)
                if lockstep.isNarrowing { failure = lockstep.difference }
                lockstep.isNarrowing = true
                lockstep.narrowing = run.work + Self.margin
            }
            isChecking = false
            lockstep.journal.close()
            guard agrees else {
                budget = before
                return failure == nil
            }
            budget = before - run.work
            if lockstep.isNarrowing {
                lockstep.narrowing -= run.work
                // Its blocks alone do not differ.
                if lockstep.narrowing < 0 { failure = lockstep.difference }
            }
            if case .fault(let fault) = run.end {
                guard fault == .deferred else { throw fault }
                try executeBlocks(.instruction)
                return false
            }
            return lockstep.isNarrowing && failure == nil
        }

        /// The translator's run, in earnest.
        private mutating func translatedRun(_ slice: Int, _ translator: Translator, _ lockstep: Lockstep) -> CheckedRun
        {
            let start = checkpoint()
            lockstep.journal.open()
            translations.protectAll()
            isChecking = true
            budget = slice
            let end = runEnd { (core) throws(Fault) in try core.executeTranslated(translator) }
            let work = max(slice - budget, 0)
            lockstep.journal.keep()
            let point = checkpoint()
            return CheckedRun(
                start: start, translated: point, end: end, work: work, interpreted: point, interpretedEnd: end)
        }

        private mutating func runEnd(_ body: (inout Core) throws(Fault) -> Void) -> RunEnd {
            do throws(Fault) { try body(&self) } catch { return error == .interrupted ? .finished : .fault(error) }
            return .finished
        }

        /// Everything is again what it was before the run.
        mutating func takeBack(_ run: CheckedRun, _ lockstep: Lockstep) {
            let code = code
            lockstep.journal.rewind { code.memoryChanges(GuestPhysicalAddress($0), count: 64) }
            goBack(to: run.start)
            // What was found in page tables that are no longer so.
            if lockstep.journal.hasEntries { flushTranslations() }
            translations.protectAll()
        }

        /// The interpreter's run. Returns whether it comes to where the translator came.
        private mutating func repeatRun(_ run: inout CheckedRun, _ lockstep: Lockstep, stepwise: Bool) -> Bool {
            takeBack(run, lockstep)
            var undefined: Flags = []
            if !stepwise, run.work > Self.margin {
                budget = run.work - Self.margin
                run.interpretedEnd = runEnd { (core) throws(Fault) in try core.executeBlocks(.slice) }
                if run.interpretedEnd != .finished { return isMet(&run, lockstep, .status) }
                undefined = .status
            }
            // Where a block stops in its midst it has taken one instruction from the time slice.
            for _ in 0...(run.work + Self.margin) * BlockTranslator.longest {
                if run.end == .finished, rip == run.translated.rip {
                    run.interpretedEnd = .finished
                    if isMet(&run, lockstep, undefined) { return true }
                }
                budget = 0
                run.interpretedEnd = runEnd { (core) throws(Fault) in try core.executeBlocks(.instruction) }
                if run.interpretedEnd != .finished { return isMet(&run, lockstep, undefined) }
                // SAFETY: a single instruction is decoded into the scratch block.
                undefined = unsafe undefined.undefined(after: blocks.instruction(BlockCache.scratch + 1).pointee)
            }
            return false
        }

        private mutating func isMet(_ run: inout CheckedRun, _ lockstep: Lockstep, _ undefined: Flags) -> Bool {
            run.interpreted = checkpoint()
            return run.interpretedEnd == run.end && run.interpreted.isSame(as: run.translated, ignoring: undefined)
                && lockstep.journal.differences(limit: 1).isEmpty
        }
    }
#else
    /// There is no translator to check on this host.
    final class Lockstep {
        let journal: MemoryJournal

        init(_ journal: MemoryJournal, reportPath: String?) { self.journal = journal }
    }
#endif
