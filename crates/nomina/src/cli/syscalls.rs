//! `nomina syscalls`: the classification table of the gate.

use std::io::{self, Write};

use clap::Args;

use nomina_gate::table::{Row, SYSCALLS};

use super::Failure;

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
    let rows = select(&args.names)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_table(&rows, out)?;
    }
    Ok(0)
}

fn select(names: &[String]) -> Result<Vec<&'static Row>, Failure> {
    if names.is_empty() {
        return Ok(SYSCALLS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            SYSCALLS
                .iter()
                .find(|row| row.name == *name || row.nr.to_string() == *name)
                .ok_or_else(|| Failure::UnknownSyscall(name.clone()))
        })
        .collect()
}

fn write_table(rows: &[&Row], mut out: impl Write) -> io::Result<()> {
    let names = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let classes = rows.iter().map(|row| row.class.word().len()).max().unwrap_or(0);
    for row in rows {
        write!(out, "{:>4}  {:names$}  {:classes$}  {}", row.nr, row.name, row.class.word(), row.reason)?;
        let conditions = row.conditions();
        if conditions.is_empty() { writeln!(out)? } else { writeln!(out, " [{conditions}]")? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut out = Vec::new();
        write_table(&select(&names).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_columns_are_aligned() {
        let text = table(&["read", "openat"]);
        let class_column: Vec<usize> = text
            .lines()
            .map(|line| line.find(if line.contains("read ") { "native" } else { "shim" }).unwrap())
            .collect();
        assert_eq!(class_column[0], class_column[1], "{text}");
    }

    #[test]
    fn conditions_stand_behind_the_reason() {
        assert!(table(&["accept"]).trim_end().ends_with("[arg1 = NULL]"));
        assert!(!table(&["read"]).contains('['));
    }

    #[test]
    fn rows_are_chosen_by_name_or_number_and_others_are_errors() {
        let chosen = select(&["close".into(), "257".into()]).unwrap();
        assert_eq!(chosen.iter().map(|row| row.nr).collect::<Vec<_>>(), [3, 257]);
        assert!(matches!(select(&["nope".into()]), Err(Failure::UnknownSyscall(_))));
    }

    #[test]
    fn without_a_name_the_table_is_whole() {
        assert_eq!(select(&[]).unwrap().len(), SYSCALLS.len());
    }
}
