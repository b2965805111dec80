// SPDX-License-Identifier: Apache-2.0
// Messages of the domain name system, as far as an outbound policy looks into them. Spec: RFC 1035 §4.

internal import Virtio

/// A query with one question, or the answer to one.
struct DomainMessage {
    static let port: UInt16 = 53
    private static let headerSize = 12
    private static let longestName = 255

    private enum Flags {
        static let isAnswer: UInt16 = 0x8000  // QR
        static let recursionDesired: UInt16 = 0x0100  // RD
        static let status: UInt16 = 0x000f  // RCODE
        static let refused: UInt16 = 5
    }

    private enum RecordType {
        static let address: UInt16 = 1  // A
        static let options: UInt16 = 41  // OPT
    }

    private static let internet: UInt16 = 1  // class IN

    private let bytes: [UInt8]
    private let questionEnd: Int
    /// What is asked for, in lower case, without a dot at its end.
    let name: String

    /// Nil when it is no message with one question.
    init?(_ message: some Collection<UInt8>) {
        bytes = Array(message)
        guard bytes.count >= Self.headerSize, bytes.word(4) == 1 else { return nil }
        var offset = Self.headerSize
        var labels: [String] = []
        while true {
            guard offset < bytes.count else { return nil }
            let length = Int(bytes[offset])
            offset += 1
            if length == 0 { break }
            // 64 and more would be pointers, which a question does not have.
            guard length < 64, offset + length <= bytes.count, offset - Self.headerSize + length < Self.longestName
            else { return nil }
            labels.append(String(decoding: bytes[offset..<offset + length], as: UTF8.self).lowercased())
            offset += length
        }
        guard offset + 4 <= bytes.count else { return nil }
        questionEnd = offset + 4
        name = labels.joined(separator: ".")
    }

    /// Whether it is a question and nothing else: what is behind the name could carry other words out.
    var isPlainQuestion: Bool {
        guard bytes.word(2) & Flags.isAnswer == 0, bytes.word(6) == 0, bytes.word(8) == 0 else { return false }
        switch bytes.word(10) {
        case 0: return bytes.count == questionEnd
        case 1:
            // The size of datagrams, with no options: a root name, type, class, flags, a length of zero.
            return bytes.count == questionEnd + 11 && bytes[questionEnd] == 0
                && bytes.word(questionEnd + 1) == RecordType.options && bytes.word(questionEnd + 9) == 0
        default: return false
        }
    }

    /// The answer that the question is not answered.
    var refusal: [UInt8] {
        var answer = Array(bytes[0..<2])
        answer.append(word: Flags.isAnswer | bytes.word(2) & Flags.recursionDesired | Flags.refused)
        answer += [0, 1, 0, 0, 0, 0, 0, 0]
        return answer + bytes[Self.headerSize..<questionEnd]
    }

    /// The addresses that an answer gives.
    var addresses: [IPv4Address] {
        guard bytes.word(2) & Flags.isAnswer != 0, bytes.word(2) & Flags.status == 0 else { return [] }
        var found: [IPv4Address] = []
        var offset = questionEnd
        for _ in 0..<bytes.word(6) {
            guard let start = skipName(offset), start + 10 <= bytes.count else { break }
            let length = Int(bytes.word(start + 8))
            guard start + 10 + length <= bytes.count else { break }
            if bytes.word(start) == RecordType.address, bytes.word(start + 2) == Self.internet, length == 4 {
                found.append(IPv4Address(bytes.doubleWord(start + 10)))
            }
            offset = start + 10 + length
        }
        return found
    }

    /// What follows the name at `start`.
    private func skipName(_ start: Int) -> Int? {
        var offset = start
        while offset < bytes.count {
            let length = Int(bytes[offset])
            if length == 0 { return offset + 1 }
            if length >= 0xc0 { return offset + 2 }
            offset += 1 + length
        }
        return nil
    }
}
