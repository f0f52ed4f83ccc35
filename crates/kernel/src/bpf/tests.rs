use super::*;

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, dst, src, off, imm }
}
const EXIT: Insn = insn(0x95, 0, 0, 0, 0);
const fn mov(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}
const fn load(dst: u8, off: i16) -> Insn {
    insn(code::LDX_MEM_W, dst, 1, off, 0)
}

fn access(kind: u32, access: u32, major: u32, minor: u32) -> DeviceAccess {
    DeviceAccess { access_type: access << 16 | kind, major, minor }
}

/// What container engines make of "deny all but reading and writing 1:3", with the access type taken apart.
fn only_null() -> Vec<Insn> {
    vec![
        // r2 = type, r3 = access, r4 = major, r5 = minor
        load(2, 0),
        insn(0x54, 2, 0, 0, 0xffff),
        load(3, 0),
        insn(0x74, 3, 0, 0, 16),
        load(4, 4),
        load(5, 8),
        // A character device, nothing but reading and writing, 1:3.
        insn(0x55, 2, 0, 7, DEV_CHAR as i32),
        insn(0xbc, 1, 3, 0, 0),
        insn(0x54, 1, 0, 0, (ACC_READ | ACC_WRITE) as i32),
        insn(0x5d, 1, 3, 4, 0),
        insn(0x55, 4, 0, 3, 1),
        insn(0x55, 5, 0, 2, 3),
        mov(0, 1),
        EXIT,
        mov(0, 0),
        EXIT,
    ]
}

#[test]
fn the_rules_of_a_container_are_followed() {
    let program = Program::load(1, ProgType::CgroupDevice, only_null()).unwrap();
    assert!(program.run(&access(DEV_CHAR, ACC_READ, 1, 3)));
    assert!(program.run(&access(DEV_CHAR, ACC_READ | ACC_WRITE, 1, 3)));
    assert!(!program.run(&access(DEV_CHAR, ACC_MKNOD, 1, 3)));
    assert!(!program.run(&access(DEV_CHAR, ACC_READ, 1, 5)));
    assert!(!program.run(&access(DEV_CHAR, ACC_READ, 2, 3)));
    assert!(!program.run(&access(DEV_BLOCK, ACC_READ, 1, 3)));
}

#[test]
fn arithmetic_is_that_of_the_instruction_set() {
    let value = |insns: &[Insn]| {
        let mut all = insns.to_vec();
        all.push(EXIT);
        let program = Program { id: 1, kind: ProgType::CgroupDevice, insns: all };
        program.interpret(&access(DEV_CHAR, ACC_READ, 7, 9)).unwrap()
    };
    assert_eq!(value(&[mov(0, -1)]), u64::MAX);
    // A 32-bit operation clears the upper half.
    assert_eq!(value(&[mov(0, -1), insn(0x04, 0, 0, 0, 1)]), 0);
    assert_eq!(value(&[mov(0, -8), insn(0xc7, 0, 0, 0, 1)]), -4i64 as u64);
    assert_eq!(value(&[mov(0, -8), insn(0xc4, 0, 0, 0, 1)]), 0xffff_fffc);
    // Dividing by a register that is 0 gives 0, the rest the dividend.
    assert_eq!(value(&[mov(0, 5), mov(2, 0), insn(0x3f, 0, 2, 0, 0)]), 0);
    assert_eq!(value(&[mov(0, 5), mov(2, 0), insn(0x9f, 0, 2, 0, 0)]), 5);
    assert_eq!(value(&[insn(code::LDX_MEM_H, 0, 1, 2, 0)]), u64::from(ACC_READ));
    assert_eq!(value(&[insn(code::LDX_MEM_B, 0, 1, 0, 0)]), u64::from(DEV_CHAR));
    assert_eq!(value(&[load(0, 8)]), 9);
}

#[test]
fn what_could_fail_to_end_or_reach_beyond_is_refused() {
    let cases: [(&[Insn], Errno); 17] = [
        (&[], Errno::EINVAL),
        // Runs off its end.
        (&[mov(0, 0)], Errno::EINVAL),
        // Gives nothing.
        (&[EXIT], Errno::EACCES),
        (&[mov(0, 2), EXIT], Errno::EINVAL),
        // Gives a pointer.
        (&[insn(0xbf, 0, 1, 0, 0), EXIT], Errno::EACCES),
        (&[mov(0, 0), insn(0x05, 0, 0, -1, 0), EXIT], Errno::EINVAL),
        (&[mov(0, 0), insn(0x05, 0, 0, 5, 0), EXIT], Errno::EINVAL),
        // Never reached.
        (&[mov(0, 0), EXIT, mov(0, 1), EXIT], Errno::EINVAL),
        (&[insn(code::LDX_MEM_W, 0, 1, 12, 0), EXIT], Errno::EACCES),
        (&[insn(code::LDX_MEM_W, 0, 1, 2, 0), EXIT], Errno::EACCES),
        (&[insn(code::LDX_MEM_W, 0, 1, -4, 0), EXIT], Errno::EACCES),
        (&[insn(code::LDX_MEM_H, 0, 1, 4, 0), EXIT], Errno::EACCES),
        (&[insn(code::LDX_MEM_W, 0, 2, 0, 0), EXIT], Errno::EACCES),
        (&[insn(0x07, 1, 0, 0, 4), mov(0, 0), EXIT], Errno::EACCES),
        // Stores; helpers.
        (&[insn(0x62, 10, 0, -4, 0), mov(0, 0), EXIT], Errno::EACCES),
        (&[insn(0x85, 0, 0, 0, 1), EXIT], Errno::EINVAL),
        (&[mov(11, 0), mov(0, 0), EXIT], Errno::EINVAL),
    ];
    for (insns, errno) in cases {
        assert_eq!(Program::load(1, ProgType::CgroupDevice, insns.to_vec()).err(), Some(errno), "{insns:?}");
    }
}

/// Any bytes either are refused or run to an end.
#[test]
fn random_programs_end() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let codes = [
        0x61, 0x69, 0x71, 0x18, 0x07, 0x0f, 0x54, 0x57, 0x74, 0xb7, 0xbf, 0xb4, 0x55, 0x1d, 0x66, 0x05, 0x95,
        0x37,
    ];
    let mut accepted = 0;
    for _ in 0..200_000 {
        let len = 1 + next() as usize % 6;
        let insns: Vec<Insn> = (0..len)
            .map(|_| {
                let word = next();
                let code = codes[word as usize % codes.len()];
                let (off, imm) = if word & 1 << 40 == 0 {
                    (0, 0)
                } else {
                    ((word >> 16 & 3) as i16, (word >> 20 & 7) as i32)
                };
                insn(
                    code,
                    (word >> 8 & 3) as u8,
                    if word & 1 << 41 == 0 { 0 } else { (word >> 12 & 3) as u8 },
                    off,
                    imm,
                )
            })
            .chain([EXIT])
            .collect();
        if let Ok(program) = Program::load(1, ProgType::CgroupDevice, insns) {
            accepted += 1;
            let result = program.interpret(&access(DEV_CHAR, ACC_READ, 1, 3));
            assert!(result.is_some_and(|result| result <= 1), "{program:?}");
        }
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn a_program_about_packets_looks_at_none() {
    let load =
        |insns: &[Insn]| Program::load(1, ProgType::CgroupSkb, insns.to_vec()).map(|program| program.kind());
    assert_eq!(load(&[mov(0, 0), EXIT]), Ok(ProgType::CgroupSkb));
    assert_eq!(load(&[mov(0, 3), EXIT]), Ok(ProgType::CgroupSkb));
    assert_eq!(load(&[mov(0, 4), EXIT]), Err(Errno::EINVAL));
    assert_eq!(
        load(&[super::Insn { code: code::LDX_MEM_W, dst: 2, src: 1, off: 0, imm: 0 }, mov(0, 1), EXIT]),
        Err(Errno::EACCES)
    );
    assert_eq!(ProgType::new(1), Err(Errno::EINVAL));
}
