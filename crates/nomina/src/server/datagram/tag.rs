//! Names that travel with messages, as descriptors.
//!
//! A descriptor in a message costs nothing to a receiver that does not ask for it: the host drops it. A tag is a sealed memfd
//! whose text says who sent the message or where it shall go. The text is signed, so that guests, who can make sealed memfds
//! themselves, cannot forge a sender; who holds the tag of a destination may send there, as with a connected socket.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

/// Who sent a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Host pid of the process.
    pub host_pid: i32,
    /// Its real user.
    pub uid: u32,
    /// Its real group.
    pub gid: u32,
    /// What the guest calls the socket; empty without a name.
    pub name: Vec<u8>,
}

/// Makes and reads tags.
#[derive(Default)]
pub struct Tags {
    key: RandomState,
}

const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);
/// First words of tags.
const SOURCE: u32 = 1;
const DESTINATION: u32 = 2;
/// Longest tag: numbers, a name, the signature.
const LONGEST: usize = 256;

impl Tags {
    fn make(&self, mut text: Vec<u8>) -> io::Result<OwnedFd> {
        text.extend(self.key.hash_one(&text[..]).to_ne_bytes());
        let tag = rustix::fs::memfd_create("nomina-name", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        if rustix::io::write(&tag, &text)? != text.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rustix::fs::fcntl_add_seals(&tag, SEALS)?;
        Ok(tag)
    }

    /// The text of a tag that was made here. Only of a memfd is anything read: other files may block.
    fn read(&self, tag: &OwnedFd) -> Option<Vec<u8>> {
        if rustix::fs::fcntl_get_seals(tag).ok()? != SEALS {
            return None;
        }
        let mut buffer = [0; LONGEST];
        let len = rustix::io::pread(tag, &mut buffer, 0).ok()?;
        let (text, signature) = buffer[..len].split_last_chunk::<8>()?;
        (self.key.hash_one(text) == u64::from_ne_bytes(*signature)).then(|| text.to_vec())
    }

    /// A tag that says who sent a message.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`.
    pub fn source(&self, source: &Source) -> io::Result<OwnedFd> {
        let words = [SOURCE, source.host_pid as u32, source.uid, source.gid];
        let mut text: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        text.extend(&source.name);
        self.make(text)
    }

    /// Who sent the message that the tag came with.
    pub fn source_of(&self, tag: &OwnedFd) -> Option<Source> {
        let text = self.read(tag)?;
        let (words, name) = text.split_first_chunk::<16>()?;
        let word = |at: usize| Some(u32::from_ne_bytes(words.get(at..at + 4)?.try_into().ok()?));
        (word(0)? == SOURCE).then_some(Source {
            host_pid: word(4)? as i32,
            uid: word(8)?,
            gid: word(12)?,
            name: name.to_vec(),
        })
    }

    /// A tag that makes a message go to the socket with inode number `ino`.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`.
    pub fn destination(&self, ino: u64) -> io::Result<OwnedFd> {
        let mut text = DESTINATION.to_ne_bytes().to_vec();
        text.extend(ino.to_ne_bytes());
        self.make(text)
    }

    /// The inode number of the socket that a message with this tag goes to.
    pub fn destination_of(&self, tag: &OwnedFd) -> Option<u64> {
        let text = self.read(tag)?;
        let (kind, ino) = text.split_first_chunk::<4>()?;
        (u32::from_ne_bytes(*kind) == DESTINATION).then_some(u64::from_ne_bytes(ino.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source { host_pid: 7, uid: 1, gid: 2, name: b"\0abc".to_vec() }
    }

    #[test]
    fn a_tag_says_what_it_was_made_for_and_nothing_else() {
        let tags = Tags::default();
        let tag = tags.source(&source()).unwrap();
        assert_eq!(tags.source_of(&tag), Some(source()));
        assert_eq!(tags.destination_of(&tag), None);
        let tag = tags.destination(99).unwrap();
        assert_eq!(tags.destination_of(&tag), Some(99));
        assert_eq!(tags.source_of(&tag), None);
    }

    #[test]
    fn the_tags_of_others_are_not_believed() {
        let tag = Tags::default().source(&source()).unwrap();
        assert_eq!(Tags::default().source_of(&tag), None);
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert_eq!(Tags::default().source_of(&pipe), None);
    }
}
