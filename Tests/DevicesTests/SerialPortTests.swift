// SPDX-License-Identifier: Apache-2.0
// The serial port as a driver sees it. Spec: PC16550D data sheet.

import Bus
import Testing

@testable import Devices

struct SerialPortTests {
    private let lines = RecordingLines()
    private let sink = RecordingSink()
    private let port: SerialPort

    // Offsets.
    private let data: UInt64 = 0
    private let enable: UInt64 = 1
    private let identification: UInt64 = 2
    private let fifo: UInt64 = 2
    private let lineControl: UInt64 = 3
    private let modemControl: UInt64 = 4
    private let lineStatus: UInt64 = 5
    private let modemStatus: UInt64 = 6

    private let output2: UInt8 = 0x08
    private let loopback: UInt8 = 0x10

    init() {
        port = SerialPort(interrupt: InterruptLine(lines, 4))
        port.sink = sink
    }

    @Test func `a byte written to the holding register is sent and the transmitter is empty again`() {
        for byte in "hi".utf8 { port[data] = byte }
        #expect(sink.bytes == Array("hi".utf8))
        #expect(port[lineStatus] == 0x60)
    }

    @Test func `the divisor latch hides the data and interrupt enable registers`() {
        port[lineControl] = 0x83
        port[data] = 0x01
        port[enable] = 0x02
        #expect(port[data] == 0x01)
        #expect(port[enable] == 0x02)
        port[lineControl] = 0x03
        #expect(port[enable] == 0)
        #expect(sink.bytes.isEmpty)
        #expect(port.saveState().divisor == 0x201)
    }

    @Test func `the interrupt enable register has four bits and the scratch register eight`() {
        port[enable] = 0xff
        port[7] = 0xa5
        #expect(port[enable] == 0x0f)
        #expect(port[7] == 0xa5)
    }

    @Test func `identification tells a 16550A only while the FIFOs are enabled`() {
        #expect(port[identification] == 0x01)
        port[fifo] = 0x01
        #expect(port[identification] == 0xc1)
        port[fifo] = 0x00
        #expect(port[identification] == 0x01)
    }

    @Test func `input is read in order and the line status follows`() {
        port[fifo] = 0x01
        #expect(port.receive([1, 2]) == 2)
        #expect(port[lineStatus] & 1 == 1)
        #expect(port[data] == 1)
        #expect(port[data] == 2)
        #expect(port[lineStatus] & 1 == 0)
    }

    @Test func `input beyond FIFO and queue is not taken`() {
        port[fifo] = 0x01
        let much = [UInt8](repeating: 7, count: 5000)
        #expect(port.receive(much) == 4096)
        // Sixteen went on into the FIFO.
        #expect(port.receiveSpace == 16)
        #expect(port.receive(much) == 16)
        #expect(port.receive(much) == 0)
        #expect(port[data] == 7)
        #expect(port.receive(much) == 1)
    }

    @Test func `received data interrupts when it is enabled and stops when it is read`() {
        port[modemControl] = output2
        port[fifo] = 0x01
        port.receive([1])
        #expect(lines.asserted.isEmpty)
        port[enable] = 0x01
        #expect(lines.asserted == [4])
        #expect(port[identification] == 0xc4)
        _ = port[data]
        #expect(lines.asserted.isEmpty)
        #expect(port[identification] == 0xc1)
    }

    @Test func `below the trigger level data is told as a character timeout`() {
        port[modemControl] = output2
        port[fifo] = 0xc1
        port[enable] = 0x01
        port.receive([1])
        #expect(port[identification] == 0xcc)
        port.receive(Array(repeating: 1, count: 13))
        #expect(port[identification] == 0xc4)
    }

    @Test func `the transmitter interrupt comes on enabling, goes on identification, and comes with each byte`() {
        port[modemControl] = output2
        port[enable] = 0x02
        #expect(lines.asserted == [4])
        #expect(port[identification] == 0x02)
        #expect(lines.asserted.isEmpty)
        #expect(port[identification] == 0x01)
        port[data] = 0x41
        #expect(lines.edges == [4, 4])
        // Not told yet: the next byte makes a new edge all the same.
        port[data] = 0x42
        #expect(lines.edges == [4, 4, 4])
        port[enable] = 0
        port[enable] = 0x02
        #expect(port[identification] == 0x02)
    }

    @Test func `output 2 connects the interrupt line`() {
        port[enable] = 0x02
        #expect(lines.asserted.isEmpty)
        port[modemControl] = output2
        #expect(lines.asserted == [4])
        port[modemControl] = output2 | loopback
        #expect(lines.asserted.isEmpty)
    }

    @Test func `loopback returns bytes and modem outputs, and keeps the line's input out`() {
        port[fifo] = 0x01
        port[modemControl] = loopback
        port.receive([9])
        port[data] = 0x55
        #expect(sink.bytes.isEmpty)
        #expect(port[data] == 0x55)
        #expect(port[lineStatus] & 1 == 0)
        port[modemControl] = loopback | 0x0a
        #expect(port[modemStatus] & 0xf0 == 0x90)
        port[modemControl] = 0
        #expect(port[data] == 9)
    }

    @Test func `a receiver that overruns in loopback says so once`() {
        port[modemControl] = loopback
        port[data] = 1
        port[data] = 2
        #expect(port[lineStatus] & 2 == 2)
        #expect(port[lineStatus] & 2 == 0)
        #expect(port[data] == 1)
    }

    @Test func `modem changes are told once, and a ring only at its end`() {
        #expect(port[modemStatus] == 0xb0)
        port[modemControl] = loopback | 0x04
        #expect(port[modemStatus] == 0x4b)
        port[modemControl] = loopback
        #expect(port[modemStatus] == 0x04)
        #expect(port[modemStatus] == 0x00)
    }

    @Test func `resetting the receiver's FIFO drops what is in it`() {
        port[fifo] = 0x01
        port.receive([1, 2, 3])
        port[fifo] = 0x03
        #expect(port[lineStatus] & 1 == 0)
    }

    @Test func `a wide access is a byte access for each register`() {
        port.write(0x1b03_0000, offset: 0, width: .doubleWord)
        #expect(port[lineControl] == 0x1b)
        #expect(port.read(offset: 2, width: .word) == 0x1bc1)
    }
}
