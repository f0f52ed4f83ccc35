//! Collects medians and prints them: a table with ratios to native, and JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use tabled::{builder::Builder, settings::Style};

use crate::facts::Facts;

/// One measured thing in every system.
#[derive(Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// `ns`, `ms` or `KiB`.
    pub unit: &'static str,
    /// Median per system; a system that failed is missing.
    pub median: BTreeMap<String, f64>,
    /// Every round, for who wants the spread.
    pub rounds: BTreeMap<String, Vec<f64>>,
}

/// Everything measured in one run.
#[derive(Serialize)]
pub struct Report {
    machine: Facts,
    systems: Vec<String>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// The middle of the sorted values; the mean of the two middle ones when their number is even. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let m = v.len() / 2;
    match v.len() {
        0 => None,
        n if n % 2 == 1 => Some(v[m]),
        _ => Some((v[m - 1] + v[m]) / 2.0),
    }
}

fn number(v: f64) -> String {
    match v {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

impl Report {
    /// An empty report; the first system is the one ratios refer to.
    pub fn new(machine: Facts, systems: Vec<String>) -> Self {
        Self { machine, systems, rows: Vec::new(), notes: Vec::new() }
    }

    /// Something a reader of the numbers must know.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Adds one system's rounds of one thing.
    pub fn add(&mut self, name: &str, unit: &'static str, system: &str, rounds: Vec<f64>) {
        let Some(m) = median(&rounds) else { return };
        let row = match self.rows.iter_mut().position(|r| r.name == name) {
            Some(i) => &mut self.rows[i],
            None => {
                self.rows.push(Row {
                    name: name.to_owned(),
                    unit,
                    median: BTreeMap::new(),
                    rounds: BTreeMap::new(),
                });
                let last = self.rows.len() - 1;
                &mut self.rows[last]
            }
        };
        row.median.insert(system.to_owned(), m);
        row.rounds.insert(system.to_owned(), rounds);
    }

    /// The table, and the notes below it.
    pub fn table(&self) -> String {
        let native = self.systems.first().cloned().unwrap_or_default();
        let mut b = Builder::new();
        let mut head = vec!["".to_owned(), "unit".to_owned()];
        for s in &self.systems {
            head.push(s.clone());
            if *s != native {
                head.push("ratio".to_owned());
            }
        }
        b.push_record(head);
        for r in &self.rows {
            let mut line = vec![r.name.clone(), r.unit.to_owned()];
            for s in &self.systems {
                let v = r.median.get(s);
                line.push(v.map_or("-".into(), |v| number(*v)));
                if *s != native {
                    let ratio = v.zip(r.median.get(&native)).filter(|(_, n)| **n > 0.0);
                    line.push(ratio.map_or("-".into(), |(v, n)| format!("{:.2}", v / n)));
                }
            }
            b.push_record(line);
        }
        let mut text = b.build().with(Style::markdown()).to_string();
        text.push_str(&format!(
            "\n\n{} on {} processors ({}), Linux {}, {}; medians.\n",
            self.machine.distribution,
            self.machine.processors,
            self.machine.processor,
            self.machine.kernel,
            self.machine.filesystem
        ));
        for n in &self.notes {
            text.push_str(&format!("note: {n}\n"));
        }
        text
    }

    /// All of it as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_refer_to_native_and_what_failed_is_a_dash() {
        let mut r =
            Report::new(crate::facts::gather(), vec!["native".into(), "nomina".into(), "proot".into()]);
        r.add("stat", "ns", "native", vec![100.0]);
        r.add("stat", "ns", "nomina", vec![250.0]);
        let t = r.table();
        assert!(t.contains("2.50"), "{t}");
        assert!(t.lines().any(|l| l.contains("stat") && l.contains(" - ")), "{t}");
        assert!(r.json().contains("\"machine\""));
    }
}
