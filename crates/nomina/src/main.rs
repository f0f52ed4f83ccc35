//! The command line: `nomina run`, `ps`, `ns`, `exec`, `kill`, `doctor`, `syscalls`, `completions` and `man`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
