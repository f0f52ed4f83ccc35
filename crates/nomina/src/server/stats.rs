//! Counts of requests, for `nomina run --stats`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const NUMBERS: usize = 512;
const OPERATIONS: usize = 16;

#[derive(Default)]
struct Cell {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    refused: AtomicU64,
}

/// One row of the counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Name of the system call or operation.
    pub name: String,
    /// How often it was served.
    pub calls: u64,
    /// Time spent in the supervisor.
    pub total_ns: u64,
    /// How often the answer was `ENOSYS`.
    pub enosys: u64,
}

/// Counts by system call number, operations behind them.
pub struct Stats {
    cells: Box<[Cell]>,
    /// Looking at the clock takes as long as the shortest requests.
    on: AtomicBool,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            cells: (0..NUMBERS + OPERATIONS).map(|_| Cell::default()).collect(),
            on: AtomicBool::new(false),
        }
    }
}

impl Stats {
    fn index(nr: u32) -> usize {
        match nr.checked_sub(nomina_abi::op::BASE) {
            Some(operation) => NUMBERS + (operation as usize).min(OPERATIONS - 1),
            None => (nr as usize).min(NUMBERS - 1),
        }
    }

    /// Has requests counted from now on.
    pub fn switch_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// The time at which a request's service starts, where that is of interest.
    pub fn start(&self) -> Option<Instant> {
        self.on.load(Ordering::Relaxed).then(Instant::now)
    }

    /// Counts one request that [`Stats::start`] has seen start.
    pub fn count(&self, nr: u32, started: Option<Instant>, enosys: bool) {
        let Some(spent) = started.map(|started| started.elapsed()) else { return };
        let cell = &self.cells[Stats::index(nr)];
        cell.calls.fetch_add(1, Ordering::Relaxed);
        cell.nanoseconds.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
        cell.refused.fetch_add(u64::from(enosys), Ordering::Relaxed);
    }

    /// All rows that are not zero, most frequent first.
    pub fn rows(&self) -> Vec<Count> {
        const OPERATION_NAMES: [&str; 9] = [
            "(clone)",
            "(clone failed)",
            "(exec)",
            "(exec failed)",
            "(thread exit)",
            "(translate)",
            "(reap)",
            "(written)",
            "(text)",
        ];
        let mut rows: Vec<Count> = self
            .cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.calls.load(Ordering::Relaxed) > 0)
            .map(|(index, cell)| Count {
                name: match index.checked_sub(NUMBERS) {
                    Some(operation) => OPERATION_NAMES.get(operation).unwrap_or(&"(unknown)").to_string(),
                    None => nomina_gate::table::name(index as u32)
                        .map_or_else(|| format!("number {index}"), str::to_string),
                },
                calls: cell.calls.load(Ordering::Relaxed),
                total_ns: cell.nanoseconds.load(Ordering::Relaxed),
                enosys: cell.refused.load(Ordering::Relaxed),
            })
            .collect();
        rows.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
        rows
    }
}
