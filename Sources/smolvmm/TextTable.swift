// SPDX-License-Identifier: Apache-2.0
// Columns of text.

/// Rows of cells, shown with columns as wide as they need.
struct TextTable {
    private var rows: [[String]] = []
    var indent = ""

    init(_ header: [String] = [], indent: String = "") {
        self.indent = indent
        if !header.isEmpty { rows.append(header) }
    }

    mutating func add(_ cells: String...) { rows.append(cells) }

    /// Each row ends with a line feed; no spaces at the ends of lines.
    var text: String {
        var widths: [Int] = []
        for row in rows {
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        var text = ""
        for row in rows {
            var line = indent
            for (column, cell) in row.enumerated() {
                line += cell
                if column < row.count - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
            }
            text += line + "\n"
        }
        return text
    }
}
