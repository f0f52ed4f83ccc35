//! Tests of the image, and of the parts of the program that need no guest.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use nomina_abi::{SHIM_BASE, SHIM_END};

use crate::elf::{self, Header, ProgramHeader};
use crate::frame::{self, GuestFp, StackT};
use crate::{EMPTY_PATH, IMAGE, PF_X, PT_LOAD, program_headers, text, word};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_TLS: u32 = 7;

#[test]
fn image_is_a_static_program_for_a_fixed_address() {
    assert_eq!(&IMAGE[..4], b"\x7fELF");
    assert_eq!(word(16) as u16, elf::ET_EXEC);
    for header in program_headers() {
        assert!(!matches!(header.kind, PT_DYNAMIC | PT_INTERP | PT_TLS), "segment of kind {}", header.kind);
    }
}

#[test]
fn image_lies_between_its_bounds() {
    let loads: Vec<_> = program_headers().filter(|header| header.kind == PT_LOAD).collect();
    assert_eq!(loads[0].vaddr, SHIM_BASE);
    for load in loads {
        assert!(load.vaddr >= SHIM_BASE && load.vaddr + load.memsz <= SHIM_END);
    }
}

#[test]
fn no_segment_is_writable_and_executable() {
    for header in program_headers().filter(|header| header.kind == PT_LOAD) {
        assert_ne!(header.flags & 3, 3, "segment at {:#x}", header.vaddr);
    }
}

#[test]
fn text_is_one_range_that_holds_the_entry_point() {
    let executable =
        program_headers().filter(|header| header.kind == PT_LOAD && header.flags & PF_X != 0).count();
    assert_eq!(executable, 1);
    assert!(text().contains(&word(24)));
}

#[test]
fn empty_path_is_a_nul_of_the_image() {
    assert!(text().contains(&EMPTY_PATH));
    assert_eq!(IMAGE[(EMPTY_PATH - SHIM_BASE) as usize], 0);
}

#[test]
fn image_has_no_relocations() {
    let (table, count) = (word(40) as usize, word(60) as u16 as usize);
    for index in 0..count {
        let kind = (word(table + index * 64) >> 32) as u32;
        assert!(!matches!(kind, 4 | 9), "section {index} holds relocations");
    }
}

/// Without a supervisor there is no gate: the image must end, not hang or run on.
#[test]
fn image_ends_when_nobody_answers_the_gate() {
    let path = std::env::temp_dir().join(format!("nomina-shim-test-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file in the temporary directory");
    file.write_all(IMAGE).expect("write the image");
    file.set_permissions(PermissionsExt::from_mode(0o700)).expect("chmod");
    drop(file);
    let status = std::process::Command::new(&path).status();
    std::fs::remove_file(&path).expect("remove the image");
    assert_eq!(status.expect("the host runs the image").code(), Some(137));
}

fn load_header(vaddr: u64, filesz: u64, memsz: u64, flags: u32) -> ProgramHeader {
    ProgramHeader { kind: 1, flags, offset: vaddr & 0xfff, vaddr, paddr: vaddr, filesz, memsz, align: 4096 }
}

#[test]
fn a_segment_starts_at_its_page_and_keeps_its_file_offset_congruent() {
    let header = ProgramHeader { offset: 0x2de8, ..load_header(0x3de8, 0x100, 0x100, 6) };
    let segment = elf::segment(&header).expect("loadable");
    assert_eq!((segment.start, segment.offset, segment.file_len), (0x3000, 0x2000, 0xee8));
    assert_eq!(segment.prot, 3);
    assert_eq!((segment.tail(), segment.anonymous()), (None, None));
}

#[test]
fn bss_is_zeroed_to_the_page_and_mapped_beyond() {
    let segment = elf::segment(&load_header(0x4000, 0x10, 0x2010, 6)).expect("loadable");
    assert_eq!(segment.tail(), Some((0x4010, 0x5000)));
    assert_eq!(segment.anonymous(), Some((0x5000, 0x7000)));
}

#[test]
fn a_read_only_segment_keeps_the_bytes_behind_it() {
    let segment = elf::segment(&load_header(0x4000, 0x10, 0x20, 4)).expect("loadable");
    assert_eq!(segment.tail(), None);
}

#[test]
fn a_segment_without_file_bytes_is_anonymous_from_its_first_page() {
    let segment = elf::segment(&load_header(0x4100, 0, 0x20, 6)).expect("loadable");
    assert_eq!(segment.anonymous(), Some((0x4000, 0x5000)));
}

#[test]
fn segments_that_overflow_or_hold_more_file_than_memory_are_not_loaded() {
    assert!(elf::segment(&load_header(u64::MAX - 4095, 0x10, 0x2000, 6)).is_none());
    assert!(elf::segment(&load_header(0x4000, 0x20, 0x10, 6)).is_none());
}

#[test]
fn span_finds_the_program_headers_in_the_segment_that_holds_them() {
    // SAFETY: all bits are valid for the plain structure.
    let mut header: Header = unsafe { std::mem::zeroed() };
    header.phoff = 64;
    let programs = [load_header(0x40_0000, 0x1000, 0x1000, 5), load_header(0x60_1000, 0x10, 0x3000, 6)];
    let span = elf::span(&header, &programs).expect("something to load");
    assert_eq!((span.low, span.high, span.phdr), (0x40_0000, 0x60_4000, 0x40_0040));
    assert_eq!(elf::span(&header, &[]), None);
}

#[test]
fn frames_are_placed_as_the_kernel_aligns_them() {
    for sp in 0x7fff_0000u64..0x7fff_0100 {
        let (fp, at) = frame::place(sp, 2696);
        assert_eq!(fp % 64, 0);
        assert_eq!((at + 8) % 16, 0);
        assert!(at + 440 <= fp && fp + 2696 <= sp);
    }
}

#[test]
fn a_floating_point_state_without_magic_is_a_legacy_one() {
    let legacy = GuestFp::from_software_bytes(&[0; 48]);
    assert_eq!((legacy.size, legacy.features), (512, 3));
    let mut bytes = [0u8; 48];
    bytes[..4].copy_from_slice(&0x4650_5853u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&7u64.to_le_bytes());
    bytes[16..20].copy_from_slice(&832u32.to_le_bytes());
    let extended = GuestFp::from_software_bytes(&bytes);
    assert_eq!((extended.size, extended.features), (832, 7));
}

#[test]
fn an_alternate_stack_that_disarms_itself_is_never_in_use() {
    let stack = StackT { sp: 0x1000, flags: 0, pad: 0, size: 0x1000 };
    assert!(stack.contains(0x2000) && stack.contains(0x1001) && !stack.contains(0x1000));
    assert!(!StackT { flags: frame::SS_AUTODISARM, ..stack }.contains(0x1800));
    assert!(!StackT::DISABLED.contains(0));
}
