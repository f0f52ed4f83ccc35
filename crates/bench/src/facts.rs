//! What kind of machine the numbers are from.

use serde::Serialize;

/// Facts that go into the JSON beside the numbers; what cannot be read is empty.
#[derive(Serialize)]
pub struct Facts {
    /// `/proc/version`'s release.
    pub kernel: String,
    /// `model name` of the first processor.
    pub processor: String,
    /// Processors this process may run on.
    pub processors: usize,
    /// `MemTotal` in KiB.
    pub memory_kib: u64,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub distribution: String,
    /// File system type of the scratch directory.
    pub filesystem: String,
    /// Seconds since 1970.
    pub time: u64,
}

fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim_matches([' ', '\t', ':', '"', '=']))
}

/// Reads the facts.
pub fn gather() -> Facts {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let (version, cpu, memory, os) =
        (read("/proc/version"), read("/proc/cpuinfo"), read("/proc/meminfo"), read("/etc/os-release"));
    let mounts = read("/proc/mounts");
    // The longest mount point that holds the scratch directory.
    let filesystem = mounts
        .lines()
        .filter_map(|l| {
            let mut w = l.split(' ').skip(1);
            Some((w.next()?, w.next()?))
        })
        .filter(|(at, _)| std::path::Path::new("/var/tmp").starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .map_or(String::new(), |(_, kind)| kind.to_owned());
    Facts {
        kernel: version.split(' ').nth(2).unwrap_or_default().to_owned(),
        processor: after(&cpu, "model name").unwrap_or_default().to_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_kib: after(&memory, "MemTotal:")
            .and_then(|v| v.split(' ').next()?.parse().ok())
            .unwrap_or_default(),
        distribution: after(&os, "PRETTY_NAME").unwrap_or_default().to_owned(),
        filesystem,
        time: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_separators() {
        assert_eq!(after("a: 1\nmodel name\t: Fast CPU\n", "model name"), Some("Fast CPU"));
        assert_eq!(after("PRETTY_NAME=\"Debian\"", "PRETTY_NAME"), Some("Debian"));
    }
}
