//! A new service to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use crossdock_topics::{Error, ErrorCode, ServiceName};

use crate::failure::{self, Result};
use crate::output::{print, say};

/// Write a small Python service, and a test beside it that needs no server
#[derive(Debug, Args)]
#[command(after_help = "\
Writes NAME.py, test_NAME.py, and the SDK as crossdock.py, for your editor and
for pytest. The server brings its own.

Examples:
  crossdock service new route
  crossdock service new billing --dir services/billing")]
pub(super) struct Arguments {
    /// The service's name
    name: ServiceName,
    /// Where to write it
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

const SERVICE: &str = include_str!("template/service.py");
const TEST: &str = include_str!("template/test_service.py");

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let Self { name, dir } = self;
        let module = module(&name);
        let fill = |text: &str| text.replace("NAME", name.as_str()).replace("MODULE", &module);
        let service = dir.join(format!("{module}.py"));
        let test = dir.join(format!("test_{module}.py"));
        std::fs::create_dir_all(&dir).map_err(|cause| failure::file("make", &dir, &cause))?;
        for path in [&service, &test] {
            if path.exists() {
                return Err(Error::new(
                    ErrorCode::AlreadyExists,
                    format!("{} is there already", path.display()),
                )
                .hint("choose another name, or another place with --dir")
                .into());
            }
        }
        write_new(&service, &fill(SERVICE))?;
        write_new(&test, &fill(TEST))?;
        let sdk = dir.join("crossdock.py");
        std::fs::write(&sdk, crossdock_workers::PYTHON_SDK)
            .map_err(|cause| failure::file("write", &sdk, &cause))?;
        print(&format!("{}\n{}\n{}\n", service.display(), test.display(), sdk.display()))?;
        let named = if module == name.as_str() { String::new() } else { format!(" --name {name}") };
        say(&format!(
            "try it:\n  pytest {test}\n  crossdock topic create {name}.in\n  crossdock topic create {name}.out\n  \
             crossdock service deploy {service}{named}\n  crossdock pub {name}.in '{{\"id\": \"1\", \"quantity\": 2}}'\n  \
             crossdock tail {name}.out\n  crossdock service invoke {name} '{{\"id\": \"1\", \"quantity\": 2}}'",
            test = test.display(),
            service = service.display(),
        ));
        Ok(())
    }
}

/// The name of a Python module for a service of this name.
fn module(name: &ServiceName) -> String {
    let module = name.as_str().replace(['-', '.'], "_");
    if module.starts_with(|c: char| c.is_ascii_digit()) { format!("service_{module}") } else { module }
}

/// Writes a file that is not there yet: what somebody has written is never overwritten.
fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let write = || OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes());
    write().map_err(|cause| failure::file("write", path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(dir: &Path) -> Result<()> {
        Arguments { name: "order-route".parse().unwrap(), dir: dir.to_owned() }.run()
    }

    #[test]
    fn it_writes_a_service_and_its_test_and_never_over_others() {
        let dir = tempfile::tempdir().unwrap();
        new(dir.path()).unwrap();
        let service = std::fs::read_to_string(dir.path().join("order_route.py")).unwrap();
        assert!(service.contains("order-route.in"), "{service}");
        let test = std::fs::read_to_string(dir.path().join("test_order_route.py")).unwrap();
        assert!(test.contains("import order_route"), "{test}");
        assert!(!(service + &test).contains("MODULE"));
        std::fs::write(dir.path().join("order_route.py"), "mine").unwrap();
        assert_eq!(new(dir.path()).unwrap_err().exit(), crate::exit::Exit::Conflict);
        assert_eq!(std::fs::read_to_string(dir.path().join("order_route.py")).unwrap(), "mine");
    }

    #[test]
    fn what_is_written_passes_its_own_test() {
        let dir = tempfile::tempdir().unwrap();
        new(dir.path()).unwrap();
        let script =
            "import test_order_route as t; [f() for n, f in vars(t).items() if n.startswith('test_')]";
        let output = std::process::Command::new("python3")
            .args(["-c", script])
            .current_dir(dir.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
