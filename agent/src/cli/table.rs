//! Columns for a terminal.

use std::fmt::Write;

/// Lays out rows under a heading; columns are as wide as their widest cell, and nothing is cut off.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut row = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(heading);
    for row in rows {
        line(std::array::from_fn(|i| row[i].as_str()));
    }
    text
}

/// `4.2 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// `3d4h`, `2m10s`, `0s`: the two largest units.
pub(super) fn age(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut text = String::new();
    let mut written = 0;
    for (size, unit) in parts {
        let count = rest / size;
        rest %= size;
        if (count > 0 || written > 0) && written < 2 {
            if count > 0 {
                let _ = write!(text, "{count}{unit}");
            }
            written += 1;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [["a".to_owned(), "x".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "B"], &rows), "NAME    B\na       x\nlonger\n");
    }

    #[test]
    fn units() {
        let sizes = [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
        let ages = [0, 59, 60, 130, 3600, 3661, 90_000, 86_460].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "2m10s", "1h", "1h1m", "1d1h", "1d"]);
    }
}
