//! The result of a native write that reports itself ([`nomina_abi::op::WRITTEN`]).

use std::os::fd::AsFd;

use nomina_kernel::errno::{Errno, Result};

use super::super::net::tun;
use super::super::request::{Ctx, Reply};

/// The result that the guest must see: what the file has made of the write. What the guest says about it changes nothing but
/// what it is told: the file is found by its descriptor, and its account is made from the file itself.
///
/// # Errors
/// Those of the file: `EINVAL`, `EPERM` … for control files, `ENOSPC` for a tmpfs.
pub fn written(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let native = ctx.args[2] as i64;
    let mut result = Ok(native);
    let mut file = None;
    // The handle is the first argument of `write(2)` and its like, the third of `splice(2)` and `copy_file_range(2)`.
    for index in [0, 1] {
        let Ok(copy) = ctx.getfd(ctx.int(index)) else { continue };
        if let Some(refused) = server.datagrams.result(ctx.task(), &copy) {
            return refused.map(Reply::Value);
        }
        if let Some(done) = tun::result(ctx, &copy) {
            return done.map(|()| Reply::Value(native));
        }
        if let Some(done) = server.controls.result(ctx.task(), copy.as_fd()) {
            return done.map(|()| Reply::Value(native));
        }
        if let Some(done) = server.reporters.result(ctx.thread, &copy, native) {
            result = done;
            file = Some(copy);
            break;
        }
    }
    server.reporters.reported(server, ctx.thread, file.as_ref());
    match result {
        Err(errno) if errno != Errno::ENOSPC => Ok(Reply::Value(native)),
        result => result.map(Reply::Value),
    }
}
