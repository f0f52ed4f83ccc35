use std::sync::Arc;

use super::files;
use super::{Cgroup, CgroupAttr};
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::Kernel;
use crate::task::TaskId;
use crate::tests::{boot, fork};
use crate::user_namespace::UserNamespace;
use crate::vfs::Timespec;

fn mkdir(kernel: &Kernel, parent: &Arc<Cgroup>, name: &str) -> Result<Arc<Cgroup>> {
    let attr = CgroupAttr { mode: 0o755, uid: 0, gid: 0 };
    kernel.cgroup_root().mkdir(parent, name.as_bytes(), attr, Timespec::default())
}

fn write(kernel: &mut Kernel, cgrp: &Arc<Cgroup>, file: &str, by: TaskId, text: &str) -> Result<Vec<TaskId>> {
    let (_, file) = files::find(cgrp, file.as_bytes()).ok_or(Errno::ENOENT)?;
    file.write(kernel, cgrp, by, text.as_bytes()).map(|effects| effects.killed)
}

fn read(kernel: &Kernel, cgrp: &Arc<Cgroup>, file: &str, by: TaskId) -> Result<String> {
    let (_, file) = files::find(cgrp, file.as_bytes()).ok_or(Errno::ENOENT)?;
    file.show(kernel, cgrp, by).map(|text| String::from_utf8(text).unwrap())
}

fn thread(kernel: &mut Kernel, of: TaskId) -> TaskId {
    let flags = CloneFlags::THREAD | CloneFlags::SIGHAND | CloneFlags::VM;
    kernel.kernel_clone(of, &KernelCloneArgs { flags, ..KernelCloneArgs::default() }).unwrap().child
}

#[test]
fn a_group_with_tasks_or_children_stays_and_an_empty_one_goes() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    let b = mkdir(&k, &a, "b").unwrap();
    assert_eq!(mkdir(&k, &root, "a").err(), Some(Errno::EEXIST));
    assert_eq!(mkdir(&k, &root, "cgroup.procs").err(), Some(Errno::EEXIST));
    assert_eq!(mkdir(&k, &root, "x\ny").err(), Some(Errno::EINVAL));
    assert_eq!(a.rmdir(), Err(Errno::EBUSY));
    let child = fork(&mut k, init);
    write(&mut k, &b, "cgroup.procs", child, "0\n").unwrap();
    assert_eq!(read(&k, &a, "cgroup.events", init).unwrap(), "populated 1\nfrozen 0\n");
    assert_eq!(b.rmdir(), Err(Errno::EBUSY));
    // A zombie does not hold its group.
    k.exit_thread(child, 0).unwrap();
    assert_eq!(read(&k, &a, "cgroup.events", init).unwrap(), "populated 0\nfrozen 0\n");
    assert_eq!(b.rmdir(), Ok(()));
    assert_eq!(write(&mut k, &b, "cgroup.procs", init, "0").err(), Some(Errno::ENODEV));
    assert_eq!(mkdir(&k, &b, "c").err(), Some(Errno::ENODEV));
    drop(b);
    assert!(read(&k, &a, "cgroup.stat", init).unwrap().contains("nr_dying_descendants 1\n"));
    k.reap(init, child).unwrap();
    assert!(read(&k, &a, "cgroup.stat", init).unwrap().contains("nr_dying_descendants 0\n"));
}

#[test]
fn children_start_where_their_parent_is_and_processes_move_whole() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    let child = fork(&mut k, init);
    let other = thread(&mut k, child);
    let nr = k.task_pid_vnr(other, init);
    write(&mut k, &a, "cgroup.procs", init, &nr.to_string()).unwrap();
    assert_eq!(k.cgroup_threads(&a), [child, other]);
    let grandchild = fork(&mut k, other);
    let line = |task| format!("{}\n", k.task_pid_vnr(task, init));
    assert_eq!(read(&k, &a, "cgroup.procs", init).unwrap(), line(child) + &line(grandchild));
    for (text, errno) in
        [("x", Errno::EINVAL), ("-1", Errno::EINVAL), ("4000", Errno::ESRCH), ("", Errno::EINVAL)]
    {
        assert_eq!(write(&mut k, &a, "cgroup.procs", init, text).err(), Some(errno), "{text:?}");
    }
}

#[test]
fn pids_max_limits_forks_in_all_groups_below() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    assert_eq!(read(&k, &a, "pids.max", init), Err(Errno::ENOENT));
    assert_eq!(write(&mut k, &root, "cgroup.subtree_control", init, "+memory").err(), Some(Errno::EINVAL));
    write(&mut k, &root, "cgroup.subtree_control", init, "+pids\n").unwrap();
    assert_eq!(read(&k, &a, "cgroup.controllers", init).unwrap(), "pids\n");
    let b = mkdir(&k, &a, "b").unwrap();
    let child = fork(&mut k, init);
    write(&mut k, &b, "cgroup.procs", child, "0").unwrap();
    write(&mut k, &a, "pids.max", init, "2").unwrap();
    let second = fork(&mut k, child);
    let before = k.nr_threads();
    assert_eq!(k.kernel_clone(child, &KernelCloneArgs::fork(0)).err(), Some(Errno::EAGAIN));
    assert_eq!(k.nr_threads(), before);
    assert_eq!(read(&k, &a, "pids.events", init).unwrap(), "max 1\n");
    assert_eq!(read(&k, &a, "pids.current", init).unwrap(), "2\n");
    // A zombie counts until it is reaped.
    k.exit_thread(second, 0).unwrap();
    assert_eq!(k.kernel_clone(child, &KernelCloneArgs::fork(0)).err(), Some(Errno::EAGAIN));
    k.reap(child, second).unwrap();
    fork(&mut k, child);
    assert_eq!(read(&k, &a, "pids.peak", init).unwrap(), "2\n");
    // Tasks may be moved into a full group, and init outside is not limited.
    let third = fork(&mut k, init);
    write(&mut k, &b, "cgroup.procs", third, "0").unwrap();
    assert_eq!(read(&k, &a, "pids.current", init).unwrap(), "3\n");
    for bad in ["-1", "x", "4194305"] {
        assert_eq!(write(&mut k, &a, "pids.max", init, bad).err(), Some(Errno::EINVAL), "{bad}");
    }
    write(&mut k, &root, "cgroup.subtree_control", init, "-pids").unwrap();
    assert_eq!(read(&k, &a, "pids.max", init), Err(Errno::ENOENT));
    fork(&mut k, third);
}

#[test]
fn a_failed_clone_leaves_no_count_behind() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    write(&mut k, &root, "cgroup.subtree_control", init, "+pids").unwrap();
    let a = mkdir(&k, &root, "a").unwrap();
    let child = fork(&mut k, init);
    write(&mut k, &a, "cgroup.procs", child, "0").unwrap();
    let made = fork(&mut k, child);
    k.abort_clone(made).unwrap();
    assert_eq!(read(&k, &a, "pids.current", init).unwrap(), "1\n");
    assert_eq!(k.cgroup_threads(&a), [child]);
    // What fails before a number was taken, and because of the number.
    let args = KernelCloneArgs { set_tid: vec![k.task_pid_vnr(child, child)], ..KernelCloneArgs::fork(0) };
    assert_eq!(k.kernel_clone(child, &args).err(), Some(Errno::EEXIST));
    assert_eq!(read(&k, &a, "pids.current", init).unwrap(), "1\n");
}

#[test]
fn a_child_can_be_born_in_another_group() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    let flags = CloneFlags::INTO_CGROUP;
    let args = KernelCloneArgs { flags, cgroup: Some(a.clone()), ..KernelCloneArgs::fork(0) };
    let child = k.kernel_clone(init, &args).unwrap().child;
    assert_eq!(k.cgroup_procs(&a), [child]);
    k.exit_thread(child, 0).unwrap();
    a.rmdir().unwrap();
    assert_eq!(k.kernel_clone(init, &args).err(), Some(Errno::ENODEV));
}

#[test]
fn an_ordinary_user_moves_tasks_only_within_what_was_given_to_it() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let given = mkdir(&k, &root, "given").unwrap();
    let (a, b) = (mkdir(&k, &given, "a").unwrap(), mkdir(&k, &given, "b").unwrap());
    let user = fork(&mut k, init);
    write(&mut k, &a, "cgroup.procs", user, "0").unwrap();
    k.commit_creds(user, Cred::user(1000, 1000, &[], UserNamespace::initial()));
    let give = |cgrp: &Arc<Cgroup>| {
        let (_, procs) = files::find(cgrp, b"cgroup.procs").unwrap();
        procs.set_attr(cgrp, CgroupAttr { mode: 0o644, uid: 1000, gid: 1000 });
    };
    give(&b);
    // The group around both must be writable too.
    assert_eq!(write(&mut k, &b, "cgroup.procs", user, "0").err(), Some(Errno::EACCES));
    give(&given);
    write(&mut k, &b, "cgroup.procs", user, "0").unwrap();
    assert_eq!(k.cgroup_procs(&b), [user]);
    assert_eq!(write(&mut k, &root, "cgroup.procs", user, "0").err(), Some(Errno::EACCES));
}

#[test]
fn a_namespace_shows_paths_from_its_root_and_bounds_delegation() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    write(&mut k, &root, "cgroup.subtree_control", init, "+pids").unwrap();
    let (a, other) = (mkdir(&k, &root, "a").unwrap(), mkdir(&k, &root, "other").unwrap());
    let below = mkdir(&k, &a, "below").unwrap();
    let child = fork(&mut k, init);
    write(&mut k, &a, "cgroup.procs", child, "0").unwrap();
    k.unshare(child, CloneFlags::NEWCGROUP.bits()).unwrap();
    let ns_root = k.task(child).unwrap().nsproxy().unwrap().cgroup_ns().root().clone();
    assert!(Arc::ptr_eq(&ns_root, &a));
    assert_eq!(below.path_from(&ns_root), b"/below");
    assert_eq!(a.path_from(&ns_root), b"/");
    assert_eq!(other.path_from(&ns_root), b"/../other");
    assert_eq!(root.path_from(&below), b"/../..");
    // The limit on the namespace as a whole is not its own to change; what is below is.
    assert_eq!(write(&mut k, &a, "pids.max", child, "5").err(), Some(Errno::EPERM));
    write(&mut k, &a, "pids.max", init, "5").unwrap();
    assert_eq!(write(&mut k, &other, "cgroup.procs", child, "0").err(), Some(Errno::ENOENT));
    write(&mut k, &below, "cgroup.procs", child, "0").unwrap();
    write(&mut k, &a, "cgroup.subtree_control", child, "+pids").unwrap();
    write(&mut k, &below, "pids.max", child, "5").unwrap();
}

#[test]
fn domains_and_threaded_groups_exclude_each_other() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let domain = mkdir(&k, &root, "domain").unwrap();
    let (t, u) = (mkdir(&k, &domain, "t").unwrap(), mkdir(&k, &domain, "u").unwrap());
    let child = fork(&mut k, init);
    let second = thread(&mut k, child);
    write(&mut k, &domain, "cgroup.procs", child, "0").unwrap();
    assert_eq!(write(&mut k, &t, "cgroup.type", init, "domain").err(), Some(Errno::EINVAL));
    write(&mut k, &t, "cgroup.type", init, "threaded\n").unwrap();
    let kind = |cgrp| read(&k, cgrp, "cgroup.type", init).unwrap();
    assert_eq!(
        (&*kind(&domain), &*kind(&t), &*kind(&u)),
        ("domain threaded\n", "threaded\n", "domain invalid\n")
    );
    // A thread moves alone, and the process is still the domain's.
    write(&mut k, &t, "cgroup.threads", second, "0").unwrap();
    assert_eq!(k.cgroup_threads(&t), [second]);
    assert_eq!(read(&k, &t, "cgroup.procs", init), Err(Errno::EOPNOTSUPP));
    assert_eq!(k.cgroup_procs(&domain), [child]);
    assert_eq!(write(&mut k, &u, "cgroup.threads", second, "0").err(), Some(Errno::EOPNOTSUPP));
    assert_eq!(write(&mut k, &root, "cgroup.threads", second, "0").err(), Some(Errno::EOPNOTSUPP));
    assert_eq!(write(&mut k, &t, "cgroup.kill", init, "1").err(), Some(Errno::EOPNOTSUPP));
    assert_eq!(write(&mut k, &domain, "cgroup.kill", init, "1").unwrap(), [child, second]);
}

#[test]
fn controllers_are_not_given_to_domains_below_tasks() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    let b = mkdir(&k, &a, "b").unwrap();
    assert_eq!(write(&mut k, &a, "cgroup.subtree_control", init, "+pids").err(), Some(Errno::ENOENT));
    write(&mut k, &root, "cgroup.subtree_control", init, "+pids").unwrap();
    let (one, two) = (fork(&mut k, init), fork(&mut k, init));
    write(&mut k, &b, "cgroup.procs", one, "0").unwrap();
    write(&mut k, &a, "cgroup.subtree_control", init, "+pids").unwrap();
    assert_eq!(write(&mut k, &root, "cgroup.subtree_control", init, "-pids").err(), Some(Errno::EBUSY));
    assert_eq!(write(&mut k, &a, "cgroup.procs", two, "0").err(), Some(Errno::EBUSY));
    write(&mut k, &a, "cgroup.subtree_control", init, "-pids").unwrap();
    write(&mut k, &a, "cgroup.procs", two, "0").unwrap();
    assert_eq!(write(&mut k, &a, "cgroup.subtree_control", init, "+pids").err(), Some(Errno::EBUSY));
}

#[test]
fn depth_and_number_of_groups_can_be_limited() {
    let (mut k, init) = boot();
    let root = k.cgroup_root().cgrp().clone();
    let a = mkdir(&k, &root, "a").unwrap();
    write(&mut k, &a, "cgroup.max.depth", init, "1").unwrap();
    write(&mut k, &a, "cgroup.max.descendants", init, "1").unwrap();
    let b = mkdir(&k, &a, "b").unwrap();
    assert_eq!(mkdir(&k, &b, "c").err(), Some(Errno::EAGAIN));
    assert_eq!(mkdir(&k, &a, "c").err(), Some(Errno::EAGAIN));
    assert_eq!(write(&mut k, &a, "cgroup.max.depth", init, "-1").err(), Some(Errno::ERANGE));
    write(&mut k, &a, "cgroup.max.depth", init, "max").unwrap();
    assert_eq!(read(&k, &a, "cgroup.max.depth", init).unwrap(), "max\n");
}

#[test]
fn numbers_are_read_as_the_kernel_reads_them() {
    for (text, value) in [("0", 0), (" 12\n", 12), ("0x1F", 31), ("010", 8), ("+3", 3), ("-4", -4)] {
        assert_eq!(files::kstrtoint(text.as_bytes()), Ok(value), "{text:?}");
    }
    for text in ["", "0x", "08", "1 2", "--1", "1\0", "²"] {
        assert_eq!(files::kstrtoint(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
    }
    assert_eq!(files::kstrtoint(b"2147483648"), Err(Errno::ERANGE));
}

mod programs {
    use super::*;
    use crate::bpf::{ACC_READ, DEV_CHAR, DeviceAccess, Insn, ProgType, Program};
    use crate::cgroup::CgroupRoot;
    use crate::cgroup::bpf::AttachFlags;

    const MULTI: AttachFlags = AttachFlags::ALLOW_MULTI;
    const OVERRIDE: AttachFlags = AttachFlags::ALLOW_OVERRIDE;
    const ALONE: AttachFlags = AttachFlags::empty();

    fn says(id: u32, value: i32) -> Arc<Program> {
        let mov = Insn { code: 0xb7, dst: 0, src: 0, off: 0, imm: value };
        let exit = Insn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };
        Program::load(id, ProgType::CgroupDevice, vec![mov, exit]).unwrap()
    }

    fn tree() -> (Arc<CgroupRoot>, Arc<Cgroup>, Arc<Cgroup>) {
        let root = CgroupRoot::new(Timespec::default());
        let attr = CgroupAttr { mode: 0o755, uid: 0, gid: 0 };
        let above = root.mkdir(root.cgrp(), b"a", attr, Timespec::default()).unwrap();
        let below = root.mkdir(&above, b"b", attr, Timespec::default()).unwrap();
        (root, above, below)
    }

    fn allows(root: &CgroupRoot, cgrp: &Arc<Cgroup>) -> bool {
        root.allows_device(cgrp, &DeviceAccess { access_type: ACC_READ << 16 | DEV_CHAR, major: 1, minor: 3 })
    }

    #[test]
    fn all_programs_must_allow_where_several_may_be() {
        let (root, above, below) = tree();
        let (yes, no) = (says(1, 1), says(2, 0));
        root.attach(&above, no.clone(), None, MULTI).unwrap();
        root.attach(&below, yes.clone(), None, MULTI).unwrap();
        assert!(!allows(&root, &below) && !allows(&root, &above) && allows(&root, root.cgrp()));
        assert_eq!(root.attach(&below, yes.clone(), None, MULTI), Err(Errno::EINVAL), "it is attached");
        assert_eq!(
            root.attach(&below, no.clone(), None, ALONE),
            Err(Errno::EPERM),
            "others were attached otherwise"
        );
        let again = says(3, 1);
        root.attach(&above, again.clone(), Some(&no), MULTI | AttachFlags::REPLACE).unwrap();
        assert_eq!(
            root.attach(&above, says(4, 1), Some(&no), MULTI | AttachFlags::REPLACE),
            Err(Errno::ENOENT)
        );
        assert!(allows(&root, &below));
        assert_eq!(below.programs(false), (vec![1], MULTI));
        assert_eq!(below.programs(true), (vec![1, 3], ALONE));
        assert_eq!(root.detach(&above, None), Err(Errno::EINVAL));
        assert_eq!(root.detach(&above, Some(&no)), Err(Errno::ENOENT));
        root.detach(&above, Some(&again)).unwrap();
        assert_eq!(above.programs(false), (vec![], ALONE));
    }

    #[test]
    fn a_program_that_may_be_overridden_counts_until_there_is_one_below() {
        let (root, above, below) = tree();
        root.attach(&above, says(1, 0), None, OVERRIDE).unwrap();
        assert!(!allows(&root, &below));
        root.attach(&below, says(2, 1), None, OVERRIDE).unwrap();
        assert!(allows(&root, &below) && !allows(&root, &above));
        // The only one is replaced, and goes whichever is named.
        root.attach(&below, says(3, 0), None, OVERRIDE).unwrap();
        assert_eq!(below.programs(false), (vec![3], OVERRIDE));
        root.detach(&below, None).unwrap();
        assert_eq!(root.detach(&below, None), Err(Errno::ENOENT));
    }

    #[test]
    fn one_that_wants_to_be_alone_forbids_others_below() {
        let (root, above, below) = tree();
        root.attach(&above, says(1, 1), None, ALONE).unwrap();
        for flags in [ALONE, OVERRIDE, MULTI] {
            assert_eq!(root.attach(&below, says(2, 1), None, flags), Err(Errno::EPERM));
        }
        assert_eq!(root.attach(&above, says(2, 1), None, MULTI | OVERRIDE), Err(Errno::EINVAL));
        assert_eq!(root.attach(&above, says(2, 1), None, AttachFlags::REPLACE), Err(Errno::EINVAL));
    }
}
