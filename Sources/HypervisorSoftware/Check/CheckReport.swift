// SPDX-License-Identifier: Apache-2.0
// What is told of a difference between translator and interpreter: registers, memory, the guest's code and the host's.

#if arch(x86_64) && os(Linux)
    internal import GuestMemory
    internal import Glibc

    extension Core {
        /// Most instructions that are listed.
        private static var longestTrace: Int { 128 }

        /// Tells of `run`, which differs. The processor and memory are as the interpreter left them.
        mutating func report(_ run: CheckedRun, _ translator: Translator, _ lockstep: Lockstep) {
            let interpreted = run.interpreted.fields
            let translated = run.translated.fields
            var lines = ["", "what differs: before, by the translator, by the interpreter"]
            for (number, field) in run.start.fields.enumerated()
            where translated[number].value != interpreted[number].value {
                lines.append(
                    "\(field.name): \(hex(field.value)) \(hex(translated[number].value)) "
                        + hex(interpreted[number].value))
            }
            for place in lockstep.journal.differences(limit: 64) {
                lines.append("memory \(hex(place.address)): \(hex(UInt64(place.first))) \(hex(UInt64(place.second)))")
            }
            lines.append("ended by: \(run.end) \(run.interpretedEnd)")
            let first = lines.count > 3 ? lines[2] : lines[lines.count - 1]
            let place = hex(run.start.rip)
            lockstep.difference =
                "translator and interpreter differ after about \(run.work) instructions from \(place): \(first)"
            lines += ["", "all registers before"] + run.start.fields.map { "\($0.name) \(hex($0.value))" }
            takeBack(run, lockstep)
            let host = hostCode(translator)
            let guest = trace(run, &lines)
            guard let path = lockstep.reportPath else { return }
            lines += [
                "", "The guest's code from \(place) on, and the translator's, disassembled:",
                "objdump -D -b binary -m i386:x86-64 --adjust-vma=\(place) \(path).guest",
                "objdump -D -b binary -m i386:x86-64 \(path).host",
            ]
            let text = ["\(lockstep.difference ?? "")"] + lines
            let isWritten =
                write(Array((text.joined(separator: "\n") + "\n").utf8), to: path + ".txt")
                && write(guest, to: path + ".guest") && write(host, to: path + ".host")
            lockstep.difference? += isWritten ? "; \(path).txt tells more" : "; \(path).txt cannot be written here"
        }

        /// Runs the interpreter again and lists what it does. Returns the code from the first instruction on.
        private mutating func trace(_ run: CheckedRun, _ lines: inout [String]) -> [UInt8] {
            let code = bytes(at: rip, count: 256)
            lines += ["", "what the interpreter ran"]
            for _ in 0..<min(run.work + 1, Self.longestTrace) {
                let place = rip
                budget = 0
                var didThrow = false
                do throws(Fault) { try executeBlocks(.instruction) } catch { didThrow = error != .interrupted }
                // SAFETY: a single instruction is decoded into the scratch block.
                let i = unsafe blocks.instruction(BlockCache.scratch + 1).pointee
                let text = bytes(at: place, count: Int(i.length)).map { hex($0) }.joined(separator: " ")
                lines.append("\(hex(place)): \(text)  \(i.name)")
                if didThrow { break }
            }
            return code
        }

        private mutating func hostCode(_ translator: Translator) -> [UInt8] {
            guard let frame = try? fetchFrame(rip), let slot = blocks.find(frame | rip & 4095, mode, accessSet) else {
                return []
            }
            // SAFETY: a slot from the cache is a block's header.
            let entry = unsafe Int(blocks.header(slot).pointee.code)
            return entry == 0 ? [] : translator.bytes(at: entry, count: 2048)
        }

        /// Code at `linear`, to the end of its page.
        private mutating func bytes(at linear: UInt64, count: Int) -> [UInt8] {
            guard let frame = try? fetchFrame(linear), let page = unsafe physical.pointer(frame & ~4095) else {
                return []
            }
            let offset = Int(linear & 4095)
            // SAFETY: no further than the page.
            return unsafe Array(UnsafeRawBufferPointer(start: page + offset, count: min(count, 4096 - offset)))
        }

        private func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

        private func hex(_ byte: UInt8) -> String { (byte < 16 ? "0" : "") + String(byte, radix: 16) }

        private func write(_ bytes: [UInt8], to path: String) -> Bool {
            let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o644)
            guard file >= 0 else { return false }
            defer { close(file) }
            // SAFETY: the array stays while it is written.
            return unsafe bytes.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress, $0.count) == $0.count }
        }
    }

    extension DecodedInstruction {
        /// What the table calls the operation.
        fileprivate var name: String {
            switch handler {
            case .vector: VectorOperation(rawValue: operation).map { "\($0)" } ?? "?"
            case .x87: X87Operation(rawValue: operation).map { "\($0)" } ?? "?"
            default: Operation(rawValue: operation).map { "\($0)" } ?? "?"
            }
        }
    }
#endif
