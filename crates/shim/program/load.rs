//! Maps a program and its interpreter, as `load_elf_binary` of the kernel does.

use crate::elf::{ET_EXEC, Header, PAGE, ProgramHeader, Segment, page_up, segment, span};
use crate::sys::{
    self, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC,
    PROT_GROWSDOWN, PROT_READ, PROT_WRITE, err, nr, sys,
};

/// Where the kernel puts position-independent programs that have an interpreter, before randomisation (`ELF_ET_DYN_BASE`).
const ET_DYN_BASE: u64 = 0x5555_5555_4000;
/// What is read of a file at first: mostly all of its program headers.
const HEAD: usize = 1024;
/// Bits of randomisation, in pages.
const RANDOM_BITS: u64 = 28;

/// A program that is in memory.
pub struct Loaded {
    /// Added to the addresses of the file.
    pub bias: u64,
    /// Entry point.
    pub entry: u64,
    /// Address of the program headers.
    pub phdr: u64,
    /// Number of them.
    pub phnum: u64,
    /// Whether the file asks for an executable stack.
    pub executable_stack: bool,
}

#[repr(C, align(8))]
struct Head([u8; HEAD]);

/// Where a position-independent file goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel puts programs with an interpreter, moved by a random number.
    Program(u64),
    /// Where the kernel puts libraries: interpreters, and programs without one. Below this address, if there is room.
    Library(u64),
}

/// Maps a file. Negative errno on failure.
pub fn load(fd: i32, place: Place) -> Result<Loaded, i64> {
    let mut head = Head([0; HEAD]);
    // SAFETY: the buffer lives through the call.
    let got = unsafe { sys!(nr::PREAD64, fd, head.0.as_mut_ptr(), head.0.len(), 0) };
    if got < size_of::<Header>() as i64 {
        return Err(err::EINVAL);
    }
    // SAFETY: large enough and aligned; all bits are valid.
    let header = unsafe { *head.0.as_ptr().cast::<Header>() };
    let table_len = header.phnum as usize * size_of::<ProgramHeader>();
    if !header.is_loadable() {
        return Err(err::EINVAL);
    }
    let table_end = header.phoff.checked_add(table_len as u64).ok_or(err::EINVAL)?;
    if table_end <= got as u64 && header.phoff % 8 == 0 {
        // SAFETY: the table lies inside the bytes read, aligned.
        let programs = unsafe {
            core::slice::from_raw_parts(
                head.0.as_ptr().add(header.phoff as usize).cast::<ProgramHeader>(),
                header.phnum as usize,
            )
        };
        return map_all(fd, place, &header, programs);
    }
    // An unusual place for the table: read it into memory of its own.
    let scratch = sys::map_anonymous(table_len as u64)?;
    // SAFETY: the scratch mapping holds the table.
    unsafe {
        let got = sys!(nr::PREAD64, fd, scratch, table_len, header.phoff);
        let programs = core::slice::from_raw_parts(scratch as *const ProgramHeader, header.phnum as usize);
        let loaded =
            if got == table_len as i64 { map_all(fd, place, &header, programs) } else { Err(err::EINVAL) };
        sys!(nr::MUNMAP, scratch, table_len);
        loaded
    }
}

fn map_all(fd: i32, place: Place, header: &Header, programs: &[ProgramHeader]) -> Result<Loaded, i64> {
    let span = span(header, programs).ok_or(err::EINVAL)?;
    let len = span.high - span.low;
    let bias = if header.kind == ET_EXEC {
        map_segments(fd, 0, MAP_FIXED_NOREPLACE, programs)?;
        0
    } else {
        // Nothing is in the way where we would put it, nearly always: that saves a reservation, which every segment
        // would cut to pieces.
        let bias = place.first_choice(len, span.align).wrapping_sub(span.low);
        match map_segments(fd, bias, MAP_FIXED_NOREPLACE, programs) {
            Ok(()) => bias,
            Err(_) => {
                let bias = reserve(len, span.align)?.wrapping_sub(span.low);
                map_segments(fd, bias, MAP_FIXED, programs)?;
                bias
            }
        }
    };
    Ok(Loaded {
        bias,
        entry: header.entry.wrapping_add(bias),
        phdr: if span.phdr == 0 { 0 } else { span.phdr.wrapping_add(bias) },
        phnum: u64::from(header.phnum),
        executable_stack: span.executable_stack,
    })
}

impl Place {
    fn first_choice(self, len: u64, align: u64) -> u64 {
        let at = match self {
            Place::Program(random) => ET_DYN_BASE + (random & ((1 << RANDOM_BITS) - 1)) * PAGE,
            Place::Library(below) => below.saturating_sub(len),
        };
        at & !(align - 1)
    }
}

/// Maps all segments; none of them on failure.
fn map_segments(fd: i32, bias: u64, fixed: u64, programs: &[ProgramHeader]) -> Result<(), i64> {
    for (number, program) in programs.iter().enumerate() {
        let Some(found) = segment(program) else { continue };
        if let Err(error) = map_segment(fd, bias, fixed, &found) {
            for mapped in programs[..number].iter().filter_map(segment) {
                let (at, end) = (mapped.start.wrapping_add(bias), page_up(mapped.mem_end).wrapping_add(bias));
                // SAFETY: mapped just now, and nothing refers to it.
                unsafe { sys!(nr::MUNMAP, at, end - at) };
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Finds address space for a position-independent file where the kernel has it.
fn reserve(len: u64, align: u64) -> Result<u64, i64> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    let reserve = |len: u64| {
        // SAFETY: a new mapping where nothing is.
        let at = unsafe { sys!(nr::MMAP, 0, len, 0, flags, -1i64, 0) };
        if at < 0 { Err(at) } else { Ok(at as u64) }
    };
    let at = reserve(len)?;
    if at & (align - 1) == 0 {
        return Ok(at);
    }
    // SAFETY: gives back what was just reserved, and then the ends of the larger reservation.
    unsafe {
        sys!(nr::MUNMAP, at, len);
        let at = reserve(len + align)?;
        let aligned = at.next_multiple_of(align);
        if aligned > at {
            sys!(nr::MUNMAP, at, aligned - at);
        }
        sys!(nr::MUNMAP, aligned + len, at + align - aligned);
        Ok(aligned)
    }
}

fn map_segment(fd: i32, bias: u64, fixed: u64, segment: &Segment) -> Result<(), i64> {
    let at = |address: u64| address.wrapping_add(bias);
    if segment.file_len > 0 {
        // SAFETY: inside the reservation, or where nothing is.
        let mapped = unsafe {
            let flags = MAP_PRIVATE | fixed;
            sys!(nr::MMAP, at(segment.start), segment.file_len, segment.prot, flags, fd, segment.offset)
        };
        if mapped < 0 {
            return Err(mapped);
        }
    }
    if let Some((from, to)) = segment.tail() {
        // SAFETY: writable memory of the segment mapped above.
        unsafe { core::ptr::write_bytes(at(from) as *mut u8, 0, (to - from) as usize) };
    }
    if let Some((from, to)) = segment.anonymous() {
        // SAFETY: as above.
        let mapped = unsafe {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | fixed;
            sys!(nr::MMAP, at(from), to - from, segment.prot, flags, -1i64, 0)
        };
        if mapped < 0 {
            // SAFETY: mapped just now.
            unsafe { sys!(nr::MUNMAP, at(segment.start), segment.file_len) };
            return Err(mapped);
        }
    }
    Ok(())
}

/// Makes the initial stack executable.
pub fn make_stack_executable(sp: u64) {
    // SAFETY: adds a permission to the stack's mapping.
    unsafe {
        sys!(nr::MPROTECT, sp & !(PAGE - 1), PAGE, PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN)
    };
}
