//! `statmount(2)` and `listmount(2)`: requests and answers as bytes. What they tell is the model's.
//!
//! Where ours differs: an answer of `listmount` holds at most as many ids as fit into a request (some 1,900), and `statmount`
//! does not know of mapped owners (`STATMOUNT_MNT_UIDMAP`), as its `supported_mask` says.

use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::{
    LSMT_ROOT, ListMount, MntNamespace, MountTable, MountView, StatMount, listmount as list,
    statmount as stat,
};

use super::super::layout::{u32_at, u64_at};
use super::super::request::{Ctx, Reply};
use super::mount::Caller;
use super::mount_attr::flags_to_attr;

const MNT_ID_REQ_SIZE: u32 = 24;
const PAGE_SIZE: u32 = 4096;
const LISTMOUNT_REVERSE: u32 = 1;
const LISTMOUNT_MAX: u64 = 1_000_000;

/// What `statmount(2)` is asked for: `STATMOUNT_*`.
mod want {
    pub const SB_BASIC: u64 = 0x1;
    pub const MNT_BASIC: u64 = 0x2;
    pub const PROPAGATE_FROM: u64 = 0x4;
    pub const MNT_ROOT: u64 = 0x8;
    pub const MNT_POINT: u64 = 0x10;
    pub const FS_TYPE: u64 = 0x20;
    pub const MNT_NS_ID: u64 = 0x40;
    pub const MNT_OPTS: u64 = 0x80;
    pub const SB_SOURCE: u64 = 0x200;
    pub const OPT_ARRAY: u64 = 0x400;
    pub const SUPPORTED_MASK: u64 = 0x1000;
    pub const SUPPORTED: u64 = SB_BASIC
        | MNT_BASIC
        | PROPAGATE_FROM
        | MNT_ROOT
        | MNT_POINT
        | FS_TYPE
        | MNT_NS_ID
        | MNT_OPTS
        | SB_SOURCE
        | OPT_ARRAY
        | SUPPORTED_MASK;
}

/// `struct mnt_id_req`
struct MntIdReq {
    mnt_id: u64,
    param: u64,
    mnt_ns_id: u64,
}

/// `copy_mnt_id_req`
fn mnt_id_req(ctx: &Ctx<'_>) -> Result<MntIdReq> {
    let bytes = ctx.bytes(0)?;
    let size = bytes.get(..4).map(|_| u32_at(&bytes, 0)).ok_or(Errno::EFAULT)?;
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < MNT_ID_REQ_SIZE {
        return Err(Errno::EINVAL);
    }
    if bytes.len() < MNT_ID_REQ_SIZE as usize {
        return Err(Errno::EFAULT);
    }
    let mnt_ns_id = if bytes.len() >= 32 { u64_at(&bytes, 24) } else { 0 };
    if u32_at(&bytes, 4) != 0 {
        return Err(Errno::EINVAL);
    }
    let req = MntIdReq { mnt_id: u64_at(&bytes, 8), param: u64_at(&bytes, 16), mnt_ns_id };
    if req.mnt_id <= MountTable::UNIQUE_ID_OFFSET { Err(Errno::EINVAL) } else { Ok(req) }
}

/// Calls `with` with the view that the request asks for.
fn with_view<T>(caller: &Caller, req: &MntIdReq, with: impl FnOnce(MountView<'_>) -> Result<T>) -> Result<T> {
    let own = caller.ns();
    let ns: Arc<MntNamespace> = match req.mnt_ns_id {
        0 => own.clone(),
        id => own.table().lookup_mnt_ns(id).ok_or(Errno::ENOENT)?,
    };
    let is_own = Arc::ptr_eq(&ns, own);
    let capable = ns.user_ns().is_some_and(|owner| caller.cred().ns_capable(owner, Cap::SYS_ADMIN));
    if !is_own && !capable {
        return Err(Errno::EPERM);
    }
    with(MountView { ns: &ns, own_root: is_own.then(|| caller.root()), capable })
}

/// `listmount(2)`: request, ids, how many, flags.
pub fn listmount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let flags = ctx.uint(3);
    if flags & !LISTMOUNT_REVERSE != 0 {
        return Err(Errno::EINVAL);
    }
    if ctx.args[2] > LISTMOUNT_MAX {
        return Err(Errno::EOVERFLOW);
    }
    let req = mnt_id_req(ctx)?;
    if req.param != 0 && req.param <= MountTable::UNIQUE_ID_OFFSET {
        return Err(Errno::EINVAL);
    }
    let request = ListMount {
        parent: if req.mnt_id == LSMT_ROOT { LSMT_ROOT } else { req.mnt_id },
        last: req.param,
        reverse: flags & LISTMOUNT_REVERSE != 0,
        max: (ctx.args[2] as usize).min(ctx.capacity(1) / 8),
    };
    let caller = ctx.mount_caller()?;
    let ids = with_view(&caller, &req, |view| list(view, request))?;
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
    ctx.write(1, &bytes)?;
    Ok(ids.len().into())
}

/// `statmount(2)`: request, buffer, its size, flags.
pub fn statmount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.uint(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let req = mnt_id_req(ctx)?;
    let caller = ctx.mount_caller()?;
    let found = with_view(&caller, &req, |view| stat(view, req.mnt_id))?;
    let room = (ctx.args[2] as usize).min(ctx.capacity(1));
    let bytes = layout(&found, req.param, room)?;
    ctx.write(1, &bytes)?;
    ctx.out[0] = bytes.len() as u64;
    Ok(().into())
}

/// Size of `struct statmount` without its strings.
const SIZE: usize = 512;

/// `struct statmount` with what `mask` asks for, in at most `room` bytes.
///
/// # Errors
/// `EOVERFLOW`: the strings do not fit.
fn layout(found: &StatMount, mask: u64, room: usize) -> Result<Vec<u8>> {
    let mut head = vec![0u8; SIZE];
    let mut strings: Vec<u8> = Vec::new();
    let mut given = 0;
    let put32 =
        |head: &mut Vec<u8>, at: usize, value: u32| head[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    let put64 =
        |head: &mut Vec<u8>, at: usize, value: u64| head[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    if mask & want::SB_BASIC != 0 {
        given |= want::SB_BASIC;
        put32(&mut head, 16, found.sb_dev.0 as u32);
        put32(&mut head, 20, found.sb_dev.1 as u32);
        put64(&mut head, 24, found.sb_magic);
        put32(&mut head, 32, found.sb_flags.bits());
    }
    if mask & want::MNT_BASIC != 0 {
        given |= want::MNT_BASIC;
        put64(&mut head, 40, found.mnt_id);
        put64(&mut head, 48, found.mnt_parent_id);
        put32(&mut head, 56, found.mnt_id_old);
        put32(&mut head, 60, found.mnt_parent_id_old);
        put64(&mut head, 64, flags_to_attr(found.mnt_flags));
        put64(&mut head, 72, found.mnt_propagation);
        put64(&mut head, 80, found.mnt_peer_group);
        put64(&mut head, 88, found.mnt_master);
    }
    if mask & want::PROPAGATE_FROM != 0 {
        given |= want::PROPAGATE_FROM;
        put64(&mut head, 96, found.propagate_from);
    }
    if mask & want::MNT_NS_ID != 0 {
        given |= want::MNT_NS_ID;
        put64(&mut head, 112, found.mnt_ns_id);
    }
    if mask & want::SUPPORTED_MASK != 0 {
        given |= want::SUPPORTED_MASK;
        put64(&mut head, 144, want::SUPPORTED);
    }
    let options = found.mnt_opts.as_bytes();
    let array: Vec<u8> = options.iter().map(|&byte| if byte == b',' { 0 } else { byte }).collect();
    let point = found.mnt_point.as_deref().unwrap_or_default();
    let texts: [(u64, usize, &[u8]); 6] = [
        (want::FS_TYPE, 36, found.fs_type.as_bytes()),
        (want::MNT_ROOT, 104, &found.mnt_root),
        (want::MNT_POINT, 108, point),
        (want::MNT_OPTS, 4, options),
        (want::OPT_ARRAY, 132, &array),
        (want::SB_SOURCE, 124, &found.sb_source),
    ];
    for (flag, at, text) in texts {
        // What is empty is not given at all.
        if mask & flag != 0 && !text.is_empty() {
            given |= flag;
            if strings.is_empty() {
                // Offset 0 is that of no string.
                strings.push(0);
            }
            put32(&mut head, at, strings.len() as u32);
            strings.extend_from_slice(text);
            strings.push(0);
        }
    }
    if given & want::OPT_ARRAY != 0 {
        put32(&mut head, 128, array.split(|&byte| byte == 0).count() as u32);
    }
    if !strings.is_empty() && SIZE + strings.len() > room {
        return Err(Errno::EOVERFLOW);
    }
    let size = room.min(SIZE);
    put32(&mut head, 0, (size + strings.len()) as u32);
    put64(&mut head, 8, given);
    head.truncate(size);
    head.extend(strings);
    Ok(head)
}
