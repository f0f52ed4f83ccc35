//! Credentials (`credentials(7)`, `capabilities(7)`).

use nomina_kernel::capability::CapSet;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::sys::CapData;

use super::super::layout::u32_at;
use super::super::request::{Ctx, Reply};

/// `getuid(2)`, `geteuid(2)`, `getgid(2)`, `getegid(2)`.
pub fn get_id(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let kernel = ctx.server.kernel.lock().unwrap();
    let (uid, euid, _) = kernel.getresuid(ctx.task())?;
    let (gid, egid, _) = kernel.getresgid(ctx.task())?;
    let id = match ctx.nr {
        102 => uid,
        104 => gid,
        107 => euid,
        _ => egid,
    };
    Ok(Reply::Value(id.into()))
}

/// `getresuid(2)`, `getresgid(2)`.
pub fn get_res(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let kernel = ctx.server.kernel.lock().unwrap();
    let (real, effective, saved) =
        if ctx.nr == 118 { kernel.getresuid(ctx.task())? } else { kernel.getresgid(ctx.task())? };
    for (index, id) in [real, effective, saved].into_iter().enumerate() {
        if ctx.is_null(index) {
            return Err(Errno::EFAULT);
        }
        ctx.write(index, &id.to_ne_bytes())?;
    }
    Ok(().into())
}

/// The calls that set user and group ids.
pub fn set_id(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let mut kernel = ctx.server.kernel.lock().unwrap();
    let task = ctx.task();
    let (a, b, c) = (ctx.uint(0), ctx.uint(1), ctx.uint(2));
    match ctx.nr {
        105 => kernel.setuid(task, a)?,
        106 => kernel.setgid(task, a)?,
        113 => kernel.setreuid(task, a, b)?,
        114 => kernel.setregid(task, a, b)?,
        117 => kernel.setresuid(task, a, b, c)?,
        119 => kernel.setresgid(task, a, b, c)?,
        122 => return Ok(Reply::Value(kernel.setfsuid(task, a)?.into())),
        _ => return Ok(Reply::Value(kernel.setfsgid(task, a)?.into())),
    }
    drop(kernel);
    ctx.server.privs.changed_cred(ctx.server, ctx.thread);
    Ok(().into())
}

/// `getgroups(2)`.
pub fn getgroups(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let groups = ctx.server.kernel.lock().unwrap().getgroups(ctx.task())?;
    let size = ctx.int(0);
    if size < 0 || (size != 0 && (size as usize) < groups.len()) {
        return Err(Errno::EINVAL);
    }
    if size != 0 {
        let bytes: Vec<u8> = groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        ctx.write(1, &bytes)?;
    }
    Ok(groups.len().into())
}

/// `setgroups(2)`.
pub fn setgroups(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.uint(0) as usize > nomina_kernel::sys::NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let bytes = ctx.bytes_opt(1)?.unwrap_or_default();
    let groups: Vec<u32> = bytes.chunks_exact(4).map(|chunk| u32_at(chunk, 0)).collect();
    ctx.server.kernel.lock().unwrap().setgroups(ctx.task(), &groups)?;
    Ok(().into())
}

/// `_LINUX_CAPABILITY_VERSION_1`, `_2`, `_3`.
const VERSIONS: [u32; 3] = [0x1998_0330, 0x2007_1026, 0x2008_0522];

/// Version (true: two words a set) and pid of the header; an unknown version is answered with the preferred one.
fn header(ctx: &Ctx<'_>) -> Result<(bool, i32)> {
    let head = ctx.structure::<8>(0)?.ok_or(Errno::EFAULT)?;
    match u32_at(&head, 0) {
        version if version == VERSIONS[0] => Ok((false, u32_at(&head, 4) as i32)),
        version if VERSIONS.contains(&version) => Ok((true, u32_at(&head, 4) as i32)),
        _ => {
            ctx.write(0, &VERSIONS[2].to_ne_bytes())?;
            Err(Errno::EINVAL)
        }
    }
}

/// `capget(2)`.
pub fn capget(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (wide, pid) = match header(ctx) {
        // With no place for data this is the question for the version.
        Err(Errno::EINVAL) if ctx.is_null(1) => return Ok(().into()),
        other => other?,
    };
    let sets = ctx.server.kernel.lock().unwrap().capget(ctx.task(), pid)?;
    if ctx.is_null(1) {
        return Ok(().into());
    }
    let mut bytes = Vec::new();
    for word in 0..if wide { 2 } else { 1 } {
        for set in [sets.effective, sets.permitted, sets.inheritable] {
            bytes.extend(((set.bits() >> (32 * word)) as u32).to_ne_bytes());
        }
    }
    ctx.write(1, &bytes)?;
    Ok(().into())
}

/// `capset(2)`.
pub fn capset(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (wide, pid) = header(ctx)?;
    let bytes = ctx.structure::<24>(1)?.ok_or(Errno::EFAULT)?;
    let set = |at: usize| {
        let low = u64::from(u32_at(&bytes, at * 4));
        let high = if wide { u64::from(u32_at(&bytes, 12 + at * 4)) } else { 0 };
        CapSet::from_bits(low | high << 32)
    };
    let data = CapData { effective: set(0), permitted: set(1), inheritable: set(2) };
    ctx.server.kernel.lock().unwrap().capset(ctx.task(), pid, data)?;
    ctx.server.privs.changed_cred(ctx.server, ctx.thread);
    Ok(().into())
}
