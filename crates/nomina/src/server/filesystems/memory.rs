//! tmpfs and ramfs as types: `mm/shmem.c`, `fs/ramfs/inode.c`.

use std::sync::{Arc, Weak};

use nomina_fs::overlay::OverlaySb;
use nomina_fs::tmpfs::{self, TmpfsOptions};
use nomina_kernel::errno::Result;
use nomina_kernel::vfs::fs_context::{FileSystemType, FsContext, FsFlags, FsParameter, FsPurpose};
use nomina_kernel::vfs::{ActiveSuper, SuperIflags};

use super::super::Server;
use super::super::request::host;
use super::{fill_super, parse_kgid, parse_kuid, text_of, upgrade};

/// tmpfs or ramfs.
pub struct Memory {
    /// Which of them.
    pub name: &'static str,
    /// Where its files are kept.
    pub server: Weak<Server>,
}

/// What has been asked for: options of a new instance, or of a change.
#[derive(Default)]
struct Asked {
    options: Option<TmpfsOptions>,
}

impl Memory {
    /// Options as they are before any is given: the root is the caller's.
    fn options<'f>(&self, fc: &'f mut FsContext) -> &'f mut TmpfsOptions {
        let cred = fc.caller.cred.clone();
        // A ramfs is root's.
        let (mode, uid, gid) = match self.name {
            "ramfs" => (0o755, 0, 0),
            _ => (TmpfsOptions::DEFAULT_MODE, cred.fsuid, cred.fsgid),
        };
        let asked = &mut fc.private::<Asked>().options;
        asked.get_or_insert_with(|| TmpfsOptions { mode, uid, gid, ..TmpfsOptions::default() })
    }
}

impl FileSystemType for Memory {
    fn name(&self) -> &'static str {
        self.name
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }

    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        let key = param.key();
        let value = text_of(param)?;
        if self.name == "ramfs" {
            // For historical reasons it takes anything (`ramfs_parse_param`).
            return match key {
                "mode" => self.options(fc).parse(key, value),
                "source" => Ok(false),
                _ => Ok(true),
            };
        }
        match key {
            "uid" => {
                let uid = parse_kuid(fc, param)?;
                self.options(fc).uid = uid;
                return Ok(true);
            }
            "gid" => {
                let gid = parse_kgid(fc, param)?;
                self.options(fc).gid = gid;
                return Ok(true);
            }
            _ => {}
        }
        match self.options(fc).parse(key, value) {
            Err(_) => Err(fc.invalf(format_args!("Bad value for '{key}'"))),
            known => known,
        }
    }

    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = upgrade(&self.server)?;
        let dir = server.private_dirs.create(self.name).map_err(host)?;
        let options = self.options(fc).clone();
        let ops = tmpfs::mount(self.name, dir.upper(), dir.work(), server.ids, &options)?;
        let sb = fill_super(fc, ops, SuperIflags::empty());
        sb.keep(dir);
        server.instances.add(&sb);
        Ok(sb)
    }

    /// Only the limits change; mode and owner of the root are for `chmod` and `chown`.
    fn reconfigure(&self, fc: &mut FsContext, sb: &Arc<ActiveSuper>) -> Result<()> {
        let Some(space) = sb.ops().as_any().downcast_ref::<OverlaySb>().and_then(OverlaySb::space) else {
            return Ok(());
        };
        if fc.purpose != FsPurpose::Reconfigure || self.name == "ramfs" {
            return Ok(());
        }
        let options = self.options(fc);
        let limits = (options.blocks, options.inodes);
        space.reconfigure(limits).map_err(|reason| fc.invalf(reason))
    }
}
