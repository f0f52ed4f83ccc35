//! What a watcher is told: changes of what answers depend on, and no others.

use std::sync::Mutex;

use super::*;
use crate::vfs::namei::RenameFlags;

const O_WRONLY: u32 = 1;
const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;

/// Keeps what is watched until something changes, as an embedder does.
#[derive(Default)]
struct Answers {
    watched: Mutex<Vec<Arc<Dentry>>>,
}

impl Watcher for Answers {
    fn watch(&self, dir: &Arc<Dentry>, attributes: bool) -> bool {
        dir.set_watched(attributes);
        self.watched.lock().unwrap().push(dir.clone());
        true
    }

    fn will_change(&self) {
        for dir in self.watched.lock().unwrap().drain(..) {
            dir.clear_watched();
        }
    }
}

impl Answers {
    fn hold(&self) -> bool {
        !self.watched.lock().unwrap().is_empty()
    }
}

struct Watched {
    world: World,
    answers: Arc<Answers>,
}

impl Watched {
    fn new() -> Watched {
        let world = World::populated();
        let answers = Arc::new(Answers::default());
        let watcher: Arc<dyn Watcher> = answers.clone();
        world.at.root.mnt.sb().set_watcher(Arc::downgrade(&watcher), false);
        Watched { world, answers }
    }

    fn ask(&self, name: &str) -> Result<()> {
        self.world.lookup(name, LookupFlags::OWN | LookupFlags::FOLLOW).map(drop)
    }

    fn ask_attributes(&self, name: &str) -> Result<()> {
        let ctx = self.world.ctx(&ROOT);
        namei::with_inode(&ctx, name.as_bytes(), LookupFlags::OWN | LookupFlags::FOLLOW, |_, _| Ok(()))
    }

    /// Whether the answer to a question still holds after a change.
    fn holds(&self, question: &str, change: impl FnOnce(&World)) -> bool {
        self.answers.will_change();
        let _ = self.ask(question);
        assert!(self.answers.hold(), "{question}");
        change(&self.world);
        self.answers.hold()
    }
}

fn open(world: &World, name: &str, flags: u32) {
    namei::open(&world.ctx(&ROOT), name.as_bytes(), flags, 0o644, LookupFlags::default()).unwrap();
}

fn rename(world: &World, old: &str, new: &str) {
    let ctx = world.ctx(&ROOT);
    namei::rename(&ctx, old.as_bytes(), &ctx, new.as_bytes(), RenameFlags::empty()).unwrap();
}

#[test]
fn an_answer_outlives_changes_in_directories_it_does_not_depend_on() {
    let watched = Watched::new();
    for question in ["/a/b/c", "/a/b/nothing", "/l/b"] {
        assert!(watched.holds(question, |world| open(world, "/u/new", O_CREAT | O_WRONLY)));
        assert!(watched.holds(question, |world| open(world, "/u/new", O_TRUNC | O_RDWR)));
        assert!(watched.holds(question, |world| world.mkdir("/u/dir", 0o755).unwrap()));
        assert!(watched.holds(question, |world| rename(world, "/u/new", "/u/dir/new")));
        assert!(watched.holds(question, |world| rename(world, "/u/dir/new", "/u/new")));
        assert!(watched.holds(question, |world| namei::rmdir(&world.ctx(&ROOT), b"/u/dir").unwrap()));
        assert!(watched.holds(question, |world| namei::unlink(&world.ctx(&ROOT), b"/u/new").unwrap()));
    }
}

#[test]
fn a_change_in_a_directory_on_the_way_is_told() {
    let watched = Watched::new();
    assert!(!watched.holds("/a/b/nothing", |world| world.creat("/a/b/nothing").unwrap()));
    assert!(!watched.holds("/a/b/c", |world| open(world, "/a/b/nothing", O_WRONLY)));
    assert!(!watched.holds("/a/b/c", |world| namei::unlink(&world.ctx(&ROOT), b"/a/b/nothing").unwrap()));
    assert!(!watched.holds("/a/b/c", |world| rename(world, "/a/b", "/u/b")));
    assert!(!watched.holds("/a/b/c", |world| rename(world, "/u/b", "/a/b")));
    assert!(!watched.holds("/a/b/..", |world| world.creat("/a/beside").unwrap()));
}

#[test]
fn attributes_of_a_directory_depend_on_what_is_made_in_it_and_below() {
    let watched = Watched::new();
    for name in ["/a/b/new", "/a/b/c/new"] {
        watched.answers.will_change();
        watched.ask_attributes("/a/b").unwrap();
        watched.world.creat(name).unwrap();
        assert!(!watched.answers.hold(), "{name}");
    }
    // Whether it may be searched does not.
    assert!(watched.holds("/a/b", |world| world.creat("/a/b/more").unwrap()));
}

#[test]
fn nothing_about_names_in_a_sticky_directory_holds() {
    let watched = Watched::new();
    // Its mode is known once somebody has walked through it.
    watched.world.creat("/t/file").unwrap();
    assert_eq!(watched.ask("/t/file"), Err(Errno::EAGAIN));
    assert_eq!(watched.ask("/t"), Ok(()));
}

#[test]
fn without_a_watcher_nothing_holds() {
    let world = World::populated();
    assert_eq!(world.lookup("/a", LookupFlags::OWN).map(drop), Err(Errno::EAGAIN));
}
