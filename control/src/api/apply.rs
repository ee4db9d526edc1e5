//! Applying a configuration.

use crossdock_config::Step;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// What applying a document did, or with `dry_run` would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The steps, in the order in which they are done: one for each thing that the document names.
    #[schema(value_type = Vec<schema::Step>)]
    pub steps: Vec<Step>,
}
