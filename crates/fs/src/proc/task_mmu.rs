//! Memory maps: `/proc/PID/maps`, `smaps`, `smaps_rollup` (`proc_pid_maps(5)`).
//!
//! The mappings are the host's; paths in them are host paths and are translated, and the part of Nomina that lives in
//! every guest address space is left out.

use nomina_kernel::Result;

use super::base::TaskFile;
use super::current;

/// Device and inode number.
type Key = (u64, u64);

/// Where the shim lives in every guest address space.
const SHIM_START: u64 = 0x7e90_0000_0000;
const SHIM_END: u64 = 0x7e90_0010_0000;
/// Memory files of Nomina's own.
const SHIM_MEMFD: &[u8] = b"/memfd:nomina";
const DELETED: &[u8] = b" (deleted)";

pub(crate) fn maps(file: &TaskFile) -> Result<Vec<u8>> {
    Ok(translate_maps(&file.host("maps")?, |path, key| file.fs.source.mapped_file(path, key, current())))
}

pub(crate) fn smaps(file: &TaskFile) -> Result<Vec<u8>> {
    Ok(translate_maps(&file.host("smaps")?, |path, key| file.fs.source.mapped_file(path, key, current())))
}

pub(crate) fn smaps_rollup(file: &TaskFile) -> Result<Vec<u8>> {
    file.host("smaps_rollup")
}

/// Rewrites the text of `maps` or `smaps`. A mapping the guest has no path for is shown without one.
pub(crate) fn translate_maps(text: &[u8], mapped: impl Fn(&[u8], Key) -> Option<(Vec<u8>, Key)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut hidden = false;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let Some((start, end)) = address_range(line) else {
            // A detail line of smaps belongs to the mapping before it.
            if !hidden {
                out.extend_from_slice(line);
            }
            continue;
        };
        let (head, path) = split_path(line);
        hidden = (start < SHIM_END && end > SHIM_START) || path.starts_with(SHIM_MEMFD);
        if hidden {
            continue;
        }
        if !is_file_path(path) {
            out.extend_from_slice(line);
            continue;
        }
        let (host, mark) = match path.strip_suffix(DELETED) {
            Some(host) => (host, DELETED),
            None => (path, &[][..]),
        };
        let key = key_of(head).unwrap_or_default();
        match mapped(&unescape(host), key) {
            Some((guest, shown)) => {
                put_head(head, key, shown, &mut out);
                escape(&guest, &mut out);
                out.extend_from_slice(mark);
            }
            None => out.extend_from_slice(head.trim_ascii_end()),
        }
        out.push(b'\n');
    }
    out
}

/// The addresses of a mapping's first line, `None` for other lines.
fn address_range(line: &[u8]) -> Option<(u64, u64)> {
    let range = std::str::from_utf8(line.split(|b| *b == b' ').next()?).ok()?;
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Device and inode number of the fields before a path.
fn key_of(head: &[u8]) -> Option<Key> {
    let mut fields = std::str::from_utf8(head).ok()?.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((libc::makedev(number(major)?, number(minor)?), fields.next()?.parse().ok()?))
}

/// The fields before a path, with the device and inode number that guests see, padded as `show_vma_header_prefix` does.
fn put_head(head: &[u8], key: Key, shown: Key, out: &mut Vec<u8>) {
    const PATH_COLUMN: usize = 73;
    if key == shown {
        return out.extend_from_slice(head);
    }
    let start = out.len();
    for field in head.split(|b| *b == b' ').take(3) {
        out.extend_from_slice(field);
        out.push(b' ');
    }
    let (major, minor) = (libc::major(shown.0), libc::minor(shown.0));
    out.extend_from_slice(format!("{major:02x}:{minor:02x} {} ", shown.1).as_bytes());
    let padded = out.len().max(start + PATH_COLUMN);
    out.resize(padded, b' ');
}

/// Splits a mapping's first line after the five fields and the padding before the path.
fn split_path(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut at = 0;
    for _ in 0..5 {
        at += line[at..].iter().take_while(|b| **b != b' ').count();
        at += line[at..].iter().take_while(|b| **b == b' ').count();
    }
    line.split_at(at)
}

/// Whether the last field is a path in the host's file tree, not `[heap]`, `anon_inode:…` or a file without a name in
/// any tree (`/memfd:…`, `/dev/zero` of shared memory, `/SYSV…`, `/anon_hugepage`).
fn is_file_path(path: &[u8]) -> bool {
    let nameless: [&[u8]; 4] = [b"/memfd:", b"/SYSV", b"/dev/zero (deleted)", b"/anon_hugepage (deleted)"];
    path.starts_with(b"/") && !nameless.iter().any(|p| path.starts_with(p))
}

/// `seq_path` writes a newline as `\012` and nothing else specially.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        rest = if let Some(tail) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            tail
        } else {
            out.push(*byte);
            tail
        };
    }
    out
}

fn escape(path: &[u8], out: &mut Vec<u8>) {
    for byte in path {
        match byte {
            b'\n' => out.extend_from_slice(b"\\012"),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(text: &str) -> String {
        let shown = |key: Key| if key.1 == 9 { (libc::makedev(0, 0x1f), 12345) } else { key };
        let guest = |host: &[u8], key| Some((host.strip_prefix(b"/host")?.to_vec(), shown(key)));
        String::from_utf8(translate_maps(text.as_bytes(), guest)).unwrap()
    }

    #[test]
    fn paths_are_the_guests_and_foreign_ones_are_left_out() {
        let text = "\
55e4bcf38000-55e4bcf3a000 r--p 00000000 fe:00 247282                     /host/usr/bin/he ad
55e4bcf3a000-55e4bcf40000 r-xp 00002000 fe:00 247283                     /home/me/secret
7f0000000000-7f0000001000 rw-p 00000000 fe:00 9                          /host/tmp/a\\012b (deleted)
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
7f1000000000-7f1000001000 rw-p 00000000 00:00 0 
7f2000000000-7f2000001000 rw-s 00000000 00:01 5                          /memfd:mine (deleted)
";
        let want = "\
55e4bcf38000-55e4bcf3a000 r--p 00000000 fe:00 247282                     /usr/bin/he ad
55e4bcf3a000-55e4bcf40000 r-xp 00002000 fe:00 247283
7f0000000000-7f0000001000 rw-p 00000000 00:1f 12345                      /tmp/a\\012b (deleted)
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
7f1000000000-7f1000001000 rw-p 00000000 00:00 0 
7f2000000000-7f2000001000 rw-s 00000000 00:01 5                          /memfd:mine (deleted)
";
        assert_eq!(translate(text), want);
    }

    #[test]
    fn the_shim_is_not_in_maps_nor_its_details_in_smaps() {
        let text = "\
7e9000000000-7e9000010000 r-xp 00000000 00:01 5                          /memfd:nomina-shim (deleted)
Size:                 64 kB
VmFlags: rd ex mr mw me
7e9000010000-7e9000011000 rw-p 00000000 00:00 0 
Size:                  4 kB
7e9000100000-7e9000101000 rw-p 00000000 00:00 0 
Size:                  5 kB
555500000000-555500001000 rw-s 00000000 00:01 6                          /memfd:nomina-page (deleted)
Size:                  6 kB
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
";
        let want = "\
7e9000100000-7e9000101000 rw-p 00000000 00:00 0 
Size:                  5 kB
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
";
        assert_eq!(translate(text), want);
    }
}
