//! `nomina completions` and `nomina man`: made from the definition of the options, so they cannot disagree with it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_complete::Shell;

use super::Failure;

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    nomina completions bash > ~/.local/share/bash-completion/completions/nomina\n  \
    nomina completions zsh > ~/.zfunc/_nomina\n  \
    nomina completions fish > ~/.config/fish/completions/nomina.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write all pages
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  nomina man | man -l -\n  nomina man --output ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write nomina.1, nomina-run.1 and so on to DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: Option<PathBuf>,
}

/// Prints completions.
pub fn completions(args: &CompletionsArgs, command: &mut clap::Command) -> Result<u8, Failure> {
    // clap_complete panics when it cannot write; a buffer it always can.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "nomina", &mut script);
    io::stdout().write_all(&script)?;
    Ok(0)
}

/// Prints or writes manual pages.
pub fn man(args: &ManArgs, command: clap::Command) -> Result<u8, Failure> {
    match &args.output {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            clap_mangen::generate_to(command, dir)?;
        }
        None => clap_mangen::Man::new(command).render(&mut io::stdout())?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn there_is_a_manual_page_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManArgs { output: Some(dir.path().join("man1")) };
        man(&args, Cli::command()).unwrap();
        assert!(dir.path().join("man1/nomina.1").exists());
        for command in ["run", "ps", "ns", "exec", "kill", "doctor", "syscalls"] {
            let page = dir.path().join(format!("man1/nomina-{command}.1"));
            assert!(std::fs::read_to_string(page).unwrap().contains(".SH NAME"), "{command}");
        }
    }
}
