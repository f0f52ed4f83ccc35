//! The environment of the first program.
//!
//! It is inherited, with three kinds of variables changed. Those that say *who the user is* follow the user inside. Those
//! that *point at something hidden* (sockets of agents, of the desktop and of the service manager, credential caches,
//! directories of this session) are dropped, since what they name is not there. `container=nomina` tells programs that ask,
//! as `systemd-detect-virt(1)` does, where they are.
//!
//! Variables whose *value* is a secret (`GITHUB_TOKEN`, `AWS_SECRET_ACCESS_KEY` …) are kept: they are named in too many ways for
//! a list to be trusted, and programs run on purpose need them. Who runs what he does not trust clears the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{EnvChange, Identity};

/// Variables that point at something hidden.
const DROPPED: &[&str] = &[
    "DISPLAY",
    "GNOME_KEYRING_CONTROL",
    "GPG_AGENT_INFO",
    "GPG_TTY",
    "ICEAUTHORITY",
    "KRB5CCNAME",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAIL",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "SESSION_MANAGER",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "STY",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TMUX",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "XAUTHORITY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// Beginnings of names of variables that point at something hidden.
const DROPPED_PREFIXES: &[&str] = &["DBUS_", "WAYLAND_"];

const SBIN: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The environment for `identity` in `workdir`. `outside` is the caller's.
pub(super) fn environment(
    outside: &[(OsString, OsString)],
    clear: bool,
    changes: &[EnvChange],
    identity: &Identity,
    workdir: &Path,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = outside
        .iter()
        .filter(|(name, _)| if clear { name == "TERM" } else { !dropped(name) })
        .cloned()
        .collect();
    let name = identity.name.clone();
    set(&mut env, "HOME", identity.home.as_os_str().to_owned());
    for variable in ["USER", "LOGNAME"] {
        match &name {
            Some(name) => set(&mut env, variable, name.clone()),
            None => env.retain(|(known, _)| known != variable),
        }
    }
    set(&mut env, "SHELL", identity.shell.as_os_str().to_owned());
    set(&mut env, "PWD", workdir.as_os_str().to_owned());
    let path = search_path(get(&env, OsStr::new("PATH")), identity.uid);
    set(&mut env, "PATH", path);
    set(&mut env, "container", "nomina".into());
    for change in changes {
        match change {
            EnvChange::Set(name, value) => set(&mut env, name, value.clone()),
            EnvChange::Pass(name) => {
                if let Some(value) = get(outside, name) {
                    let value = value.to_owned();
                    set(&mut env, name, value);
                }
            }
        }
    }
    env
}

fn dropped(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    DROPPED.iter().any(|known| known.as_bytes() == bytes)
        || DROPPED_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
}

fn get<'e>(env: &'e [(OsString, OsString)], name: &OsStr) -> Option<&'e OsStr> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
}

/// Replaces in place, so that the order of the rest stays what programs have always seen.
fn set(env: &mut Vec<(OsString, OsString)>, name: impl AsRef<OsStr>, value: OsString) {
    let name = name.as_ref();
    match env.iter_mut().find(|(known, _)| known == name) {
        Some(slot) => slot.1 = value,
        None => env.push((name.to_owned(), value)),
    }
}

/// Ordinary users' `PATH` often lacks the directories where the administrator's commands are.
fn search_path(inherited: Option<&OsStr>, uid: u32) -> OsString {
    let mut path = inherited.filter(|path| !path.is_empty()).unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned();
    if uid == 0 {
        for dir in SBIN {
            if !path.as_bytes().split(|byte| *byte == b':').any(|known| known == dir.as_bytes()) {
                path.push(":");
                path.push(dir);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Identity {
        Identity {
            uid: 0,
            gid: 0,
            groups: vec![0],
            name: Some("root".into()),
            home: "/root".into(),
            shell: "/bin/bash".into(),
        }
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn value<'e>(env: &'e [(OsString, OsString)], name: &str) -> Option<&'e str> {
        get(env, OsStr::new(name)).and_then(OsStr::to_str)
    }

    #[test]
    fn who_the_user_is_follows_the_user_inside() {
        let outside =
            pairs(&[("HOME", "/home/alice"), ("USER", "alice"), ("SHELL", "/bin/zsh"), ("LANG", "C")]);
        let env = environment(&outside, false, &[], &root(), Path::new("/work"));
        assert_eq!(value(&env, "HOME"), Some("/root"));
        assert_eq!(value(&env, "USER"), Some("root"));
        assert_eq!(value(&env, "LOGNAME"), Some("root"));
        assert_eq!(value(&env, "SHELL"), Some("/bin/bash"));
        assert_eq!(value(&env, "PWD"), Some("/work"));
        assert_eq!(value(&env, "LANG"), Some("C"));
        assert_eq!(value(&env, "container"), Some("nomina"));
    }

    #[test]
    fn a_user_without_a_name_has_no_name_variables() {
        let nobody = Identity { uid: 4242, name: None, ..root() };
        let env = environment(
            &pairs(&[("USER", "alice"), ("LOGNAME", "alice")]),
            false,
            &[],
            &nobody,
            Path::new("/"),
        );
        assert_eq!((value(&env, "USER"), value(&env, "LOGNAME")), (None, None));
    }

    #[test]
    fn what_points_at_something_hidden_is_dropped_and_tokens_are_kept() {
        let outside = pairs(&[
            ("SSH_AUTH_SOCK", "/tmp/ssh"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus"),
            ("XAUTHORITY", "/home/alice/.Xauthority"),
            ("GITHUB_TOKEN", "t"),
        ]);
        let env = environment(&outside, false, &[], &root(), Path::new("/"));
        for name in ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "XAUTHORITY"] {
            assert_eq!(value(&env, name), None, "{name}");
        }
        assert_eq!(value(&env, "GITHUB_TOKEN"), Some("t"));
    }

    #[test]
    fn a_cleared_environment_keeps_the_terminal_only() {
        let outside = pairs(&[("TERM", "xterm"), ("GITHUB_TOKEN", "t"), ("PATH", "/opt/bin")]);
        let env = environment(&outside, true, &[], &root(), Path::new("/"));
        let mut names: Vec<&str> = env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "USER", "container"]);
        assert_eq!(value(&env, "PATH"), Some("/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"));
    }

    #[test]
    fn root_finds_the_administrators_commands_once_and_others_are_left_alone() {
        assert_eq!(
            search_path(Some(OsStr::new("/usr/sbin:/bin")), 0),
            "/usr/sbin:/bin:/usr/local/sbin:/sbin"
        );
        assert_eq!(search_path(Some(OsStr::new("/bin")), 1000), "/bin");
    }

    #[test]
    fn changes_come_last_and_in_order() {
        let changes = [
            EnvChange::Set("HOME".into(), "/a".into()),
            EnvChange::Set("HOME".into(), "/b".into()),
            EnvChange::Pass("SSH_AUTH_SOCK".into()),
            EnvChange::Pass("MISSING".into()),
        ];
        let outside = pairs(&[("SSH_AUTH_SOCK", "/tmp/ssh")]);
        let env = environment(&outside, true, &changes, &root(), Path::new("/"));
        assert_eq!(value(&env, "HOME"), Some("/b"));
        assert_eq!(value(&env, "SSH_AUTH_SOCK"), Some("/tmp/ssh"));
        assert_eq!(value(&env, "MISSING"), None);
    }
}
