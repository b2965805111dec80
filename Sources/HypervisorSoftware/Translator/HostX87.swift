// SPDX-License-Identifier: Apache-2.0
// The guest's x87 unit between `Core` and the image that translated code loads it from and saves it to.

import X86

#if arch(x86_64) && os(Linux)
    extension Core {
        /// Whether x87 and MMX instructions can run as they are: they are enabled and no exception of theirs is.
        var allowsHostX87: Bool {
            mutating get {
                let masks = X87Status.exceptions.rawValue
                return cr0 & (ControlRegister0.emulation | ControlRegister0.taskSwitched) == 0
                    && x87.control & masks == masks
            }
        }

        /// Writes the x87 unit to the context, for translated code to load.
        fileprivate mutating func prepareX87() {
            var image = x87.fxsaveImage(hasWidePointers: true)
            let context = unsafe translations.context
            // SAFETY: all are fields of the context; the image has 512 bytes.
            image[3] = unsafe UInt64(context.load(fromByteOffset: ContextLayout.hostControl, as: UInt32.self))
            for word in 0..<20 {
                unsafe context.storeBytes(
                    of: image[word], toByteOffset: ContextLayout.x87Image + word * 8, as: UInt64.self)
            }
            // The block that runs may have noted its own page already, and have run an instruction in the next one.
            let base = unsafe context.load(fromByteOffset: ContextLayout.pageBase, as: UInt64.self)
            let page = x87.lastInstruction &- base < 2 * 4096 ? base : x87.lastInstruction & ~4095
            unsafe context.storeBytes(of: page, toByteOffset: ContextLayout.x87Page, as: UInt64.self)
            unsafe context.storeBytes(
                of: UInt32(x87.lastInstruction &- page) | UInt32(x87.lastOpcode) << 16,
                toByteOffset: ContextLayout.x87Recorded, as: UInt32.self)
            unsafe context.storeBytes(of: x87.lastData, toByteOffset: ContextLayout.x87Data, as: UInt64.self)
        }

        /// Takes the x87 unit back, if translated code has saved it.
        @inline(__always)
        mutating func takeX87() {
            // SAFETY: a field of the context.
            if unsafe translations.context.load(fromByteOffset: ContextLayout.x87Saved, as: UInt8.self) != 0 {
                takeSavedX87()
            }
        }

        @inline(never)
        private mutating func takeSavedX87() {
            let context = unsafe translations.context
            // SAFETY: all are fields of the context; the image has 512 bytes.
            unsafe context.storeBytes(of: 0, toByteOffset: ContextLayout.x87Saved, as: UInt8.self)
            var image = InlineArray<20, UInt64>(repeating: 0)
            for word in 0..<20 {
                image[word] = unsafe context.load(
                    fromByteOffset: ContextLayout.x87Image + word * 8, as: UInt64.self)
            }
            x87.restore(fxsaveImage: image, hasWidePointers: true)
            let recorded = unsafe context.load(fromByteOffset: ContextLayout.x87Recorded, as: UInt32.self)
            x87.lastInstruction =
                unsafe context.load(fromByteOffset: ContextLayout.x87Page, as: UInt64.self)
                &+ UInt64(recorded & 0xffff)
            x87.lastOpcode = UInt16(recorded >> 16)
            x87.lastData = unsafe context.load(fromByteOffset: ContextLayout.x87Data, as: UInt64.self)
        }
    }

    typealias PrepareFunction = @convention(c) (UnsafeMutableRawPointer) -> Void

    /// What translated code calls to have the x87 unit in its context.
    let prepareX87ForTranslatedCode: PrepareFunction = { context in
        // SAFETY: `Core.enter` put the core's address there, and waits for the translated code to come back.
        let core = unsafe context.load(fromByteOffset: ContextLayout.core, as: UnsafeMutablePointer<Core>.self)
        unsafe core.pointee.prepareX87()
    }
#endif
