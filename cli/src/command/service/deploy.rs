//! Deploying a service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use crossdock_config::{EnvValue, ServiceSettings, Size};
use crossdock_control::api::DeployRequest;
use crossdock_topics::time::human;
use crossdock_topics::{Error, ErrorCode, ServiceName};
use reqwest::Method;

use super::rollout::Rollout;
use super::{Caller, get};
use crate::client::Client;
use crate::document::source_text;
use crate::failure::{self, Result};

/// Deploy a service: validated, then swapped in on every server; a bad one changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Settings that are not given stay as they are.

Examples:
  crossdock service deploy route.py
  crossdock service deploy route.py --name orders.route --processes 4 --memory 256MiB
  crossdock service deploy route/ --env API_TOKEN=env:API_TOKEN")]
pub(super) struct Arguments {
    /// The Python file, or a directory with one beside its tests
    #[arg(value_name = "FILE|DIR")]
    source: PathBuf,
    /// The service's name; the file's, without .py, unless said
    #[arg(long)]
    name: Option<ServiceName>,
    /// How many processes, on each server
    #[arg(long, value_name = "N")]
    processes: Option<u32>,
    /// How long one call of a handler may take
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    timeout: Option<Duration>,
    /// How much memory one process may have
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// A variable of its environment; `env:NAME` and `file:/PATH` refer to secrets on the server; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, EnvValue)>,
    /// How long to wait until it runs on every server
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = human::parse)]
    wait: Duration,
}

fn variable(text: &str) -> Result<(String, EnvValue), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write it like NAME=VALUE")?;
    Ok((name.to_owned(), value.parse().map_err(|error: Error| error.to_string())?))
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let file = if self.source.is_dir() { the_service_in(&self.source)? } else { self.source.clone() };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_of(&file)?,
        };
        let source = source_text(&file)?;
        let settings = self.settings(&client, &name).await?;
        let request = client.api(Method::POST, &["services", name.as_str(), "deploy"]);
        let request = request.json(&DeployRequest { source, settings, wait: Some(self.wait) });
        Rollout { name, wait: self.wait, verb: "deployed" }.run(caller, &client, request).await
    }

    /// The settings as they are, with what was given changed; nothing when nothing was given.
    async fn settings(&self, client: &Client, name: &ServiceName) -> Result<Option<ServiceSettings>, Error> {
        let Self { processes, timeout, memory, env, .. } = self;
        if processes.is_none() && timeout.is_none() && memory.is_none() && env.is_empty() {
            return Ok(None);
        }
        let mut settings = match get(client, name).await {
            Ok(info) => info.settings,
            Err(error) if error.code == ErrorCode::NotFound => ServiceSettings::default(),
            Err(error) => return Err(error),
        };
        settings.processes = processes.unwrap_or(settings.processes);
        settings.timeout = timeout.unwrap_or(settings.timeout);
        settings.memory = memory.unwrap_or(settings.memory);
        settings.env.extend(env.iter().cloned());
        settings.check()?;
        Ok(Some(settings))
    }
}

/// The one Python file of a directory that is neither a test nor the SDK.
fn the_service_in(directory: &Path) -> Result<PathBuf, Error> {
    let entries = std::fs::read_dir(directory).map_err(|cause| failure::file("read", directory, &cause))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| failure::file("read", directory, &cause))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let test = name.starts_with("test_") || name.ends_with("_test.py") || name == "conftest.py";
        let sdk = name == "crossdock.py";
        if name.ends_with(".py") && !test && !sdk && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(
            ErrorCode::NotFound,
            format!("there is no Python file in {}", directory.display()),
        )
        .hint("name the service's file; `crossdock service new NAME` writes one")),
        many => {
            let names: Vec<String> = many.iter().map(|path| path.display().to_string()).collect();
            Err(Error::invalid(format!("{} has several Python files", directory.display()))
                .hint(format!("name one of {}", names.join(", "))))
        }
    }
}

/// A service is called as its file is; `_` in a module's name is kept.
fn name_of(file: &Path) -> Result<ServiceName, Error> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.parse().map_err(|error: Error| {
        Error::invalid(format!("{} does not name a service: {}", file.display(), error.message))
            .hint("give it a name with --name")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_service_beside_its_tests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(the_service_in(path).unwrap_err().code, ErrorCode::NotFound);
        for name in ["route.py", "test_route.py", "conftest.py", "crossdock.py", "notes.txt"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        let file = the_service_in(path).unwrap();
        assert_eq!(name_of(&file).unwrap().as_str(), "route");
        std::fs::write(path.join("other.py"), "").unwrap();
        let error = the_service_in(path).unwrap_err();
        assert!(error.to_string().contains("other.py, "), "{error}");
    }

    #[test]
    fn a_file_whose_name_is_none_asks_for_one() {
        assert!(name_of(Path::new("my service.py")).unwrap_err().to_string().contains("--name"));
    }

    #[test]
    fn a_variable_is_a_name_and_a_value() {
        assert_eq!(variable("A=b=c").unwrap(), ("A".into(), EnvValue::Literal("b=c".into())));
        assert!(matches!(variable("A=env:B").unwrap().1, EnvValue::Secret(_)));
        assert!(variable("=x").is_err() && variable("A").is_err() && variable("A=env:").is_err());
    }
}
