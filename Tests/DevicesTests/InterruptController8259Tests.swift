// SPDX-License-Identifier: Apache-2.0
// The pair of 8259A as an operating system programs it. Spec: Intel 8259A data sheet.

import Testing

@testable import Devices

final class InterruptController8259Tests {
    private var output = false
    private lazy var pic = InterruptController8259 { [unowned self] in self.output = $0 }

    private func initialize(mode: UInt8 = 0x01, masks: (UInt8, UInt8) = (0, 0)) {
        pic[0x20] = 0x11
        pic[0x21] = 0x30
        pic[0x21] = 0x04
        pic[0x21] = mode
        pic[0xa0] = 0x11
        pic[0xa1] = 0x38
        pic[0xa1] = 0x02
        pic[0xa1] = mode
        pic[0x21] = masks.0
        pic[0xa1] = masks.1
    }

    @Test func `nothing is delivered before the controller is initialized`() {
        pic.setLine(4, asserted: true)
        #expect(!output)
    }

    @Test func `an edge is delivered once, with the vector of its input`() {
        initialize()
        pic.setLine(4, asserted: true)
        #expect(output)
        #expect(pic.acknowledge() == 0x34)
        #expect(!output)
        pic[0x20] = 0x20
        #expect(!output)
        pic.setLine(4, asserted: false)
        pic.setLine(4, asserted: true)
        #expect(output)
    }

    @Test func `the slave's interrupts come through input 2`() {
        initialize()
        pic.setLine(8, asserted: true)
        #expect(pic.acknowledge() == 0x38)
        pic[0xa0] = 0x0b
        pic[0x20] = 0x0b
        #expect(pic[0xa0] == 0x01)
        #expect(pic[0x20] == 0x04)
        pic[0xa0] = 0x20
        pic[0x20] = 0x20
        #expect(pic[0x20] == 0)
    }

    @Test func `a masked input waits`() {
        initialize(masks: (0x10, 0xff))
        pic.setLine(4, asserted: true)
        #expect(!output)
        #expect(pic[0x20] == 0x10)
        #expect(pic[0x21] == 0x10)
        pic[0x21] = 0
        #expect(output)
    }

    @Test func `a lower input interrupts a higher one, and not the other way round`() {
        initialize()
        pic.setLine(4, asserted: true)
        _ = pic.acknowledge()
        pic.setLine(5, asserted: true)
        #expect(!output)
        pic.setLine(3, asserted: true)
        #expect(pic.acknowledge() == 0x33)
        pic[0x20] = 0x20
        #expect(!output)
        pic[0x20] = 0x20
        #expect(pic.acknowledge() == 0x35)
    }

    @Test func `a specific end names its input`() {
        initialize()
        pic.setLine(4, asserted: true)
        _ = pic.acknowledge()
        pic.setLine(3, asserted: true)
        _ = pic.acknowledge()
        pic[0x20] = 0x64
        pic[0x20] = 0x0b
        #expect(pic[0x20] == 0x08)
    }

    @Test func `automatic end leaves nothing in service`() {
        initialize(mode: 0x03)
        pic.setLine(4, asserted: true)
        #expect(pic.acknowledge() == 0x34)
        pic[0x20] = 0x0b
        #expect(pic[0x20] == 0)
    }

    @Test func `a request that is gone gives the spurious vector and nothing in service`() {
        initialize()
        pic[0x4d1] = 0x02
        pic.setLine(9, asserted: true)
        #expect(output)
        pic.setLine(9, asserted: false)
        #expect(!output)
        #expect(pic.acknowledge() == 0x37)
        pic[0x20] = 0x0b
        #expect(pic[0x20] == 0)
    }

    @Test func `a level-triggered input interrupts again until it is released`() {
        initialize()
        pic[0x4d0] = 0xff
        #expect(pic[0x4d0] == 0xf8)
        pic.setLine(5, asserted: true)
        #expect(pic.acknowledge() == 0x35)
        pic[0x20] = 0x20
        #expect(output)
        pic.setLine(5, asserted: false)
        #expect(!output)
    }

    @Test func `rotation gives the served input the lowest priority`() {
        initialize()
        pic.setLine(3, asserted: true)
        _ = pic.acknowledge()
        pic[0x20] = 0xa0
        pic.setLine(3, asserted: false)
        pic.setLine(3, asserted: true)
        pic.setLine(4, asserted: true)
        #expect(pic.acknowledge() == 0x34)
    }

    @Test func `special mask mode lets everything through but the masked input`() {
        initialize()
        pic.setLine(3, asserted: true)
        _ = pic.acknowledge()
        pic[0x20] = 0x68
        pic[0x21] = 0x08
        pic.setLine(5, asserted: true)
        #expect(pic.acknowledge() == 0x35)
    }

    @Test func `a second interrupt of the slave comes after the first has ended`() {
        initialize()
        pic.setLine(9, asserted: true)
        pic.setLine(8, asserted: true)
        #expect(pic.acknowledge() == 0x38)
        #expect(!output)
        pic[0xa0] = 0x20
        #expect(!output)
        pic[0x20] = 0x20
        #expect(pic.acknowledge() == 0x39)
    }

    @Test func `polling acknowledges`() {
        initialize()
        pic.setLine(4, asserted: true)
        pic[0x20] = 0x0c
        #expect(pic[0x20] == 0x84)
        #expect(!output)
        pic[0x20] = 0x0c
        #expect(pic[0x20] == 0)
    }
}
