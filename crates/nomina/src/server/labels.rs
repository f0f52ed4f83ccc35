//! Labels: what `recvmsg(2)` tells of a message of a socket that stands for one of another family. A label is a sealed file that comes
//! with the message as its first descriptor; the shim reads it and takes it off ([`nomina_abi::label`]).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_abi::label;
use nomina_kernel::errno::Result;
use rustix::fs::{MemfdFlags, SealFlags};

use super::request::host;

/// Labels that are kept for further messages.
const KEPT: usize = 512;

/// Nobody can change a label: what a label says is what the supervisor has written.
pub const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// The labels that are kept, by text.
#[derive(Default)]
pub struct Labels(HashMap<Vec<u8>, Arc<OwnedFd>>);

impl Labels {
    /// A descriptor that reads as `text`.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`.
    pub fn label(&mut self, text: Vec<u8>) -> Result<Arc<OwnedFd>> {
        if let Some(known) = self.0.get(&text) {
            return Ok(known.clone());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let label = rustix::fs::memfd_create("nomina-label", flags).map_err(host)?;
        rustix::io::write(&label, &text).map_err(host)?;
        rustix::fs::fcntl_add_seals(&label, SEALS).map_err(host)?;
        let label = Arc::new(label);
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(text, label.clone());
        Ok(label)
    }
}

/// The text of a label.
pub fn text(kind: u32, address: &[u8], control: &[u8]) -> Vec<u8> {
    let words = [kind, address.len() as u32, control.len() as u32, 0];
    let mut text: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    text.extend(address);
    text.resize(label::CONTROL_AT, 0);
    text.extend(control);
    text
}
