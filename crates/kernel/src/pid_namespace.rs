//! Pid namespaces (`pid_namespaces(7)`): nested tables from numbers to [`Pid`]s. The first process in one is its init: it
//! adopts orphans, ordinary signals cannot kill it, and its end is the end of everything inside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::pid::{Pid, Upid};
use crate::task::TaskId;
use crate::user_namespace::UserNamespace;

/// Deepest nesting below the initial namespace: Linux's 32, and one more, because a sandbox's own first namespace is at
/// level 1 already.
pub const MAX_PID_NS_LEVEL: usize = 33;
/// After the numbers have wrapped around, those below are left to daemons of the boot.
pub const RESERVED_PIDS: i32 = 300;

struct State {
    numbers: BTreeMap<i32, Arc<Pid>>,
    /// Where the search for the next number begins.
    cursor: i32,
    pid_max: i32,
    /// `PIDNS_ADDING`: cleared when init dies.
    adding: bool,
    child_reaper: Option<TaskId>,
}

/// A pid namespace.
pub struct PidNamespace {
    common: NsCommon,
    parent: Option<Arc<PidNamespace>>,
    level: usize,
    /// Taken one at a time, inner levels first released before outer ones are taken; nothing else is taken under it.
    state: Mutex<State>,
}
impl_ns!(PidNamespace);

impl PartialEq for PidNamespace {
    fn eq(&self, other: &PidNamespace) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for PidNamespace {}

impl PidNamespace {
    pub(crate) fn initial(inum: u64, owner: Arc<UserNamespace>, pid_max: i32) -> Arc<PidNamespace> {
        Self::make(inum, owner, None, 0, pid_max)
    }

    fn make(
        inum: u64,
        owner: Arc<UserNamespace>,
        parent: Option<Arc<PidNamespace>>,
        level: usize,
        pid_max: i32,
    ) -> Arc<PidNamespace> {
        let state = State { numbers: BTreeMap::new(), cursor: 0, pid_max, adding: true, child_reaper: None };
        Arc::new(PidNamespace {
            common: NsCommon::new(NsKind::Pid, inum, Some(owner)),
            parent,
            level,
            state: Mutex::new(state),
        })
    }

    /// `create_pid_namespace`.
    ///
    /// # Errors
    /// `EINVAL` when `owner` is not a descendant of the user namespace that owns the parent; `ENOSPC` beyond [`MAX_PID_NS_LEVEL`].
    pub(crate) fn create(
        inum: u64,
        owner: Arc<UserNamespace>,
        parent: &Arc<PidNamespace>,
    ) -> Result<Arc<PidNamespace>> {
        if !owner.is_in(crate::ns_common::owner_of(&parent.common)) {
            return Err(Errno::EINVAL);
        }
        let level = parent.level + 1;
        if level > MAX_PID_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let pid_max = parent.lock().pid_max;
        Ok(Self::make(inum, owner, Some(parent.clone()), level, pid_max))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The enclosing namespace; `None` for the initial one.
    pub fn parent(&self) -> Option<&Arc<PidNamespace>> {
        self.parent.as_ref()
    }
    /// Distance from the initial namespace.
    pub fn level(&self) -> usize {
        self.level
    }
    /// Whether `self` is `ancestor` or below it (`pidns_is_ancestor`).
    pub fn is_in(&self, ancestor: &PidNamespace) -> bool {
        let mut ns = self;
        while ns.level > ancestor.level {
            let Some(parent) = ns.parent() else { return false };
            ns = parent;
        }
        ns == ancestor
    }
    /// The init process: `None` before the first process was born and after init died.
    pub fn child_reaper(&self) -> Option<TaskId> {
        self.lock().child_reaper
    }
    pub(crate) fn set_child_reaper(&self, task: Option<TaskId>) {
        self.lock().child_reaper = task;
    }
    /// Whether processes can still be born in it.
    pub fn is_alive(&self) -> bool {
        self.lock().adding
    }
    /// `disable_pid_allocation`.
    pub(crate) fn stop_adding(&self) {
        self.lock().adding = false;
    }
    /// The object with this number here (`find_pid_ns`).
    pub fn find(&self, nr: i32) -> Option<Arc<Pid>> {
        self.lock().numbers.get(&nr).cloned()
    }
    /// Everything that has a number here, ascending.
    pub fn pids(&self) -> Vec<(i32, Arc<Pid>)> {
        self.lock().numbers.iter().map(|(nr, pid)| (*nr, pid.clone())).collect()
    }
    /// How many numbers are taken.
    pub fn pid_allocated(&self) -> usize {
        self.lock().numbers.len()
    }
    /// `/proc/sys/kernel/pid_max`: numbers stay below it.
    pub fn pid_max(&self) -> i32 {
        self.lock().pid_max
    }
    /// Writes `/proc/sys/kernel/pid_max`. `EINVAL` outside 301 to 4194304.
    pub fn set_pid_max(&self, pid_max: i32) -> Result<()> {
        if !(RESERVED_PIDS + 1..=4_194_304).contains(&pid_max) {
            return Err(Errno::EINVAL);
        }
        self.lock().pid_max = pid_max;
        Ok(())
    }
    /// `/proc/sys/kernel/ns_last_pid`.
    pub fn last_pid(&self) -> i32 {
        (self.lock().cursor - 1).max(0)
    }
    /// Writes `/proc/sys/kernel/ns_last_pid`: the next number tried is the one after. `EINVAL` outside the range.
    pub fn set_last_pid(&self, nr: i32) -> Result<()> {
        let mut state = self.lock();
        if nr < 0 || nr >= state.pid_max {
            return Err(Errno::EINVAL);
        }
        state.cursor = nr + 1;
        Ok(())
    }

    /// The numbers that come next, as far as they come in sequence.
    pub(crate) fn next_numbers(&self, count: usize) -> Vec<i32> {
        let state = self.lock();
        let start = state.cursor.max(1);
        (start..state.pid_max).filter(|nr| !state.numbers.contains_key(nr)).take(count).collect()
    }

    pub(crate) fn release_nr(&self, nr: i32) {
        let mut state = self.lock();
        state.numbers.remove(&nr);
        // The failed birth of a first process leaves the namespace as new (in Linux only a failure inside alloc_pid
        // does; a later one leaves it dead).
        if state.numbers.is_empty() && state.adding && state.child_reaper.is_none() {
            state.cursor = 0;
        }
    }

    /// One number here: `wanted`, or the next free one in sequence.
    fn reserve(&self, wanted: Option<i32>, caller: &Cred) -> Result<i32> {
        let state = self.lock();
        if let Some(nr) = wanted {
            if nr < 1 || nr >= state.pid_max || nr != 1 && state.child_reaper.is_none() {
                return Err(Errno::EINVAL);
            }
            let owner = crate::ns_common::owner_of(&self.common);
            if !caller.ns_capable(owner, Cap::CHECKPOINT_RESTORE) && !caller.ns_capable(owner, Cap::SYS_ADMIN)
            {
                return Err(Errno::EPERM);
            }
            return if state.numbers.contains_key(&nr) { Err(Errno::EEXIST) } else { Ok(nr) };
        }
        let min = if state.cursor > RESERVED_PIDS { RESERVED_PIDS } else { 1 };
        let start = state.cursor.max(min);
        let free = |nr: &i32| !state.numbers.contains_key(nr);
        (start..state.pid_max).find(free).or_else(|| (min..state.pid_max).find(free)).ok_or(Errno::EAGAIN)
    }
}

/// `alloc_pid`: a number in `ns` and in each enclosing namespace. `set_tid` asks for given numbers, innermost first
/// (`clone3(2)`).
///
/// # Errors
/// `EAGAIN` when all numbers are taken; `ENOMEM` when the init of `ns` has died; with `set_tid` also `EINVAL` (more
/// numbers than levels, a number out of range, or not 1 where there is no init yet), `EPERM` without
/// CAP_CHECKPOINT_RESTORE, `EEXIST`.
pub(crate) fn alloc_pid(ns: &Arc<PidNamespace>, set_tid: &[i32], caller: &Cred) -> Result<Arc<Pid>> {
    if set_tid.len() > ns.level + 1 {
        return Err(Errno::EINVAL);
    }
    let mut numbers = Vec::with_capacity(ns.level + 1);
    let mut wanted = set_tid.iter();
    let mut at = Some(ns);
    while let Some(level_ns) = at {
        let wanted = wanted.next();
        let nr = level_ns.reserve(wanted.copied(), caller)?;
        numbers.push((Upid { nr, ns: level_ns.clone() }, wanted.is_none()));
        at = level_ns.parent();
    }
    // Nobody else allocates between reserving and entering: the caller holds the kernel. So a failure above has taken
    // nothing that would need giving back.
    if !ns.is_alive() {
        return Err(Errno::ENOMEM);
    }
    let sequential: Vec<bool> = numbers.iter().rev().map(|(_, sequential)| *sequential).collect();
    let pid = Pid::new(numbers.into_iter().rev().map(|(upid, _)| upid).collect());
    for (upid, sequential) in pid.numbers().iter().zip(sequential) {
        let mut state = upid.ns.lock();
        state.numbers.insert(upid.nr, pid.clone());
        if sequential {
            state.cursor = upid.nr + 1;
        }
    }
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(pid_max: i32) -> (Arc<PidNamespace>, Arc<PidNamespace>, Cred) {
        let user_ns = UserNamespace::initial();
        let outer = PidNamespace::initial(1, user_ns.clone(), pid_max);
        let inner = PidNamespace::create(2, user_ns.clone(), &outer).unwrap();
        (outer, inner, Cred::root(user_ns))
    }

    #[test]
    fn numbers_run_in_sequence_and_wrap_around_to_300() {
        let (ns, _, cred) = nested(310);
        let mut pids: Vec<_> = (1..310)
            .map(|nr| {
                let pid = alloc_pid(&ns, &[], &cred).unwrap();
                assert_eq!(pid.own_nr(), nr);
                pid
            })
            .collect();
        assert_eq!(alloc_pid(&ns, &[], &cred).err(), Some(Errno::EAGAIN));
        crate::pid::free_pid_if_unused(&pids.remove(4));
        assert_eq!(alloc_pid(&ns, &[], &cred).err(), Some(Errno::EAGAIN), "5 is reserved after a wrap");
        crate::pid::free_pid_if_unused(&pids.remove(302));
        assert_eq!(alloc_pid(&ns, &[], &cred).unwrap().own_nr(), 304);
    }

    #[test]
    fn a_number_is_not_given_again_at_once() {
        let (ns, _, cred) = nested(32768);
        let first = alloc_pid(&ns, &[], &cred).unwrap();
        ns.set_child_reaper(Some(TaskId(1)));
        let second = alloc_pid(&ns, &[], &cred).unwrap();
        crate::pid::free_pid_if_unused(&second);
        assert_eq!(alloc_pid(&ns, &[], &cred).unwrap().own_nr(), 3);
        assert_eq!(first.own_nr(), 1);
    }

    #[test]
    fn a_pid_has_a_number_at_every_level_and_none_in_a_sibling() {
        let (outer, inner, cred) = nested(32768);
        let sibling = PidNamespace::create(3, cred.user_ns.clone(), &outer).unwrap();
        alloc_pid(&outer, &[], &cred).unwrap();
        let pid = alloc_pid(&inner, &[], &cred).unwrap();
        assert_eq!((pid.nr_ns(&outer), pid.nr_ns(&inner), pid.nr_ns(&sibling)), (2, 1, 0));
    }

    #[test]
    fn a_full_outer_level_takes_nothing_from_the_inner_one() {
        let (outer, inner, cred) = nested(310);
        for _ in 1..310 {
            alloc_pid(&outer, &[], &cred).unwrap();
        }
        assert_eq!(alloc_pid(&inner, &[], &cred).err(), Some(Errno::EAGAIN));
        assert_eq!((inner.pid_allocated(), inner.last_pid()), (0, 0));
    }

    #[test]
    fn chosen_numbers_need_capability_range_and_an_init() {
        let (outer, _, root) = nested(32768);
        let user = Cred::user(1000, 1000, &[], root.user_ns.clone());
        assert_eq!(alloc_pid(&outer, &[7], &root).err(), Some(Errno::EINVAL), "first must be 1");
        assert_eq!(alloc_pid(&outer, &[1, 1], &root).err(), Some(Errno::EINVAL), "more numbers than levels");
        alloc_pid(&outer, &[1], &root).unwrap();
        outer.set_child_reaper(Some(TaskId(1)));
        assert_eq!(alloc_pid(&outer, &[7], &user).err(), Some(Errno::EPERM));
        assert_eq!(alloc_pid(&outer, &[40000], &root).err(), Some(Errno::EINVAL));
        alloc_pid(&outer, &[7], &root).unwrap();
        assert_eq!(alloc_pid(&outer, &[7], &root).err(), Some(Errno::EEXIST));
    }

    #[test]
    fn nesting_ends_at_the_deepest_level() {
        let (mut ns, _, cred) = nested(32768);
        for inum in 0..MAX_PID_NS_LEVEL {
            ns = PidNamespace::create(inum as u64, cred.user_ns.clone(), &ns).unwrap();
        }
        assert_eq!(PidNamespace::create(99, cred.user_ns.clone(), &ns).err(), Some(Errno::ENOSPC));
    }
}
