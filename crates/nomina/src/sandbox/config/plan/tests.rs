//! The rules, tried on directories below `/tmp`, which is hidden, so that they stand for projects in a home directory.

use super::*;
use crate::sandbox::{Bind, Sandbox, User};

struct Place {
    dir: tempfile::TempDir,
    host: HostFacts,
}

/// A host with a home directory (`home`), a project in it (`home/project`, the current directory) and a scratch directory.
fn place() -> Place {
    let dir = tempfile::Builder::new().prefix("plan").tempdir_in("/tmp").unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    for sub in ["home/project", "home/other", "scratch"] {
        fs::create_dir_all(path.join(sub)).unwrap();
    }
    let host = HostFacts {
        cwd: path.join("home/project"),
        uid: rustix::process::getuid().as_raw(),
        homes: vec![path.join("home")],
        environ: vec![("PATH".into(), "/usr/bin".into())],
        scratch: vec![path.join("scratch"), "/tmp".into()],
        token: "t".into(),
    };
    Place { dir, host }
}

impl Place {
    fn path(&self, sub: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(sub)
    }

    fn plan(&self, builder: SandboxBuilder) -> Result<Plan, ConfigError> {
        builder.plan(&self.host)
    }
}

fn at<'p>(plan: &'p Plan, dst: &Path) -> Option<&'p MountKind> {
    plan.mounts.iter().find(|mount| mount.dst == dst).map(|mount| &mount.kind)
}

fn bind(src: impl Into<PathBuf>, dst: Option<&str>, read_only: bool) -> Bind {
    Bind { src: src.into(), dst: dst.map(PathBuf::from), read_only }
}

#[test]
fn the_current_directory_below_a_hidden_one_is_copy_on_write_at_its_own_path() {
    let place = place();
    let plan = place.plan(Sandbox::builder()).unwrap();
    assert!(plan.root.hidden.iter().any(|hidden| hidden.path == Path::new("/tmp") && hidden.mode == 0o1777));
    let Some(MountKind::Overlay(overlay)) = at(&plan, &place.host.cwd) else { panic!("{:?}", plan.mounts) };
    assert_eq!(overlay.lower, place.host.cwd);
    assert!(overlay.upper.starts_with(plan.layer.dir.join("at")));
    assert!(overlay.work.starts_with(plan.layer.dir.join("work/at")));
    assert_eq!(plan.workdir, place.host.cwd);
    assert!(plan.notes.is_empty());
}

#[test]
fn a_current_directory_that_the_root_shows_needs_no_mount() {
    let mut place = place();
    place.host.cwd = "/usr/bin".into();
    let plan = place.plan(Sandbox::builder()).unwrap();
    assert_eq!(plan.mounts.len(), own_mounts().len());
    assert_eq!(plan.workdir, Path::new("/usr/bin"));
}

#[test]
fn standing_in_the_home_directory_or_above_does_not_show_it_and_is_remarked() {
    let mut place = place();
    for cwd in [place.path("home"), place.path("")] {
        place.host.cwd = cwd.components().collect();
        let plan = place.plan(Sandbox::builder()).unwrap();
        assert_eq!(at(&plan, &place.host.cwd), None);
        assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
        assert_eq!(plan.workdir, plan.identity.home);
    }
}

#[test]
fn the_hosts_processes_and_devices_are_neither_shown_nor_underneath() {
    let mut place = place();
    place.host.cwd = "/proc/self".into();
    let plan = place.plan(Sandbox::builder()).unwrap();
    assert_eq!(plan.mounts, own_mounts());
    assert_eq!(plan.notes.len(), 1);
    for own in OWN {
        assert!(plan.root.hidden.iter().any(|hidden| hidden.path == Path::new(own)), "{own}");
    }
}

#[test]
fn the_home_directory_is_shown_when_asked_for() {
    let mut place = place();
    place.host.cwd = place.path("home");
    let plan = place.plan(Sandbox::builder().rw(".")).unwrap();
    let kind = MountKind::Host { src: place.path("home"), read_only: false, directory: true };
    assert_eq!(at(&plan, &place.path("home")), Some(&kind));
    assert_eq!(plan.workdir, place.path("home"));
    assert!(plan.notes.is_empty());
}

#[test]
fn writing_through_replaces_the_copy_on_write_view() {
    let place = place();
    let plan = place.plan(Sandbox::builder().rw(".")).unwrap();
    assert!(matches!(at(&plan, &place.host.cwd), Some(MountKind::Host { read_only: false, .. })));
    assert_eq!(plan.mounts.iter().filter(|mount| mount.dst == place.host.cwd).count(), 1);
}

#[test]
fn an_inner_mount_comes_after_the_outer_one() {
    let place = place();
    let sub = place.host.cwd.join("data");
    let plan = place.plan(Sandbox::builder().tmpfs(&sub).bind(bind("/usr", Some("/opt/a/b"), true))).unwrap();
    let order = |dst: &Path| plan.mounts.iter().position(|mount| mount.dst == dst).unwrap();
    assert!(order(&place.host.cwd) < order(&sub));
    assert!(order(Path::new("/dev")) < order(Path::new("/dev/shm")));
    assert!(matches!(at(&plan, Path::new("/opt/a/b")), Some(MountKind::Host { read_only: true, .. })));
}

#[test]
fn a_path_is_shown_where_it_was_named_and_parents_are_resolved() {
    let place = place();
    std::os::unix::fs::symlink(place.path("home/other"), place.host.cwd.join("link")).unwrap();
    let plan = place.plan(Sandbox::builder().rw("./link")).unwrap();
    let kind = MountKind::Host { src: place.path("home/other"), read_only: false, directory: true };
    assert_eq!(at(&plan, &place.host.cwd.join("link")), Some(&kind));
    let plan = place.plan(Sandbox::builder().rw("../other")).unwrap();
    assert_eq!(at(&plan, &place.path("home/other")), Some(&kind));
}

#[test]
fn a_single_file_can_be_bound() {
    let place = place();
    fs::write(place.host.cwd.join("file"), "").unwrap();
    let plan = place.plan(Sandbox::builder().bind(bind("file", Some("/etc/file"), false))).unwrap();
    assert!(matches!(at(&plan, Path::new("/etc/file")), Some(MountKind::Host { directory: false, .. })));
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let place = place();
    let refused = |builder| place.plan(builder).unwrap_err();
    let builder = Sandbox::builder;
    assert!(matches!(refused(builder().rw("missing")), ConfigError::HostPath { option: "rw", .. }));
    assert!(matches!(refused(builder().rw("/")), ConfigError::KernelFiles { .. }));
    assert!(matches!(
        refused(builder().bind(bind("/proc/self", Some("/a"), true))),
        ConfigError::KernelFiles { .. }
    ));
    assert!(matches!(refused(builder().bind(bind("/usr", Some("/"), true))), ConfigError::WholeRoot { .. }));
    assert!(matches!(refused(builder().tmpfs("/")), ConfigError::WholeRoot { .. }));
    assert!(matches!(refused(builder().tmpfs("a")), ConfigError::InnerPath { .. }));
    assert!(matches!(refused(builder().tmpfs("/a/../b")), ConfigError::InnerPath { .. }));
    assert!(matches!(refused(builder().tmpfs("/proc/x")), ConfigError::Reserved { .. }));
    assert!(matches!(refused(builder().tmpfs("/a").tmpfs("/a/.")), ConfigError::Duplicate { .. }));
}

#[test]
fn a_thrown_away_layer_is_put_where_nothing_is_written_through() {
    let place = place();
    let plan = place.plan(Sandbox::builder()).unwrap();
    let layer = Layer { dir: place.path("scratch/nomina-t"), disposal: Disposal::Remove };
    assert_eq!(plan.layer, layer);
    let plan = place.plan(Sandbox::builder().rw(place.path("scratch"))).unwrap();
    assert_eq!(plan.layer.dir, Path::new("/tmp/nomina-t"));
    assert!(matches!(place.plan(Sandbox::builder().rw("/tmp")), Err(ConfigError::NoScratch)));
}

#[test]
fn a_layer_in_what_is_written_through_is_refused() {
    let place = place();
    let keep = Upper::Keep("layer".into());
    let plan = place.plan(Sandbox::builder().upper(keep.clone()).rw("."));
    assert!(matches!(plan, Err(ConfigError::LayerExposed { .. })));
    assert!(place.plan(Sandbox::builder().upper(keep).bind(bind(".", None, true))).is_ok());
}

#[test]
fn a_layer_in_the_current_directory_is_not_seen_in_itself() {
    let place = place();
    let plan = place.plan(Sandbox::builder().upper(Upper::Keep("layer".into()))).unwrap();
    let Some(MountKind::Overlay(overlay)) = at(&plan, &place.host.cwd) else { panic!() };
    assert_eq!(overlay.hidden.len(), 1);
    assert_eq!(overlay.hidden[0].path, Path::new("/layer"));
    // The root hides it with /tmp already.
    assert!(!plan.root.hidden.iter().any(|hidden| hidden.path.ends_with("layer")));
}

#[test]
fn keep_wants_a_new_or_empty_directory_and_upper_a_kept_one() {
    let place = place();
    fs::create_dir_all(place.path("kept/root")).unwrap();
    fs::create_dir_all(place.path("empty")).unwrap();
    fs::create_dir_all(place.path("photos/2020")).unwrap();
    let with = |upper| place.plan(Sandbox::builder().upper(upper));
    assert!(matches!(with(Upper::Keep(place.path("kept"))), Err(ConfigError::KeepNotEmpty(_))));
    assert!(matches!(with(Upper::Keep(place.path("no/such"))), Err(ConfigError::HostPath { .. })));
    assert_eq!(with(Upper::Keep(place.path("new"))).unwrap().layer.dir, place.path("new"));
    assert!(with(Upper::Keep(place.path("empty"))).is_ok());
    assert!(matches!(with(Upper::Reuse(place.path("photos"))), Err(ConfigError::NotLayer(_))));
    assert!(matches!(with(Upper::Reuse(place.path("gone"))), Err(ConfigError::HostPath { .. })));
    assert!(with(Upper::Reuse(place.path("empty"))).is_ok());
    let plan = with(Upper::Reuse(place.path("kept"))).unwrap();
    assert_eq!(plan.layer, Layer { dir: place.path("kept"), disposal: Disposal::Keep });
    assert_eq!(plan.root.upper, place.path("kept/root"));
}

#[test]
fn another_root_shows_nothing_of_the_host_and_hides_nothing_of_its_own() {
    let place = place();
    fs::create_dir_all(place.path("tree/etc")).unwrap();
    fs::create_dir_all(place.path("tree/home")).unwrap();
    fs::write(place.path("tree/etc/passwd"), "root:x:0:0::/root:/bin/ash\n").unwrap();
    let plan = place.plan(Sandbox::builder().root(Root::Dir(place.path("tree")))).unwrap();
    assert_eq!(plan.root.lower, place.path("tree"));
    assert!(plan.root.hidden.is_empty());
    assert_eq!(plan.mounts.len(), own_mounts().len());
    assert_eq!(plan.workdir, Path::new("/"));
    assert_eq!(plan.identity.shell, Path::new("/bin/ash"));
    // /bin/ash and /bin/bash are not in the tree.
    assert_eq!(plan.argv, ["/bin/sh"]);
}

#[test]
fn directories_below_another_root_are_in_the_order_given_and_hold_users_too() {
    let place = place();
    for dir in ["top", "middle/etc", "base"] {
        fs::create_dir_all(place.path(dir)).unwrap();
    }
    fs::write(place.path("middle/etc/passwd"), "root:x:0:0::/root:/bin/ash\n").unwrap();
    let layers = |root| Sandbox::builder().root(root).lower(place.path("middle")).lower(place.path("base"));
    let plan = place.plan(layers(Root::Dir(place.path("top")))).unwrap();
    assert_eq!(
        (plan.root.lower, plan.root.below),
        (place.path("top"), vec![place.path("middle"), place.path("base")])
    );
    assert_eq!(plan.identity.shell, Path::new("/bin/ash"));
    assert!(matches!(place.plan(layers(Root::Host)), Err(ConfigError::Lower(_))));
}

#[test]
fn a_root_in_its_own_layer_is_refused() {
    let place = place();
    fs::create_dir_all(place.path("kept/root")).unwrap();
    let builder =
        Sandbox::builder().root(Root::Dir(place.path("kept/root"))).upper(Upper::Reuse(place.path("kept")));
    assert!(matches!(place.plan(builder), Err(ConfigError::RootInLayer { .. })));
}

#[test]
fn the_working_directory_may_be_relative_to_the_default_one() {
    let place = place();
    assert_eq!(place.plan(Sandbox::builder().workdir("/usr")).unwrap().workdir, Path::new("/usr"));
    let plan = place.plan(Sandbox::builder().workdir("sub")).unwrap();
    assert_eq!(plan.workdir, place.host.cwd.join("sub"));
    assert!(plan.env.contains(&("PWD".into(), plan.workdir.clone().into_os_string())));
}

#[test]
fn the_users_home_is_made_in_a_hidden_place() {
    let identity = Identity {
        uid: 1000,
        gid: 100,
        groups: vec![100],
        name: None,
        home: "/home/alice".into(),
        shell: "/bin/sh".into(),
    };
    let hidden = [Hidden { path: "/home".into(), mode: 0o755, shown_when_current: false }];
    let home = DirPlan { path: "/home/alice".into(), mode: 0o700, uid: 1000, gid: 100 };
    assert_eq!(dirs(&identity, &hidden), [home]);
    let elsewhere = Identity { home: "/nonexistent".into(), ..identity };
    assert!(dirs(&elsewhere, &hidden).is_empty());
}

#[test]
fn strings_that_the_kernel_would_refuse_are_refused() {
    let place = place();
    let refused = |builder| place.plan(builder).unwrap_err();
    let builder = Sandbox::builder;
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert!(matches!(refused(builder().hostname(name)), ConfigError::Hostname(_)), "{name:?}");
    }
    assert!(place.plan(builder().hostname("x".repeat(64))).is_ok());
    assert!(matches!(refused(builder().pids(0)), ConfigError::NoPids));
    assert!(matches!(refused(builder().command(["a\0"])), ConfigError::Nul { what: "command" }));
    let change = EnvChange::Set("A".into(), "\0".into());
    assert!(matches!(refused(builder().env(change)), ConfigError::Nul { what: "env" }));
}

#[test]
fn without_a_command_the_users_shell_runs() {
    let place = place();
    let plan = place.plan(Sandbox::builder().user(User::default())).unwrap();
    assert_eq!(plan.argv.len(), 1);
    assert!(Path::new(&plan.argv[0]).is_absolute());
    assert_eq!(place.plan(Sandbox::builder().command(["ls", "-l"])).unwrap().argv, ["ls", "-l"]);
}

#[test]
fn a_path_becomes_one_name_and_different_paths_different_names() {
    assert_eq!(escape(Path::new("/home/a/b")), "home+a+b");
    assert_ne!(escape(Path::new("/a+b")), escape(Path::new("/a/b")));
    let long = |end: &str| escape(&Path::new("/").join("x".repeat(250)).join(end));
    assert!(long("a").len() <= 200);
    assert_ne!(long("a"), long("b"));
}

#[test]
fn rules_about_a_network_need_one() {
    let place = place();
    let error = place.plan(Sandbox::builder().allow("example.com".parse().unwrap())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "allow: there is no way out of the sandbox that it could be about; add --net user"
    );
    let builder = Sandbox::builder().net(Net::User).publish("8080:80".parse().unwrap()).net_log("log");
    let network = place.plan(builder).unwrap().network;
    assert_eq!(network.publish.len(), 1);
    assert!(network.log.unwrap().ends_with("log"));
}
