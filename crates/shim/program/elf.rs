//! Program headers: what is to be mapped where, computed without touching memory.

/// `ET_EXEC`.
pub const ET_EXEC: u16 = 2;
/// `ET_DYN`.
pub const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
/// Size of a page.
pub const PAGE: u64 = 4096;

/// `Elf64_Ehdr`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Header {
    pub ident: [u8; 16],
    pub kind: u16,
    pub machine: u16,
    pub version: u32,
    pub entry: u64,
    pub phoff: u64,
    pub shoff: u64,
    pub flags: u32,
    pub ehsize: u16,
    pub phentsize: u16,
    pub phnum: u16,
    pub shentsize: u16,
    pub shnum: u16,
    pub shstrndx: u16,
}

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

impl Header {
    /// Whether this is a program for x86-64 that can be loaded.
    pub fn is_loadable(&self) -> bool {
        self.ident[..4] == *b"\x7fELF"
            && self.ident[4] == 2
            && self.machine == 62
            && matches!(self.kind, ET_EXEC | ET_DYN)
            && self.phentsize as usize == size_of::<ProgramHeader>()
            && self.phnum > 0
    }
}

/// One mapping of a loadable segment, relative to the load bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Page-aligned address.
    pub start: u64,
    /// Bytes mapped from the file, from `start`; 0 if none.
    pub file_len: u64,
    /// Page-aligned offset in the file.
    pub offset: u64,
    /// End of the file's bytes and of the memory.
    pub file_end: u64,
    /// See `file_end`.
    pub mem_end: u64,
    /// `PROT_*`.
    pub prot: u64,
}

impl Segment {
    /// The bytes of the last file page that must be zero. The kernel clears them only in writable segments.
    pub fn tail(&self) -> Option<(u64, u64)> {
        let page_end = page_up(self.file_end);
        (self.file_len > 0
            && self.prot & crate::sys::PROT_WRITE != 0
            && self.mem_end > self.file_end
            && page_end > self.file_end)
            .then_some((self.file_end, page_end))
    }

    /// The whole pages behind the file's bytes.
    pub fn anonymous(&self) -> Option<(u64, u64)> {
        let from = if self.file_len > 0 { page_up(self.file_end) } else { self.start };
        (page_up(self.mem_end) > from).then_some((from, page_up(self.mem_end)))
    }
}

/// Rounds up to a page.
pub const fn page_up(at: u64) -> u64 {
    (at.wrapping_add(PAGE - 1)) & !(PAGE - 1)
}

/// The mapping of a program header, if it is a loadable segment. `None` too for one that overflows.
pub fn segment(header: &ProgramHeader) -> Option<Segment> {
    if header.kind != PT_LOAD || header.memsz == 0 || header.filesz > header.memsz {
        return None;
    }
    let within = header.vaddr & (PAGE - 1);
    let mem_end = header.vaddr.checked_add(header.memsz)?;
    mem_end.checked_add(PAGE)?;
    header.offset.checked_add(header.filesz)?;
    let mut prot = 0;
    for (flag, bit) in
        [(PF_R, crate::sys::PROT_READ), (PF_W, crate::sys::PROT_WRITE), (PF_X, crate::sys::PROT_EXEC)]
    {
        if header.flags & flag != 0 {
            prot |= bit;
        }
    }
    Some(Segment {
        start: header.vaddr - within,
        file_len: if header.filesz > 0 { header.filesz + within } else { 0 },
        offset: header.offset.wrapping_sub(within),
        file_end: header.vaddr + header.filesz,
        mem_end,
        prot,
    })
}

/// What all segments together need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Lowest page.
    pub low: u64,
    /// End of the highest page.
    pub high: u64,
    /// Largest alignment asked for, at least a page.
    pub align: u64,
    /// Address of the program headers, before the bias; 0 if no segment holds them.
    pub phdr: u64,
    /// Whether the stack must be executable.
    pub executable_stack: bool,
}

/// Measures a program. `None` if it has nothing to load.
pub fn span(header: &Header, programs: &[ProgramHeader]) -> Option<Span> {
    let mut span = Span { low: u64::MAX, high: 0, align: PAGE, phdr: 0, executable_stack: false };
    for program in programs {
        if program.kind == PT_GNU_STACK {
            span.executable_stack = program.flags & PF_X != 0;
        }
        let Some(segment) = segment(program) else { continue };
        span.low = span.low.min(segment.start);
        span.high = span.high.max(page_up(segment.mem_end));
        if program.align.is_power_of_two() {
            span.align = span.align.max(program.align);
        }
        let end = program.offset + program.filesz;
        if span.phdr == 0 && program.offset <= header.phoff && header.phoff < end {
            span.phdr = header.phoff - program.offset + program.vaddr;
        }
    }
    (span.high > span.low).then_some(span)
}
