//! A YAML document as a tree that knows where each part of it stands.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Location, MessageFormatter, Options, Spanned, UserMessageFormatter};

use crate::fault::{Fault, Place};
use crate::text::Texts;
use crate::variable;

/// A part of a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// Which bytes of the document it was read from: another place than its own when this is an alias.
    source: Range<usize>,
}

/// What a part of a document is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// A scalar as it is written, and what YAML takes it for.
    Scalar(String, Guess),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// What YAML takes a scalar for. Whoever wants a text gets the text all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Guess {
    Text,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// The largest document, in bytes. It may hold the code of services.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Limits that no document written by hand comes near, and that bound what one made to hurt can cost:
/// 5,000 events replayed from aliases times 16 KiB of anchored text.
fn options(variables: Option<&HashMap<String, String>>) -> Options {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_documents: 2,
            max_events: 400_000,
            max_nodes: 200_000,
            max_total_scalar_bytes: MAX_BYTES,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 10_000,
            max_recorded_anchor_bytes: 16 * 1024,
            max_merge_keys: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 5_000,
            max_replay_stack_depth: 16,
        },
        emit_comments: false,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match variables {
        Some(variables) => options.with_properties(variables.clone()),
        None => options,
    }
}

impl Node {
    /// Reads a document. With variables, `${NAME}` and `${NAME:-default}` in plain and double-quoted scalars stand
    /// for their values, and one that is not there is a fault; without, they stand for themselves.
    pub(crate) fn parse(bytes: &[u8], variables: Option<&HashMap<String, String>>) -> Result<Self, Fault> {
        let whole =
            |message: String| Fault { place: Place { line: 1, column: 1 }, path: String::new(), message };
        if bytes.len() > MAX_BYTES {
            return Err(whole(format!(
                "the document has {} bytes, more than {MAX_BYTES}; split it, and apply the parts one by one",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            let before = String::from_utf8_lossy(&bytes[..cause.valid_up_to()]);
            let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            Fault {
                place: Place { line: line as u64, column: column as u64 },
                path: String::new(),
                message: "this is not UTF-8; save the document in that encoding".into(),
            }
        })?;
        // Whether a scalar looks like a number is known only once it has been read as one, and then its text is
        // gone ("1.10" is 1.1). So it is read twice: first what there is and where, then the texts.
        let tree: Option<Spanned<Value>> = serde_saphyr::from_str_with_options(text, options(variables))
            .map_err(|error| {
                let fault = fault(&error);
                match variable::is_bare(text, fault.place) {
                    true => Fault { message: variable::QUOTE_IT.into(), ..fault },
                    false => fault,
                }
            })?;
        let Some(tree) = tree else {
            return Ok(Self { place: Place { line: 1, column: 1 }, value: Value::Null, source: 0..0 });
        };
        let mut node = Self::from(tree);
        serde_saphyr::with_deserializer_from_str_with_options(text, options(variables), |yaml| {
            Texts(&mut node).deserialize(yaml)
        })
        .map_err(|error| fault(&error))?;
        if let Some(variables) = variables {
            node.replace_quoted(text, variables)?;
        }
        Ok(node)
    }

    /// Replaces variables in double-quoted texts.
    fn replace_quoted(&mut self, document: &str, variables: &HashMap<String, String>) -> Result<(), Fault> {
        match &mut self.value {
            Value::Scalar(text, Guess::Text) => {
                let written = document.get(self.source.clone()).unwrap_or_default();
                if !written.starts_with('"') || !written.contains("${") {
                    return Ok(());
                }
                let at_its_place =
                    |message: String| Fault { place: self.place, path: String::new(), message };
                let quoted = variable::replaced(written, variables).map_err(at_its_place)?;
                *text = serde_saphyr::from_str_with_options(&quoted, options(None))
                    .map_err(|error| at_its_place(fault(&error).message))?;
                Ok(())
            }
            Value::List(elements) => {
                elements.iter_mut().try_for_each(|element| element.replace_quoted(document, variables))
            }
            Value::Map(entries) => {
                entries.iter_mut().try_for_each(|(_, value)| value.replace_quoted(document, variables))
            }
            _ => Ok(()),
        }
    }

    /// The value of a field, when this is a mapping that has it.
    pub(crate) fn get(&self, field: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.text == field).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The elements, when this is a list.
    pub(crate) fn elements(&self) -> &[Self] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// The text, when this is a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// What this is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_, Guess::Text) => "a text",
            Value::Scalar(_, Guess::Bool(_)) => "true or false",
            Value::Scalar(..) => "a number",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The path from here to the key or value at a place; where a mapping begins with its first key, to that key.
    pub(crate) fn path_to(&self, place: Place) -> Option<String> {
        let below = match &self.value {
            Value::List(elements) => elements
                .iter()
                .enumerate()
                .find_map(|(index, element)| element.path_to(place).map(|rest| format!("[{index}]{rest}"))),
            Value::Map(entries) => entries.iter().find_map(|(key, value)| {
                let rest = if key.place == place { String::new() } else { value.path_to(place)? };
                Some(format!(".{}{rest}", key.text))
            }),
            _ => None,
        };
        below.or_else(|| (self.place == place).then(String::new))
    }

    /// The part at a path as [`Fault::path`] writes it.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            node = match step.strip_suffix(']') {
                Some(index) => node.elements().get(index.parse::<usize>().ok()?)?,
                None => node.get(step)?,
            };
        }
        Some(node)
    }
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

fn fault(error: &serde_saphyr::Error) -> Fault {
    use serde_saphyr::Error;

    let error = error.without_snippet();
    let message = match error {
        Error::UnresolvedProperty { name, .. } => variable::unset(name).into(),
        _ => UserMessageFormatter.format_message(error),
    };
    Fault {
        place: error.location().map_or(Place { line: 1, column: 1 }, place),
        path: String::new(),
        message: message.chars().flat_map(visible).take(500).collect(),
    }
}

/// A character as it may be shown on a terminal.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escape = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    plain.into_iter().chain(escape.into_iter().flatten())
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let span = spanned.defined.span();
        let byte = |at: Option<u64>| at.and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
        let start = byte(span.byte_offset());
        let source = start..start + byte(span.byte_len());
        Self { place: place(spanned.referenced), value: spanned.value, source }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shapes)
    }
}

/// Reads what there is and where.
struct Shapes;

impl<'de> Visitor<'de> for Shapes {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(String::new(), Guess::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(String::new(), Guess::Unsigned(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(String::new(), Guess::Signed(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(String::new(), Guess::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_owned(), Guess::Text))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Scalar(value, Guess::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element::<Spanned<Value>>()? {
            elements.push(element.into());
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            entries.push((Key { place: place(key.referenced), text: key.value }, value.into()));
        }
        Ok(Value::Map(entries))
    }
}
