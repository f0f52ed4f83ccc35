//! Random sequences of operations in several namespaces keep what must always hold.

use super::*;

/// A generator of random numbers (xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const DIRS: [&str; 8] = ["/", "/a", "/a/b", "/c", "/c/b", "/d", "/d/b", "/a/b/b"];

fn step(rng: &mut Rng, worlds: &mut Vec<World>) {
    use MountPropagation::{Private, Shared, Slave, Unbindable};
    let n = rng.below(worlds.len());
    let mut dir = || DIRS[rng.below(DIRS.len())];
    let (from, at) = (dir(), dir());
    // Copies of copies grow without bound.
    let many = worlds.iter().any(|world| world.ns.nr_mounts() > 100);
    let what = if many { 12 } else { rng.below(20) };
    let (recurse, lazily) = (rng.below(2) == 0, rng.below(2) == 0);
    let kind = [Shared, Shared, Shared, Slave, Private, Unbindable][rng.below(6)];
    let world = &worlds[n];
    let find = |name: &str| path_lookup(&world.at.walk(&ROOT), name.as_bytes(), LookupFlags::FOLLOW);
    let (Ok(from), Ok(at)) = (find(from), find(at)) else { return };
    match what {
        0..=2 => {
            let fs = TestFs::new(true);
            fs.plant("/b", crate::vfs::S_IFDIR | 0o755);
            let _ = do_mount(&world.ns, ActiveSuper::new(fs, SuperFlags::empty()), &at, MountFlags::empty());
        }
        3..=6 => drop(bind_mount(&world.ns, &from, &at, recurse)),
        7..=9 => drop(change_propagation(&world.ns, &|_| true, &at, kind, recurse)),
        10..=11 => drop(move_mount(&world.ns, &from, &at)),
        12..=16 => {
            drop(from);
            let flags = if lazily { UmountFlags::DETACH } else { UmountFlags::empty() };
            let _ = umount(&world.ns, at, flags, &world.at.root);
        }
        17 => {
            if let Ok((old, new)) = pivot_root(&world.ns, &from, &at, &world.at.root) {
                drop((from, at));
                for world in worlds.iter_mut() {
                    world.at.replace_root(&old, &new);
                }
            }
        }
        18 if worlds.len() < 5 => {
            let child = world.unshare(recurse && lazily);
            drop((from, at));
            worlds.push(child);
        }
        19 if worlds.len() > 1 => {
            drop((from, at));
            drop(worlds.swap_remove(n));
        }
        _ => {}
    }
}

fn check(worlds: &[World]) {
    let table = worlds[0].ns.table();
    table.namespace_lock().pnodes.check();
    for world in worlds {
        let tree = world.ns.inner().root().unwrap().preorder();
        assert_eq!(tree.len(), world.ns.nr_mounts(), "the tree is what the namespace lists");
        for mount in &tree {
            assert!(mount.is_in(&world.ns) && !mount.is_umount());
            for child in mount.children() {
                let (parent, mountpoint) = child.parent_and_mountpoint().unwrap();
                assert!(Arc::ptr_eq(&parent, mount));
                assert!(Arc::ptr_eq(&mount.lookup_mnt(&mountpoint).unwrap(), &child));
                assert!(mountpoint.mounts_here().iter().any(|here| Arc::ptr_eq(here, &child)));
            }
        }
        world.ns.inner().count_mounts(0).unwrap();
    }
}

#[test]
fn random_operations_keep_links_and_counts_and_leave_nothing_behind() {
    for seed in 1..=200 {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
        let first = World::new();
        for dir in ["/c/b", "/d/b", "/a/b/b"] {
            first.mkdir(dir);
        }
        let table = first.ns.table().clone();
        let mut worlds = vec![first];
        for _ in 0..120 {
            step(&mut rng, &mut worlds);
            check(&worlds);
        }
        let weak: Vec<_> = worlds.iter().flat_map(|w| w.ns.mounts()).map(|m| Arc::downgrade(&m)).collect();
        drop(worlds);
        assert!(weak.iter().all(|weak| weak.strong_count() == 0), "seed {seed}: mounts are left");
        let lock = table.namespace_lock();
        assert!(lock.pnodes.groups_in_use().is_empty(), "seed {seed}: groups are left");
        drop(lock);
        assert_eq!(table.mnt_ids.lock().alloc(), 1, "seed {seed}: mount ids are left");
    }
}
