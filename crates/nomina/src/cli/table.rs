//! Columns for people.

use std::io::{self, Write};

use anstyle::Style;

/// Text that programs inside have chosen, as it can be shown on a terminal: what could be a control sequence is escaped.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' | '\r' => out.push(' '),
            // C0, DEL, C1, and what turns the direction of text.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(char.escape_unicode()),
            _ if char.is_control() => out.extend(char.escape_default()),
            _ => out.push(char),
        }
    }
    out
}

/// A table: the columns' headings, and rows of as many cells. A heading that begins with `>` is of a column of numbers, to the
/// right; the last column is as wide as it is.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// Writes it, each line behind `indent`.
    pub fn write(&self, indent: &str, mut out: impl Write) -> io::Result<()> {
        let title = |heading: &str| heading.trim_start_matches('>').to_owned();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([title(self.headings[column]).chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut line = indent.to_owned();
            for (column, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let gap = if column == 0 { "" } else { "  " };
                let (before, after) =
                    if self.headings[column].starts_with('>') { (&*pad, "") } else { ("", &*pad) };
                line.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            line.trim_end().to_owned()
        };
        // On a terminal a row is a line; elsewhere nothing is cut.
        let most = rustix::termios::isatty(io::stdout())
            .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
            .flatten()
            .map_or(usize::MAX, |size| size.ws_col.max(40).into());
        let line = |cells: &[String]| cut(line(cells), most);
        let bold = Style::new().bold();
        let titles: Vec<String> = self.headings.iter().map(|heading| title(heading)).collect();
        writeln!(out, "{bold}{}{bold:#}", line(&titles))?;
        self.rows.iter().try_for_each(|row| writeln!(out, "{}", line(row)))
    }
}

/// Text of at most `most` characters.
fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut table = Table::new(&["NAME", ">PID", "COMMAND"]);
        table.row(vec!["a".into(), "1".into(), "sh".into()]);
        table.row(vec!["längere".into(), "1234".into(), "x y".into()]);
        let mut out = anstream::StripStream::new(Vec::new());
        table.write("", &mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert_eq!(text, "NAME      PID  COMMAND\na           1  sh\nlängere  1234  x y\n");
    }

    #[test]
    fn what_a_program_inside_has_chosen_cannot_command_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}c\nd"), "a\\u{1b}[2Jb\\u{9b}c d");
        assert_eq!(plain("é\u{202e}"), "é\\u{202e}");
    }
}
