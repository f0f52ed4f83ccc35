//! Looking a name up through the layers: `fs/overlayfs/namei.c`.

use std::sync::Arc;

use nomina_kernel::vfs::{Path, S_IFREG};
use nomina_kernel::{Errno, Result};

use super::inode::OvlInode;
use super::layers::RealDir;
use super::xattrs::{METACOPY, OPAQUE, REDIRECT};

/// What the layers have under one name: `struct ovl_lookup_data` at its end.
struct Stack {
    upper: Option<RealDir>,
    lower: Vec<RealDir>,
    /// Where the data of a metadata copy is.
    data: Option<Path>,
}

/// What to look for in the next layer.
#[derive(Clone)]
enum Name {
    /// A name in the directories that are merged.
    In(Vec<u8>),
    /// A path from the layer's root.
    At(Vec<u8>),
}

impl OvlInode {
    /// Finds `name` here. The tree is locked, for reading at least.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Arc<OvlInode>> {
        let dir = self.dir.as_ref().ok_or(Errno::ENOTDIR)?;
        if let Some(child) = dir.child(name) {
            return Ok(child);
        }
        let stack = self.lookup_layers(name)?.ok_or(Errno::ENOENT)?;
        let first = stack.upper.as_ref().or(stack.lower.first()).ok_or(Errno::ENOENT)?;
        let kind = first.path.dentry.file_type();
        let parent = Some(self.arc()?);
        let child = OvlInode::new(&self.fs, kind, parent, name, stack.upper, stack.lower, stack.data);
        Ok(dir.add_child(name, child))
    }

    fn lookup_layers(&self, name: &[u8]) -> Result<Option<Stack>> {
        let fs = &self.fs;
        let (marks, mounter) = (fs.marks, &fs.mounter);
        let mut stack = Stack { upper: None, lower: Vec::new(), data: None };
        let mut wanted = Name::In(name.to_vec());
        // An upper or lower file that has only attributes; its data is further down.
        let mut metacopy = false;
        if let Some(upper) = self.upper_dir()
            && let Some(path) = mounter.lookup(&upper.path, name)?
        {
            if marks.is_whiteout(&path, mounter)? {
                return Ok(None);
            }
            let ends;
            let mut xwhiteouts = false;
            if path.dentry.is_dir() {
                let opaque = marks.get(&path, mounter, OPAQUE)?;
                xwhiteouts = opaque.as_deref() == Some(b"x");
                ends = opaque.as_deref() == Some(b"y");
            } else {
                metacopy = self.is_metacopy(&path)?;
                ends = !metacopy;
            }
            if !ends {
                self.follow_redirect(&path, &mut wanted)?;
            }
            stack.upper = Some(RealDir { layer: 0, path, xwhiteouts });
            if ends {
                return Ok(Some(stack));
            }
        }
        let mut from = 0;
        'layers: while from < fs.layers.len() {
            // Which directories of which layers are looked into next.
            let places: Vec<RealDir> = match &wanted {
                Name::In(_) => self.lower.iter().filter(|lower| lower.layer >= from).cloned().collect(),
                Name::At(_) => (from..fs.layers.len())
                    .filter(|&index| metacopy || !fs.layers[index].data_only)
                    .map(|index| RealDir {
                        layer: index,
                        path: fs.layers[index].root.clone(),
                        xwhiteouts: false,
                    })
                    .collect(),
            };
            for place in places {
                from = place.layer + 1;
                let found = match &wanted {
                    Name::In(name) => mounter.lookup(&place.path, name)?,
                    Name::At(path) => self.lookup_path(&place, path)?,
                };
                let Some(path) = found else { continue };
                if marks.is_whiteout(&path, mounter)? {
                    break 'layers;
                }
                if !path.dentry.is_dir() {
                    let is_file = path.dentry.file_type() == S_IFREG;
                    if metacopy {
                        if !is_file {
                            return Err(Errno::EIO);
                        }
                        if !self.is_metacopy(&path)? {
                            stack.data = Some(path);
                            break 'layers;
                        }
                        if self.follow_redirect(&path, &mut wanted)? {
                            continue 'layers;
                        }
                        continue;
                    }
                    // A file below a directory ends the stack.
                    if stack.upper.is_some() || !stack.lower.is_empty() {
                        break 'layers;
                    }
                    metacopy = self.is_metacopy(&path)?;
                    let redirected = metacopy && self.follow_redirect(&path, &mut wanted)?;
                    stack.lower.push(RealDir { layer: place.layer, path, xwhiteouts: false });
                    match (metacopy, redirected) {
                        (false, _) => break 'layers,
                        (true, true) => continue 'layers,
                        (true, false) => continue,
                    }
                }
                if metacopy {
                    return Err(Errno::EIO);
                }
                let opaque = marks.get(&path, mounter, OPAQUE)?;
                let ends = opaque.as_deref() == Some(b"y");
                let redirected = !ends && self.follow_redirect(&path, &mut wanted)?;
                let xwhiteouts = opaque.as_deref() == Some(b"x");
                stack.lower.push(RealDir { layer: place.layer, path, xwhiteouts });
                if ends {
                    break 'layers;
                }
                if redirected {
                    continue 'layers;
                }
            }
            break;
        }
        if metacopy && stack.data.is_none() {
            // The data is nowhere: Linux cannot show the file either.
            return Err(Errno::EIO);
        }
        Ok((stack.upper.is_some() || !stack.lower.is_empty()).then_some(stack))
    }

    /// Takes the redirect of an object over into what is looked for below: `ovl_check_redirect`.
    fn follow_redirect(&self, path: &Path, wanted: &mut Name) -> Result<bool> {
        if !self.fs.params.follows_redirects() {
            return Ok(false);
        }
        let Some(redirect) = self.fs.marks.get(path, &self.fs.mounter, REDIRECT)? else { return Ok(false) };
        let odd = |name: &[u8]| matches!(name, b"" | b"." | b"..");
        if let Some(rest) = redirect.strip_prefix(b"/") {
            if rest.split(|&byte| byte == b'/').any(odd) {
                return Err(Errno::EIO);
            }
            *wanted = Name::At(rest.to_vec());
            return Ok(true);
        }
        if redirect.contains(&b'/') || odd(&redirect) {
            return Err(Errno::EIO);
        }
        *wanted = match wanted {
            Name::In(_) => Name::In(redirect),
            Name::At(path) => {
                let dir = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
                Name::At([&path[..dir], &redirect].concat())
            }
        };
        Ok(true)
    }

    fn is_metacopy(&self, path: &Path) -> Result<bool> {
        if path.dentry.file_type() != S_IFREG || self.fs.marks.user {
            return Ok(false);
        }
        Ok(self.fs.marks.get(path, &self.fs.mounter, METACOPY)?.is_some())
    }

    /// The object at a path from a layer's root. What is no directory on the way ends it.
    fn lookup_path(&self, root: &RealDir, path: &[u8]) -> Result<Option<Path>> {
        let mut at = root.path.clone();
        let mut names = path.split(|&byte| byte == b'/').peekable();
        while let Some(name) = names.next() {
            let Some(next) = self.fs.mounter.lookup(&at, name)? else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(next));
            }
            if !next.dentry.is_dir() {
                return Ok(None);
            }
            at = next;
        }
        Ok(None)
    }

    /// Whether a layer below has `name`, so that removing it takes a whiteout: `ovl_lower_positive`.
    pub(crate) fn lower_has(&self, name: &[u8]) -> Result<bool> {
        for lower in &self.lower {
            if let Some(path) = self.fs.mounter.lookup(&lower.path, name)? {
                return Ok(!self.fs.marks.is_whiteout(&path, &self.fs.mounter)?);
            }
        }
        Ok(false)
    }

    /// Whether the upper directory has a whiteout called `name`.
    pub(crate) fn has_whiteout(&self, name: &[u8]) -> Result<bool> {
        let Some(upper) = self.upper_dir() else { return Ok(false) };
        match self.fs.mounter.lookup(&upper.path, name)? {
            Some(path) => self.fs.marks.is_whiteout(&path, &self.fs.mounter),
            None => Ok(false),
        }
    }
}
