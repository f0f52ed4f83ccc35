//! `nomina syscalls`: the classification table of the gate.

use std::io::{self, Write};

use clap::Args;

use super::Failure;
use super::adapter::{self, SyscallRow};

/// List all system calls: which run natively, which Nomina serves, which it refuses, and why
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  nomina syscalls openat clone\n  nomina syscalls --json | jq '.[] | .name'"
)]
pub struct SyscallsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Only these, by name or number
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Prints the table.
pub fn syscalls(args: &SyscallsArgs) -> Result<u8, Failure> {
    let rows = select(adapter::syscalls()?, &args.names)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_table(&rows, out)?;
    }
    Ok(0)
}

fn select(rows: Vec<SyscallRow>, names: &[String]) -> Result<Vec<SyscallRow>, Failure> {
    if names.is_empty() {
        return Ok(rows);
    }
    names
        .iter()
        .map(|name| {
            rows.iter()
                .find(|row| row.name == *name || row.number.to_string() == *name)
                .cloned()
                .ok_or_else(|| Failure::UnknownSyscall(name.clone()))
        })
        .collect()
}

fn write_table(rows: &[SyscallRow], mut out: impl Write) -> io::Result<()> {
    let width = |column: fn(&SyscallRow) -> &str| rows.iter().map(|row| column(row).len()).max().unwrap_or(0);
    let (names, classes) = (width(|row| &row.name), width(|row| &row.class));
    for row in rows {
        write!(out, "{:>4}  {:names$}  {:classes$}  {}", row.number, row.name, row.class, row.reason)?;
        if row.conditions.is_empty() { writeln!(out)? } else { writeln!(out, " [{}]", row.conditions)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<SyscallRow> {
        let row = |number, name: &str, class: &str, conditions: &str| SyscallRow {
            number,
            name: name.into(),
            class: class.into(),
            conditions: conditions.into(),
            reason: "because".into(),
        };
        vec![
            row(0, "read", "native", ""),
            row(257, "openat", "trap", ""),
            row(3, "close", "native-if", "fd < 1024"),
        ]
    }

    #[test]
    fn the_table_is_aligned() {
        let mut out = Vec::new();
        write_table(&rows(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "   0  read    native     because\n 257  openat  trap       because\n\
             \x20  3  close   native-if  because [fd < 1024]\n"
        );
    }

    #[test]
    fn rows_are_chosen_by_name_or_number_and_others_are_errors() {
        let chosen = select(rows(), &["close".into(), "257".into()]).unwrap();
        assert_eq!(chosen.iter().map(|row| row.number).collect::<Vec<_>>(), [3, 257]);
        assert!(matches!(select(rows(), &["nope".into()]), Err(Failure::UnknownSyscall(_))));
    }
}
