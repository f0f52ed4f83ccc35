//! Mount options of proc: `hidepid`, `gid` and `subset` (`proc(5)`; `fs/proc/root.c`).

use nomina_kernel::{Errno, Result};

/// What of other users' processes is shown: `enum proc_hidepid`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HidePid {
    /// All of it.
    #[default]
    Off,
    /// That they exist (1).
    NoAccess,
    /// Nothing (2).
    Invisible,
    /// Only processes that the viewer may trace are there at all, whatever its groups (4).
    Ptraceable,
}

/// Options of one instance. The group is a kernel id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcOptions {
    /// What is hidden.
    pub hide_pid: HidePid,
    /// From whose members nothing is hidden; root's group where none was given.
    pub gid: u32,
    /// `subset=pid`: only processes, nothing of the system.
    pub pid_only: bool,
}

/// Options that were given, for a mount or a remount, which leaves the others as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenOptions {
    hide_pid: Option<HidePid>,
    gid: Option<u32>,
    pid_only: Option<bool>,
}

impl GivenOptions {
    /// Takes `hidepid` and `subset`; `Ok(false)` for any other option.
    ///
    /// # Errors
    /// `EINVAL` for a bad value.
    pub fn parse(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        match (key, value) {
            ("hidepid", Some(value)) => {
                self.hide_pid = Some(match value {
                    "0" | "off" => HidePid::Off,
                    "1" | "noaccess" => HidePid::NoAccess,
                    "2" | "invisible" => HidePid::Invisible,
                    "4" | "ptraceable" => HidePid::Ptraceable,
                    _ => return Err(Errno::EINVAL),
                });
            }
            ("subset", Some(value)) => {
                // Values are joined by `+`; there is one.
                if value.split('+').any(|subset| subset != "pid") {
                    return Err(Errno::EINVAL);
                }
                self.pid_only = Some(true);
            }
            ("hidepid" | "subset", None) => return Err(Errno::EINVAL),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes `gid`.
    pub fn set_gid(&mut self, gid: u32) {
        self.gid = Some(gid);
    }
}

impl ProcOptions {
    /// `proc_apply_options`
    pub(crate) fn apply(&mut self, given: &GivenOptions) {
        self.hide_pid = given.hide_pid.unwrap_or(self.hide_pid);
        self.gid = given.gid.unwrap_or(self.gid);
        self.pid_only = given.pid_only.unwrap_or(self.pid_only);
    }

    /// `proc_show_options`
    pub(crate) fn show(&self) -> String {
        let mut parts = Vec::new();
        if self.gid != 0 {
            parts.push(format!("gid={}", self.gid));
        }
        match self.hide_pid {
            HidePid::Off => {}
            HidePid::NoAccess => parts.push("hidepid=noaccess".into()),
            HidePid::Invisible => parts.push("hidepid=invisible".into()),
            HidePid::Ptraceable => parts.push("hidepid=ptraceable".into()),
        }
        if self.pid_only {
            parts.push("subset=pid".into());
        }
        parts.join(",")
    }
}
