//! Whole programs: wall time of each in every system, and the memory of Nomina's own processes.

use std::{
    ffi::OsString,
    fs, io,
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    report::Report,
    systems::{System, WorkDir},
};

/// Idle connections whose memory is measured.
const CONNECTIONS: usize = 1000;

/// A program: its name in the table, how often it is run, and the shell command (`None`: plain `true`).
struct Program {
    name: &'static str,
    rounds: usize,
    script: Option<&'static str>,
    /// Run natively before each round, so that each starts from the same.
    before: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "start-up of true", rounds: 21, script: None, before: "true" },
    Program {
        name: "python3 start-up",
        rounds: 9,
        script: Some("exec /usr/bin/python3 -c 'import json, os'"),
        before: "true",
    },
    Program {
        name: "200 x sh -c true",
        rounds: 5,
        script: Some("i=0; while [ $i -lt 200 ]; do sh -c true; i=$((i+1)); done"),
        before: "true",
    },
    Program {
        name: "gcc build, 16 files of 150 functions, make -j2",
        rounds: 3,
        script: Some("make -s -j2 -C big"),
        before: "make -s -C big clean",
    },
    Program {
        name: "gcc build, 40 files of one function, make -j2",
        rounds: 3,
        script: Some("make -C proj -s -j2"),
        before: "make -C proj -s clean",
    },
    Program {
        name: "git init, add, commit of 1,000 files",
        rounds: 3,
        script: Some(
            "cd tree && git init -q . && git add . && git -c user.name=n -c user.email=e commit -qm all",
        ),
        before: "rm -rf tree/.git",
    },
    Program {
        name: "git status of 1,000 files",
        rounds: 7,
        script: Some("git -C tree status --porcelain"),
        before: "true",
    },
    Program {
        name: "find over /usr/lib and /usr/include",
        rounds: 5,
        script: Some("find /usr/lib /usr/include -type f -size +1000k"),
        before: "true",
    },
    Program {
        name: "tar of a tree",
        rounds: 5,
        script: Some("tar -cf out.tar tree"),
        before: "rm -f out.tar",
    },
];

const FILES: usize = 40;
const BIG_FILES: usize = 16;

/// The trees that the programs work on.
fn prepare(work: &WorkDir) -> io::Result<()> {
    let proj = work.path().join("proj");
    fs::create_dir_all(&proj)?;
    for i in 0..FILES {
        let text = format!(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint part{i}(int x) {{ return x * {i}; }}\n"
        );
        fs::write(proj.join(format!("part{i}.c")), text)?;
    }
    fs::write(proj.join("main.c"), "int part1(int); int main(void) { return part1(0); }\n")?;
    let big = work.path().join("big");
    fs::create_dir_all(&big)?;
    for i in 0..BIG_FILES {
        let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_string();
        for f in 0..150 {
            text += &format!(
                "int part{i}_{f}(int x) {{\n  char text[64];\n  int sum = x;\n  for (int i = 0; i < x; i++) {{\n    \
                 snprintf(text, sizeof text, \"%d-%d\", i, sum);\n    sum = sum * 31 + (int)strlen(text) + {f};\n  }}\n  return sum;\n}}\n"
            );
        }
        fs::write(big.join(format!("part{i}.c")), text)?;
    }
    fs::write(big.join("main.c"), "int part1_1(int); int main(void) { return part1_1(0); }\n")?;
    let make = "OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O1 -c -o $@ $<\nclean:\n\trm -f *.o prog\n";
    fs::write(proj.join("Makefile"), make)?;
    fs::write(big.join("Makefile"), make)?;
    for i in 0..1000 {
        let dir = work.path().join(format!("tree/d{}", i % 40));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("file{i}")), format!("{i}\n").repeat(i % 200))?;
    }
    Ok(())
}

fn shell(script: &str) -> Vec<OsString> {
    ["sh", "-c", script].map(OsString::from).to_vec()
}

/// Times every program in every system, the systems taking turns.
///
/// # Errors
/// When the trees cannot be made or a system cannot be started at all.
pub fn measure(systems: &[System], work: &WorkDir, quick: bool, report: &mut Report) -> io::Result<()> {
    prepare(work)?;
    // One unmeasured run fills the page cache for all alike; git refuses trees of other owners, which uid 0 inside has
    // none of, but PRoot's pretended root does.
    for p in PROGRAMS {
        let rounds = if quick { 1 } else { p.rounds };
        let argv = p.script.map_or_else(|| vec!["true".into()], shell);
        let mut times = vec![Vec::new(); systems.len()];
        for round in 0..=rounds {
            for (i, s) in systems.iter().enumerate() {
                systems[0].command(work, &shell(p.before)).status()?;
                let mut c = s.command(work, &argv);
                c.env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", "safe.directory")
                    .env("GIT_CONFIG_VALUE_0", "*");
                let start = Instant::now();
                let o = c.stderr(Stdio::piped()).output()?;
                let ms = start.elapsed().as_secs_f64() * 1000.0;
                if !o.status.success() {
                    if round == 0 {
                        let said =
                            String::from_utf8_lossy(&o.stderr).trim().lines().last().unwrap_or("").to_owned();
                        report.note(format!("{}: {} failed ({}): {said}", s.name, p.name, o.status));
                    }
                } else if round > 0 {
                    times[i].push(ms);
                }
            }
        }
        for (s, t) in systems.iter().zip(times) {
            report.add(p.name, "ms", s.name, t);
        }
    }
    Ok(())
}

/// Process ids below `root`, itself first.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for e in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        // The name may hold anything, so fields are counted after its closing parenthesis.
        let ppid = stat.rsplit_once(')').and_then(|(_, r)| r.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(ppid.map(|p| (pid, p)));
    }
    let mut all = vec![root];
    let mut i = 0;
    while i < all.len() {
        let parent = all[i];
        all.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(c, _)| *c));
        i += 1;
    }
    all
}

fn high_water_kib(pid: u32) -> f64 {
    status_kib(pid, "VmHWM:")
}

fn resident_kib(pid: u32) -> f64 {
    status_kib(pid, "VmRSS:")
}

fn status_kib(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|v| v.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or_default()
}

/// The peak resident memory of the sandbox's own processes while a shell in it runs a few commands.
///
/// The sandbox's own are those that run its program: the first process and every descendant with the same executable.
///
/// # Errors
/// When a sandbox cannot be started.
pub fn memory(systems: &[System], work: &WorkDir, report: &mut Report) -> io::Result<()> {
    for s in systems.iter().filter(|s| s.name != "native") {
        let mut child = s
            .command(work, &shell("ls / >/dev/null; id >/dev/null; read x"))
            .stdin(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(700));
        let exe = |p: u32| fs::read_link(format!("/proc/{p}/exe")).ok();
        let own = exe(child.id());
        let kib: f64 = descendants(child.id())
            .into_iter()
            .filter(|p| own.is_some() && exe(*p) == own)
            .map(high_water_kib)
            .sum();
        if let Some(mut i) = child.stdin.take() {
            // The shell may have ended already; then there is nothing to end.
            let _ = i.write_all(b"\n");
        }
        child.wait()?;
        if kib > 0.0 {
            report.add("peak memory of the sandbox's own processes, a shell", "KiB", s.name, vec![kib]);
        } else {
            report.note(format!("{}: its processes' memory could not be read", s.name));
        }
    }
    idle_connections(systems, work, report)
}

/// How much the sandbox's own processes grow by connections over loopback at which nothing happens. The memory of the host's kernel is not
/// counted, natively nor inside.
fn idle_connections(systems: &[System], work: &WorkDir, report: &mut Report) -> io::Result<()> {
    let script = format!(
        "exec python3 -c 'import resource, socket, sys\nm = resource.getrlimit(7)[1]; resource.setrlimit(7, (m, m))\nl = socket.create_server((\"127.0.0.1\", 0), backlog=1100)\nprint(1, flush=True)\n\
         sys.stdin.readline()\nk = [(socket.create_connection(l.getsockname()), l.accept()[0]) for _ in range({CONNECTIONS})]\n\
         print(2, flush=True)\nsys.stdin.readline()'"
    );
    for s in systems.iter().filter(|s| s.name != "native") {
        let mut command = s.command(work, &shell(&script));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let exe = |p: u32| fs::read_link(format!("/proc/{p}/exe")).ok();
        let own = exe(child.id());
        let kib = |child: u32| -> f64 {
            let all = descendants(child).into_iter();
            all.filter(|p| own.is_some() && exe(*p) == own).map(resident_kib).sum()
        };
        let (mut input, output) = (child.stdin.take(), child.stdout.take());
        let mut lines = io::BufRead::lines(io::BufReader::new(output.ok_or(io::ErrorKind::BrokenPipe)?));
        let mut sizes = Vec::new();
        while let Some(Ok(_)) = lines.next() {
            sizes.push(kib(child.id()));
            if let Some(input) = &mut input {
                let _ = input.write_all(b"\n");
            }
        }
        child.wait()?;
        match sizes[..] {
            [before, after] if before > 0.0 => {
                report.add(
                    "memory of 1,000 idle tcp connections",
                    "KiB",
                    s.name,
                    vec![(after - before).max(0.0)],
                );
            }
            _ => report.note(format!("{}: 1,000 connections were not made", s.name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_below_us_and_has_memory() {
        let mut c = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&c.id()));
        assert!(high_water_kib(std::process::id()) > 100.0);
        c.kill().unwrap();
        c.wait().unwrap();
    }
}
