//! Names of the system (`uts_namespaces(7)`): `uname(2)`, `sethostname(2)`, `setdomainname(2)`.

use nomina_kernel::errno::{Errno, Result};

use super::super::request::{Ctx, Reply};

/// Length of a field of `struct new_utsname`.
const FIELD: usize = 65;

/// `uname(2)`: names from the model, kernel release and version from the host.
pub fn uname(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.is_null(0) {
        return Err(Errno::EFAULT);
    }
    let names = ctx.server.kernel.lock().unwrap().utsname(ctx.task())?;
    let host = rustix::system::uname();
    let mut answer = [0u8; 6 * FIELD];
    let fields: [&[u8]; 6] = [
        b"Linux",
        &names.nodename,
        host.release().to_bytes(),
        host.version().to_bytes(),
        super::super::arch::MACHINE,
        &names.domainname,
    ];
    for (place, field) in answer.chunks_exact_mut(FIELD).zip(fields) {
        let len = field.len().min(FIELD - 1);
        place[..len].copy_from_slice(&field[..len]);
    }
    ctx.write(0, &answer)?;
    Ok(().into())
}

/// `sethostname(2)`, `setdomainname(2)`.
pub fn set_name(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let len = ctx.int(1);
    // Too long a name is the model's to refuse, after it has asked for the privilege, as Linux does.
    let name =
        if (0..FIELD as i32).contains(&len) { ctx.bytes_opt(0)?.unwrap_or_default() } else { vec![0; FIELD] };
    let mut kernel = ctx.server.kernel.lock().unwrap();
    if ctx.nr == 170 {
        kernel.sethostname(ctx.task(), &name)?;
    } else {
        kernel.setdomainname(ctx.task(), &name)?;
    }
    Ok(().into())
}
