//! Who is asking, and what they may do.
//!
//! [`Access`] knows the users and permissions of the cluster as they are in the store, proves
//! [`Credentials`] and gives a [`Principal`], which answers whether it may do an [`Action`]. Passwords and API
//! keys are kept as argon2id hashes; what was proven is remembered, so that only the first request pays.

mod access;
mod cache;
mod covers;
mod credentials;
mod grants;
mod hash;
mod snapshot;

pub use access::Access;
pub use covers::covers;
pub use credentials::Credentials;
pub use grants::{Action, Grants, Principal};
pub use hash::{hash_api_key, hash_password, matches};
