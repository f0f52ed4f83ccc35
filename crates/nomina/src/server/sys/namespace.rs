//! `unshare(2)` and `setns(2)`.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::setns::SetnsTarget;

use super::super::nsfs::NsInode;
use super::super::request::{Ctx, Reply};
use super::files::FdPath;
use super::pidfd::task_of_pidfd;

/// `unshare(2)`.
pub fn unshare(ctx: &mut Ctx<'_>) -> Result<Reply> {
    ctx.server.kernel.lock().unwrap().unshare(ctx.task(), ctx.args[0])?;
    Ok(().into())
}

/// `setns(2)`: of a namespace file, or of a pidfd.
pub fn setns(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let target = match ctx.fd_path(ctx.int(0))? {
        FdPath::Place(path) => {
            let inode = path.inode().as_any().downcast_ref::<NsInode>().ok_or(Errno::EINVAL)?;
            SetnsTarget::Namespace(inode.ns.clone())
        }
        FdPath::Open(..) => SetnsTarget::Task(task_of_pidfd(ctx, ctx.int(0)).map_err(|_| Errno::EINVAL)?),
    };
    ctx.server.kernel.lock().unwrap().setns(ctx.task(), &target, ctx.args[1] & 0xffff_ffff)?;
    Ok(().into())
}
