//! How a parked key looks.

use crossdock_topics::ParkedKey;

use crate::message::{gist, one_line};
use crate::output::Show;

impl Show for ParkedKey {
    const COLUMNS: &'static [&'static str] =
        &["key", "message", "waiting behind", "failures", "by", "since", "reason"];

    fn row(&self) -> Vec<String> {
        vec![
            one_line(&self.key),
            format!("{}:{}", self.topic, self.offset),
            self.waiting.to_string(),
            self.failures.to_string(),
            one_line(self.by.as_deref().unwrap_or_default()),
            self.since.to_string(),
            one_line(gist(&self.reason)),
        ]
    }

    fn name(&self) -> String {
        self.key.clone()
    }
}
