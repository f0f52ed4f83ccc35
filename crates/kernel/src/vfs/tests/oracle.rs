//! The host kernel as the judge: random calls on a few names, on a directory of the host and on the model, must have the
//! same results.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use super::*;
use crate::vfs::namei::RenameFlags;

/// xorshift64: the sequence is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn name(&mut self) -> String {
        const PARTS: [&str; 7] = ["a", "b", "c", "a", "b", ".", ".."];
        let depth = 1 + self.below(3);
        let mut name = String::new();
        // Names never climb out of the directory of the test.
        let mut below = 0;
        for level in 0..depth {
            let part = match PARTS[self.below(7)] {
                ".." if below == 0 => "c",
                part => part,
            };
            below = match part {
                "." => below,
                ".." => below - 1,
                _ => below + 1,
            };
            name.push_str(part);
            if level + 1 < depth {
                name.push('/');
            }
        }
        if self.below(6) == 0 {
            name.push('/');
        }
        name
    }
}

/// Result of a call: what it told, or the error number.
type Told = std::result::Result<String, i32>;

fn host<T>(result: io::Result<T>, tell: impl FnOnce(T) -> String) -> Told {
    result.map(tell).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn model<T>(result: Result<T>, tell: impl FnOnce(T) -> String) -> Told {
    result.map(tell).map_err(|error| error.0)
}

#[test]
fn random_calls_have_the_results_of_the_host_kernel() {
    let base = std::env::temp_dir().join(format!("nomina-oracle-{}", std::process::id()));
    fs::create_dir(&base).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        for seed in 1..=40 {
            let dir = base.join(seed.to_string());
            fs::create_dir(&dir).unwrap();
            compare(seed, dir.as_os_str());
        }
    });
    fs::remove_dir_all(&base).unwrap();
    outcome.unwrap();
}

fn compare(seed: u64, dir: &OsStr) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let world = World::new();
    world.mkdir("/w", 0o755).unwrap();
    let mut at = world.at.clone();
    at.pwd = world.path("/w");
    at.umask = 0;
    let ctx = at.walk(&ROOT);
    let real = |name: &str| OsStr::from_bytes(&[dir.as_bytes(), b"/", name.as_bytes()].concat()).to_owned();
    let ok = |_| String::new();
    let kind = |mode: u32| format!("{:o}", mode & S_IFMT);
    let mut log = Vec::new();
    for _ in 0..400 {
        let (x, y) = (random.name(), random.name());
        let (call, theirs, ours) = match random.below(12) {
            0 | 1 => (
                "mkdir",
                host(fs::create_dir(real(&x)), ok),
                model(namei::mkdir(&ctx, x.as_bytes(), 0o755), ok),
            ),
            2 => ("rmdir", host(fs::remove_dir(real(&x)), ok), model(namei::rmdir(&ctx, x.as_bytes()), ok)),
            3 => {
                ("unlink", host(fs::remove_file(real(&x)), ok), model(namei::unlink(&ctx, x.as_bytes()), ok))
            }
            4 => {
                // Targets that stay below: links are walked relative to where they are.
                let target = ["a", "b/", "a/b", "./c", "c/.", "b"][random.below(6)];
                let theirs = host(symlink(target, real(&x)), ok);
                ("symlink", theirs, model(namei::symlink(&ctx, target.as_bytes(), x.as_bytes()), ok))
            }
            5 => {
                let ours = namei::link(&ctx, x.as_bytes(), LookupFlags::default(), &ctx, y.as_bytes());
                ("link", host(fs::hard_link(real(&x), real(&y)), ok), model(ours, ok))
            }
            6 | 7 => {
                let ours = namei::rename(&ctx, x.as_bytes(), &ctx, y.as_bytes(), RenameFlags::empty());
                ("rename", host(fs::rename(real(&x), real(&y)), ok), model(ours, ok))
            }
            8 => {
                let theirs = fs::symlink_metadata(real(&x));
                let ours = namei::stat(&ctx, x.as_bytes(), LookupFlags::default());
                ("lstat", host(theirs, |found| kind(found.mode())), model(ours, |found| kind(found.mode)))
            }
            9 => {
                let ours = namei::stat(&ctx, x.as_bytes(), LookupFlags::FOLLOW);
                (
                    "stat",
                    host(fs::metadata(real(&x)), |found| kind(found.mode())),
                    model(ours, |found| kind(found.mode)),
                )
            }
            10 => {
                let theirs = host(fs::read_link(real(&x)), |text| text.to_string_lossy().into());
                let ours = namei::readlink(&ctx, x.as_bytes(), LookupFlags::default());
                ("readlink", theirs, model(ours, |text| String::from_utf8(text).unwrap()))
            }
            _ => {
                const FLAGS: [u32; 7] = [0, 0o100, 0o300, 0o200000, 0o400000, 0o600000, 0o400100];
                let (access, extra) = (random.below(3) as u32, FLAGS[random.below(7)]);
                let mut options = fs::OpenOptions::new();
                options.read(access != 1).write(access != 0).custom_flags(extra as i32);
                let theirs = host(options.open(real(&x)), |_| String::new());
                let ours = namei::open(&ctx, x.as_bytes(), access | extra, 0o644, LookupFlags::default());
                ("open", theirs, model(ours, |_| String::new()))
            }
        };
        log.push(format!("{call} {x} {y}: {theirs:?}"));
        assert_eq!(ours, theirs, "seed {seed}, after:\n{}", log.join("\n"));
    }
}

#[test]
fn permission_bits_decide_as_on_the_host() {
    // Only an ordinary user is refused anything; root learns nothing here.
    let dir = std::env::temp_dir().join(format!("nomina-permission-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let file = dir.join("f");
    fs::write(&file, b"").unwrap();
    let owner = fs::metadata(&file).unwrap();
    let (uid, gid) = (owner.uid(), owner.gid());
    let cred = if uid == 0 { ROOT } else { WalkCred::user(uid, gid, &[]) };
    for mode in (0..0o1000).step_by(7) {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for (access, mask) in [(0, permission::MAY_READ), (1, permission::MAY_WRITE)] {
            let theirs = fs::OpenOptions::new().read(access == 0).write(access == 1).open(&file).is_ok();
            let ours = permission::generic_permission(S_IFREG | mode, uid, gid, &cred, mask).is_ok();
            assert_eq!(ours, theirs, "mode {mode:o} mask {mask}");
        }
    }
    fs::remove_dir_all(&dir).unwrap();
}
