//! The one binary: parse, build, wait, drain.

fn main() -> std::process::ExitCode {
    crossdock_cli::run(std::env::args_os())
}
