//! `--stats`: what the supervisor was asked, how often, and how long it took.

use std::io::{self, Write};

use nomina::sandbox::StatRow;
use serde::Serialize;

/// Writes a table, what took longest first.
pub fn write_table(rows: &[StatRow<'_>], mut out: impl Write) -> io::Result<()> {
    let mut rows: Vec<&StatRow<'_>> = rows.iter().filter(|row| row.calls > 0).collect();
    rows.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(b.name)));
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("request".len());
    writeln!(out, "{:width$}  {:>10}  {:>10}  {:>12}", "request", "calls", "ns each", "total µs")?;
    for row in &rows {
        let note = if row.enosys { "  ENOSYS" } else { "" };
        let (calls, mean, total) = (row.calls, row.mean_ns(), row.total_ns / 1000);
        writeln!(out, "{:width$}  {calls:>10}  {mean:>10}  {total:>12}{note}", row.name)?;
    }
    let calls: u64 = rows.iter().map(|row| row.calls).sum();
    let total: u64 = rows.iter().map(|row| row.total_ns).sum();
    let mean = total.checked_div(calls).unwrap_or(0);
    writeln!(out, "{:width$}  {calls:>10}  {mean:>10}  {:>12}", "all", total / 1000)
}

#[derive(Serialize)]
struct Json<'n> {
    name: &'n str,
    calls: u64,
    total_ns: u64,
    mean_ns: u64,
    enosys: bool,
}

/// Writes a JSON array with one object a line, in the order given.
pub fn write_json(rows: &[StatRow<'_>], mut out: impl Write) -> io::Result<()> {
    let rows: Vec<Json<'_>> = rows
        .iter()
        .map(|row| Json {
            name: row.name,
            calls: row.calls,
            total_ns: row.total_ns,
            mean_ns: row.mean_ns(),
            enosys: row.enosys,
        })
        .collect();
    serde_json::to_writer_pretty(&mut out, &rows)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[StatRow<'_>] = &[
        StatRow { name: "openat", calls: 4, total_ns: 10_000, enosys: false },
        StatRow { name: "newfstatat", calls: 10, total_ns: 15_500, enosys: false },
        StatRow { name: "mount", calls: 0, total_ns: 0, enosys: false },
        StatRow { name: "bpf", calls: 1, total_ns: 500, enosys: true },
    ];

    #[test]
    fn the_table_is_aligned_sorted_by_time_and_summed() {
        let mut out = Vec::new();
        write_table(ROWS, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "request          calls     ns each      total µs\n\
             newfstatat          10        1550            15\n\
             openat               4        2500            10\n\
             bpf                  1         500             0  ENOSYS\n\
             all                 15        1733            26\n"
        );
    }

    #[test]
    fn no_request_at_all_is_a_table_too() {
        let mut out = Vec::new();
        write_table(&[], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
    }

    #[test]
    fn json_has_every_row() {
        let mut out = Vec::new();
        write_json(ROWS, &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value.as_array().unwrap().len(), 4);
        assert_eq!(value[0]["mean_ns"], 2500);
        assert_eq!(value[2]["mean_ns"], 0);
        assert_eq!(value[3]["enosys"], true);
    }
}
