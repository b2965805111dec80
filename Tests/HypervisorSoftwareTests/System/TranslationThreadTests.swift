// SPDX-License-Identifier: Apache-2.0
// Blocks that another thread translates while the guest goes on, and changes what is translated.

#if arch(x86_64) && os(Linux)
    import Synchronization
    import Testing

    @testable import HypervisorSoftware

    struct TranslationThreadTests {
        private let code = SupervisorMachine.code

        /// ADD EAX, 1; DEC ECX; JNZ 0; HLT
        private static let loop: [UInt8] = [0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf9, 0xf4]

        private func machine(_ bytes: [UInt8] = loop) throws -> SupervisorMachine {
            let machine = try SupervisorMachine(.translate, isBeside: true)
            try machine.write(bytes)
            return machine
        }

        /// Runs the code with RAX = 0 and RCX = `rounds`. Returns RAX.
        private func run(_ machine: SupervisorMachine, rounds: UInt64) -> UInt64 {
            machine.core.general[0] = 0
            machine.core.general[1] = rounds
            machine.start()
            #expect(machine.runToHalt(slices: 1000) == nil)
            return machine.core.general[0]
        }

        /// The block at the beginning of the code, decoded, for its translation.
        private func source(_ machine: SupervisorMachine, nextPage: UInt64? = nil) throws -> TranslationSource {
            machine.start()
            let slot = try machine.core.decodeBlock(code, code)
            return machine.core.blocks.source(of: slot, heat: 1, nextPage: nextPage)
        }

        private func wait(_ translator: Translator) -> (translation: TranslatedBlock, isStale: Bool) {
            while true {
                if let answer = translator.takeTranslation() { return answer }
            }
        }

        @Test func `code runs as it says before it is translated and after`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            var runs = 0
            repeat {
                #expect(run(machine, rounds: 100) == 100)
                runs += 1
            } while translator.counts.translations == 0 && runs < 1_000_000
            #expect(translator.counts.translations > 0)
            let entries = machine.core.counts.entries
            #expect(run(machine, rounds: 1000) == 1000)
            #expect(machine.core.counts.entries > entries)
        }

        @Test func `what has been translated meanwhile is entered`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let source = try source(machine)
            #expect(translator.ask(for: source))
            let (translation, isStale) = wait(translator)
            #expect(!isStale)
            let entry = machine.core.code.install(translation, isStale: isStale)
            #expect(entry == translation.entry)
            #expect(run(machine, rounds: 1000) == 1000)
            #expect(machine.core.counts.entries > 0)
            #expect(translator.counts.useless == 0)
        }

        @Test func `a translation of code that has changed is not used`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            #expect(translator.ask(for: try source(machine)))
            // ADD EAX, 2
            try machine.write([2], at: code + 2)
            let (translation, isStale) = wait(translator)
            #expect(machine.core.code.install(translation, isStale: isStale) == nil)
            #expect(translator.counts.useless == 1)
            #expect(run(machine, rounds: 1000) == 2000)
        }

        @Test func `nor one with a block that has changed`() throws {
            // JMP 40; at 40 what is joined to it: ADD EAX, 1; DEC ECX; JNZ 0; HLT
            let machine = try machine([0xeb, 0x3e])
            let second: [UInt8] = [0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xb9, 0xf4]
            try machine.write(second, at: code + 0x40)
            let translator = try #require(machine.core.code.translator)
            machine.start()
            let slot = try machine.core.decodeBlock(code + 0x40, code + 0x40)
            unsafe machine.core.blocks.header(slot).pointee.heat = 1
            #expect(translator.ask(for: try source(machine)))
            // ADD EAX, 3
            try machine.write([3], at: code + 0x42)
            let (translation, isStale) = wait(translator)
            #expect(translation.joined == [slot])
            #expect(machine.core.code.install(translation, isStale: isStale) == nil)
            #expect(run(machine, rounds: 1000) == 3000)
        }

        @Test func `nor one that goes on in a page whose code has changed`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let next = code + 0x1000
            #expect(translator.ask(for: try source(machine, nextPage: next)))
            machine.core.code.invalidatePage(next)
            let (translation, isStale) = wait(translator)
            #expect(isStale)
            #expect(machine.core.code.install(translation, isStale: isStale) == nil)
        }

        @Test func `what was asked for before all code is forgotten never comes`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let source = try source(machine)
            let slot = source.block.slot
            unsafe machine.core.blocks.header(slot).pointee.isAwaited = translator.ask(for: source)
            machine.core.code.empty()
            #expect(unsafe !machine.core.blocks.header(slot).pointee.isAwaited)
            // Others come, but only once: the first answer is for nobody.
            #expect(translator.ask(for: try self.source(machine)))
            let (translation, isStale) = wait(translator)
            #expect(machine.core.code.install(translation, isStale: isStale) != nil)
            #expect(translator.counts.translatedBeside == 1)
            #expect(translator.takeTranslation() == nil)
            #expect(run(machine, rounds: 1000) == 1000)
        }

        @Test func `who waits long for it translates a block itself, and all is well when it comes after all`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let source = try source(machine)
            let header = unsafe machine.core.blocks.header(source.block.slot)
            #expect(translator.ask(for: source))
            unsafe header.pointee.isAwaited = true
            let own = translator.translate(source).flatMap { machine.core.code.install($0) }
            // The other thread may have it in hand just now.
            if let own {
                let (translation, isStale) = wait(translator)
                #expect(machine.core.code.install(translation, isStale: isStale) == nil)
                #expect(unsafe header.pointee.code == UInt32(own))
                #expect(translator.counts.useless == 1)
            }
            #expect(run(machine, rounds: 1000) == 1000)
        }

        @Test func `nothing is asked for while the other thread does not come to run`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let source = try source(machine)
            #expect(!translator.isLate())
            translator.queue.writer.withLock { _ in
                #expect(translator.ask(for: source))
                for _ in 0...6000 { #expect(translator.takeTranslation() == nil) }
            }
            #expect(translator.isLate())
            #expect(!translator.ask(for: source))
            #expect(!wait(translator).isStale)
            var translated = 0
            while !translator.ask(for: source), translated < 100_000 {
                if translator.translate(source) != nil { translated += 1 }
                machine.core.blocks.reserve(for: translator)
            }
            #expect(translated == 64)
        }

        @Test func `there is an end to what can be asked for at a time`() throws {
            let machine = try machine()
            let translator = try #require(machine.core.code.translator)
            let source = try source(machine)
            var asked = 0
            while asked <= TranslationQueue.capacity, translator.ask(for: source) { asked += 1 }
            #expect(asked == TranslationQueue.capacity)
            for _ in 0..<asked { _ = wait(translator) }
            #expect(translator.ask(for: source))
        }
    }
#endif
