//! overlayfs as a type that guests mount: what the context of a mount and [`nomina_fs::overlayfs`] say to each other.

use std::sync::{Arc, Weak};

use nomina_fs::overlayfs::{Mounter, OvlParams, OvlSuper};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::fs_context::{FileSystemType, FsContext, FsFlags, FsParameter, FsPurpose, FsValue};
use nomina_kernel::vfs::{ActiveSuper, LookupFlags, SuperFlags};

use super::Server;
use super::filesystems::anon_dev;

/// overlayfs.
pub struct Overlay {
    /// The sandbox.
    pub server: Weak<Server>,
}

impl FileSystemType for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }

    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        if fc.purpose == FsPurpose::Reconfigure {
            // As Linux: options given to mount(2) again are taken for those that there are already.
            return if fc.oldapi { Ok(true) } else { Err(fc.invalf("No changes allowed in reconfigure")) };
        }
        if !OvlParams::knows(&param.key) {
            return Ok(false);
        }
        let value = match &param.value {
            FsValue::Flag => None,
            FsValue::String(text) => Some(&text[..]),
            // Layers by descriptor: the place itself.
            FsValue::Path(path) | FsValue::File(path) => {
                let path = path.clone();
                let params = fc.private::<OvlParams>();
                let name = nomina_kernel::vfs::d_path::dentry_path(&path.dentry);
                params.parse(&param.key, Some(&name), &mut |_| Ok(path.clone()))?;
                return Ok(true);
            }
            FsValue::Blob(_) => return Err(Errno::EINVAL),
        };
        let mut params = fc.private::<OvlParams>().clone();
        let parsed = params.parse(&param.key, value, &mut |name| fc.lookup(name, LookupFlags::FOLLOW));
        if let Err(errno) = parsed {
            let value = value.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
            fc.errorf(format_args!("Bad value for '{}': '{value}'", param.key()));
            return Err(errno);
        }
        *fc.private::<OvlParams>() = params;
        Ok(true)
    }

    /// As `ovl_parse_monolithic`: a comma that `\\` stands before is part of a name.
    fn parse_monolithic(&self, fc: &mut FsContext, data: &[u8]) -> Result<()> {
        let mut words = vec![Vec::new()];
        let mut bytes = data.iter();
        while let Some(&byte) = bytes.next() {
            if byte == b',' {
                words.push(Vec::new());
            } else if let Some(word) = words.last_mut() {
                word.push(byte);
                if byte == b'\\' {
                    word.extend(bytes.next());
                }
            }
        }
        for word in words.iter().filter(|word| !word.is_empty()) {
            let (key, value) = match word.iter().position(|&byte| byte == b'=') {
                Some(0) => continue,
                Some(at) => (&word[..at], FsValue::String(word[at + 1..].to_vec())),
                None => (&word[..], FsValue::Flag),
            };
            let param = FsParameter { key: key.to_vec(), value };
            nomina_kernel::vfs::fs_context::vfs_parse_fs_param(fc, &param)?;
        }
        Ok(())
    }

    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = self.server.upgrade().ok_or(Errno::ENODEV)?;
        let params = fc.private::<OvlParams>().clone().finish();
        let params = params.map_err(|_| fc.invalf("missing or conflicting layers and options"))?;
        let ops = OvlSuper::new(params, Mounter::new(fc.caller.cred.clone()), anon_dev())?;
        let mut flags = fc.sb_flags;
        flags.set(SuperFlags::RDONLY, flags.contains(SuperFlags::RDONLY) || ops.is_readonly());
        let sb = ActiveSuper::new(ops, flags);
        sb.set_user_ns(&fc.user_ns);
        server.instances.add(&sb);
        Ok(sb)
    }

    /// `ovl_reconfigure`
    fn reconfigure(&self, fc: &mut FsContext, sb: &Arc<ActiveSuper>) -> Result<()> {
        let ops = sb.ops().as_any().downcast_ref::<OvlSuper>().ok_or(Errno::EINVAL)?;
        let wants_write =
            sb.flags().contains(SuperFlags::RDONLY) && !fc.sb_flags.contains(SuperFlags::RDONLY);
        if wants_write && ops.is_readonly() { Err(Errno::EROFS) } else { Ok(()) }
    }
}
