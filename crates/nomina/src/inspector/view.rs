//! What a sandbox looks like from outside: processes, nsproxies, namespaces and mounts, as the model has them at one moment.

use serde::{Deserialize, Serialize};

/// A sandbox at one moment. In JSON it is one element of what `nomina ns --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// `--name`.
    pub name: Option<String>,
    /// Host pid of the supervisor.
    pub supervisor: i32,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// Ports that the host listens on for the sandbox.
    pub published: Vec<PublishedView>,
    /// Processes in the order they were made; first the one that stands for Nomina itself, number 0, whose namespaces
    /// are the initial ones.
    pub processes: Vec<ProcessView>,
    /// Sets of namespaces, by the order of their first tasks.
    pub nsproxies: Vec<NsProxyView>,
    /// Namespaces that a task or one of them is in, by kind and number.
    pub namespaces: Vec<NamespaceView>,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishedView {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The host's address.
    pub address: String,
    /// The host's port.
    pub host_port: u16,
    /// The port inside.
    pub guest_port: u16,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessView {
    /// Number in the sandbox's first pid namespace.
    pub pid: i32,
    /// Numbers from the first pid namespace inwards.
    pub pids: Vec<i32>,
    /// Number on the host; `None` while that is not known.
    pub host_pid: Option<i32>,
    /// The parent's number; 0 for the first process and for who entered from outside.
    pub ppid: i32,
    /// Process group, 0 where it is Nomina's.
    pub pgid: i32,
    /// Session, 0 where it is Nomina's.
    pub sid: i32,
    /// Real user as the sandbox's first user namespace numbers it.
    pub uid: u32,
    /// Its name by the sandbox's `/etc/passwd`.
    pub user: Option<String>,
    /// Real group.
    pub gid: u32,
    /// As in `ps`: `R` running, `S` and `D` sleeping, `T` stopped, `Z` zombie.
    pub state: String,
    /// When it was made, in seconds since 1970.
    pub started: u64,
    /// `comm`.
    pub comm: String,
    /// Arguments, of which the first 4 KiB are told; empty for zombies.
    pub command: Vec<String>,
    /// Threads, the leader first.
    pub threads: Vec<ThreadView>,
}

/// A thread: a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadView {
    /// Number in the sandbox's first pid namespace.
    pub tid: i32,
    /// Number of its [`NsProxyView`]; `None` after its end.
    pub nsproxy: Option<usize>,
    /// Inode number of the user namespace its credentials are of.
    pub user_ns: u64,
    /// Inode number of the pid namespace it is in (not the one for its children).
    pub pid_ns: u64,
}

/// A set of namespaces: `struct nsproxy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NsProxyView {
    /// Number, from 0, in this view.
    pub id: usize,
    /// How many tasks hold it, as the model counts.
    pub count: usize,
    /// UTS namespace, by inode number; so are the others.
    pub uts: u64,
    /// IPC namespace.
    pub ipc: u64,
    /// Mount namespace.
    pub mnt: u64,
    /// Pid namespace for children.
    pub pid_for_children: u64,
    /// Network namespace.
    pub net: u64,
    /// Cgroup namespace.
    pub cgroup: u64,
    /// Time namespace.
    pub time: u64,
    /// Time namespace for children.
    pub time_for_children: u64,
}

impl NsProxyView {
    /// The namespaces it points to, each once: kind and inode number.
    pub fn namespaces(&self) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("uts", self.uts),
            ("ipc", self.ipc),
            ("mnt", self.mnt),
            ("pid", self.pid_for_children),
            ("net", self.net),
            ("cgroup", self.cgroup),
            ("time", self.time),
        ];
        if self.time_for_children != self.time {
            all.push(("time", self.time_for_children));
        }
        all
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceView {
    /// `cgroup`, `ipc`, `mnt`, `net`, `pid`, `time`, `user` or `uts`.
    pub kind: String,
    /// Inode number: what `/proc/PID/ns/*` shows.
    pub inum: u64,
    /// How many nsproxies point to it, as the model counts; `None` for user namespaces, which credentials hold.
    pub count: Option<usize>,
    /// How many tasks are in it.
    pub tasks: usize,
    /// The user namespace that owns it; for a user namespace its parent.
    pub owner: Option<u64>,
    /// The parent of a pid or user namespace.
    pub parent: Option<u64>,
    /// Depth of a pid or user namespace.
    pub level: Option<usize>,
    /// Host name of a UTS namespace.
    pub hostname: Option<String>,
    /// Who made a user namespace: his number in the initial one.
    pub owner_uid: Option<u32>,
    /// `uid_map` of a user namespace: first inside, first in the initial namespace, count.
    pub uid_map: Vec<[u32; 3]>,
    /// `gid_map`.
    pub gid_map: Vec<[u32; 3]>,
    /// Mounts of a mount namespace when asked for, in the order of mountinfo.
    pub mounts: Option<Vec<MountView>>,
}

/// A mount: a line of `proc_pid_mountinfo(5)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountView {
    /// Its number.
    pub id: u32,
    /// That of the mount it is on.
    pub parent: u32,
    /// Where it is.
    pub mountpoint: String,
    /// What of the file system is shown there.
    pub root: String,
    /// Type of the file system.
    pub fstype: String,
    /// Source.
    pub source: String,
    /// Options of the mount.
    pub options: String,
    /// Options of the file system.
    pub super_options: String,
    /// Its peer group, when it is shared.
    pub shared: Option<u32>,
    /// The peer group it gets mounts from, when it is a slave.
    pub master: Option<u32>,
    /// Whether it cannot be bound.
    pub unbindable: bool,
}

impl View {
    /// Every thread with its process.
    pub fn tasks(&self) -> impl Iterator<Item = (&ProcessView, &ThreadView)> {
        self.processes.iter().flat_map(|process| process.threads.iter().map(move |thread| (process, thread)))
    }

    /// The namespace of a kind and number.
    pub fn namespace(&self, kind: &str, inum: u64) -> Option<&NamespaceView> {
        self.namespaces.iter().find(|ns| ns.kind == kind && ns.inum == inum)
    }

    /// Its name, or else its id.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }
}

impl ProcessView {
    /// The command line as people read it; the name in brackets where there is none.
    pub fn shown_command(&self) -> String {
        if self.command.is_empty() { format!("[{}]", self.comm) } else { self.command.join(" ") }
    }
}

impl MountView {
    /// How it propagates, in the words of `findmnt(8)`.
    pub fn propagation(&self) -> String {
        let mut words = Vec::new();
        if let Some(group) = self.shared {
            words.push(format!("shared:{group}"));
        }
        if let Some(group) = self.master {
            words.push(format!("master:{group}"));
        }
        if self.unbindable {
            words.push("unbindable".into());
        }
        if words.is_empty() { "private".into() } else { words.join(" ") }
    }

    /// Reads the lines of a mountinfo.
    pub fn parse_all(text: &[u8]) -> Vec<MountView> {
        text.split(|&byte| byte == b'\n').filter_map(MountView::parse).collect()
    }

    fn parse(line: &[u8]) -> Option<MountView> {
        let words: Vec<String> = line.split(|&byte| byte == b' ').map(unmangle).collect();
        let dash = words.iter().position(|word| word == "-")?;
        let number = |text: &str| text.parse().ok();
        let field = |name: &str| words[6..dash].iter().find_map(|word| number(word.strip_prefix(name)?));
        Some(MountView {
            id: number(&words[0])?,
            parent: number(words.get(1)?)?,
            root: words.get(3)?.clone(),
            mountpoint: words.get(4)?.clone(),
            options: words.get(5)?.clone(),
            shared: field("shared:"),
            master: field("master:"),
            unbindable: words[6..dash].iter().any(|word| word == "unbindable"),
            fstype: words.get(dash + 1)?.clone(),
            source: words.get(dash + 2)?.clone(),
            super_options: words.get(dash + 3)?.clone(),
        })
    }
}

/// A word of mountinfo without its octal escapes.
fn unmangle(word: &[u8]) -> String {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let octal =
            tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')) as u8);
                rest = &tail[3..];
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_taken_apart() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\040a rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue\n\
            1 0 0:1 / / ro unbindable - tmpfs none rw\n";
        let mounts = MountView::parse_all(text);
        assert_eq!(mounts.len(), 2);
        let first = &mounts[0];
        assert_eq!((first.id, first.parent, first.shared, first.master), (36, 35, Some(7), Some(1)));
        assert_eq!((first.mountpoint.as_str(), first.root.as_str()), ("/mnt a", "/mnt1"));
        assert_eq!((first.fstype.as_str(), first.super_options.as_str()), ("ext3", "rw,errors=continue"));
        assert_eq!(first.propagation(), "shared:7 master:1");
        assert_eq!(mounts[1].propagation(), "unbindable");
    }
}
