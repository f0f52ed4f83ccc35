//! Exec: finding the program, its interpreter and its credentials (`execve(2)`); handing them to the new image.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi::{StartInfo, init};
use nomina_gate::region::SlotRef;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::exec::{ExecCred, ExecFile};
use nomina_kernel::vfs::{FsStruct, LookupFlags, Path, WalkContext, attr, d_path, namei};

use super::super::Server;
use super::super::context::walk_cred;
use super::super::fresh::{self, Memory};
use super::super::guest::{Exe, GuestThread, Image};
use super::super::request::{Ctx, Reply, host};
use super::super::worker::Answer;
use super::binfmt::{Format, Programs};
use super::clone;
use super::files::FdPath;

/// How many scripts may be each other's interpreters.
const MAX_SCRIPTS: usize = 5;

/// An exec that the shim is about to make natively.
pub struct PreparedExec {
    /// Who makes it.
    pub thread: Arc<GuestThread>,
    /// Memory of the image that asked, where the exec gives privilege.
    before: Option<Memory>,
    program: Arc<OwnedFd>,
    interpreter: Option<Arc<OwnedFd>>,
    /// Credentials of the new image; `None` when the model has them already.
    cred: Option<ExecCred>,
    secure: bool,
    /// The program.
    pub exe: Exe,
    exe_text: Vec<u8>,
    /// The thread's number before it takes the leader's.
    old_tid: i32,
    execfn: Vec<u8>,
    comm: Vec<u8>,
    /// Signals ignored, where the process is the init of a pid namespace.
    ignored: u64,
}

/// A program found.
pub struct Program {
    program: Arc<OwnedFd>,
    interpreter: Option<Arc<OwnedFd>>,
    exe: Exe,
    file: ExecFile,
    /// What replaces `argv[0]` when the file named is a script.
    pub argv_prefix: Vec<Vec<u8>>,
}

/// Finds the program that running `name` means. `start` overrides the first walk (`execveat` of a descriptor).
///
/// # Errors
/// Those of `execve(2)`: `ENOENT`, `EACCES`, `ENOEXEC`, `ELOOP` (scripts nested too deep), `ELIBBAD`-like `ENOEXEC`.
pub fn find(
    programs: &Programs,
    walk: &WalkContext<'_>,
    name: &[u8],
    start: Option<Path>,
    flags: LookupFlags,
) -> Result<Program> {
    let mut argv_prefix: Vec<Vec<u8>> = Vec::new();
    let mut name = name.to_vec();
    let mut place = start;
    for _ in 0..=MAX_SCRIPTS {
        let path = match place.take() {
            Some(path) => path,
            None => {
                let flags = if argv_prefix.is_empty() { flags } else { LookupFlags::FOLLOW };
                namei::path_lookup(walk, &name, flags)?
            }
        };
        attr::may_exec(&path, walk.cred)?;
        let attr = path.inode().getattr()?;
        let file = programs.open(&path, &attr)?;
        if let Format::Script(interpreter, argument) = &file.format {
            let (interpreter, argument) = (interpreter.clone(), argument.clone());
            let mut strings = vec![interpreter.clone()];
            strings.extend(argument);
            strings.push(name);
            strings.extend(argv_prefix.into_iter().skip(1));
            argv_prefix = strings;
            name = interpreter;
            continue;
        }
        let interpreter = match &file.format {
            Format::Other(errno) => return Err(*errno),
            Format::Elf(Some(interpreter)) => {
                let path = namei::path_lookup(walk, interpreter, LookupFlags::FOLLOW)?;
                attr::may_exec(&path, walk.cred)?;
                let attr = path.inode().getattr()?;
                Some(programs.open(&path, &attr)?.fd.clone())
            }
            _ => None,
        };
        let file_info = ExecFile {
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode,
            nosuid: path.mnt.flags().nosuid(),
            caps: file.caps,
        };
        let exe = Exe { path, id: (attr.dev, attr.ino) };
        return Ok(Program { program: file.fd.clone(), interpreter, exe, file: file_info, argv_prefix });
    }
    Err(Errno::ELOOP)
}

/// Prepares the exec of `program` by `thread`. `name` is the path as the caller gave it, or one made up where it gave a
/// descriptor only.
///
/// # Errors
/// Those of the model's `prepare_exec`.
pub fn prepare(
    server: &Server,
    thread: &Arc<GuestThread>,
    fs: &FsStruct,
    name: &[u8],
    by_descriptor: bool,
    mut program: Program,
) -> Result<()> {
    let caller = server
        .kernel
        .lock()
        .unwrap()
        .task(thread.task)
        .and_then(|task| Some((task.nsproxy()?.mnt_ns().clone(), task.cred().user_ns.clone())));
    let (mnt_ns, user_ns) = caller.ok_or(Errno::ESRCH)?;
    program.file.nosuid = !program.exe.path.mnt.may_suid(mnt_ns.mounts(), &user_ns);
    let cred = {
        let mut kernel = server.kernel.lock().unwrap();
        let cred = kernel.prepare_exec(thread.task, &program.file)?;
        thread.process.gains_privilege.store(cred.secure, Ordering::Release);
        cred
    };
    // The program of a process that does not run yet is prepared before there is a guest that could mean harm.
    let pid = thread.process.host_pid.load(std::sync::atomic::Ordering::Acquire);
    let before = match cred.secure && pid != 0 {
        true => Some(fresh::memory_of(pid).ok_or(Errno::EPERM)?),
        false => None,
    };
    let old_tid = {
        let kernel = server.kernel.lock().unwrap();
        kernel.task_pid_vnr(thread.task, thread.task)
    };
    let own = program.exe.path.dentry.name();
    // By a descriptor alone: since Linux 6.14 the file's own name, where the path made up says nothing.
    let named = if by_descriptor && own != b"/" { &own } else { name };
    let comm = named.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    *thread.process.exec.lock().unwrap() = Some(PreparedExec {
        thread: thread.clone(),
        before,
        program: program.program,
        interpreter: program.interpreter,
        secure: cred.secure,
        cred: Some(cred),
        old_tid,
        exe_text: d_path::d_path(&program.exe.path, &fs.root),
        exe: program.exe,
        execfn: name.to_vec(),
        comm: comm.to_vec(),
        ignored: 0,
    });
    Ok(())
}

/// [`nomina_abi::op::EXEC`].
pub fn exec(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, flags) = (ctx.int(0), ctx.int(2));
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = ctx.path(1)?;
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let mut start = None;
    // What Linux calls a program that has no path: "/dev/fd/N" or "/dev/fd/N/name".
    let mut shown = name.clone();
    if name.first() != Some(&b'/') && dirfd != libc::AT_FDCWD {
        shown = format!("/dev/fd/{dirfd}").into_bytes();
        if name.is_empty() {
            if flags & libc::AT_EMPTY_PATH == 0 {
                return Err(Errno::ENOENT);
            }
            start = Some(match ctx.fd_path(dirfd)? {
                FdPath::Place(path) => path,
                FdPath::Open(_, fd) => ctx.server.place_of_handle(fd.try_clone().map_err(host)?)?,
            });
        } else {
            shown.push(b'/');
            shown.extend_from_slice(&name);
        }
    }
    let fs = ctx.fs();
    let program = ctx.with_walk(dirfd, &name, |walk| {
        let mut program = find(&ctx.server.programs, walk, &name, start, lookup)?;
        // The script's own name in argv is the one shown.
        if let Some(script) = program.argv_prefix.iter_mut().find(|string| **string == name) {
            script.clone_from(&shown);
        }
        Ok(program)
    })?;
    let mut strings = Vec::new();
    for string in &program.argv_prefix {
        strings.extend_from_slice(string);
        strings.push(0);
    }
    let count = program.argv_prefix.len();
    prepare(ctx.server, ctx.thread, &fs, &shown, name.is_empty(), program)?;
    if let Some(prepared) = &mut *ctx.thread.process.exec.lock().unwrap() {
        prepared.ignored = ctx.args[3];
    }
    ctx.write_data(&strings)?;
    ctx.out[0] = count as u64;
    Ok(().into())
}

/// [`nomina_abi::op::EXEC_FAILED`].
pub fn failed(ctx: &mut Ctx<'_>) -> Result<Reply> {
    *ctx.thread.process.exec.lock().unwrap() = None;
    ctx.thread.process.gains_privilege.store(false, Ordering::Release);
    Ok(().into())
}

/// The thread of a process by the host pid that exec leaves it with: after an exec by another thread than the leader.
pub fn by_process(server: &Server, tid: i32) -> Option<Arc<GuestThread>> {
    server.guests.all().into_iter().find(|thread| {
        thread.process.host_pid.load(std::sync::atomic::Ordering::Acquire) == tid
            && thread.process.exec.lock().unwrap().is_some()
    })
}

/// [`nomina_abi::GATE_START`]: a new image, in `tid`, asks for its program.
///
/// # Errors
/// `EPERM` when no exec was prepared; `EBADF` when the limit is too low for the socket: the shim asks again; host errors.
pub fn start(server: &Arc<Server>, known: &Arc<GuestThread>, tid: i32, call: u64) -> Result<Answer> {
    let mut prepared = known.process.exec.lock().unwrap().take().ok_or(Errno::EPERM)?;
    let result = start_prepared(server, &mut prepared, tid, call);
    if result == Err(Errno::EBADF) {
        *known.process.exec.lock().unwrap() = Some(prepared);
    }
    result
}

fn start_prepared(server: &Arc<Server>, prepared: &mut PreparedExec, tid: i32, call: u64) -> Result<Answer> {
    let thread = &prepared.thread.clone();
    if let Some(before) = &prepared.before
        && !is_new_shim(server, tid, before)
    {
        return Err(Errno::EPERM);
    }
    if prepared.before.is_some() {
        server.renew_files(thread, call)?;
    }
    if let Some(cred) = prepared.cred.take() {
        begin(server, prepared, cred, tid)?;
    }
    let image = thread.image().ok_or(Errno::ESRCH)?;
    let region = &image.space().region;
    let mut answers = server.foresee(thread);
    let ahead = server.start_ahead(thread, region, answers.as_mut());
    let message = prepared.start_info(server, ahead)?;
    let mut fds: Vec<BorrowedFd<'_>> = vec![region.fd(), prepared.program.as_fd()];
    fds.extend(prepared.interpreter.as_ref().map(|fd| fd.as_fd()));
    let opened = answers.as_ref().filter(|_| ahead > 0).map_or(&[][..], |answers| &answers.opened);
    let for_opened = if opened.is_empty() { None } else { server.put_ahead(opened) };
    fds.extend(for_opened.as_ref().map(|socket| socket.as_fd()));
    server.hand_over(thread, call, &message, &fds)
}

/// Makes the process what the exec makes of it, in the model and here.
fn begin(server: &Arc<Server>, prepared: &PreparedExec, cred: ExecCred, tid: i32) -> Result<()> {
    let thread = &prepared.thread;
    // The new image's notes are its own.
    thread.harvest();
    let old = thread.image();
    // The old image's region serves the new one when nothing else can have it mapped that the new image must be safe
    // from: no other thread uses it, and the exec gives no privilege.
    let image = match old {
        Some(old) if !prepared.secure && old.index() == 0 && old.space().alone() => old,
        // The slot in a region that a vfork parent still uses is free again; any other region is gone with its last thread.
        _ => Image::first(server.spares.space().map_err(host)?),
    };
    let comm = &prepared.comm[..prepared.comm.len().min(15)];
    let outcome = {
        let mut kernel = server.kernel.lock().unwrap();
        let outcome = kernel.begin_exec(thread.task, &prepared.exe_text, comm, cred)?;
        thread.process.gains_privilege.store(false, Ordering::Release);
        outcome
    };
    super::super::ptrace::release(server, &outcome.untraced);
    for gone in outcome.vanished.into_iter().filter(|&gone| gone != thread.task) {
        if let Some(gone) = server.guests.by_task(gone) {
            server.guests.remove(&gone);
        }
    }
    if clone::host_tid(thread) != Some(tid) {
        server.guests.retid(thread, tid);
    }
    if thread.reports.load(Ordering::Acquire) {
        image.slot.call(nomina_abi::called::REPORTS);
    }
    let old = thread.image.lock().unwrap().replace(image);
    server.spares.bury_image(old);
    *thread.borrowed.lock().unwrap() = None;
    *thread.process.exe.lock().unwrap() = Some(prepared.exe.clone());
    server.reporters.executed(server, thread);
    Ok(())
}

impl PreparedExec {
    /// What the new image is told: a [`StartInfo`], cut behind the NUL of its last string.
    fn start_info(&self, server: &Server, ahead: u32) -> Result<Vec<u8>> {
        let (pid, tid, ids, ids_stay, always, traced, init) = {
            let kernel = server.kernel.lock().unwrap();
            let task = self.thread.task;
            let cred = kernel.task(task).ok_or(Errno::ESRCH)?.cred().clone();
            (
                kernel.task_tgid_vnr(task, task),
                kernel.task_pid_vnr(task, task),
                ids(&cred),
                cred.user_ns.parent().is_none(),
                kernel.seccomp(task).always(),
                kernel.tracee(task).map_or(0, super::super::ptrace::mode_of),
                match kernel.signal_of(task) {
                    Some(signal) if !signal.is_init() => init::NONE,
                    _ if server.first_pid_ns.get() == kernel.active_pid_ns(task).as_ref() => init::FIRST,
                    _ => init::NESTED,
                },
            )
        };
        let mut info = StartInfo {
            tid,
            pid,
            slot: 0,
            secure: u32::from(self.secure),
            ids,
            has_interp: u32::from(self.interpreter.is_some()),
            // A debugger would see the rewritten call sites.
            patch_after: if traced == 0 { server.patch_after } else { 0 },
            traced,
            old_tid: self.old_tid,
            ahead,
            init,
            ignored: self.ignored,
            ids_stay: ids_stay.into(),
            random: server.tokens.next(),
            always,
            comm: [0; 16],
            execfn: [0; 4096],
        };
        let comm = &self.comm[..self.comm.len().min(15)];
        info.comm[..comm.len()].copy_from_slice(comm);
        let execfn = &self.execfn[..self.execfn.len().min(4095)];
        info.execfn[..execfn.len()].copy_from_slice(execfn);
        // SAFETY: StartInfo is plain integers without padding between its fields.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const info).cast::<u8>(), size_of::<StartInfo>()) };
        Ok(bytes[..std::mem::offset_of!(StartInfo, execfn) + execfn.len() + 1].to_vec())
    }
}

/// The slot in its maker's region where a process may ask for an exec that has not introduced itself. `None` as soon as it or
/// its maker has other credentials or seccomp filters than at the fork: who shares the region must not be able to speak for somebody else.
pub fn borrowed_slot(server: &Server, thread: &GuestThread) -> Option<SlotRef> {
    let slot = thread.borrowed.lock().unwrap().as_ref()?.slot.clone();
    let maker = thread.maker.as_ref()?.0.upgrade()?;
    let kernel = server.kernel.lock().unwrap();
    let (own, makers) = (kernel.task(thread.task)?.cred(), kernel.task(maker.task)?.cred());
    let same_filters = kernel.seccomp(thread.task).is_same_as(&kernel.seccomp(maker.task));
    (Arc::ptr_eq(own, makers) && same_filters).then_some(slot)
}

/// Whether host process `pid` has become a new image of the shim since its memory was `before`.
fn is_new_shim(server: &Server, pid: i32, before: &Memory) -> bool {
    let shim = server.shim.get().and_then(|shim| rustix::fs::fstat(shim).ok());
    shim.is_some_and(|shim| fresh::runs(pid, (shim.st_dev, shim.st_ino)))
        && fresh::memory_of(pid).is_some_and(|now| now != *before)
}

fn ids(cred: &Cred) -> [u32; 4] {
    let ns = &cred.user_ns;
    [
        ns.from_kuid_munged(cred.uid),
        ns.from_kuid_munged(cred.euid),
        ns.from_kgid_munged(cred.gid),
        ns.from_kgid_munged(cred.egid),
    ]
}

/// Finds and prepares the program of a process that does not run yet, from `fs`. Gives what replaces `argv[0]` for a script.
///
/// # Errors
/// As [`find`].
pub fn prepare_first(
    server: &Arc<Server>,
    thread: &Arc<GuestThread>,
    fs: &FsStruct,
    name: &[u8],
) -> Result<Vec<Vec<u8>>> {
    let cred = {
        let kernel = server.kernel.lock().unwrap();
        kernel.task(thread.task).ok_or(Errno::ESRCH)?.cred().clone()
    };
    let program = walk_cred(&cred, false, |cred| {
        let walk = WalkContext { root: &fs.root, pwd: &fs.pwd, cred, umask: fs.umask };
        find(&server.programs, &walk, name, None, LookupFlags::FOLLOW)
    })?;
    let prefix = program.argv_prefix.clone();
    prepare(server, thread, fs, name, false, program)?;
    Ok(prefix)
}
