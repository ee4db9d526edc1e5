//! Mending a dead letter before it is delivered again.

use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use clap::Args;
use crossdock_control::api::{DeadLetter, DeadLetterEdit};
use crossdock_topics::{Error, ErrorCode, SubscriptionName};
use reqwest::Method;

use super::find;
use crate::client::Client;
use crate::command::Caller;
use crate::env;
use crate::failure::Result;
use crate::message::Input;
use crate::output::say;
use crate::place::Place;

/// Change the payload that a dead letter is delivered with again, for this subscription alone
#[derive(Debug, Args)]
#[command(after_help = "\
Without --data and --file the payload is opened in an editor: VISUAL, EDITOR, or vi.
The log stays as it is, and so does what other subscriptions get.")]
pub(super) struct Arguments {
    /// The subscription
    subscription: SubscriptionName,
    /// The message
    #[arg(value_name = "TOPIC:OFFSET")]
    place: Place,
    /// The new payload; `-` reads it from standard input
    #[arg(long, value_name = "DATA", conflicts_with = "file")]
    data: Option<String>,
    /// Read the new payload from a file
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The media type of the new payload [default: as it was]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller, client: &Client) -> Result<()> {
        let (subscription, place) = (&self.subscription, &self.place);
        let payload = if self.data.is_some() || self.file.is_some() {
            Input::new(self.data, self.file).whole()?
        } else {
            let before = payload(&find(client, subscription, place).await?)?;
            let after = tokio::task::block_in_place(|| edited(&before))?;
            if after == before && self.content_type.is_none() {
                say("nothing was changed");
                return Ok(());
            }
            after
        };
        let edit = DeadLetterEdit { content_type: self.content_type, ..DeadLetterEdit::of(&payload) };
        let path = ["subscriptions", subscription.as_str(), "dead-letters", &place.to_string()];
        client.send(client.api(Method::PATCH, &path).json(&edit)).await?;
        let letter = find(client, subscription, place).await?;
        let next = format!("crossdock dlq retry {subscription} {place}");
        caller
            .output
            .done(&letter, &format!("changed {place} for {subscription}; deliver it again with `{next}`"))
    }
}

fn payload(letter: &DeadLetter) -> Result<Bytes, Error> {
    match &letter.message {
        Some(message) => message.payload(),
        None => Err(Error::not_found("message", format!("{}:{} any more", letter.topic, letter.offset))),
    }
}

/// What becomes of a payload in the user's editor. It lies in a file that nobody else can read meanwhile.
fn edited(payload: &[u8]) -> Result<Bytes, Error> {
    let file = tempfile::Builder::new().prefix("crossdock-").suffix(".json").tempfile();
    let file = file.map_err(|cause| Error::internal(format!("cannot make a file to edit: {cause}")))?;
    let failed = |cause| crate::failure::file("use", file.path(), &cause);
    std::fs::write(file.path(), payload).map_err(failed)?;
    let editor = match (env::get(env::VISUAL)?, env::get(env::EDITOR)?) {
        (Some(editor), _) | (None, Some(editor)) => editor,
        (None, None) => "vi".into(),
    };
    // An editor can come with arguments, as in `code --wait`: the shell takes it apart.
    let ended = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(file.path()).status();
    let ended = ended.map_err(|cause| Error::internal(format!("cannot start {editor}: {cause}")))?;
    if !ended.success() {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{editor} ended with {ended}; nothing was changed"),
        ));
    }
    std::fs::read(file.path()).map(Bytes::from).map_err(failed)
}
