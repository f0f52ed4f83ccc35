//! Address spaces, hidden sockets and placeholders made ahead, and those of processes that have ended taken down later, so that
//! neither a fork nor an open nor a wait waits for the host to make or remove them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use nomina_gate::sock;

use super::Server;
use super::ahead::Ahead;
use super::guest::{AddressSpace, GuestFiles, GuestProcess, GuestThread, Image};
use super::lock::Mutex;

/// How many of each are kept, and below how many they are made up again.
const FULL: usize = 24;
const LOW: usize = 4;
/// How many processes' remains may lie about.
const REMAINS: usize = 32;

#[derive(Default)]
struct Stock {
    spaces: Vec<Arc<AddressSpace>>,
    sockets: Vec<(OwnedFd, OwnedFd)>,
    /// The maker has been asked to make up what is short.
    asked: bool,
}

impl Stock {
    /// Whether the maker must be asked, once.
    fn is_short(&mut self) -> bool {
        let short = self.spaces.len() <= LOW || self.sockets.len() <= LOW;
        short && !std::mem::replace(&mut self.asked, true)
    }
}

/// The stock.
#[derive(Default)]
pub struct Spares {
    stock: Mutex<Stock>,
    remains: Mutex<Vec<Remains>>,
    maker: OnceLock<Thread>,
}

/// What the host has to remove.
#[derive(Default)]
struct Remains {
    _image: Option<Image>,
    _process: Option<(Arc<GuestFiles>, Arc<GuestProcess>)>,
}

impl Spares {
    /// A fresh address space.
    ///
    /// # Errors
    /// As [`AddressSpace::new`].
    pub fn space(&self) -> io::Result<Arc<AddressSpace>> {
        let mut stock = self.stock.lock().unwrap();
        let spare = stock.spaces.pop();
        let short = stock.is_short();
        drop(stock);
        if short {
            self.wake();
        }
        spare.map_or_else(AddressSpace::new, Ok)
    }

    /// A fresh pair of sockets: supervisor's end, guest's end.
    ///
    /// # Errors
    /// As [`sock::pair`].
    pub fn sockets(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let mut stock = self.stock.lock().unwrap();
        let spare = stock.sockets.pop();
        let short = stock.is_short();
        drop(stock);
        if short {
            self.wake();
        }
        spare.map_or_else(sock::pair, Ok)
    }

    /// Takes what the host has to remove of a process that is gone, for later.
    pub fn bury(&self, ahead: &Ahead, leader: &GuestThread) {
        *leader.observed.lock().unwrap() = None;
        // What could keep a mount busy goes now.
        *leader.process.exe.lock().unwrap() = None;
        let image = leader.image.lock().unwrap().take();
        if let Some(image) = &image {
            ahead.forget_region(&image.space().region);
        }
        self.put_off(Remains { _image: image, _process: Some((leader.files(), leader.process.clone())) });
    }

    /// The same for an image that an exec has replaced.
    pub fn bury_image(&self, image: Option<Image>) {
        self.put_off(Remains { _image: image, _process: None });
    }

    fn put_off(&self, remains: Remains) {
        let mut all = self.remains.lock().unwrap();
        all.push(remains);
        let many = all.len() == REMAINS;
        drop(all);
        if many {
            self.wake();
        }
    }

    /// Has the maker look for what is short.
    pub fn wake(&self) {
        if let Some(maker) = self.maker.get() {
            maker.unpark();
        }
    }

    /// Fills the stock up. The host's calls are made without the lock.
    fn fill(&self) {
        let remains = std::mem::take(&mut *self.remains.lock().unwrap());
        drop(remains);
        loop {
            let (spaces, sockets) = {
                let mut stock = self.stock.lock().unwrap();
                stock.asked = false;
                (stock.spaces.len(), stock.sockets.len())
            };
            if spaces >= FULL && sockets >= FULL {
                return;
            }
            // Short of descriptors or memory: whoever needs one tries again and is told.
            if spaces < FULL {
                let Ok(space) = AddressSpace::new() else { return };
                self.stock.lock().unwrap().spaces.push(space);
            }
            if sockets < FULL {
                let Ok(pair) = sock::pair() else { return };
                self.stock.lock().unwrap().sockets.push(pair);
            }
        }
    }
}

/// Starts the thread that fills the stock. It ends with the sandbox.
///
/// # Errors
/// When it cannot be started.
pub fn start(server: &Arc<Server>) -> io::Result<()> {
    let server = server.clone();
    let maker = std::thread::Builder::new().name("nomina-spares".into()).stack_size(128 * 1024).spawn({
        let server = server.clone();
        move || {
            while !server.is_ending() {
                std::thread::park();
                server.spares.fill();
                server.handles.make_blanks();
            }
        }
    })?;
    let _ = server.spares.maker.set(maker.thread().clone());
    Ok(())
}
