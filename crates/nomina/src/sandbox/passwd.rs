//! `passwd(5)` and `group(5)`, read as the C library's `files` service reads them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A line of `passwd(5)`.
pub struct User {
    /// Login name.
    pub name: OsString,
    /// Number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

impl User {
    /// The first line for `uid` in `text`.
    pub fn find(text: &[u8], uid: u32) -> Option<User> {
        text.split(|byte| *byte == b'\n').filter_map(User::parse).find(|user| user.uid == uid)
    }

    /// The first line for the login name `name` in `text`.
    pub fn find_name(text: &[u8], name: &OsStr) -> Option<User> {
        text.split(|byte| *byte == b'\n').filter_map(User::parse).find(|user| user.name == name)
    }

    fn parse(line: &[u8]) -> Option<User> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let &[name, _password, uid, gid, _gecos, home, shell] = fields.as_slice() else { return None };
        if name.is_empty() {
            return None;
        }
        Some(User {
            name: OsStr::from_bytes(name).to_owned(),
            uid: number(uid)?,
            gid: number(gid)?,
            home: OsStr::from_bytes(home).into(),
            shell: OsStr::from_bytes(shell).into(),
        })
    }
}

/// Groups that `text`, a `group(5)`, lists `name` as a member of.
pub fn groups_of(text: &[u8], name: &OsStr) -> Vec<u32> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let &[_name, _password, gid, members] = fields.as_slice() else { return None };
            members.split(|byte| *byte == b',').any(|member| member == name.as_bytes()).then_some(gid)
        })
        .filter_map(number)
        .collect()
}

/// Login names by number; of several the first. What is no plain name is left out.
pub fn names(text: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), _, Some(Some(uid))) = (fields.next(), fields.next(), fields.next().map(number))
        else {
            continue;
        };
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+$".contains(byte);
        if !name.is_empty() && name.len() <= 32 && name.iter().all(plain) {
            names.entry(uid).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
        }
    }
    names
}
