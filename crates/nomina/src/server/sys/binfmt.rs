//! What a file is that is executed (`fs/binfmt_elf.c`, `fs/binfmt_script.c`): its interpreter, and its capabilities.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::capability::VfsCaps;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{Attr, Opened, Path, Timespec};

use super::super::lock::Mutex;
use super::super::request::host;

/// Length of the piece of a file that decides how it is run (`BINPRM_BUF_SIZE`).
const BINPRM_BUF_SIZE: usize = 256;
/// How much of a file is read at once: mostly all of its program headers and the interpreter's name.
const HEAD: usize = 2048;

/// How a file is run.
pub enum Format {
    /// An ELF program with its `PT_INTERP`.
    Elf(Option<Vec<u8>>),
    /// A script with its interpreter and the argument for that.
    Script(Vec<u8>, Option<Vec<u8>>),
    /// Something that only an interpreter reads: no program, but the interpreter of one may be anything.
    Other(Errno),
}

/// A file that is executed, open.
pub struct ProgramFile {
    /// The file, open for reading.
    pub fd: Arc<OwnedFd>,
    /// What it is.
    pub format: Format,
    /// Its capabilities.
    pub caps: Option<VfsCaps>,
}

/// A file and when it was last changed.
type Known = (Timespec, Arc<ProgramFile>);

/// Programs and interpreters that were executed lately, open, as far as they cannot change. Guests only map them, so that all can
/// have the same handle.
#[derive(Default)]
pub struct Programs {
    known: Mutex<HashMap<(u64, u64), Known>>,
}

impl Programs {
    /// How many are kept; each takes a descriptor of ours.
    const MOST: usize = 64;

    /// Opens the file at `path`, whose attributes are `attr`, and reads what it is.
    ///
    /// # Errors
    /// `EACCES` for what cannot be opened as a file; host errors.
    pub fn open(&self, path: &Path, attr: &Attr) -> Result<Arc<ProgramFile>> {
        let stays = path.mnt.sb().cacheable() && path.inode().is_stable();
        let id = (attr.dev, attr.ino);
        if stays
            && let Some((ctime, known)) = self.known.lock().unwrap().get(&id)
            && *ctime == attr.ctime
        {
            return Ok(known.clone());
        }
        let fd = open(path)?;
        let mut head = [0u8; HEAD];
        let len = rustix::io::pread(&fd, &mut head, 0).map_err(host)?;
        let head = &head[..len];
        let format = if head.starts_with(b"#!") {
            match parse_script(&head[..len.min(BINPRM_BUF_SIZE)]) {
                Ok((interpreter, argument)) => Format::Script(interpreter, argument),
                Err(errno) => Format::Other(errno),
            }
        } else {
            elf_interpreter(&fd, head).map_or_else(Format::Other, Format::Elf)
        };
        let caps = nomina_fs::handle::file_capability(fd.as_fd());
        let caps = caps.and_then(|xattr| VfsCaps::parse(&xattr).ok());
        let file = Arc::new(ProgramFile { fd: Arc::new(fd), format, caps });
        if stays {
            let mut known = self.known.lock().unwrap();
            if known.len() >= Programs::MOST {
                known.clear();
            }
            known.insert(id, (attr.ctime, file.clone()));
        }
        Ok(file)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    match path.inode().open((libc::O_RDONLY | libc::O_CLOEXEC) as u32)? {
        Opened::Host(fd) | Opened::Copy(fd) => Ok(fd),
        _ => Err(Errno::EACCES),
    }
}

/// The interpreter and the optional argument of a `#!` line, as `load_script` of Linux takes it apart.
fn parse_script(head: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = head.iter().position(|&byte| byte == b'\n');
    let line = &head[2..end.unwrap_or(head.len())];
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let first = line.iter().position(|byte| !blank(byte)).ok_or(Errno::ENOEXEC)?;
    let line = &line[first..];
    let stop = line.iter().position(blank);
    if stop.is_none() && end.is_none() && head.len() == BINPRM_BUF_SIZE {
        // The interpreter's name may be cut.
        return Err(Errno::ENOEXEC);
    }
    let Some(stop) = stop else { return Ok((line.to_vec(), None)) };
    let argument = line[stop..].trim_ascii();
    Ok((line[..stop].to_vec(), (!argument.is_empty()).then(|| argument.to_vec())))
}

/// Checks that a file is an ELF program of this machine and gives its `PT_INTERP`.
///
/// `known` is the beginning of the file.
fn elf_interpreter(file: &OwnedFd, known: &[u8]) -> Result<Option<Vec<u8>>> {
    const PT_INTERP: u32 = 3;
    const PROGRAM_HEADER: usize = 56;
    // A piece of the file, from what is known of it if possible.
    let piece = |at: u64, len: usize| -> Result<Vec<u8>> {
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(len));
        if let Some(known) = end.and_then(|end| known.get(end - len..end)) {
            return Ok(known.to_vec());
        }
        let mut bytes = vec![0u8; len];
        match rustix::io::pread(file, &mut bytes, at).map_err(host)? == len {
            true => Ok(bytes),
            false => Err(Errno::ENOEXEC),
        }
    };
    let head = known.get(..64).ok_or(Errno::ENOEXEC)?;
    let word16 = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    // 64-bit, little endian, ET_EXEC or ET_DYN.
    if !head.starts_with(b"\x7fELF\x02\x01")
        || !matches!(word16(16), 2 | 3)
        || word16(18) != super::super::arch::ELF_MACHINE
        || usize::from(word16(54)) != PROGRAM_HEADER
    {
        return Err(Errno::ENOEXEC);
    }
    let offset = super::super::layout::u64_at(head, 32);
    let count = usize::from(word16(56));
    // Linux: at most 64 KiB of program headers.
    if count == 0 || count * PROGRAM_HEADER > 65536 {
        return Err(Errno::ENOEXEC);
    }
    let headers = piece(offset, count * PROGRAM_HEADER)?;
    for header in headers.chunks_exact(PROGRAM_HEADER) {
        if u32::from_le_bytes(header[..4].try_into().unwrap_or_default()) == PT_INTERP {
            let at = super::super::layout::u64_at(header, 8);
            let size = super::super::layout::u64_at(header, 32);
            if !(2..=4096).contains(&size) {
                return Err(Errno::ENOEXEC);
            }
            let mut name = piece(at, size as usize)?;
            if name.pop() != Some(0) {
                return Err(Errno::ENOEXEC);
            }
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::parse_script;

    #[test]
    fn script_lines_are_taken_apart_as_linux_does() {
        let parse = |line: &[u8]| {
            parse_script(line)
                .map(|(i, a)| (String::from_utf8(i).unwrap(), a.map(|a| String::from_utf8(a).unwrap())))
        };
        assert_eq!(parse(b"#!/bin/sh\nrest"), Ok(("/bin/sh".into(), None)));
        assert_eq!(
            parse(b"#! /usr/bin/env  python3 -u \nrest"),
            Ok(("/usr/bin/env".into(), Some("python3 -u".into())))
        );
        assert!(parse(b"#!\n").is_err());
        assert!(parse(b"#!   \n").is_err());
        assert_eq!(parse(b"#!/bin/sh"), Ok(("/bin/sh".into(), None)));
        let mut long = b"#!/".to_vec();
        long.resize(256, b'x');
        assert!(parse(&long).is_err());
    }
}
