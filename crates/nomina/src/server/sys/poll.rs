//! What `poll(2)`, `select(2)` and `epoll_ctl(2)` cannot do natively: wait for a view of the mount table
//! ([`mounts_poll`](super::super::mounts_poll)).

use nomina_kernel::errno::Result;

use super::super::request::{Ctx, Reply};

/// `epoll_ctl(2)` for a file that cannot be polled natively. args: epoll, operation, file, events, data.
///
/// # Errors
/// `EPERM`: nor can it here. Those of `epoll_ctl(2)`.
pub fn epoll_ctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let file = ctx.server.mounts_file(&ctx.getfd(ctx.int(2))?)?;
    let epoll = ctx.getfd(ctx.int(0))?;
    file.epoll_ctl(&epoll, ctx.int(1), ctx.uint(3), ctx.args[4])?;
    Ok(().into())
}

/// [`nomina_abi::op::MOUNTS_CHANGED`].
///
/// # Errors
/// `EPERM`: the descriptor is no view of the mount table.
pub fn mounts_changed(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let file = ctx.server.mounts_file(&ctx.getfd(ctx.int(0))?)?;
    Ok(Reply::Value(file.take_changed().into()))
}
