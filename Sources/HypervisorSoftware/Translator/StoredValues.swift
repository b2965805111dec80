// SPDX-License-Identifier: Apache-2.0
// What a unit's code has stored and not changed since: functions save registers, and get them back as they are most often.

/// The values that code stored in its groups, for loads from there that would change nothing. Another processor of the guest may
/// write only when translated code was left.
struct StoredValues {
    /// What was stored before some instruction: the number of the last record, counted from 1.
    struct Moment {
        fileprivate var last = 0
    }

    private struct Record {
        var reference: AccessGroups.Reference
        var size: Int32
        /// Nil where it is not known.
        var value: LinearValue?
        var before: Int
    }

    /// A function saves six registers, and a call its return address; some calls lie in each other.
    private static let most = 24

    private var records: [Record] = []

    /// What 8 bytes have; nil where that is not known.
    func value(at reference: AccessGroups.Reference, _ moment: Moment) -> LinearValue? {
        var last = moment.last
        for _ in 0..<Self.most where last > 0 {
            let record = records[last - 1]
            if record.reference.isSame(as: reference), record.size == 8 { return record.value }
            guard record.reference.isApart(from: reference, size: record.size) else { return nil }
            last = record.before
        }
        return nil
    }

    /// `size` bytes were written: with `value`, where that is 8 bytes and known.
    mutating func note(_ value: LinearValue?, at reference: AccessGroups.Reference, size: Int32, _ moment: inout Moment)
    {
        let known = reference.isPlaced ? value : nil
        guard known != nil || moment.last > 0 else { return }
        records.append(Record(reference: reference, size: size, value: known, before: moment.last))
        moment.last = records.count
    }
}
