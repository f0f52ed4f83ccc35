//! `nomina exec`: a process in the namespaces of one that runs, on the way by which the first guest came.
//!
//! The model makes it ([`nomina_kernel::enter`]), the guardian forks it ([`nomina_gate::launch::Enter`]). What it can do is what any
//! guest can: its filter, its Landlock domain and its requests are those of the first one. On the host it is the guardian's
//! child, so its orphans come to the guardian, who reaps them, and not to the init inside.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nomina_gate::launch::{Enter, Visit, c_strings};
use nomina_gate::listener::Listener;
use nomina_gate::sock;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::Errno;
use nomina_kernel::pid::PidType;
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::{FsStruct, LookupFlags, Opened, S_IFMT, S_IFREG, WalkContext, WalkCred, namei};
use rustix::event::{PollFd, PollFlags, poll};

use super::super::Server;
use super::super::context::walk_cred;
use super::super::guest::{AddressSpace, Gate, GuestFiles, GuestProcess, GuestThread, Image};
use super::super::lock::Mutex;
use super::super::sys::{clone, signal};
use super::super::{tty, worker};
use super::{Identity, Refusal};
use crate::inspector::protocol::{Answer, ExecRequest, REQUEST_MAX, Request, recv, send};
use crate::sandbox::{Stdio, passwd, program};

/// A file inside longer than this is not read.
const LONGEST: u64 = 1 << 20;

type Environment = Vec<(OsString, OsString)>;

/// A process of the model that has not been made on the host: taken back when it is dropped.
struct Unborn<'s> {
    server: &'s Arc<Server>,
    thread: Arc<GuestThread>,
}

impl Drop for Unborn<'_> {
    fn drop(&mut self) {
        // Forgotten already: it has been bound to a host process, whose end the reaper sees.
        if self.server.guests.forget(self.thread.token).is_some() {
            let _ = self.server.kernel.lock().unwrap().abort_clone(self.thread.task);
        }
    }
}

/// A regular file inside, as root sees it from `fs`. Empty where it cannot be read.
fn read_inside(fs: &FsStruct, name: &[u8]) -> Vec<u8> {
    let cred = WalkCred::root();
    let walk = WalkContext { root: &fs.root, pwd: &fs.root, cred: &cred, umask: 0 };
    let mut text = Vec::new();
    let Ok(path) = namei::path_lookup(&walk, name, LookupFlags::FOLLOW) else { return text };
    if path.inode().file_type() & S_IFMT != S_IFREG {
        return text;
    }
    if let Ok(Opened::Host(fd) | Opened::Copy(fd)) =
        path.inode().open((libc::O_RDONLY | libc::O_CLOEXEC) as u32)
    {
        let _ = std::fs::File::from(fd).take(LONGEST).read_to_end(&mut text);
    }
    text
}

/// Names of users by the `/etc/passwd` that the sandbox started with or has now.
pub fn user_names(server: &Server) -> HashMap<u32, String> {
    passwd::names(&read_inside(&server.first_fs, b"/etc/passwd"))
}

/// Starts what is asked for, tells `stream` so, and waits for its end.
pub(super) fn exec(
    server: &Arc<Server>,
    identity: &Identity,
    request: &ExecRequest,
    fds: Vec<OwnedFd>,
    stream: &UnixStream,
) -> Result<Answer, Refusal> {
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Refusal::new("exec: three descriptors must come with the request"));
    };
    let (task, visit) = start(server, identity, request, [stdin, stdout, stderr])?;
    let host_pid = server.host_pid_of(task).unwrap_or(0);
    let pid = {
        let kernel = server.kernel.lock().unwrap();
        let ns = server.first_pid_ns.get();
        kernel.task(task).zip(ns).map_or(0, |(task, ns)| task.pid().nr_ns(ns))
    };
    let told = send(stream, &Answer::Started { pid, host_pid }, &[]).is_ok();
    let status = attend(server, task, &visit, told.then_some(stream));
    if status.is_some() {
        reap(server, task);
    }
    status.map(|status| Answer::Exited { status }).ok_or_else(|| Refusal::new("exec: the sandbox has ended"))
}

/// Starts it. The supervisor keeps no copy of the streams: who reads the other end of a pipe must see its end.
fn start(
    server: &Arc<Server>,
    identity: &Identity,
    request: &ExecRequest,
    stdio: [OwnedFd; 3],
) -> Result<(TaskId, Visit), Refusal> {
    for (fd, which) in stdio.iter().zip(["stdin", "stdout", "stderr"]) {
        Stdio::check_fd(fd.as_fd(), which).map_err(|error| Refusal::new(error.to_string()))?;
    }
    let target = target_of(server, request.pid)?;
    let (target_cred, fs) = {
        let kernel = server.kernel.lock().unwrap();
        let gone = || Refusal::new("exec: the process whose namespaces were to be entered has ended");
        let task = kernel.task(target).ok_or_else(gone)?;
        let fs = task.fs().ok_or_else(gone)?.lock().map_err(|_| gone())?.clone();
        (task.cred().clone(), fs)
    };
    let mut env: Environment = Vec::new();
    if !request.clear_env {
        let own = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
        env.extend(identity.env.iter().map(|(key, value)| (own(key), own(value))));
    }
    let named = match &request.user_name {
        None => None,
        Some(name) => {
            let name = OsStr::from_bytes(name.as_slice());
            let entry = passwd::User::find_name(&read_inside(&fs, b"/etc/passwd"), name);
            let unknown = || {
                let shown = name.to_string_lossy();
                Refusal::new(format!("user {shown}: not in the sandbox's /etc/passwd; give the number"))
            };
            Some(entry.ok_or_else(unknown)?.uid)
        }
    };
    let cred = match (named.or(request.user), request.group) {
        (None, None) => (*target_cred).clone(),
        (user, group) => {
            let uid = user.unwrap_or_else(|| target_cred.show_uid());
            credentials(&target_cred, &fs, uid, group, &mut env)?
        }
    };
    for (key, value) in &request.env {
        set(&mut env, OsStr::from_bytes(key.as_slice()), OsStr::from_bytes(value.as_slice()));
    }

    let settled = server.settle_all();
    let entered = server.kernel.lock().unwrap().enter(target, cred.clone(), server.now());
    drop(settled);
    let task = entered.map_err(|errno| match errno {
        Errno::EAGAIN => Refusal::new("exec: the sandbox has as many processes as it may have (--pids)"),
        errno => Refusal::new(format!("exec: entering the namespaces: {}", errno.message())),
    })?;
    let failed = |what: &str, error: std::io::Error| Refusal::new(format!("exec: {what}: {error}"));
    let (thread, socket) = newcomer(server, task).map_err(|error| {
        let _ = server.kernel.lock().unwrap().abort_clone(task);
        failed("preparing a process", error)
    })?;
    let unborn = Unborn { server, thread: thread.clone() };
    let fs = at_workdir(server, task, &cred, fs, request)?;

    let argv: Vec<&[u8]> = request.argv.iter().map(|word| word.as_slice()).collect();
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(Refusal::new(
            "exec: no command; give the program to run inside, as in `nomina exec NAME sh`",
        ));
    };
    let prefix = program::find_program(server, &thread, OsStr::from_bytes(program), &env, &fs)
        .map_err(|error| Refusal { code: error.exit_code(), what: error.to_string() })?;
    let argv =
        prefix.iter().map(Vec::as_slice).chain(argv.iter().copied().skip(usize::from(!prefix.is_empty())));
    let nul = |_| Refusal::new("exec: a NUL byte in an argument or variable");
    let argv: Vec<CString> = c_strings(argv).map_err(nul)?;
    let envp: Vec<Vec<u8>> =
        env.iter().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let envp = c_strings(envp.iter().map(Vec::as_slice)).map_err(nul)?;

    let borrowed = [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()];
    server.streams.add(&borrowed).map_err(|error| failed("looking at the standard streams", error))?;
    if let Some(terminal) = tty::first_terminal(&borrowed) {
        let _ = server.devpts.adopt(terminal, cred.uid, 5);
    }
    let entrance = server.entrance.get().ok_or_else(|| Refusal::new("exec: the sandbox is just starting"))?;
    let launch = |error: nomina_gate::launch::LaunchError| Refusal::new(format!("exec: {error}"));
    let enter =
        Enter { stdio: borrowed, socket: socket.as_fd(), argv: &argv, envp: &envp, terminal: request.tty };
    let mut entered = entrance.enter(&enter).map_err(launch)?;
    let (listener, _) = Listener::new(entered.take_listener());
    let _ = thread.gate.listener.set(listener);
    clone::attach(server, entered.pid, thread.token)
        .ok_or_else(|| Refusal::new("exec: the process died before it started"))?;
    drop(unborn);
    worker::start(server, &thread.gate).map_err(|error| failed("starting workers", error))?;
    let visit = entered.go().map_err(launch)?;
    Ok((task, visit))
}

/// The leader of the process with number `pid` in the first pid namespace, or of the init there.
fn target_of(server: &Server, pid: Option<i32>) -> Result<TaskId, Refusal> {
    let kernel = server.kernel.lock().unwrap();
    let pid = pid.unwrap_or(1);
    let found = server.first_pid_ns.get().and_then(|ns| ns.find(pid)?.task(PidType::Pid));
    found.and_then(|task| kernel.leader_of(task)).ok_or_else(|| {
        Refusal::new(format!("pid {pid}: no such process inside; `nomina ps` shows their numbers"))
    })
}

/// Credentials of user `uid` of the target's user namespace, as a login would give them; sets `HOME`.
fn credentials(
    target: &Cred,
    fs: &FsStruct,
    uid: u32,
    group: Option<u32>,
    env: &mut Environment,
) -> Result<Cred, Refusal> {
    let entry = passwd::User::find(&read_inside(fs, b"/etc/passwd"), uid);
    let gid = group.or(entry.as_ref().map(|entry| entry.gid)).unwrap_or(uid);
    let user_ns = &target.user_ns;
    let unmapped = |what: &str, id: u32| {
        Refusal::new(format!(
            "{what} {id}: has no number in the user namespace of the process; see `nomina ns`"
        ))
    };
    let kuid = user_ns.make_kuid(uid).ok_or_else(|| unmapped("user", uid))?;
    let kgid = user_ns.make_kgid(gid).ok_or_else(|| unmapped("group", gid))?;
    let mut groups = vec![kgid];
    // A group given by hand is meant to be the only one.
    if let (None, Some(entry)) = (group, &entry) {
        let all = passwd::groups_of(&read_inside(fs, b"/etc/group"), &entry.name);
        groups.extend(all.into_iter().filter_map(|gid| user_ns.make_kgid(gid)).filter(|gid| *gid != kgid));
    }
    if let Some(entry) = entry.filter(|entry| entry.home.is_absolute()) {
        set(env, OsStr::new("HOME"), entry.home.as_os_str());
    }
    let user = Cred::user(kuid, kgid, &groups, user_ns.clone());
    if uid != 0 {
        return Ok(user);
    }
    let root = Cred::root(user_ns.clone());
    Ok(Cred { cap_permitted: root.cap_permitted, cap_effective: root.cap_effective, ..user })
}

fn set(env: &mut Environment, key: &OsStr, value: &OsStr) {
    match env.iter_mut().find(|(known, _)| known == key) {
        Some(known) => value.clone_into(&mut known.1),
        None => env.push((key.to_owned(), value.to_owned())),
    }
}

/// The host side of `task`, to be bound when it is forked; the other end of its hidden socket.
fn newcomer(server: &Arc<Server>, task: TaskId) -> std::io::Result<(Arc<GuestThread>, OwnedFd)> {
    let (ours, theirs) = sock::pair()?;
    let thread = Arc::new(GuestThread {
        task,
        host_tid: AtomicI32::new(0),
        gate: Arc::new(Gate::default()),
        token: server.tokens.next(),
        process: GuestProcess::first(),
        files: Mutex::new(Arc::new(GuestFiles::with_socket(ours))),
        image: Mutex::new(Some(Image::first(AddressSpace::new()?))),
        observed: Mutex::default(),
        reports: std::sync::atomic::AtomicBool::new(false),
        forks: std::sync::atomic::AtomicU32::new(0),
        borrowed: Mutex::default(),
        maker: None,
        hint: AtomicI32::new(0),
        made_ns: server.now(),
        made: Mutex::default(),
        loading: Mutex::default(),
        pace: Default::default(),
    });
    server.guests.expect(thread.clone());
    Ok((thread, theirs))
}

/// Moves the new process to its working directory.
fn at_workdir(
    server: &Server,
    task: TaskId,
    cred: &Cred,
    mut fs: FsStruct,
    request: &ExecRequest,
) -> Result<FsStruct, Refusal> {
    fs.umask = 0o022;
    let Some(dir) = &request.workdir else { return Ok(fs) };
    walk_cred(cred, false, |cred| fs.chdir(cred, dir.as_slice())).map_err(|errno| {
        let shown = String::from_utf8_lossy(dir.as_slice()).into_owned();
        Refusal::new(format!("workdir {shown}: {}; choose a directory that exists inside", errno.message()))
    })?;
    let own = server.kernel.lock().unwrap().task(task).and_then(|task| task.fs().cloned());
    if let Some(own) = own {
        *own.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fs.clone();
    }
    Ok(fs)
}

/// Waits for the process's end, passing on the signals that `client` sends. When the client goes the process goes on.
fn attend(server: &Arc<Server>, task: TaskId, visit: &Visit, client: Option<&UnixStream>) -> Option<i32> {
    let mut client = client;
    loop {
        let mut fds = vec![PollFd::new(visit, PollFlags::IN)];
        fds.extend(client.map(|client| PollFd::new(client, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if !fds[0].revents().is_empty() {
            return visit.wait();
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            match client.map(|client| recv::<(String, Request)>(client, REQUEST_MAX)) {
                Some(Ok(Some(((_, Request::Signal(number)), _)))) => {
                    let target = {
                        let kernel = server.kernel.lock().unwrap();
                        kernel.signal_target(kernel.init_task(), task)
                    };
                    let _ = signal::send_from_outside(server, &target, number);
                }
                _ => client = None,
            }
        }
    }
}

/// The guardian has reaped the process; so does the model, whose swapper is its parent.
fn reap(server: &Arc<Server>, task: TaskId) {
    let Some(thread) = server.guests.by_task(task) else { return };
    // Another thread may be about to note the exit. Should it take longer, the reaper's sweep does the rest.
    for _ in 0..50 {
        server.reaper.drain(server);
        let reaped = {
            let mut kernel = server.kernel.lock().unwrap();
            let outside = kernel.init_task();
            let host_pid = thread.process.host_pid.load(Ordering::Acquire);
            server.pids.depart(&kernel, task, host_pid, true);
            kernel.reap(outside, task)
        };
        if reaped != Err(Errno::ECHILD) {
            server.guests.remove(&thread);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
