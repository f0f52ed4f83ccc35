//! What services need of the caller: credentials, root and working directory, as path walk takes them.

use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::{Attr, FsStruct, Path, WalkContext, WalkCred};

use super::request::Ctx;

impl Ctx<'_> {
    /// The caller's task.
    pub fn task(&self) -> TaskId {
        self.thread.task
    }

    /// The caller's credentials.
    pub fn cred(&self) -> Arc<Cred> {
        let ask = || {
            let kernel = self.server.kernel.lock().unwrap();
            kernel.task(self.task()).map_or_else(|| self.server.nobody.clone(), |task| task.cred().clone())
        };
        self.cred.get_or_init(ask).clone()
    }

    /// A snapshot of the caller's root, working directory and umask.
    pub fn fs(&self) -> FsStruct {
        self.cred_and_fs().1
    }

    fn cred_and_fs(&self) -> (Arc<Cred>, FsStruct) {
        let kernel = self.server.kernel.lock().unwrap();
        match kernel.task(self.task()) {
            Some(task) => {
                let cred = self.cred.get_or_init(|| task.cred().clone()).clone();
                let fs = task.fs().cloned();
                drop(kernel);
                (cred, fs.map_or_else(|| self.server.first_fs.clone(), |fs| fs.lock().unwrap().clone()))
            }
            None => (self.server.nobody.clone(), self.server.first_fs.clone()),
        }
    }

    /// The start of a walk: the working directory, or what `dirfd` stands for.
    fn start(&self, fs: &FsStruct, dirfd: i32, name: &[u8]) -> Result<Path> {
        if name.first() == Some(&b'/') || dirfd == libc::AT_FDCWD {
            return Ok(fs.pwd.clone());
        }
        Ok(self.fd_path(dirfd)?.path().clone())
    }

    /// Calls `with` with the context for walking `name` from `dirfd`.
    ///
    /// # Errors
    /// `EBADF` for a bad `dirfd`; then those of `with`.
    pub fn with_walk<T>(
        &self,
        dirfd: i32,
        name: &[u8],
        with: impl FnOnce(&WalkContext<'_>) -> Result<T>,
    ) -> Result<T> {
        self.walk_as(dirfd, name, false, with)
    }

    /// As [`Ctx::with_walk`], with the real ids: `access(2)`.
    ///
    /// # Errors
    /// As [`Ctx::with_walk`].
    pub fn with_real_walk<T>(
        &self,
        dirfd: i32,
        name: &[u8],
        with: impl FnOnce(&WalkContext<'_>) -> Result<T>,
    ) -> Result<T> {
        self.walk_as(dirfd, name, true, with)
    }

    fn walk_as<T>(
        &self,
        dirfd: i32,
        name: &[u8],
        real: bool,
        with: impl FnOnce(&WalkContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let (cred, fs) = self.cred_and_fs();
        let start = self.start(&fs, dirfd, name)?;
        walk_cred(&cred, real, |walk_cred| {
            let runs = |attr: &Attr| self.server.guests.run((attr.dev, attr.ino));
            let cred = WalkCred { runs: Some(&runs), ..*walk_cred };
            with(&WalkContext { root: &fs.root, pwd: &start, cred: &cred, umask: fs.umask })
        })
    }

    /// Calls `with` with the caller's credentials as path walk takes them.
    pub fn with_cred<T>(&self, with: impl FnOnce(&WalkCred<'_>) -> T) -> T {
        walk_cred(&self.cred(), false, with)
    }

    /// Changes root, working directory or umask.
    ///
    /// # Errors
    /// `ESRCH` for a task that is gone; then those of `with`.
    pub fn change_fs<T>(&self, with: impl FnOnce(&mut FsStruct, &WalkCred<'_>) -> Result<T>) -> Result<T> {
        let cred = self.cred();
        let fs = {
            let kernel = self.server.kernel.lock().unwrap();
            kernel.task(self.task()).and_then(|task| task.fs().cloned()).ok_or(Errno::ESRCH)?
        };
        // Walk on a copy: a walk may take long, and other threads of the process walk meanwhile.
        let mut copy = fs.lock().unwrap().clone();
        let result = walk_cred(&cred, false, |cred| with(&mut copy, cred))?;
        *fs.lock().unwrap() = copy;
        Ok(result)
    }

    /// Attributes as the caller's user namespace shows them.
    pub fn seen(&self, attr: &Attr) -> Attr {
        let cred = self.cred();
        if cred.user_ns.parent().is_none() {
            return *attr;
        }
        Attr {
            uid: cred.user_ns.from_kuid_munged(attr.uid),
            gid: cred.user_ns.from_kgid_munged(attr.gid),
            ..*attr
        }
    }

    /// The number of the caller's network namespace.
    pub fn net_ns(&self) -> u64 {
        let kernel = self.server.kernel.lock().unwrap();
        kernel
            .task(self.task())
            .and_then(|task| task.nsproxy().map(|ns| ns.net_ns().common().inum()))
            .unwrap_or(0)
    }
}

/// Calls `with` with `cred` as path walk takes it; with `real`, as `access(2)` does: the real ids, and capabilities only
/// for real root.
pub fn walk_cred<T>(cred: &Cred, real: bool, with: impl FnOnce(&WalkCred<'_>) -> T) -> T {
    let (fsuid, fsgid) = if real { (cred.uid, cred.gid) } else { (cred.fsuid, cred.fsgid) };
    // access(2): without SECURE_NO_SETUID_FIXUP a non-root real uid has no effective capabilities, real root all permitted.
    let set = match (real, cred.user_ns.from_kuid(cred.uid) == Some(0)) {
        (false, _) => cred.cap_effective,
        (true, true) => cred.cap_permitted,
        (true, false) => Default::default(),
    };
    let groups = &cred.groups;
    let user_ns = &cred.user_ns;
    let mapped = |uid: u32, gid: u32| user_ns.from_kuid(uid).is_some() && user_ns.from_kgid(gid).is_some();
    let has = |cap: Cap| set.has(cap);
    with(&WalkCred {
        fsuid,
        fsgid,
        groups,
        dac_override: has(Cap::DAC_OVERRIDE),
        dac_read_search: has(Cap::DAC_READ_SEARCH),
        fowner: has(Cap::FOWNER),
        fsetid: has(Cap::FSETID),
        chown: has(Cap::CHOWN),
        // Device nodes and trusted attributes concern the whole system.
        mknod: has(Cap::MKNOD) && user_ns.parent().is_none(),
        sys_chroot: has(Cap::SYS_CHROOT),
        sys_admin: has(Cap::SYS_ADMIN) && user_ns.parent().is_none(),
        setfcap: has(Cap::SETFCAP),
        mapped: user_ns.parent().is_some().then_some(&mapped),
        runs: None,
    })
}
