//! `/proc/PID/stat` and `status` (`proc_pid_stat(5)`, `proc_pid_status(5)`): the host's text with the names in it, that is
//! every number of a task, user or group, replaced by the sandbox's.

use nomina_kernel::{Errno, Result};

use super::base::TaskFile;
use super::source::TaskInfo;

/// SIGSYS and SIGSTKFLT in the masks of `SigCgt` and the like: their handlers are the shim's, not the program's.
const SHIMS_BITS: u64 = 1 << (libc::SIGSYS - 1) | 1 << (libc::SIGSTKFLT - 1);

pub(crate) fn stat(file: &TaskFile) -> Result<Vec<u8>> {
    let info = file.info()?;
    translate_stat(&file.host_of(&info, "stat")?, &info, file.permitted()).ok_or(Errno::EIO)
}

pub(crate) fn status(file: &TaskFile) -> Result<Vec<u8>> {
    let info = file.info()?;
    Ok(translate_status(&file.host_of(&info, "status")?, &info))
}

/// The text of `sched` starts with the name and the number.
pub(crate) fn sched(file: &TaskFile) -> Result<Vec<u8>> {
    let info = file.info()?;
    let text = file.host_of(&info, "sched")?;
    let end = text.iter().position(|b| *b == b'\n').ok_or(Errno::EIO)?;
    let open = text[..end].windows(2).rposition(|w| w == b" (").ok_or(Errno::EIO)?;
    let comm = info.comm.as_deref().unwrap_or(&text[..open]);
    let head = format!(" ({}, #threads: {})", info.pid, info.threads);
    Ok([comm, head.as_bytes(), &text[end..]].concat())
}

/// Rewrites the line of `stat`. Addresses and the exit status are shown to those who may trace only. `None` when it has no name in parentheses or too few fields.
pub(crate) fn translate_stat(host: &[u8], info: &TaskInfo, permitted: bool) -> Option<Vec<u8>> {
    // The name may hold anything, parentheses and spaces too: it ends at the last one.
    let open = host.iter().position(|b| *b == b'(')?;
    let close = host.iter().rposition(|b| *b == b')')?;
    let comm = info.comm.as_deref().unwrap_or(host.get(open + 1..close)?);
    let rest = std::str::from_utf8(host.get(close + 1..)?).ok()?;
    let mut fields: Vec<String> = rest.split_ascii_whitespace().map(String::from).collect();
    if fields.len() < 50 {
        return None;
    }
    // Fields count from 1 in the manual page and the first two are cut off.
    let mut set = |nr: usize, value: String| fields[nr - 3] = value;
    if let Some(state) = info.state {
        set(3, char::from(state).to_string());
    }
    set(4, info.ppid.to_string());
    set(5, info.pgrp.to_string());
    set(6, info.session.to_string());
    set(7, info.tty_nr.to_string());
    set(8, info.tpgid.to_string());
    set(20, info.threads.to_string());
    if let Some(start) = info.starttime {
        set(22, start.to_string());
    }
    set(38, info.exit_signal.to_string());
    set(52, if permitted { info.exit_code } else { 0 }.to_string());
    if !permitted {
        // As `do_task_stat`: 1 for the bounds of the code, 0 for everything else that is an address.
        (26..=27).for_each(|nr| set(nr, "1".into()));
        (28..=30).chain(45..=51).for_each(|nr| set(nr, "0".into()));
    }
    // The old masks have 31 bits.
    for nr in [32, 34] {
        if let Ok(mask) = fields[nr - 3].parse::<u64>() {
            fields[nr - 3] = (mask & !SHIMS_BITS).to_string();
        }
    }
    let mut out = format!("{} (", info.pid).into_bytes();
    out.extend_from_slice(comm);
    out.extend_from_slice(format!(") {}\n", fields.join(" ")).as_bytes());
    Some(out)
}

pub(super) fn numbers<T: ToString>(list: &[T], separator: &str) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}

/// A name as `status` shows it: newline and backslash escaped.
fn escape_comm(comm: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(comm.len());
    for byte in comm {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => out.push(*byte),
        }
    }
    out
}

fn state_text(state: u8) -> &'static str {
    match state {
        b'R' => "R (running)",
        b'S' => "S (sleeping)",
        b'D' => "D (disk sleep)",
        b'T' => "T (stopped)",
        b't' => "t (tracing stop)",
        b'X' => "X (dead)",
        b'Z' => "Z (zombie)",
        b'P' => "P (parked)",
        _ => "I (idle)",
    }
}

/// Rewrites `status` line by line; lines about memory, signals and CPUs stay the host's.
pub(crate) fn translate_status(host: &[u8], info: &TaskInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(host.len());
    for line in host.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let key = &line[..colon];
        let mask = |value: &[u8]| u64::from_str_radix(std::str::from_utf8(value).ok()?.trim(), 16).ok();
        let value: Option<Vec<u8>> = match key {
            b"Name" => info.comm.as_deref().map(escape_comm),
            b"Umask" => info.umask.map(|m| format!("{m:04o}").into_bytes()),
            b"State" => info.state.map(|s| state_text(s).into()),
            b"Tgid" => Some(info.tgid.to_string().into()),
            b"Pid" => Some(info.pid.to_string().into()),
            b"PPid" => Some(info.ppid.to_string().into()),
            b"TracerPid" => Some(info.tracer.to_string().into()),
            b"Uid" => Some(numbers(&info.uids, "\t").into()),
            b"Gid" => Some(numbers(&info.gids, "\t").into()),
            // Linux ends the list with a space, an empty one too.
            b"Groups" => Some(format!("{} ", numbers(&info.groups, " ")).into()),
            b"NStgid" => Some(numbers(&info.nstgid, "\t").into()),
            b"NSpid" => Some(numbers(&info.nspid, "\t").into()),
            b"NSpgid" => Some(numbers(&info.nspgid, "\t").into()),
            b"NSsid" => Some(numbers(&info.nssid, "\t").into()),
            b"Threads" => Some(info.threads.to_string().into()),
            b"SigBlk" if info.blocked.is_some() => {
                info.blocked.map(|blocked| format!("{:016x}", blocked & !SHIMS_BITS).into())
            }
            b"SigBlk" | b"SigCgt" => {
                line.get(colon + 1..).and_then(mask).map(|m| format!("{:016x}", m & !SHIMS_BITS).into())
            }
            b"CapInh" => Some(format!("{:016x}", info.caps[0]).into()),
            b"CapPrm" => Some(format!("{:016x}", info.caps[1]).into()),
            b"CapEff" => Some(format!("{:016x}", info.caps[2]).into()),
            b"CapBnd" => Some(format!("{:016x}", info.caps[3]).into()),
            b"CapAmb" => Some(format!("{:016x}", info.caps[4]).into()),
            b"NoNewPrivs" => Some(u8::from(info.no_new_privs).to_string().into()),
            b"Seccomp" => Some(info.seccomp.0.to_string().into()),
            b"Seccomp_filters" => Some(info.seccomp.1.to_string().into()),
            _ => None,
        };
        match value {
            Some(value) => out.extend([key, b":\t", &value].concat()),
            None => out.extend_from_slice(line),
        }
        out.push(b'\n');
    }
    out
}
