//! The paths of REST channels.

use std::fmt;
use std::str::FromStr;

use crossdock_topics::Error;
use serde::{Deserialize, Serialize};

/// A path with parameters, such as `/orders/{id}` or `/files/{*rest}`: `{id}` stands for one segment, `{*rest}`
/// at the end for all that follow. At most 500 bytes; no query, no empty segment but the last, and not below
/// the gateway's own [`PathTemplate::RESERVED`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PathTemplate(#[serde(serialize_with = "crate::export::literally")] String);

impl PathTemplate {
    /// First segments that the gateway itself answers to.
    pub const RESERVED: [&'static str; 5] = ["topics", "subscriptions", "health", "ready", "metrics"];

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter_map(parameter)
    }

    /// The path without its parameters' names: two templates of one shape match the same requests.
    #[must_use]
    pub fn shape(&self) -> String {
        let segments: Vec<_> = self
            .0
            .split('/')
            .map(|segment| match parameter(segment) {
                Some(_) if segment.starts_with("{*") => "{*}",
                Some(_) => "{}",
                None => segment,
            })
            .collect();
        segments.join("/")
    }
}

fn parameter(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    Some(name.strip_prefix('*').unwrap_or(name))
}

impl FromStr for PathTemplate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| {
            Err(Error::invalid(format!("{text:?} is not a path: {why}"))
                .hint("write it like /orders, /orders/{id} or /files/{*rest}"))
        };
        let Some(rest) = text.strip_prefix('/') else { return refuse("it does not begin with '/'".into()) };
        if text.len() > 500 {
            return refuse("it is longer than 500 bytes".into());
        }
        let segments: Vec<_> = rest.split('/').collect();
        if Self::RESERVED.contains(&segments[0]) {
            return refuse(format!("/{} is the gateway's own", segments[0]));
        }
        let mut names: Vec<&str> = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            if let Some(name) = parameter(segment) {
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return refuse(format!(
                        "{segment:?} does not name a parameter in letters, digits and '_'"
                    ));
                }
                if segment.starts_with("{*") && !last {
                    return refuse(format!("{segment:?} can only come last"));
                }
                if names.contains(&name) {
                    return refuse(format!("the parameter {name:?} occurs twice"));
                }
                names.push(name);
                continue;
            }
            if segment.is_empty() && !last {
                return refuse("a segment is empty".into());
            }
            if *segment == "." || *segment == ".." {
                return refuse(format!("the segment {segment:?} is not allowed"));
            }
            if segment.contains(['{', '}']) {
                return refuse(format!("in {segment:?} the parameter is not a whole segment"));
            }
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c);
            if let Some(wrong) = segment.chars().find(|c| !allowed(*c)) {
                return refuse(format!("{wrong:?} is not allowed"));
            }
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_parameters_and_a_shape() {
        let path: PathTemplate = "/stats/{owner}/{*repo}".parse().unwrap();
        assert_eq!(path.parameters().collect::<Vec<_>>(), ["owner", "repo"]);
        assert_eq!(path.shape(), "/stats/{}/{*}");
        for good in ["/", "/a/", "/a/b.c~d/{x_1}", "/@me:now"] {
            assert_eq!(good.parse::<PathTemplate>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn wrong_paths_say_why() {
        for (bad, why) in [
            ("", "begin"),
            ("orders", "begin"),
            ("/a//b", "empty"),
            ("/a/../b", "\"..\""),
            ("/a b", "' '"),
            ("/a?b=c", "'?'"),
            ("/ü", "'ü'"),
            ("/{}", "does not name"),
            ("/{a-b}", "does not name"),
            ("/{*rest}/x", "only come last"),
            ("/{a}/{a}", "twice"),
            ("/x{a}", "whole segment"),
            ("/{a", "whole segment"),
            ("/topics/x", "gateway's own"),
        ] {
            let error = bad.parse::<PathTemplate>().unwrap_err();
            assert!(error.message.contains(why) && error.hint.is_some(), "{bad}: {error}");
        }
    }
}
