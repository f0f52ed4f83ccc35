//! The systems that are compared, and how a command is run in each.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A scratch directory that is removed at the end.
///
/// Below `/var/tmp`, because `/tmp` is often memory and the point is to compare like with like.
pub struct WorkDir(PathBuf);

impl WorkDir {
    /// Makes it.
    ///
    /// # Errors
    /// What mkdir(2) says.
    pub fn new() -> io::Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/nomina-bench.{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Scratch that cannot be removed is no reason to fail after measuring.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Native, Nomina, PRoot or bubblewrap.
pub struct System {
    /// As the table's column says.
    pub name: &'static str,
    prefix: Vec<OsString>,
}

impl System {
    /// The systems that work here, native first, and a sentence for each that does not.
    ///
    /// # Errors
    /// When the program that measures cannot be copied into the scratch directory.
    pub fn available(nomina: &Path, work: &WorkDir) -> io::Result<(Vec<Self>, Vec<String>)> {
        // The home directory is hidden inside, so the program is copied to where every system sees it.
        fs::copy(std::env::current_exe()?, work.path().join("bench"))?;
        let dir = work.path().as_os_str().to_owned();
        let s = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let mut with_nomina = vec![nomina.as_os_str().to_owned()];
        with_nomina.extend(s(&["run", "--rw", "."]));
        with_nomina.push("--".into());
        let mut bwrap = s(&[
            "bwrap",
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--unshare-all",
            "--bind",
        ]);
        bwrap.extend([dir.clone(), dir]);
        let candidates = [
            Self { name: "native", prefix: Vec::new() },
            Self { name: "nomina", prefix: with_nomina },
            Self { name: "proot", prefix: s(&["proot", "-0"]) },
            Self { name: "bwrap", prefix: bwrap },
        ];
        let (mut working, mut absent) = (Vec::new(), Vec::new());
        for c in candidates {
            match c.command(work, &["true".into()]).stderr(Stdio::piped()).output() {
                Ok(o) if o.status.success() => working.push(c),
                Ok(o) => {
                    let said = String::from_utf8_lossy(&o.stderr);
                    let last = said.trim().lines().last().unwrap_or("no message").to_owned();
                    absent.push(format!("{} does not work here ({}): {last}", c.name, o.status));
                }
                Err(e) => absent.push(format!("{} is not installed: {e}", c.name)),
            }
        }
        Ok((working, absent))
    }

    /// A command in this system, in the scratch directory, without input or output.
    pub fn command(&self, work: &WorkDir, argv: &[OsString]) -> Command {
        let mut words = self.prefix.iter().chain(argv);
        let mut c = Command::new(words.next().map_or(&argv[0], |w| w));
        c.args(words)
            .current_dir(work.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        c
    }
}
