//! Applying a configuration.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What applying a document did, or with `dry_run` would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The steps, in the order in which they are done.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// What is done.
    pub action: StepAction,
    /// To what kind: `topic`, `subscription`, `service`, `user`, `permission` or `rest_channel`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What changes, for people to read; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// It is new.
    Create,
    /// It is there and becomes another.
    Update,
    /// It is there as it should be.
    Unchanged,
}
