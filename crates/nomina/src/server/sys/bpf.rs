//! `bpf(2)`: programs that decide about the devices of control groups, and nothing else.
//!
//! Nothing here reaches the host's `bpf`: the program is the model's data and its interpreter ([`nomina_kernel::bpf`]). The descriptor
//! of a program is a placeholder. Differences from Linux: no maps, no other types of programs, no links, no BTF; what a
//! program was called is forgotten.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use nomina_abi::BPF_ATTR;
use nomina_fs::cgroup2::cgroup_of;
use nomina_kernel::bpf::{self, BPF_CGROUP_DEVICE, DeviceAccess, ProgType, Program};
use nomina_kernel::capability::Cap;
use nomina_kernel::cgroup::Cgroup;
use nomina_kernel::cgroup::bpf::AttachFlags;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{Attr, Inode, Opened, Path, S_IFBLK, S_IFCHR};

use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};
use super::files::FdPath;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// Most programs of a sandbox: they are the supervisor's memory.
const MOST_PROGRAMS: usize = 1024;

/// All programs, by their numbers.
#[derive(Default)]
pub struct Programs {
    all: Mutex<(u32, BTreeMap<u32, Weak<Program>>)>,
}

impl Programs {
    fn load(&self, kind: ProgType, insns: Vec<bpf::Insn>) -> Result<Arc<Program>> {
        let mut all = self.all.lock().unwrap();
        let (last, programs) = &mut *all;
        programs.retain(|_, program| program.strong_count() > 0);
        if programs.len() >= MOST_PROGRAMS {
            return Err(Errno::ENOMEM);
        }
        *last += 1;
        let program = Program::load(*last, kind, insns)?;
        programs.insert(*last, Arc::downgrade(&program));
        Ok(program)
    }

    fn find(&self, id: u32) -> Option<Arc<Program>> {
        self.all.lock().unwrap().1.get(&id)?.upgrade()
    }
}

/// What the descriptor of a program stands for.
struct ProgramInode(Arc<Program>);

impl Inode for ProgramInode {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { mode: 0o600, nlink: 1, blksize: 4096, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        0
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Err(Errno::ENXIO)
    }
}

/// A field of `union bpf_attr`; what the caller left out is 0.
fn field(attr: &[u8; BPF_ATTR], at: usize) -> u32 {
    u32::from_ne_bytes([attr[at], attr[at + 1], attr[at + 2], attr[at + 3]])
}

/// `bpf(2)`: command, attributes, instructions or room for numbers.
///
/// # Errors
/// `EPERM` to load without CAP_BPF and CAP_NET_ADMIN, to query without CAP_NET_ADMIN, each of which CAP_SYS_ADMIN stands for. `EINVAL` for another command, type of program
/// or attachment. `EBADF` for a descriptor that is no program or no group. `ENOMEM` for too many programs. Those of loading and attaching.
pub fn bpf(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let cred = ctx.cred();
    let admin = cred.capable(Cap::SYS_ADMIN);
    let may_use = admin || cred.capable(Cap::BPF);
    let may_manage = admin || cred.capable(Cap::NET_ADMIN);
    let attr = ctx.structure::<BPF_ATTR>(1)?.ok_or(Errno::EFAULT)?;
    let command = ctx.int(0);
    match command {
        // As with `kernel.unprivileged_bpf_disabled`.
        BPF_PROG_LOAD if !may_use => Err(Errno::EPERM),
        BPF_PROG_LOAD => {
            let kind = ProgType::new(field(&attr, 0))?;
            if !may_manage {
                return Err(Errno::EPERM);
            }
            let count = field(&attr, 4);
            let insns = bpf::decode_program(&ctx.bytes_opt(2)?.unwrap_or_default(), count)?;
            let program = ctx.server.bpf.load(kind, insns)?;
            hand_out(ctx, program)
        }
        BPF_PROG_GET_FD_BY_ID => {
            if !admin {
                return Err(Errno::EPERM);
            }
            let program = ctx.server.bpf.find(field(&attr, 0)).ok_or(Errno::ENOENT)?;
            hand_out(ctx, program)
        }
        // Who has a descriptor of the group and one of the program needs no more.
        BPF_PROG_ATTACH => {
            let flags = AttachFlags::from_bits(field(&attr, 12)).ok_or(Errno::EINVAL)?;
            let cgrp = attached_to(ctx, &attr)?;
            let program = program_of(ctx, field(&attr, 4))?;
            let replaces = flags.contains(AttachFlags::REPLACE);
            let replace = replaces.then(|| program_of(ctx, field(&attr, 16))).transpose()?;
            let kernel = ctx.server.kernel.lock().unwrap();
            kernel.cgroup_root().attach(&cgrp, program, replace.as_ref(), flags)?;
            Ok(().into())
        }
        BPF_PROG_DETACH => {
            let cgrp = attached_to(ctx, &attr)?;
            // Where only one can be attached any descriptor does.
            let program = program_of(ctx, field(&attr, 4)).ok();
            let kernel = ctx.server.kernel.lock().unwrap();
            kernel.cgroup_root().detach(&cgrp, program.as_ref())?;
            Ok(().into())
        }
        BPF_PROG_QUERY if !may_manage => Err(Errno::EPERM),
        BPF_PROG_QUERY => query(ctx, &attr),
        _ => Err(Errno::EINVAL),
    }
}

/// `BPF_PROG_QUERY`: gives how the programs were attached and how many they are, and their numbers as far as there is room.
fn query(ctx: &mut Ctx<'_>, attr: &[u8; BPF_ATTR]) -> Result<Reply> {
    let asked = field(attr, 8);
    if asked & !BPF_F_QUERY_EFFECTIVE != 0 {
        return Err(Errno::EINVAL);
    }
    let cgrp = attached_to(ctx, attr)?;
    let (ids, flags) = {
        let _kernel = ctx.server.kernel.lock().unwrap();
        cgrp.programs(asked & BPF_F_QUERY_EFFECTIVE != 0)
    };
    let room = field(attr, 24) as usize;
    let wanted = room > 0 && field(attr, 16) | field(attr, 20) != 0;
    let given = if wanted { ids.len().min(room) } else { 0 };
    ctx.out[0] = flags.bits().into();
    ctx.out[1] = ids.len() as u64;
    ctx.out[2] = given as u64;
    let bytes: Vec<u8> = ids.iter().take(given).flat_map(|id| id.to_ne_bytes()).collect();
    ctx.write(2, &bytes)?;
    if wanted && ids.len() > room { Err(Errno::ENOSPC) } else { Ok(().into()) }
}

fn hand_out(ctx: &Ctx<'_>, program: Arc<Program>) -> Result<Reply> {
    let place = Path::anonymous(&ctx.server.ns_mnt, Arc::new(ProgramInode(program)));
    let fd = ctx.server.handles.open_text(b"", place, libc::O_RDWR as u32).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: true })
}

fn program_of(ctx: &Ctx<'_>, fd: u32) -> Result<Arc<Program>> {
    let copy = ctx.getfd(fd as i32)?;
    let handle = ctx.server.handles.find(copy.as_fd()).ok_or(Errno::EINVAL)?;
    let inode = handle.path.inode().as_any().downcast_ref::<ProgramInode>().ok_or(Errno::EINVAL)?;
    // `bpf_prog_get_type`
    if inode.0.kind() == ProgType::CgroupDevice { Ok(inode.0.clone()) } else { Err(Errno::EINVAL) }
}

/// The group that `target_fd` is the directory of, for an attachment that there is.
fn attached_to(ctx: &Ctx<'_>, attr: &[u8; BPF_ATTR]) -> Result<Arc<Cgroup>> {
    let kind = if ctx.int(0) == BPF_PROG_QUERY { field(attr, 4) } else { field(attr, 8) };
    if kind != BPF_CGROUP_DEVICE {
        return Err(Errno::EINVAL);
    }
    match ctx.fd_path(field(attr, 0) as i32)? {
        FdPath::Place(path) => cgroup_of(&**path.inode()).cloned().ok_or(Errno::EBADF),
        FdPath::Open(..) => Err(Errno::EBADF),
    }
}

/// `devcgroup_check_permission`: what the programs of the caller's group say of an access (`nomina_kernel::bpf::ACC_*`) to a device.
///
/// # Errors
/// `EPERM`.
pub fn check_device(ctx: &Ctx<'_>, kind: u32, rdev: u64, access: u32) -> Result<()> {
    let kind = match kind {
        S_IFBLK => bpf::DEV_BLOCK,
        S_IFCHR => bpf::DEV_CHAR,
        _ => return Ok(()),
    };
    let kernel = ctx.server.kernel.lock().unwrap();
    let Some(task) = kernel.task(ctx.task()) else { return Ok(()) };
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    let access = DeviceAccess { access_type: access << 16 | kind, major, minor };
    if kernel.cgroup_root().allows_device(task.cgroup(), &access) { Ok(()) } else { Err(Errno::EPERM) }
}
