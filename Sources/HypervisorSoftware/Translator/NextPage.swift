// SPDX-License-Identifier: Apache-2.0
// Translations that go on in the page behind that of their block.
//
// A block is of one page, for who knows what lies behind it: the next linear page may be any page of memory, and another one
// in another address space. A translation may have code of two pages in it. Before it goes on in the second one it looks
// whether that is the one that it was made from, which the context remembers for as long as nothing changes translations.

/// The page behind that of a block, for one translation of the block. What lies there counts its offsets from the base of the
/// block's page, from 4096 on.
struct NextPage {
    /// Its physical address.
    let physical: UInt64
    let shared: SharedCode

    /// A copy of the block at `target`, an offset from the page base, if it runs often: one here, or an instruction that lies in
    /// both pages.
    /// - Parameter own: those of the block's page.
    func find(_ target: UInt64, _ own: Neighbours) -> Neighbour? {
        guard target > 4096 - 15, target < 2 * 4096 else { return nil }
        guard shared.arena.hasRoom else { return nil }
        return target < 4096 ? copyCrossing(target, own) : copyBlock(target, own)
    }

    private func copyBlock(_ target: UInt64, _ own: Neighbours) -> Neighbour? {
        let offset = target & 4095
        guard own.index.find(physical | offset, .bits64, own.set, heat: own.heat) != nil,
            let page = unsafe shared.physical.pointer(physical)
        else { return nil }
        // SAFETY: `page` has 4096 bytes, and the arena has room for the longest block.
        let (count, end) = unsafe shared.index.slots.decode(
            UInt32(shared.arena.next), page, Int(offset), .bits64, base: 4096)
        guard count > 0 else { return nil }
        let slot = shared.add(
            count: count, from: physical | offset, at: UInt16(target), end: 4096 + UInt64(end), own.set)
        return Neighbour(slot: slot, count: count, needsNextPage: true)
    }

    private func copyCrossing(_ target: UInt64, _ own: Neighbours) -> Neighbour? {
        let address = own.page | target
        guard let known = shared.crossings[BlockCache.crossingIndex(address)], known.physical == address,
            known.mode == .bits64, known.heat >= own.heat, let page = unsafe shared.physical.pointer(own.page),
            let next = unsafe shared.physical.pointer(physical)
        else { return nil }
        // SAFETY: the last bytes of one page, and the first of another.
        let start = unsafe CodeWindow(UnsafeRawPointer(page) + Int(target), available: 4096 - Int(target))
        let window = unsafe start.appending(CodeWindow(UnsafeRawPointer(next), available: 16))
        guard case .instruction(let instruction, _) = Decoder.decode(window, .bits64, pageOffset: UInt16(target)),
            instruction.nextPageOffset > 4096
        else { return nil }
        let slot = shared.addCrossing(instruction, at: address, next: physical, own.set)
        return Neighbour(slot: slot, count: 1, needsNextPage: true)
    }
}

extension BlockTranslator {
    /// Before the block goes on in code that lies in the next page, after `count` instructions, looks whether that is the page that
    /// the code was made from; goes on at `target`, which has code of its own, if not. Returns whether it has done so: there may be
    /// no room in the context.
    mutating func enterNextPage(for target: UInt64, count: Int32) -> Bool {
        guard !state.knowsNextPage else { return true }
        guard let place = takeNextPagePlace() else { return false }
        giveUpHostFlags()
        code.compareFarKey(.context(place + ContextLayout.farKey))
        let unknown = code.jump(if: HostCondition.notEqual)
        aside(unknown, .findNextPage(target: target, place: place, resume: code.position, count: count))
        state.knowsNextPage = true
        return true
    }

    /// What is known at `place` of the context is of before translations changed, or of another address space.
    mutating func findNextPage(_ page: UInt64, target: UInt64, place: Int, resume: Int, count: Int32) {
        code.moveImmediate(.first, page)
        code.store(.first, .context(ContextLayout.temporary))
        code.moveImmediate(.second, UInt64(place))
        code.call(routines.findNextPage)
        code.jump(if: HostCondition.equal, resume)
        if target == start { leaveFor(target, site: 0) } else { endBlock(target, count: count) }
    }
}

#if arch(x86_64) && os(Linux)
    extension Core {
        /// Puts into the context's `place` for how long the next page is known, if it is that in the context's temporary.
        fileprivate mutating func findNextPage(_ place: Int) {
            let context = unsafe translations.context
            func field(_ place: Int) -> UInt64 {
                // SAFETY: fields of the context.
                unsafe context.load(fromByteOffset: place, as: UInt64.self)
            }
            let base = field(ContextLayout.pageBase)
            let linear = base &+ 4096
            let address = cr2
            do throws(Fault) {
                guard try fetchFrame(linear) == field(ContextLayout.temporary) else { return }
                blocks.noteFetch(linear, accessSet, isGlobal: translations.isGlobal(linear, accessSet))
                unsafe context.storeBytes(
                    of: base ^ field(ContextLayout.farSalt), toByteOffset: place + ContextLayout.farKey, as: UInt64.self
                )
            } catch { cr2 = address }
        }
    }

    /// What translated code calls to find out what the next page is.
    let findNextPageForTranslatedCode: FindFunction = { context, place in
        // SAFETY: `Core.enter` put the core's address there, and waits for the translated code to come back.
        let core = unsafe context.load(fromByteOffset: ContextLayout.core, as: UnsafeMutablePointer<Core>.self)
        unsafe core.pointee.findNextPage(Int(place))
    }
#endif
