//! Mount options of overlayfs: `fs/overlayfs/params.c`, `mount(8)`.

use nomina_kernel::vfs::Path;
use nomina_kernel::{Errno, Result};

use super::layers::Layer;

/// Most lower directories: `OVL_MAX_STACK`.
const MAX_STACK: usize = 500;

/// A directory that makes a layer, with the option's text, which mountinfo shows.
#[derive(Clone)]
pub struct LayerDir {
    /// The place.
    pub path: Path,
    /// As given.
    pub name: Vec<u8>,
    /// Only data of metadata copies is looked for here, by `redirect`.
    pub data_only: bool,
    /// Given with `lowerdir+` or `datadir+`, one at a time.
    pub appended: bool,
}

/// What is done with directories that were renamed: `redirect_dir`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Renaming a directory that is not in the upper layer alone is `EXDEV`; redirects of earlier mounts are followed.
    #[default]
    Off,
    /// As [`Redirect::Off`], said so.
    Follow,
    /// Redirects are not followed.
    NoFollow,
    /// Directories can be renamed.
    On,
}

/// The options of one overlay: `struct ovl_config` and `struct ovl_fs_context`.
#[derive(Clone, Default)]
pub struct OvlParams {
    /// `lowerdir`, the uppermost first.
    pub lower: Vec<LayerDir>,
    /// `upperdir`; none: the overlay is read-only.
    pub upper: Option<LayerDir>,
    /// `workdir`, on the mount of `upperdir`.
    pub work: Option<LayerDir>,
    /// `redirect_dir`
    pub redirect: Redirect,
    redirect_set: bool,
    /// Marks are `user.overlay.*` rather than `trusted.overlay.*`.
    pub userxattr: bool,
    /// Nothing is synced, and the upper directory cannot be used again as it is.
    pub volatile: bool,
    metacopy: Option<bool>,
    default_permissions: bool,
    uuid_null: bool,
}

/// Finds the directory that an option names, with the mounting task's root and working directory.
pub type Resolve<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Path>;

impl OvlParams {
    /// Whether there is an option of that name: `ovl_parameter_spec`.
    pub fn knows(key: &[u8]) -> bool {
        const KEYS: [&[u8]; 15] = [
            b"lowerdir",
            b"lowerdir+",
            b"datadir+",
            b"upperdir",
            b"workdir",
            b"default_permissions",
            b"redirect_dir",
            b"index",
            b"uuid",
            b"nfs_export",
            b"userxattr",
            b"xino",
            b"metacopy",
            b"verity",
            b"volatile",
        ];
        KEYS.contains(&key)
    }

    /// Takes one option: `ovl_parse_param`. `None` as the value of an option without `=`.
    ///
    /// # Errors
    /// `EINVAL`: an unknown option, a value it does not have, or an odd list of layers. Errors of the walk to a directory;
    /// `ENOTDIR` is `EINVAL` here.
    pub fn parse(&mut self, key: &[u8], value: Option<&[u8]>, resolve: Resolve<'_>) -> Result<()> {
        let switch = || match value {
            Some(b"on") => Ok(true),
            Some(b"off") => Ok(false),
            _ => Err(Errno::EINVAL),
        };
        let text = value.filter(|value| !value.is_empty()).ok_or(Errno::EINVAL);
        match key {
            b"lowerdir" => self.parse_lowerdir(value.unwrap_or_default(), resolve)?,
            b"lowerdir+" | b"datadir+" => {
                let after_list = self.lower.iter().any(|lower| !lower.appended);
                let after_data = self.lower.last().is_some_and(|lower| lower.data_only);
                if after_list || (after_data && key == b"lowerdir+") {
                    return Err(Errno::EINVAL);
                }
                let data_only = key == b"datadir+";
                if data_only && self.lower.is_empty() {
                    return Err(Errno::EINVAL);
                }
                let dir = layer(text?, data_only, true, resolve)?;
                self.push_lower(dir)?;
            }
            b"upperdir" => self.upper = Some(layer(&unescape(text?), false, false, resolve)?),
            b"workdir" => self.work = Some(layer(&unescape(text?), false, false, resolve)?),
            b"redirect_dir" => {
                self.redirect_set = true;
                self.redirect = match value {
                    Some(b"on") => Redirect::On,
                    Some(b"off") => Redirect::Off,
                    Some(b"follow") => Redirect::Follow,
                    Some(b"nofollow") => Redirect::NoFollow,
                    _ => return Err(Errno::EINVAL),
                };
            }
            b"metacopy" => self.metacopy = Some(switch()?),
            // What would be needed is missing here; Linux says so in its log and goes on without.
            b"index" | b"nfs_export" => drop(switch()?),
            b"xino" => match value {
                Some(b"on" | b"off" | b"auto") => {}
                _ => return Err(Errno::EINVAL),
            },
            b"uuid" => match value {
                Some(b"null" | b"off") => self.uuid_null = true,
                Some(b"on" | b"auto") => self.uuid_null = false,
                _ => return Err(Errno::EINVAL),
            },
            b"verity" => match value {
                Some(b"off" | b"on") => {}
                // It would have to refuse every file: none here has a digest that the kernel vouches for.
                _ => return Err(Errno::EINVAL),
            },
            b"default_permissions" if value.is_none() => self.default_permissions = true,
            b"userxattr" if value.is_none() => self.userxattr = true,
            b"volatile" if value.is_none() => self.volatile = true,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// `a:b::data`: several directories, and after the first `::` those that only hold data. `\` escapes.
    fn parse_lowerdir(&mut self, list: &[u8], resolve: Resolve<'_>) -> Result<()> {
        self.lower.clear();
        let (mut data_only, mut separated) = (false, true);
        let parts = split(list);
        for (index, part) in parts.iter().enumerate() {
            if part.is_empty() {
                if separated || index + 1 == parts.len() {
                    return Err(Errno::EINVAL);
                }
                (data_only, separated) = (true, true);
                continue;
            }
            if data_only && !separated {
                // A single colon after a data layer.
                return Err(Errno::EINVAL);
            }
            separated = false;
            let dir = layer(part, data_only, false, resolve)?;
            self.push_lower(dir)?;
        }
        Ok(())
    }

    fn push_lower(&mut self, dir: LayerDir) -> Result<()> {
        if self.lower.len() >= MAX_STACK {
            return Err(Errno::EINVAL);
        }
        self.lower.push(dir);
        Ok(())
    }

    /// Checks what was given together: `ovl_fs_params_verify` and the start of `ovl_fill_super`.
    ///
    /// # Errors
    /// `EINVAL`: no `lowerdir`, only one without an `upperdir`, an `upperdir` without a `workdir`, or options that exclude
    /// each other.
    pub fn finish(mut self) -> Result<OvlParams> {
        if self.upper.is_none() {
            // As Linux: without an upper directory both mean nothing.
            self.work = None;
            self.volatile = false;
        } else if self.work.is_none() {
            return Err(Errno::EINVAL);
        }
        let merged = self.lower.iter().filter(|lower| !lower.data_only).count();
        if merged == 0 || (self.upper.is_none() && self.lower.len() == 1) {
            return Err(Errno::EINVAL);
        }
        if self.userxattr {
            let redirects = self.redirect_set && self.redirect == Redirect::On;
            if redirects || self.metacopy == Some(true) {
                return Err(Errno::EINVAL);
            }
            if !self.redirect_set {
                self.redirect = Redirect::NoFollow;
            }
        } else if !self.redirect_set && (self.metacopy == Some(true) || self.upper.is_none()) {
            self.redirect = Redirect::On;
        }
        if self.metacopy == Some(true) && self.redirect != Redirect::On {
            return Err(Errno::EINVAL);
        }
        Ok(self)
    }

    /// Every directory named.
    pub(crate) fn all_dirs(&self) -> impl Iterator<Item = &Path> {
        self.lower.iter().chain(&self.upper).map(|dir| &dir.path)
    }

    /// Lets go of the mounts that the directories were named by, for the private ones of the layers: the overlay does not make
    /// those busy.
    pub(super) fn move_to(&mut self, upper: Option<&Path>, layers: &[Layer]) {
        if let Some(upper) = upper {
            for dir in self.upper.iter_mut().chain(&mut self.work) {
                dir.path.mnt = upper.mnt.clone();
            }
        }
        for (dir, layer) in self.lower.iter_mut().zip(layers) {
            dir.path = layer.root.clone();
        }
    }

    /// Whether redirects of directories are followed.
    pub(crate) fn follows_redirects(&self) -> bool {
        self.redirect != Redirect::NoFollow
    }

    /// As mountinfo shows them: `ovl_show_options`.
    pub(crate) fn show(&self) -> String {
        let mut out: Vec<String> = Vec::new();
        if self.lower.first().is_some_and(|lower| lower.appended) {
            for lower in &self.lower {
                let key = if lower.data_only { "datadir+" } else { "lowerdir+" };
                out.push(format!("{key}={}", escaped(&lower.name)));
            }
        } else {
            let mut list = String::new();
            for lower in &self.lower {
                if !list.is_empty() {
                    list.push_str(if lower.data_only { "::" } else { ":" });
                }
                list.push_str(&escaped(&lower.name));
            }
            out.push(format!("lowerdir={list}"));
        }
        for (key, dir) in [("upperdir", &self.upper), ("workdir", &self.work)] {
            out.extend(dir.as_ref().map(|dir| format!("{key}={}", escaped(&dir.name))));
        }
        if self.default_permissions {
            out.push("default_permissions".into());
        }
        match self.redirect {
            Redirect::On => out.push("redirect_dir=on".into()),
            Redirect::NoFollow => out.push("redirect_dir=nofollow".into()),
            Redirect::Off | Redirect::Follow => {}
        }
        if self.uuid_null {
            out.push("uuid=null".into());
        }
        if self.volatile {
            out.push("fsync=volatile".into());
        }
        if self.userxattr {
            out.push("userxattr".into());
        }
        out.join(",")
    }
}

fn layer(name: &[u8], data_only: bool, appended: bool, resolve: Resolve<'_>) -> Result<LayerDir> {
    let path = resolve(name)?;
    if !path.dentry.is_dir() {
        return Err(Errno::EINVAL);
    }
    Ok(LayerDir { path, name: name.to_vec(), data_only, appended })
}

/// Splits at colons that no `\` stands before, and unescapes the parts: `ovl_parse_param_split_lowerdirs`.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => {
                if let (Some(&next), Some(part)) = (bytes.next(), parts.last_mut()) {
                    part.push(next);
                }
            }
            b':' => parts.push(Vec::new()),
            _ => parts.iter_mut().last().map_or((), |part| part.push(byte)),
        }
    }
    parts
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        out.extend(if byte == b'\\' { bytes.next() } else { Some(&byte) });
    }
    out
}

/// A name with what mountinfo's readers take for a separator in octal: `seq_show_option`.
fn escaped(name: &[u8]) -> String {
    let mut out = String::new();
    for &byte in name {
        match byte {
            b',' | b' ' | b'\t' | b'\n' | b'\\' | b'=' | b'#' => out.push_str(&format!("\\{byte:03o}")),
            b':' => out.push_str("\\134:"),
            _ => out.push(byte.into()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_separate_layers_unless_they_are_escaped() {
        assert_eq!(split(b"a:b"), [b"a", b"b"]);
        assert_eq!(split(b"a\\:b:c\\\\d"), [&b"a:b"[..], b"c\\d"]);
        assert_eq!(split(b"a::b"), [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn options_that_need_each_other_are_checked_at_the_end() {
        let no_paths = |params: &mut OvlParams, key: &[u8], value: Option<&[u8]>| {
            params.parse(key, value, &mut |_| Err(Errno::ENOENT))
        };
        let mut params = OvlParams::default();
        assert_eq!(no_paths(&mut params, b"upperdir", Some(b"x")), Err(Errno::ENOENT));
        for (key, value) in [("index", "maybe"), ("redirect_dir", "1"), ("xino", "yes"), ("foo", "on")] {
            assert_eq!(no_paths(&mut params, key.as_bytes(), Some(value.as_bytes())), Err(Errno::EINVAL));
        }
        for (key, value) in [("index", Some("on")), ("xino", Some("auto")), ("volatile", None)] {
            no_paths(&mut params, key.as_bytes(), value.map(str::as_bytes)).unwrap();
        }
        assert!(params.finish().is_err(), "without layers");
    }
}
