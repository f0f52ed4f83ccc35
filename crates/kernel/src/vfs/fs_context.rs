//! File system types and the making of instances: `struct file_system_type`, `struct fs_context` (`fs/fs_context.c`,
//! `fs/filesystems.c`, Documentation/filesystems/mount_api).
//!
//! A [`FileSystemType`] is what `mount -t` names. A [`FsContext`] collects the parameters of one instance that is to be made
//! ([`FsPurpose::Mount`]) or changed ([`FsPurpose::Reconfigure`]); `mount(2)` fills one in one go, `fsconfig(2)` step by step.
//!
//! Differences from Linux: a type that can be mounted is always registered (there are no modules), there are no submounts made
//! by a file system itself, and security modules take no parameters.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;

use super::dcache::Dentry;
use super::lock::RwLock;
use super::namei::path_lookup;
use super::{ActiveSuper, FsStruct, LookupFlags, Path, SuperFlags};
use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::mount::Mount;
use crate::nsproxy::NsProxy;
use crate::pid_namespace::PidNamespace;
use crate::user_namespace::UserNamespace;

bitflags::bitflags! {
    /// Properties of a type: `fs_flags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct FsFlags: u32 {
        /// `FS_REQUIRES_DEV`: made from a block device; without it `/proc/filesystems` says `nodev`.
        const REQUIRES_DEV = 1;
        /// `FS_BINARY_MOUNTDATA`: the options of `mount(2)` are not text.
        const BINARY_MOUNTDATA = 2;
        /// `FS_HAS_SUBTYPE`: `type.subtype` names it too.
        const HAS_SUBTYPE = 4;
        /// `FS_USERNS_MOUNT`: `CAP_SYS_ADMIN` in the context's user namespace is enough to mount it.
        const USERNS_MOUNT = 8;
    }
}

/// A file system type.
///
/// Only [`name`](FileSystemType::name) and [`get_tree`](FileSystemType::get_tree) must be given: a type without parameters
/// takes any `source` and nothing else.
pub trait FileSystemType: Send + Sync {
    /// Name, as `/proc/filesystems` shows it.
    fn name(&self) -> &'static str;

    /// Properties.
    fn flags(&self) -> FsFlags {
        FsFlags::empty()
    }

    /// Prepares a context: sets another user namespace for [`FsContext::mount_capable`] (`fc.user_ns`), say.
    ///
    /// # Errors
    /// As the type decides.
    fn init_fs_context(&self, _fc: &mut FsContext) -> Result<()> {
        Ok(())
    }

    /// Takes one parameter. `Ok(false)`: the type does not know it (`-ENOPARAM`). What it takes it keeps in
    /// [`FsContext::private`].
    ///
    /// # Errors
    /// `EINVAL` and others, best by [`FsContext::invalf`], which tells the reason.
    fn parse_param(&self, _fc: &mut FsContext, _param: &FsParameter) -> Result<bool> {
        Ok(false)
    }

    /// Takes the options of `mount(2)` as they are. By default text of parameters with commas between
    /// ([`generic_parse_monolithic`]).
    ///
    /// # Errors
    /// Those of [`vfs_parse_fs_param`].
    fn parse_monolithic(&self, fc: &mut FsContext, data: &[u8]) -> Result<()> {
        generic_parse_monolithic(fc, data)
    }

    /// Makes the instance, or finds the one that all mounts of this type share.
    ///
    /// # Errors
    /// As the type decides.
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>>;

    /// Changes the instance `sb` to the parameters collected; flags of the super block are the caller's to set afterwards.
    ///
    /// # Errors
    /// As the type decides.
    fn reconfigure(&self, _fc: &mut FsContext, _sb: &Arc<ActiveSuper>) -> Result<()> {
        Ok(())
    }
}

/// The value of a parameter: `enum fs_value_type`.
#[derive(Clone)]
pub enum FsValue {
    /// There is none: `fs_value_is_flag`.
    Flag,
    /// Text: `fs_value_is_string`.
    String(Vec<u8>),
    /// Bytes: `fs_value_is_blob`.
    Blob(Vec<u8>),
    /// A place, by its path: `fs_value_is_filename`.
    Path(Path),
    /// A place or object, by its descriptor: `fs_value_is_file`.
    File(Path),
}

/// `struct fs_parameter`
#[derive(Clone)]
pub struct FsParameter {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: FsValue,
}

impl FsParameter {
    /// The key as text (what is no text names no parameter).
    pub fn key(&self) -> &str {
        std::str::from_utf8(&self.key).unwrap_or("")
    }

    /// The value as text. `EINVAL` where it is something else or no text.
    pub fn string(&self) -> Result<&str> {
        match &self.value {
            FsValue::String(text) => std::str::from_utf8(text).map_err(|_| Errno::EINVAL),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What a context is for: `enum fs_context_purpose`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsPurpose {
    /// A new instance.
    Mount,
    /// A change of one.
    Reconfigure,
}

/// How far a context of `fsopen(2)` has come: `enum fs_context_phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsPhase {
    /// Takes parameters of a new instance.
    CreateParams,
    /// The instance exists; waits for `fsmount(2)`.
    AwaitingMount,
    /// Takes parameters of a change.
    ReconfParams,
    /// Has been mounted; the next `fsconfig(2)` starts a change.
    AwaitingReconf,
    /// Something failed for good.
    Failed,
}

/// Who makes an instance, from where: what Linux takes from `current`.
#[derive(Clone)]
pub struct FsCaller {
    /// Credentials.
    pub cred: Arc<Cred>,
    /// Namespaces.
    pub nsproxy: Arc<NsProxy>,
    /// The pid namespace the task is in.
    pub pid_ns: Arc<PidNamespace>,
    /// Root, working directory and umask.
    pub fs: FsStruct,
}

/// `struct fs_context`
pub struct FsContext {
    /// The type.
    pub fs_type: Arc<dyn FileSystemType>,
    /// What it is for.
    pub purpose: FsPurpose,
    /// How far it has come.
    pub phase: FsPhase,
    /// The instance: the one to change, or the one made.
    pub root: Option<Arc<ActiveSuper>>,
    /// Where a mount of the instance starts, where that is not its root.
    pub root_dentry: Option<Arc<Dentry>>,
    /// `source`: device or other origin, as mountinfo shows it.
    pub source: Option<Vec<u8>>,
    /// `SB_*` flags asked for.
    pub sb_flags: SuperFlags,
    /// Those of them that are asked for or refused expressly.
    pub sb_flags_mask: SuperFlags,
    /// The user namespace that owns the instance and whose `CAP_SYS_ADMIN` is asked for.
    pub user_ns: Arc<UserNamespace>,
    /// Who opened it.
    pub caller: FsCaller,
    /// Whether it comes from `mount(2)`, whose flags always say all about the super block.
    pub oldapi: bool,
    /// `FSCONFIG_CMD_CREATE_EXCL`: an existing instance is no answer.
    pub exclusive: bool,
    /// What the type keeps.
    pub private: Option<Box<dyn Any + Send>>,
    log: VecDeque<Vec<u8>>,
}

/// Most messages that wait to be read: those of `struct fc_log`.
const LOG_MAX: usize = 8;

impl FsContext {
    /// `fs_context_for_mount`
    ///
    /// # Errors
    /// The type's.
    pub fn for_mount(
        fs_type: Arc<dyn FileSystemType>,
        sb_flags: SuperFlags,
        caller: FsCaller,
    ) -> Result<FsContext> {
        Self::alloc(fs_type, FsPurpose::Mount, None, (sb_flags, SuperFlags::empty()), caller)
    }

    /// `fs_context_for_reconfigure`: of the instance `sb`, made by `fs_type`.
    ///
    /// # Errors
    /// The type's.
    pub fn for_reconfigure(
        fs_type: Arc<dyn FileSystemType>,
        sb: &Arc<ActiveSuper>,
        flags: SuperFlags,
        mask: SuperFlags,
        caller: FsCaller,
    ) -> Result<FsContext> {
        Self::alloc(fs_type, FsPurpose::Reconfigure, Some(sb.clone()), (flags, mask), caller)
    }

    fn alloc(
        fs_type: Arc<dyn FileSystemType>,
        purpose: FsPurpose,
        root: Option<Arc<ActiveSuper>>,
        (sb_flags, sb_flags_mask): (SuperFlags, SuperFlags),
        caller: FsCaller,
    ) -> Result<FsContext> {
        let user_ns = match &root {
            Some(sb) => sb.user_ns().cloned().unwrap_or_else(|| caller.cred.user_ns.clone()),
            None => caller.cred.user_ns.clone(),
        };
        let phase = match purpose {
            FsPurpose::Mount => FsPhase::CreateParams,
            FsPurpose::Reconfigure => FsPhase::ReconfParams,
        };
        let mut fc = FsContext {
            fs_type: fs_type.clone(),
            purpose,
            phase,
            root,
            root_dentry: None,
            source: None,
            sb_flags,
            sb_flags_mask,
            user_ns,
            caller,
            oldapi: false,
            exclusive: false,
            private: None,
            log: VecDeque::new(),
        };
        fs_type.init_fs_context(&mut fc)?;
        Ok(fc)
    }

    /// What the type keeps, made where it is missing.
    pub fn private<T: Default + Send + 'static>(&mut self) -> &mut T {
        if !self.private.as_ref().is_some_and(|private| private.is::<T>()) {
            self.private = Some(Box::new(T::default()));
        }
        self.private.as_mut().and_then(|private| private.downcast_mut()).expect("just made")
    }

    /// Whether the caller may make an instance: `mount_capable`.
    pub fn mount_capable(&self) -> bool {
        if self.fs_type.flags().contains(FsFlags::USERNS_MOUNT) {
            self.caller.cred.ns_capable(&self.user_ns, Cap::SYS_ADMIN)
        } else {
            self.caller.cred.capable(Cap::SYS_ADMIN)
        }
    }

    /// Finds a place named by a parameter, as the caller would.
    ///
    /// # Errors
    /// Those of path walk.
    pub fn lookup(&self, name: &[u8], flags: LookupFlags) -> Result<Path> {
        self.caller.cred.with_walk_cred(|cred| path_lookup(&self.caller.fs.walk(cred), name, flags))
    }

    /// Leaves a message for who reads the descriptor of `fsopen(2)`: level (`e`, `w` or `i`) and who says it.
    fn logfc(&mut self, level: char, prefix: &str, text: impl Display) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        let separator = if prefix.is_empty() { "" } else { ": " };
        self.log.push_back(format!("{level} {prefix}{separator}{text}\n").into_bytes());
    }

    /// Leaves a message of the type about an error.
    pub fn errorf(&mut self, text: impl Display) {
        self.logfc('e', self.fs_type.name(), text);
    }

    /// Leaves a message about an error that says itself who says it: `errorfcp`.
    pub fn errorfcp(&mut self, prefix: &str, text: impl Display) {
        self.logfc('e', prefix, text);
    }

    /// Leaves a warning.
    pub fn warnf(&mut self, text: impl Display) {
        self.logfc('w', self.fs_type.name(), text);
    }

    /// Leaves information.
    pub fn infof(&mut self, text: impl Display) {
        self.logfc('i', self.fs_type.name(), text);
    }

    /// Leaves a message and gives `EINVAL`.
    pub fn invalf(&mut self, text: impl Display) -> Errno {
        self.errorf(text);
        Errno::EINVAL
    }

    /// Takes the messages that wait, oldest first.
    pub fn take_log(&mut self) -> Vec<Vec<u8>> {
        self.log.drain(..).collect()
    }
}

/// `vfs_parse_sb_flag`: whether the key was one of the flags that every type has.
fn parse_sb_flag(fc: &mut FsContext, key: &str) -> bool {
    let (flag, set) = match key {
        "dirsync" => (SuperFlags::DIRSYNC, true),
        "lazytime" => (SuperFlags::LAZYTIME, true),
        "mand" => (SuperFlags::MANDLOCK, true),
        "ro" => (SuperFlags::RDONLY, true),
        "sync" => (SuperFlags::SYNCHRONOUS, true),
        "async" => (SuperFlags::SYNCHRONOUS, false),
        "nolazytime" => (SuperFlags::LAZYTIME, false),
        "nomand" => (SuperFlags::MANDLOCK, false),
        "rw" => (SuperFlags::RDONLY, false),
        _ => return false,
    };
    fc.sb_flags.set(flag, set);
    fc.sb_flags_mask |= flag;
    true
}

/// Gives a context one parameter: `vfs_parse_fs_param`.
///
/// # Errors
/// `EINVAL`: no key, a key that nobody knows, a second source; those of the type.
pub fn vfs_parse_fs_param(fc: &mut FsContext, param: &FsParameter) -> Result<()> {
    if param.key.is_empty() {
        fc.errorfcp("", "Unnamed parameter\n");
        return Err(Errno::EINVAL);
    }
    if parse_sb_flag(fc, param.key()) {
        return Ok(());
    }
    let fs_type = fc.fs_type.clone();
    if fs_type.parse_param(fc, param)? {
        return Ok(());
    }
    if param.key == b"source" {
        return parse_source(fc, param);
    }
    let key = String::from_utf8_lossy(&param.key).into_owned();
    Err(fc.invalf(format_args!("Unknown parameter '{key}'")))
}

/// `vfs_parse_fs_param_source`
fn parse_source(fc: &mut FsContext, param: &FsParameter) -> Result<()> {
    let FsValue::String(source) = &param.value else {
        fc.errorfcp("", "Non-string source");
        return Err(Errno::EINVAL);
    };
    if fc.source.is_some() {
        fc.errorfcp("", "Multiple sources");
        return Err(Errno::EINVAL);
    }
    fc.source = Some(source.clone());
    Ok(())
}

/// Parameters as text with commas between: `generic_parse_monolithic`.
///
/// # Errors
/// Those of [`vfs_parse_fs_param`].
pub fn generic_parse_monolithic(fc: &mut FsContext, data: &[u8]) -> Result<()> {
    for word in data.split(|&byte| byte == b',') {
        let (key, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(0) => continue,
            Some(at) => (&word[..at], FsValue::String(word[at + 1..].to_vec())),
            None if word.is_empty() => continue,
            None => (word, FsValue::Flag),
        };
        vfs_parse_fs_param(fc, &FsParameter { key: key.to_vec(), value })?;
    }
    Ok(())
}

/// Makes the instance: `vfs_get_tree`.
///
/// # Errors
/// `EBUSY`: the context has one already. Those of the type.
pub fn vfs_get_tree(fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
    if fc.root.is_some() {
        return Err(Errno::EBUSY);
    }
    let fs_type = fc.fs_type.clone();
    let sb = fs_type.get_tree(fc)?;
    fc.root = Some(sb.clone());
    Ok(sb)
}

/// Changes an instance: `reconfigure_super`.
///
/// # Errors
/// The type's. `EACCES` as [`ActiveSuper::change_flags`].
pub fn reconfigure_super(fc: &mut FsContext) -> Result<()> {
    let Some(sb) = fc.root.clone() else { return Err(Errno::EINVAL) };
    let fs_type = fc.fs_type.clone();
    fs_type.reconfigure(fc, &sb)?;
    sb.change_flags(fc.sb_flags_mask, fc.sb_flags)
}

/// A mount of the context's instance that is nowhere yet: `vfs_create_mount`.
///
/// # Errors
/// `EINVAL`: there is no instance.
pub fn vfs_create_mount(
    fc: &FsContext,
    table: &Arc<crate::mount::MountTable>,
    flags: crate::mount::MountFlags,
) -> Result<Arc<Mount>> {
    let sb = fc.root.clone().ok_or(Errno::EINVAL)?;
    let root = fc.root_dentry.clone().unwrap_or_else(|| sb.root().clone());
    let mount = Mount::new(table, sb, root, flags);
    if let Some(source) = &fc.source {
        mount.set_devname(source);
    }
    Ok(mount)
}

/// All types, in the order of registration, which is that of `/proc/filesystems`.
#[derive(Default)]
pub struct FileSystems {
    types: RwLock<Vec<Arc<dyn FileSystemType>>>,
}

impl FileSystems {
    /// `register_filesystem`
    ///
    /// # Errors
    /// `EBUSY`: there is one of that name.
    pub fn register(&self, fs_type: Arc<dyn FileSystemType>) -> Result<()> {
        let mut types = self.types.write();
        if types.iter().any(|known| known.name() == fs_type.name()) {
            return Err(Errno::EBUSY);
        }
        types.push(fs_type);
        Ok(())
    }

    /// The type of a name, which may carry a subtype: `get_fs_type`.
    pub fn get(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType>> {
        let (base, has_subtype) = match name.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&name[..dot], true),
            None => (name, false),
        };
        let found = self.types.read().iter().find(|known| known.name().as_bytes() == base).cloned()?;
        (!has_subtype || found.flags().contains(FsFlags::HAS_SUBTYPE)).then_some(found)
    }

    /// Whether each needs no device, and its name.
    pub fn list(&self) -> Vec<(bool, String)> {
        let types = self.types.read();
        types
            .iter()
            .map(|known| (!known.flags().contains(FsFlags::REQUIRES_DEV), known.name().to_string()))
            .collect()
    }
}
