//! `shmget(2)`, `shmat(2)`, `shmdt(2)`, `shmctl(2)`.

use std::sync::Arc;

use nomina_abi::ipc;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::shm::{SHM_RDONLY, ShmFile, ShmidDs};

use super::super::super::Server;
use super::super::super::ipc::shm::{Memory, detached_at, mappings_of};
use super::super::super::request::{Ctx, Reply};
use super::super::process::native_rlimit;
use super::structures::{Fields, shm_info, shminfo};
use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, IpcCall, give, perm_set};

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;
const SHM_NORESERVE: i32 = 0o10000;

fn memory(file: &dyn ShmFile) -> Option<&Memory> {
    file.as_any().downcast_ref()
}

/// `shmget(2)`: key, size, flags.
pub fn shmget(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let call = IpcCall::new(ctx)?;
    call.ns.shm_sweep();
    let (key, flags) = (ctx.int(0), ctx.int(2));
    let reserve = flags & SHM_NORESERVE == 0;
    let make = |size| ctx.server.segments.create(key, size, reserve);
    Ok(call.ns.shmget(&call.caller, key, ctx.args[1], flags, make)?.into())
}

/// `shmat(2)`: identifier, address, flags. out[0] is the size; the descriptor is what to map.
pub fn shmat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let call = IpcCall::new(ctx)?;
    call.ns.shm_sweep();
    let flags = ctx.int(2);
    let (size, fd) = call.ns.shmat(&call.caller, ctx.int(0), flags, |segment| {
        let memory = memory(&*segment.file).ok_or(Errno::EINVAL)?;
        Ok((segment.size, memory.open(flags & SHM_RDONLY != 0)?))
    })?;
    ctx.out[0] = size;
    ctx.fds = vec![fd];
    Ok(().into())
}

/// `shmdt(2)`: address, and whether it is done. Before: the data has pairs of addresses, out[0] of them, between which the caller
/// unmaps.
pub fn shmdt(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let call = IpcCall::new(ctx)?;
    if ctx.args[1] == ipc::DETACHED {
        call.ns.shm_sweep();
        return Ok(().into());
    }
    let mappings = mappings_of(ctx.host_pid());
    let of = |key| call.ns.shm_find(|file| memory(file).is_some_and(|memory| memory.key() == key));
    let ranges = detached_at(&mappings, ctx.args[0], |key| {
        of(key).map_or(u64::MAX, |segment| segment.size.next_multiple_of(4096))
    });
    let first = ranges.first().ok_or(Errno::EINVAL)?.0;
    if let Some(segment) =
        mappings.iter().find(|mapping| mapping.start == first).and_then(|mapping| of(mapping.key))
    {
        call.ns.shm_close(&call.caller, segment.perm.id);
    }
    let most = nomina_abi::SLOT_DATA / 16;
    let mut pairs = Fields::default();
    for &(start, end) in ranges.iter().take(most) {
        pairs.long(start).long(end);
    }
    ctx.out[0] = ranges.len().min(most) as u64;
    ctx.write_data(&pairs.0)?;
    Ok(().into())
}

/// `shmctl(2)`: identifier, command, structure.
pub fn shmctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (shmid, command) = (ctx.int(0), ctx.int(1));
    if shmid < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let call = IpcCall::new(ctx)?;
    let (ns, caller) = (&call.ns, &call.caller);
    ns.shm_sweep();
    match command {
        IPC_INFO | SHM_INFO => {
            let info = ns.shm_info();
            let rss = || ns.shm_list().iter().map(rss).sum();
            let bytes = if command == IPC_INFO { shminfo(&info.limits) } else { shm_info(&info, rss()) };
            give(ctx, &bytes)?;
            Ok(info.max_index.into())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment = ns.shm_stat(caller, shmid, command != IPC_STAT, command == SHM_STAT_ANY)?;
            let bytes = shmid_ds(ctx, &call, &segment);
            give(ctx, &bytes)?;
            Ok(if command == IPC_STAT { 0 } else { segment.perm.id }.into())
        }
        IPC_SET => {
            ns.shm_set(caller, shmid, &perm_set(&ctx.bytes(2)?)?)?;
            Ok(().into())
        }
        IPC_RMID => {
            ns.shm_rmid(caller, shmid)?;
            Ok(().into())
        }
        SHM_LOCK | SHM_UNLOCK => {
            let memlock = native_rlimit(ctx, libc::RLIMIT_MEMLOCK)?;
            ns.shm_lock(caller, shmid, command == SHM_LOCK, memlock)?;
            Ok(().into())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Pages of a segment that are in memory.
pub fn rss(segment: &ShmidDs) -> u64 {
    memory(&*segment.file).map_or(0, Memory::rss)
}

/// How often a segment is attached.
pub fn nattch(server: &Arc<Server>, segment: &ShmidDs) -> u64 {
    let Some(memory) = memory(&*segment.file).filter(|memory| memory.is_attached()) else { return 0 };
    server.count_attached().get(&memory.key()).copied().unwrap_or(0)
}

/// `struct shmid64_ds`.
fn shmid_ds(ctx: &Ctx<'_>, call: &IpcCall, segment: &ShmidDs) -> Vec<u8> {
    let mut fields = Fields::default();
    fields.perm(&call.perm(&segment.perm)).long(segment.size);
    fields.long(segment.atime as u64).long(segment.dtime as u64).long(segment.ctime as u64);
    fields.int(call.pid_vnr(Some(&segment.cpid))).int(call.pid_vnr(segment.lpid.as_ref()));
    fields.long(nattch(ctx.server, segment)).long(0).long(0);
    fields.0
}
