//! Making the configuration what files say.

use std::path::PathBuf;

use clap::Args;
use crossdock_config::{Action, Step};
use crossdock_control::api::Applied;
use crossdock_topics::Error;
use reqwest::{Method, header};

use super::Caller;
use crate::client::Client;
use crate::document::{File, variables};
use crate::failure::Result;
use crate::output::{Show, say, spinner};

/// How long the deployments of one file may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);

/// Make the configuration what files say; what they do not name stays as it is
#[derive(Debug, Args)]
#[command(after_help = "\
${VAR} and ${VAR:-default} are replaced from this environment. A service's
`source:` is read relative to its file. Every file is checked before the first
is applied.

Examples:
  crossdock apply cluster.yaml --dry-run
  crossdock apply topics.yaml services.yaml
  crossdock export | crossdock apply -")]
pub(super) struct Arguments {
    /// YAML files, applied in this order; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let variables = variables();
        let mut documents = Vec::with_capacity(self.files.len());
        for path in &self.files {
            documents.push(File::read(path)?.check(&variables)?);
        }
        let client = caller.connect()?;
        let mut steps = Vec::new();
        for document in documents {
            // JSON is YAML too, and says each text exactly.
            let body = serde_json::to_vec(document.document())
                .map_err(|cause| Error::internal(format!("cannot write the document: {cause}")))?;
            let mut request = client
                .api(Method::POST, &["apply"])
                .header(header::CONTENT_TYPE, "application/yaml")
                .body(body);
            if self.dry_run {
                request = request.query(&[("dry_run", "true")]);
            }
            let waiting = spinner("applying");
            let answer = client.try_send(Client::patient(request, PATIENCE)).await;
            waiting.finish_and_clear();
            match answer {
                Ok(response) => steps.extend(client.read::<Applied>(response).await?.steps),
                Err(refusal) => {
                    steps.extend(refusal.steps);
                    if !steps.is_empty() {
                        say(&format!("before it went wrong: {}", summary(&steps, self.dry_run)));
                    }
                    if refusal.faults.is_empty() {
                        return Err(refusal.error.into());
                    }
                    return Err(document.refused(&refusal.faults));
                }
            }
        }
        caller.output.list(&steps)?;
        say(&summary(&steps, self.dry_run));
        Ok(())
    }
}

fn summary(steps: &[Step], dry_run: bool) -> String {
    let count = |action| steps.iter().filter(|step| step.action == action).count();
    let (created, updated) = (count(Action::Create), count(Action::Update));
    let unchanged = count(Action::Unchanged);
    let verb = if dry_run { "would be " } else { "" };
    format!("{created} {verb}created, {updated} {verb}updated, {unchanged} unchanged")
}

impl Show for Step {
    const COLUMNS: &'static [&'static str] = &["action", "kind", "name", "detail"];

    fn row(&self) -> Vec<String> {
        let action = match self.action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Unchanged => "unchanged",
        };
        vec![action.into(), self.kind.to_string(), self.name.clone(), self.detail.clone().unwrap_or_default()]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}
