//! Mount options of tmpfs: `shmem_parse_one` and `shmem_show_options` (`mm/shmem.c`).

use std::fmt::Write as _;

use nomina_kernel::{Errno, Result};

use super::PAGE;

/// Options of one instance. Owners are kernel ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Most pages; `None` where it was not asked for, 0 for no limit.
    pub blocks: Option<u64>,
    /// Most inodes; `None` where it was not asked for, 0 for no limit.
    pub inodes: Option<u64>,
    /// Mode of the root.
    pub mode: u32,
    /// Owner of the root.
    pub uid: u32,
    /// Group of the root.
    pub gid: u32,
    /// `noswap`, which is shown.
    pub noswap: bool,
    /// `inode64`, which is shown.
    pub inode64: bool,
}

impl Default for TmpfsOptions {
    fn default() -> TmpfsOptions {
        TmpfsOptions {
            blocks: None,
            inodes: None,
            mode: Self::DEFAULT_MODE,
            uid: 0,
            gid: 0,
            noswap: false,
            inode64: false,
        }
    }
}

/// Pages of the machine's memory.
fn total_pages() -> u64 {
    rustix::system::sysinfo().totalram / PAGE * u64::from(rustix::system::sysinfo().mem_unit)
}

/// Half of the memory: what an instance may hold when nothing is asked for (`shmem_default_max_blocks`).
pub fn default_blocks() -> u64 {
    total_pages() / 2
}

/// A number with a unit, and what follows it: `memparse` of the kernel.
pub fn memparse(text: &str) -> Option<(u64, &str)> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'0'..=b'7', ..] => (8, &text[1..]),
        _ => (10, text),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    // The kernel's number wraps around, and so does what a unit makes of it.
    let value = digits[..end].chars().filter_map(|c| c.to_digit(radix));
    let value = value.fold(0u64, |value, digit| value.wrapping_mul(radix.into()).wrapping_add(digit.into()));
    let rest = &digits[end..];
    let shift = match rest.as_bytes().first() {
        Some(b'K' | b'k') => 10,
        Some(b'M' | b'm') => 20,
        Some(b'G' | b'g') => 30,
        Some(b'T' | b't') => 40,
        Some(b'P' | b'p') => 50,
        Some(b'E' | b'e') => 60,
        _ => return Some((value, rest)),
    };
    Some((value.wrapping_shl(shift), &rest[1..]))
}

impl TmpfsOptions {
    /// Mode of the root where none is asked for.
    pub const DEFAULT_MODE: u32 = 0o1777;

    /// Takes an option that needs nothing but its text (all but `uid` and `gid`). `Ok(false)`: there is no such option.
    ///
    /// # Errors
    /// `EINVAL` for a bad value.
    pub fn parse(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        let value_of = || value.filter(|text| !text.is_empty()).ok_or(Errno::EINVAL);
        let whole = |text| match memparse(text) {
            Some((number, "")) => Ok(number),
            _ => Err(Errno::EINVAL),
        };
        match key {
            "size" => {
                let (number, rest) = memparse(value_of()?).ok_or(Errno::EINVAL)?;
                let bytes = match rest {
                    "" => number,
                    "%" => u64::try_from(u128::from(number) * u128::from(total_pages() * PAGE) / 100)
                        .map_err(|_| Errno::EINVAL)?,
                    _ => return Err(Errno::EINVAL),
                };
                self.blocks = Some(bytes.div_ceil(PAGE));
            }
            "nr_blocks" => {
                let blocks = whole(value_of()?)?;
                self.blocks = Some(i64::try_from(blocks).map_err(|_| Errno::EINVAL)? as u64);
            }
            "nr_inodes" => {
                let inodes = whole(value_of()?)?;
                self.inodes = Some(i64::try_from(inodes).map_err(|_| Errno::EINVAL)? as u64);
            }
            "mode" => self.mode = u32::from_str_radix(value_of()?, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "huge" => match value_of()? {
                "never" | "always" | "within_size" | "advise" => {}
                _ => return Err(Errno::EINVAL),
            },
            "mpol" => drop(value_of()?),
            "noswap" if value.is_none() => self.noswap = true,
            "inode32" | "inode64" if value.is_none() => self.inode64 = key == "inode64",
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What mountinfo shows: what was asked for and is not the default.
    pub(crate) fn show(&self) -> String {
        let mut text = String::new();
        let mut put = |part: std::fmt::Arguments<'_>| {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{part}");
        };
        if let Some(blocks) = self.blocks.filter(|&blocks| blocks != default_blocks()) {
            put(format_args!("size={}k", blocks * (PAGE / 1024)));
        }
        if let Some(inodes) = self.inodes.filter(|&inodes| inodes != default_blocks()) {
            put(format_args!("nr_inodes={inodes}"));
        }
        if self.mode != Self::DEFAULT_MODE {
            put(format_args!("mode={:03o}", self.mode));
        }
        if self.uid != 0 {
            put(format_args!("uid={}", self.uid));
        }
        if self.gid != 0 {
            put(format_args!("gid={}", self.gid));
        }
        if self.inode64 {
            put(format_args!("inode64"));
        }
        if self.noswap {
            put(format_args!("noswap"));
        }
        text
    }
}
