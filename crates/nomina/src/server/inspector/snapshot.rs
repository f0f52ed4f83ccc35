//! The model as a [`View`].

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nomina_kernel::kernel::Kernel;
use nomina_kernel::mount::{MntNamespace, show_mountinfo};
use nomina_kernel::ns_common::NsCommon;
use nomina_kernel::nsproxy::NsProxy;
use nomina_kernel::pid::{Pid, PidType};
use nomina_kernel::pid_namespace::PidNamespace;
use nomina_kernel::task::{ExitState, Task, TaskId};
use nomina_kernel::user_namespace::{MapKind, UserNamespace};
use nomina_kernel::vfs::Path;

use super::super::Server;
use super::{Identity, enter};
use crate::egress::Publish;
use crate::inspector::view::{
    MountView, NamespaceView, NsProxyView, ProcessView, PublishedView, ThreadView, View,
};

/// How much of a command line is told: many guests may have very long ones.
const COMMAND_MAX: u64 = 4096;

/// Namespaces met so far, and where the mounts of mount namespaces are.
#[derive(Default)]
struct Namespaces {
    by_inum: BTreeMap<(&'static str, u64), NamespaceView>,
    mounts: Vec<(u64, Arc<MntNamespace>)>,
}

/// Everything inside, at one moment; with `mounts`, mounts too.
pub fn view(server: &Arc<Server>, identity: &Identity, mounts: bool) -> View {
    server.look_for_the_dead();
    for silent in server.guests.waiting() {
        server.seek(&silent);
    }
    let (mut processes, nsproxies, mut namespaces, ids) = {
        let kernel = server.kernel.lock().unwrap();
        gather(&kernel, server)
    };
    let names = enter::user_names(server);
    for (process, id) in processes.iter_mut().zip(ids) {
        describe(server, process, id);
        process.user = names.get(&process.uid).cloned();
    }
    if mounts {
        for (inum, ns) in &namespaces.mounts {
            let Some(root) = ns.root() else { continue };
            let text = show_mountinfo(ns, &Path::mount_root(&root));
            if let Some(view) = namespaces.by_inum.get_mut(&("mnt", *inum)) {
                view.mounts = Some(MountView::parse_all(&text));
            }
        }
    }
    View {
        id: identity.id.clone(),
        name: identity.name.clone(),
        supervisor: std::process::id() as i32,
        started: seconds_at(server, 0),
        published: published(server),
        processes,
        nsproxies,
        namespaces: namespaces.by_inum.into_values().collect(),
    }
}

fn published(server: &Server) -> Vec<PublishedView> {
    let ports = server.inet.uplink.get().map_or(&[][..], |attached| &attached.published);
    let view = |publish: &Publish| PublishedView {
        protocol: publish.protocol.to_string(),
        address: publish.address.to_string(),
        host_port: publish.host_port,
        guest_port: publish.guest_port,
    };
    ports.iter().map(view).collect()
}

/// Seconds since 1970 at `ns` of the sandbox's clock.
fn seconds_at(server: &Server, ns: u64) -> u64 {
    let ago = server.started.elapsed().saturating_sub(Duration::from_nanos(ns));
    let then = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
    // To the nearest, so that it does not differ from one look to the next.
    (then.duration_since(UNIX_EPOCH).unwrap_or_default() + Duration::from_millis(500)).as_secs()
}

/// What only the host knows, or what a lock of the model need not be held for.
fn describe(server: &Arc<Server>, process: &mut ProcessView, task: TaskId) {
    let zombie = process.state == "Z";
    let guest = server.guests.by_task(task);
    let host_pid = guest.map_or(0, |guest| guest.process.host_pid.load(Ordering::Acquire));
    if process.pid == 0 {
        process.host_pid = Some(std::process::id() as i32);
        process.state = "S".into();
        return;
    }
    if host_pid == 0 {
        return;
    }
    process.host_pid = Some(host_pid);
    if zombie {
        return;
    }
    if let Some(state) = host_state(host_pid) {
        process.state = state.to_string();
    }
    let mut cmdline = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{host_pid}/cmdline")) {
        let _ = file.take(COMMAND_MAX).read_to_end(&mut cmdline);
    }
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline);
    if !cmdline.is_empty() {
        process.command =
            cmdline.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    }
}

/// The letter of a host process's state.
fn host_state(pid: i32) -> Option<char> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).map(|&byte| char::from(byte))
}

fn gather(kernel: &Kernel, server: &Server) -> (Vec<ProcessView>, Vec<NsProxyView>, Namespaces, Vec<TaskId>) {
    let first_ns = server.first_pid_ns.get();
    let nr = |pid: &Pid| first_ns.map_or(0, |ns| pid.nr_ns(ns));
    let mut namespaces = Namespaces::default();
    let mut nsproxies: Vec<NsProxyView> = Vec::new();
    let mut known: HashMap<*const NsProxy, usize> = HashMap::new();
    let mut processes = Vec::new();
    let mut ids = Vec::new();
    for leader in kernel.tasks() {
        let Some(signal) = kernel.signal_of(leader.id()).filter(|signal| signal.leader() == leader.id())
        else {
            continue;
        };
        let mut threads = Vec::new();
        for task in signal.threads().iter().filter_map(|&id| kernel.task(id)) {
            let nsproxy = task.nsproxy().map(|nsproxy| {
                *known.entry(Arc::as_ptr(nsproxy)).or_insert_with(|| {
                    nsproxies.push(nsproxy_view(nsproxy, nsproxies.len()));
                    nsproxies.len() - 1
                })
            });
            namespaces.add_task(task);
            threads.push(ThreadView {
                tid: nr(task.pid()),
                nsproxy,
                user_ns: task.cred().user_ns.common().inum(),
                pid_ns: task.pid().ns().common().inum(),
            });
        }
        let cred = leader.cred();
        let parent = kernel.signal_of(leader.real_parent()).map_or(0, |parent| nr(parent.pid(PidType::Tgid)));
        processes.push(ProcessView {
            pid: nr(leader.pid()),
            pids: leader.pid().numbers().iter().skip(1).map(|upid| upid.nr).collect(),
            host_pid: None,
            ppid: parent,
            pgid: nr(signal.pid(PidType::Pgid)),
            sid: nr(signal.pid(PidType::Sid)),
            uid: cred.uid,
            user: None,
            gid: cred.gid,
            state: if leader.exit_state() == ExitState::Zombie { "Z" } else { "?" }.into(),
            started: seconds_at(server, leader.start_time()),
            comm: String::from_utf8_lossy(&leader.comm).into_owned(),
            command: Vec::new(),
            threads,
        });
        ids.push(leader.id());
    }
    (processes, nsproxies, namespaces, ids)
}

fn nsproxy_view(nsproxy: &NsProxy, id: usize) -> NsProxyView {
    let inum = |common: &NsCommon| common.inum();
    NsProxyView {
        id,
        count: nsproxy.count(),
        uts: inum(nsproxy.uts.common()),
        ipc: inum(nsproxy.ipc.common()),
        mnt: inum(nsproxy.mnt.common()),
        pid_for_children: inum(nsproxy.pid_for_children.common()),
        net: inum(nsproxy.net.common()),
        cgroup: inum(nsproxy.cgroup.common()),
        time: inum(nsproxy.time.common()),
        time_for_children: inum(nsproxy.time_for_children.common()),
    }
}

impl Namespaces {
    fn add(&mut self, common: &NsCommon) -> &mut NamespaceView {
        let kind = common.kind().name();
        self.by_inum.entry((kind, common.inum())).or_insert_with(|| NamespaceView {
            kind: kind.into(),
            inum: common.inum(),
            count: (kind != "user").then(|| common.count()),
            owner: common.owner().map(|owner| owner.common().inum()),
            ..NamespaceView::default()
        })
    }

    fn add_pid_ns(&mut self, ns: &PidNamespace) -> &mut NamespaceView {
        let view = self.add(ns.common());
        view.level = Some(ns.level());
        view.parent = ns.parent().map(|parent| parent.common().inum());
        view
    }

    /// A user namespace and those it is in.
    fn add_user_ns(&mut self, ns: &UserNamespace) -> &mut NamespaceView {
        if let Some(parent) = ns.parent() {
            self.add_user_ns(parent);
        }
        let view = self.add(ns.common());
        view.level = Some(ns.level());
        view.parent = ns.parent().map(|parent| parent.common().inum());
        view.owner_uid = Some(ns.owner_uid());
        let extents =
            |kind| ns.map(kind).extents().iter().map(|e| [e.first, e.lower_first, e.count]).collect();
        (view.uid_map, view.gid_map) = (extents(MapKind::Uid), extents(MapKind::Gid));
        view
    }

    fn add_task(&mut self, task: &Task) {
        self.add_user_ns(&task.cred().user_ns).tasks += 1;
        self.add_pid_ns(task.pid().ns());
        let Some(nsproxy) = task.nsproxy() else { return };
        // A zombie has left its namespaces but for the number it still has.
        self.add_pid_ns(task.pid().ns()).tasks += 1;
        self.add_pid_ns(&nsproxy.pid_for_children);
        for common in
            [nsproxy.ipc.common(), nsproxy.net.common(), nsproxy.cgroup.common(), nsproxy.time.common()]
        {
            self.add(common).tasks += 1;
        }
        self.add(nsproxy.time_for_children.common());
        let uts = self.add(nsproxy.uts.common());
        uts.tasks += 1;
        uts.hostname = Some(String::from_utf8_lossy(&nsproxy.uts.names().nodename).into_owned());
        let mnt = self.add(nsproxy.mnt.common());
        mnt.tasks += 1;
        if mnt.tasks == 1 {
            self.mounts.push((nsproxy.mnt.common().inum(), nsproxy.mnt.mounts().clone()));
        }
    }
}
