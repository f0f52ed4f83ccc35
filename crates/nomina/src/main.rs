//! The command line: `nomina run`, `doctor`, `syscalls`, `completions` and `man`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
