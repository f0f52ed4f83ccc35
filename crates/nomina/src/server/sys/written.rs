//! The result of a native write that reports itself ([`nomina_abi::op::WRITTEN`]).

use std::os::fd::AsFd;

use nomina_kernel::errno::Result;

use super::super::request::{Ctx, Reply};

/// The result that the guest must see: what the file has made of the write.
///
/// # Errors
/// Those of the file.
pub fn written(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let native = ctx.args[2] as i64;
    // The handle is the first argument of `write(2)` and its like, the third of `splice(2)` and `copy_file_range(2)`.
    for index in [0, 1] {
        let Ok(copy) = ctx.getfd(ctx.int(index)) else { continue };
        if let Some(result) = ctx.server.controls.result(copy.as_fd()) {
            result?;
            break;
        }
    }
    Ok(Reply::Value(native))
}
