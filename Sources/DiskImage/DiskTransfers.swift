// SPDX-License-Identifier: Apache-2.0
// How requests are carried out: reads through the chain, writes with the old contents around them, flushes with barriers.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

extension DiskImage {
    /// Where the bytes from `offset` on are, in whichever image of the chain, and how many of them, at most `limit`.
    /// - Parameter depth: of how many images; what lies below all of them is then a hole.
    func locate(
        _ offset: UInt64, limit: UInt64, depth: Int? = nil
    ) throws(DiskImageError) -> (layer: any ImageLayer, extent: Extent) {
        var limit = limit
        for index in 0..<layers.count {
            if index == depth { return (top, Extent(mapping: .hole, count: limit)) }
            let layer = layers[index]
            guard offset < layer.size else { break }
            let extent = try layer.extent(at: offset, limit: min(limit, layer.size - offset))
            if extent.mapping != .hole { return (layer, extent) }
            limit = extent.count
        }
        return (top, Extent(mapping: .zero, count: limit))
    }

    // MARK: Reading

    func startRead(_ request: DiskRequest) throws(DiskImageError) {
        request.phase = .reading
        guard request.count > 0 else { return finish(request) }
        let (layer, extent) = try locate(request.offset, limit: request.count)
        // Counted while operations are added, so that none of them ends the request.
        request.outstanding = 1
        var failure: DiskImageError?
        if extent.count == request.count, case .data(let host) = extent.mapping {
            request.outstanding += 1
            unsafe io.transfer(
                .read, layer.file, offset: host, vectors: request.vectors, count: request.vectorCount,
                bytes: Int(request.count), tag: request.index)
        } else {
            var cursor = request.cursor
            do throws(DiskImageError) {
                try read(request, at: request.offset, count: request.count, into: &cursor)
            } catch { failure = error }
        }
        request.outstanding -= 1
        if let failure { request.error = failure.code }
        if request.outstanding == 0 { finish(request) }
    }

    /// Reads what the disk has at `offset` into the cursor's memory; the operations belong to `request`.
    private func read(
        _ request: DiskRequest, at offset: UInt64, count: UInt64, into cursor: inout VectorCursor
    ) throws(DiskImageError) {
        var done: UInt64 = 0
        while done < count {
            let (layer, extent) = try locate(offset + done, limit: count - done)
            let bytes = Int(extent.count)
            switch extent.mapping {
            case .data(let host):
                var list = request.newList()
                cursor.slice(bytes, to: &list)
                request.lists.append(list)
                request.outstanding += 1
                unsafe io.transfer(
                    .read, layer.file, offset: host, vectors: list.start, count: list.count, bytes: bytes,
                    tag: request.index)
            case .zero, .hole:
                cursor.zero(bytes)
            case .compressed(let cluster, let inside):
                let expanded = try layer.expand(cluster)
                // SAFETY: a run inside a compressed cluster ends with it.
                let part = unsafe UnsafeRawBufferPointer(
                    rebasing: expanded.bytes[Int(inside)..<Int(inside) + bytes])
                unsafe cursor.copy(from: part)
            }
            done += extent.count
        }
    }

    /// Reads at once, for views, copies and tools.
    func readNow(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        var done = 0
        while done < buffer.count {
            let (layer, extent) = try locate(offset + UInt64(done), limit: UInt64(buffer.count - done))
            // SAFETY: extents are at most as long as what is left.
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + Int(extent.count)])
            switch extent.mapping {
            case .data(let host): unsafe try layer.file.read(at: host, into: part)
            case .zero, .hole: unsafe _ = part.initializeMemory(as: UInt8.self, repeating: 0)
            case .compressed(let cluster, let inside):
                let expanded = try layer.expand(cluster)
                // SAFETY: as above.
                unsafe part.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: expanded.bytes[Int(inside)..<Int(inside) + part.count]))
            }
            done += Int(extent.count)
        }
    }

    // MARK: Writing

    func startWrite(_ request: DiskRequest) throws(DiskImageError) {
        guard request.count > 0 else { return finish(request) }
        try frozen?.preserve(request.offset, request.count)
        var done: UInt64 = 0
        var needsFilling = false
        do throws(DiskImageError) {
            while done < request.count {
                var step = try top.planWrite(at: request.offset + done, limit: request.count - done)
                done += step.count
                if step.allocation != nil {
                    if try !needsFill(step, at: step.offset - step.fillHead, step.fillHead) { step.fillHead = 0 }
                    if try !needsFill(step, at: step.offset + step.count, step.fillTail) { step.fillTail = 0 }
                    needsFilling = needsFilling || step.fillHead + step.fillTail > 0
                    noteAllocation(request, step)
                }
                request.steps.append(step)
            }
        } catch {
            for step in request.steps { top.abandon(step) }
            request.steps.removeAll(keepingCapacity: true)
            throw error
        }
        guard needsFilling else { return writeSteps(request) }
        request.phase = .filling
        request.outstanding = 1
        do throws(DiskImageError) { try readFills(request) } catch { request.error = error.code }
        request.outstanding -= 1
        guard request.outstanding == 0 else { return }
        if request.error == 0 { writeSteps(request) } else { endWrite(request) }
    }

    /// New space that reads as zero already needs no zeros.
    private func needsFill(_ step: WriteStep, at offset: UInt64, _ count: UInt64) throws(DiskImageError) -> Bool {
        guard count > 0, step.isFresh else { return count > 0 }
        var done: UInt64 = 0
        while done < count, offset + done < top.size {
            let (_, extent) = try locate(offset + done, limit: count - done)
            guard extent.mapping == .zero else { return true }
            done += extent.count
        }
        return false
    }

    private func noteAllocation(_ request: DiskRequest, _ step: WriteStep) {
        guard let allocation = step.allocation else { return }
        let start = allocation.cluster * top.clusterSize
        let end = start + allocation.clusters * top.clusterSize
        request.allocating =
            request.allocating.map { min($0.lowerBound, start)..<max($0.upperBound, end) } ?? start..<end
    }

    /// Reads the old contents around the pieces that go to new space.
    private func readFills(_ request: DiskRequest) throws(DiskImageError) {
        for step in request.steps {
            var fill: (head: AlignedBuffer?, tail: AlignedBuffer?) = (nil, nil)
            if step.fillHead > 0 {
                fill.head = try readFill(request, step.offset - step.fillHead, step.fillHead)
            }
            if step.fillTail > 0 {
                fill.tail = try readFill(request, step.offset + step.count, step.fillTail)
            }
            request.fills.append(fill)
        }
    }

    private func readFill(
        _ request: DiskRequest, _ offset: UInt64, _ count: UInt64
    ) throws(DiskImageError) -> AlignedBuffer {
        let buffer = try AlignedBuffer(count: Int(count))
        request.buffers.append(buffer)
        guard let start = unsafe buffer.bytes.baseAddress else { return buffer }
        var list = VectorList(capacity: 1)
        unsafe list.append(start, Int(count))
        request.lists.append(list)
        var cursor = unsafe VectorCursor(list.start, 1)
        try read(request, at: offset, count: count, into: &cursor)
        return buffer
    }

    /// Writes each piece with what is around it.
    func writeSteps(_ request: DiskRequest) {
        request.phase = .writing
        request.outstanding = 1
        if request.steps.count == 1, request.fills.isEmpty, let step = request.steps.first {
            request.outstanding += 1
            unsafe io.transfer(
                .write, top.file, offset: step.hostOffset, vectors: request.vectors, count: request.vectorCount,
                bytes: Int(step.count), tag: request.index)
        } else {
            var cursor = request.cursor
            for (index, step) in request.steps.enumerated() {
                var list = request.newList()
                let fill = index < request.fills.count ? request.fills[index] : (head: nil, tail: nil)
                if let head = fill.head, let start = unsafe head.bytes.baseAddress {
                    unsafe list.append(start, Int(step.fillHead))
                }
                cursor.slice(Int(step.count), to: &list)
                if let tail = fill.tail, let start = unsafe tail.bytes.baseAddress {
                    unsafe list.append(start, Int(step.fillTail))
                }
                request.lists.append(list)
                request.outstanding += 1
                unsafe io.transfer(
                    .write, top.file, offset: step.hostOffset - step.fillHead, vectors: list.start, count: list.count,
                    bytes: list.bytes, tag: request.index)
            }
        }
        request.outstanding -= 1
        if request.outstanding == 0 { endWrite(request) }
    }

    /// The data is in the file, or not: the tables say so.
    func endWrite(_ request: DiskRequest) {
        for step in request.steps {
            guard request.error == 0 else {
                top.abandon(step)
                continue
            }
            do throws(DiskImageError) { try top.publish(step) } catch {
                request.error = error.code
                top.abandon(step)
            }
        }
        finish(request)
        if top.isCrowded, flushing == nil, waitingFlushes.isEmpty { writeBack() }
    }

    // MARK: Zeros

    /// Whole clusters become zero by themselves; the rest at both ends is written.
    func startZero(_ request: DiskRequest, releasing: Bool) throws(DiskImageError) {
        guard request.count > 0 else { return finish(request) }
        try frozen?.preserve(request.offset, request.count)
        let (first, last) = wholeClusters(request)
        if first < last, try top.zero(at: first, count: last - first, releasing: releasing) {
            if first == request.offset, last == request.offset + request.count { return finish(request) }
            // At most a cluster at each end is left: one write each, the second after the first.
            if first > request.offset, last < request.offset + request.count {
                try writeZeros(last, request.offset + request.count - last)
                request.count = first - request.offset
            } else if first > request.offset {
                request.count = first - request.offset
            } else {
                request.count = request.offset + request.count - last
                request.offset = last
            }
        }
        try turnIntoWrite(request)
    }

    private func wholeClusters(_ request: DiskRequest) -> (UInt64, UInt64) {
        let mask = top.clusterSize - 1
        let end = request.offset + request.count
        // The last cluster is whole when the disk ends in it.
        return ((request.offset + mask) & ~mask, end == top.size ? end : end & ~mask)
    }

    private func turnIntoWrite(_ request: DiskRequest) throws(DiskImageError) {
        request.setBuffers(try zeroBuffers(request.count))
        request.kind = .write
        try startWrite(request)
    }

    /// A write of zeros that nobody waits for but its order: it runs before the request that asked for it ends.
    private func writeZeros(_ offset: UInt64, _ count: UInt64) throws(DiskImageError) {
        var done: UInt64 = 0
        while done < count {
            let step = try top.planWrite(at: offset + done, limit: count - done)
            var bytes = [UInt8](repeating: 0, count: Int(step.fillHead + step.count + step.fillTail))
            do throws(DiskImageError) {
                var failure: DiskImageError?
                // SAFETY: the buffer is only used inside the closure.
                unsafe bytes.withUnsafeMutableBytes { buffer in
                    do throws(DiskImageError) {
                        // SAFETY: the parts before and behind the piece.
                        unsafe try readOld(
                            step.offset - step.fillHead,
                            UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(step.fillHead)]))
                        unsafe try readOld(
                            step.offset + step.count,
                            UnsafeMutableRawBufferPointer(rebasing: buffer[Int(step.fillHead + step.count)...]))
                    } catch { failure = error }
                }
                if let failure { throw failure }
                try top.file.write(bytes, at: step.hostOffset - step.fillHead)
                try top.publish(step)
            } catch {
                top.abandon(step)
                throw error
            }
            done += step.count
        }
    }

    private func readOld(_ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        if buffer.count > 0 { unsafe try readNow(at: offset, into: buffer) }
    }

    /// Memory of zeros, as often as needed.
    private func zeroBuffers(_ count: UInt64) throws(DiskImageError) -> [DiskBuffer] {
        let block = 1 << 20
        let buffer: AlignedBuffer
        if let zeros { buffer = zeros } else { buffer = try .zeros(count: block) }
        zeros = buffer
        guard let start = unsafe buffer.bytes.baseAddress else { return [] }
        return stride(from: 0, to: Int(count), by: block).map {
            unsafe DiskBuffer(start: start, count: min(block, Int(count) - $0))
        }
    }

    func startDiscard(_ request: DiskRequest) throws(DiskImageError) {
        let (first, last) = wholeClusters(request)
        if first < last {
            try frozen?.preserve(first, last - first)
            try top.discard(at: first, count: last - first)
        }
        finish(request)
    }

    // MARK: Flushing

    func startFlush(_ request: DiskRequest) {
        if isReadOnly { return finish(request) }
        if isScratch {
            do throws(DiskImageError) { try top.reclaim(before: oldestSequence) } catch { request.error = error.code }
            return finish(request)
        }
        guard flushing == nil else {
            waitingFlushes.append(request.index)
            return
        }
        flushing = request.index
        do throws(DiskImageError) {
            let plan = try top.beginFlush()
            request.plan = plan
            if plan.needsBarrier, !plan.mappings.isEmpty || !plan.roots.isEmpty {
                sync(request, .syncingRefcounts)
            } else {
                writeMappings(request, plan)
            }
        } catch {
            request.error = error.code
            endFlush(request)
        }
    }

    private func sync(_ request: DiskRequest, _ phase: DiskRequest.Phase) {
        request.phase = phase
        request.outstanding = 1
        io.sync(top.file, tag: request.index)
    }

    func continueFlush(_ request: DiskRequest) {
        guard request.error == 0, let plan = request.plan else { return endFlush(request) }
        switch request.phase {
        case .syncingRefcounts: writeMappings(request, plan)
        case .syncingMappings:
            do throws(DiskImageError) {
                for (offset, bytes) in plan.roots { try top.file.write(bytes, at: offset) }
                sync(request, .syncingAll)
            } catch {
                request.error = error.code
                endFlush(request)
            }
        default: endFlush(request)
        }
    }

    private func writeMappings(_ request: DiskRequest, _ plan: FlushPlan) {
        do throws(DiskImageError) {
            for (offset, bytes) in plan.mappings { try top.file.write(bytes, at: offset) }
            sync(request, plan.roots.isEmpty ? .syncingAll : .syncingMappings)
        } catch {
            request.error = error.code
            endFlush(request)
        }
    }

    private func endFlush(_ request: DiskRequest) {
        if let plan = request.plan { top.endFlush(plan, failed: request.error != 0) }
        flushing = nil
        finish(request)
        do throws(DiskImageError) { try top.reclaim(before: oldestSequence) } catch {
            // What cannot be reused stays allocated.
        }
        // All that came in the meantime want the same.
        if let next = waitingFlushes.first {
            waitingFlushes.removeFirst()
            startFlush(requests[next])
        }
    }

    /// Writes tables so that they need not stay in memory.
    private func writeBack() {
        guard let plan = try? top.beginFlush() else { return }
        var isFailed = false
        do throws(DiskImageError) {
            if plan.needsBarrier, !isScratch { try top.file.sync() }
            for (offset, bytes) in plan.mappings { try top.file.write(bytes, at: offset) }
            if !plan.roots.isEmpty, !isScratch { try top.file.sync() }
            for (offset, bytes) in plan.roots { try top.file.write(bytes, at: offset) }
        } catch { isFailed = true }
        top.endFlush(plan, failed: isFailed)
    }
}
