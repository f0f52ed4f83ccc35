//! Compiles `program/`, the freestanding program that runs in guest address spaces, into one static ELF image.
//!
//! Cargo cannot build a `no_std` binary for a fixed address as part of an ordinary build, so rustc is called here directly.
//! The layout of messages is the same source as the supervisor's: `nomina-abi`, compiled for the program as a library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Must equal `nomina_abi::SHIM_BASE`; a test of the image compares them.
const SHIM_BASE: &str = "0x7e9000000000";

/// Flags of both compilations: always optimised, because the program is on the path of every system call, and position
/// independent, because 32-bit absolute addresses cannot reach where it is linked.
const CODEGEN: [&str; 11] = [
    "--edition=2024",
    "-Cpanic=abort",
    "-Copt-level=2",
    "-Crelocation-model=pic",
    "-Ccodegen-units=1",
    "-Cdebuginfo=0",
    "-Coverflow-checks=off",
    "-Cdebug-assertions=off",
    "-Cforce-unwind-tables=no",
    "-Cno-redzone=yes",
    "--target=x86_64-unknown-linux-gnu",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let abi = here.join("../abi/src");
    let program = here.join("program");
    let layout = here.join("shim.ld");
    for watched in [abi.as_path(), program.as_path(), &here.join("build.rs"), &layout] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }

    let library = out.join("libnomina_abi.rlib");
    rustc(|command| {
        command
            .args(["--crate-name=nomina_abi", "--crate-type=rlib", "-o"])
            .arg(&library)
            .arg(abi.join("lib.rs"));
    });
    rustc(|command| {
        command
            .args(["--crate-name=shim", "--crate-type=bin", "-Cstrip=symbols", "-Clinker-features=-lld"])
            .args(["-Cdefault-linker-libraries=no", "-Clto=fat"])
            .arg(format!("--extern=nomina_abi={}", library.display()))
            .arg(link_args(&layout))
            .arg("-o")
            .arg(out.join("shim"))
            .arg(program.join("main.rs"));
    });
}

/// No C runtime, no relocations left for a loader, and the layout of `shim.ld`.
fn link_args(layout: &Path) -> String {
    [
        "-Clink-args=-nostdlib -nostartfiles -static -no-pie",
        &format!("-Wl,--no-relax,--defsym=SHIM_BASE={SHIM_BASE},--build-id=none,--gc-sections"),
        &format!("-Wl,-T,{}", layout.display()),
        "-Wl,-z,norelro,-z,noexecstack,-z,noseparate-code,--no-eh-frame-hdr",
    ]
    .join(" ")
}

fn rustc(arguments: impl FnOnce(&mut Command)) {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| Path::new("rustc").into()));
    command.args(CODEGEN);
    arguments(&mut command);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => {
            eprintln!("the shim does not compile: {command:?}");
            exit(1);
        }
        Err(error) => {
            eprintln!("cannot run {command:?}: {error}");
            exit(1);
        }
    }
}
