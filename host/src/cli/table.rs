//! Tables for people: columns as wide as they must be, parted by two blanks.

use anyhow::Result;

use super::print_line;

/// Prints rows, the first of which has the names of the columns.
pub(super) fn print_table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Result<()> {
    for line in lines(rows) {
        print_line(&line)?;
    }
    Ok(())
}

fn lines<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; COLUMNS] = core::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "topic", "lag"], ["1", "é", ""], ["22", "jobs/a", "7"]];
        let rows = rows.map(|row| row.map(String::from));
        assert_eq!(lines(&rows), ["a   topic   lag", "1   é", "22  jobs/a  7"]);
        assert_eq!(lines::<2>(&[]), [""; 0]);
    }
}
