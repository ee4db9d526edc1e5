//! Completion of the command line by a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Result;
use crate::output::print_bytes;

/// Print a script that completes this command line in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock completion bash > ~/.local/share/bash-completion/completions/crossdock
  crossdock completion zsh > ~/.zfunc/_crossdock
  crossdock completion fish > ~/.config/fish/completions/crossdock.fish")]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Arguments::command(), "crossdock", &mut script);
        print_bytes(&script)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_names_the_commands() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(
                *shell,
                &mut crate::command::Arguments::command(),
                "crossdock",
                &mut script,
            );
            assert!(String::from_utf8(script).unwrap().contains("service"), "{shell}");
        }
    }
}
