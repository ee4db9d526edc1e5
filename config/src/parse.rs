//! From YAML to a [`Document`], with every fault at its line and column.

use std::collections::{HashMap, HashSet};

use serde::de::DeserializeOwned;

use crate::check;
use crate::document::{Document, ServiceSpec, UserSpec};
use crate::fault::{Fault, Invalid, Place};
use crate::node::{Key, Node, Value};
use crate::{Permission, RestChannel, State};
use crossdock_topics::{Subscription, Topic};

/// A document without faults, that still knows where each part of it stands.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What it says.
    pub document: Document,
    tree: Node,
}

impl Parsed {
    /// Where a part stands, by its path as in [`Fault::path`].
    #[must_use]
    pub fn place(&self, path: &str) -> Option<Place> {
        self.tree.at(path).map(|node| node.place)
    }
}

/// Reads a YAML document of at most 16 MiB and checks all that it says.
///
/// With `variables`, `${NAME}` and `${NAME:-default}` stand for their values in plain and double-quoted scalars,
/// and a variable that is not there is a fault; `$${NAME}` stands for `${NAME}`. Without, everything stands for
/// itself, as it does in single quotes and in blocks.
///
/// With `current`, the document is also checked against what the cluster has already: a name may then be defined
/// in either. Without, names that the document does not define are taken to exist.
///
/// # Errors
/// All the faults that can be told at once. YAML that cannot be read at all is one fault: what comes after it
/// is not known.
pub fn parse(
    bytes: &[u8],
    variables: Option<&HashMap<String, String>>,
    current: Option<&State>,
) -> Result<Parsed, Invalid> {
    let tree = match Node::parse(bytes, variables) {
        Ok(tree) => tree,
        Err(fault) => return Err(Invalid::one(fault)),
    };
    let mut faults = Faults { root: &tree, faults: Vec::new() };
    let entries = Entries::read(&tree, &mut faults);
    check::check(&entries, current, &mut faults);
    match Invalid::new(faults.faults) {
        Some(invalid) => Err(invalid),
        None => Ok(Parsed { document: entries.into_document(), tree }),
    }
}

/// One entry of a document that could be read, and where it stands.
pub(crate) struct Entry<'n, T> {
    pub(crate) value: T,
    pub(crate) node: &'n Node,
    pub(crate) path: String,
}

/// Collects faults.
pub(crate) struct Faults<'n> {
    root: &'n Node,
    faults: Vec<Fault>,
}

impl<'n> Faults<'n> {
    /// Whether there are as many as are told.
    fn are_many(&self) -> bool {
        self.faults.len() >= Invalid::MAX
    }

    /// A fault at the key or value that stands at a place.
    fn at(&mut self, place: Place, message: String) {
        if self.are_many() {
            return;
        }
        let path = self.root.path_to(place).unwrap_or_default();
        self.faults.push(Fault { place, path: path.trim_start_matches('.').into(), message });
    }

    /// A fault of an entry's field, such as `retention.max_age` or `topics[0]`, or of the whole entry when that
    /// is empty. It stands at the innermost part that is there.
    pub(crate) fn field<T>(&mut self, entry: &Entry<'n, T>, field: &str, message: impl Into<String>) {
        if self.are_many() {
            return;
        }
        let mut node = entry.node;
        for (index, _) in field.match_indices(['.', '[']).chain([(field.len(), "")]) {
            node = entry.node.at(&field[..index]).unwrap_or(node);
        }
        let dot = if field.is_empty() { "" } else { "." };
        self.faults.push(Fault {
            place: node.place,
            path: format!("{}{dot}{field}", entry.path),
            message: message.into(),
        });
    }
}

/// What a document says, as far as it could be read, and all the names it defines, read or not.
pub(crate) struct Entries<'n> {
    pub(crate) topics: Vec<Entry<'n, Topic>>,
    pub(crate) subscriptions: Vec<Entry<'n, Subscription>>,
    pub(crate) services: Vec<Entry<'n, ServiceSpec>>,
    pub(crate) users: Vec<Entry<'n, UserSpec>>,
    pub(crate) permissions: Vec<Entry<'n, Permission>>,
    pub(crate) rest_channels: Vec<Entry<'n, RestChannel>>,
    names: HashMap<&'static str, HashSet<&'n str>>,
}

const SECTIONS: [&str; 6] = ["topics", "subscriptions", "services", "users", "permissions", "rest_channels"];

impl<'n> Entries<'n> {
    fn read(root: &'n Node, faults: &mut Faults<'n>) -> Self {
        match &root.value {
            Value::Null => {}
            Value::Map(sections) => {
                for (key, _) in sections.iter().filter(|(key, _)| !SECTIONS.contains(&key.text.as_str())) {
                    let known = SECTIONS.join(", ");
                    faults.at(key.place, format!("there is no kind {:?}; known are {known}", key.text));
                }
            }
            _ => faults.at(
                root.place,
                format!(
                    "a document is a mapping of kinds to lists, as in `topics: [...]`, and this is {}",
                    root.kind()
                ),
            ),
        }
        Self {
            topics: section(root, "topics", faults),
            subscriptions: section(root, "subscriptions", faults),
            services: section(root, "services", faults),
            users: section(root, "users", faults),
            permissions: section(root, "permissions", faults),
            rest_channels: section(root, "rest_channels", faults),
            names: SECTIONS.iter().map(|section| (*section, names(root, section))).collect(),
        }
    }

    /// Whether a section defines a name, be the rest of it right or wrong.
    pub(crate) fn defines(&self, section: &str, name: &str) -> bool {
        self.names.get(section).is_some_and(|names| names.contains(name))
    }

    fn into_document(self) -> Document {
        fn values<T>(entries: Vec<Entry<'_, T>>) -> Vec<T> {
            entries.into_iter().map(|entry| entry.value).collect()
        }
        Document {
            topics: values(self.topics),
            subscriptions: values(self.subscriptions),
            services: values(self.services),
            users: values(self.users),
            permissions: values(self.permissions),
            rest_channels: values(self.rest_channels),
        }
    }
}

fn names<'n>(root: &'n Node, section: &str) -> HashSet<&'n str> {
    let entries = root.get(section).map(Node::elements).unwrap_or_default();
    entries.iter().filter_map(|entry| entry.get("name")?.text()).collect()
}

fn section<'n, T: DeserializeOwned>(
    root: &'n Node,
    name: &str,
    faults: &mut Faults<'n>,
) -> Vec<Entry<'n, T>> {
    let Some(section) = root.get(name) else { return Vec::new() };
    match &section.value {
        Value::Null => Vec::new(),
        Value::List(elements) => {
            let mut places: HashMap<&str, Place> = HashMap::new();
            let mut entries = Vec::new();
            for (index, node) in elements.iter().enumerate() {
                if let Some((name, place)) =
                    node.get("name").and_then(|name| Some((name.text()?, name.place)))
                    && let Some(earlier) = places.insert(name, place)
                {
                    let message =
                        format!("{name} is defined in line {} already; keep one of them", earlier.line);
                    faults.at(place, message);
                }
                let path = format!("{name}[{index}]");
                entries.extend(read(node, &path, faults).map(|value| Entry { value, node, path }));
            }
            entries
        }
        _ => {
            let kind = section.kind();
            faults
                .at(section.place, format!("{name} should be a list, each entry after a '-', and is {kind}"));
            Vec::new()
        }
    }
}

/// Reads one entry. When a part of it is wrong, the rest is read without that part, so that all that are wrong
/// are found.
fn read<T: DeserializeOwned>(node: &Node, path: &str, faults: &mut Faults<'_>) -> Option<T> {
    let mut error = match T::deserialize(node) {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let mut rest = node.clone();
    let mut left_out: HashSet<(Place, String)> = HashSet::new();
    while !faults.are_many() {
        let place = error.place.unwrap_or(node.place);
        // A field that was left out is missing for that reason: then the mapping it was in goes too.
        let follows = error
            .missing
            .is_some_and(|field| left_out.iter().any(|(at, name)| *at == place && name == field));
        if error.place.is_none() || place == node.place && error.missing.is_some() {
            if !follows {
                faults.faults.push(Fault { place, path: path.into(), message: error.message });
            }
            return None;
        }
        if !follows {
            faults.at(place, error.message);
        }
        left_out.insert(cut(&mut rest, place, error.missing.is_some())?);
        error = T::deserialize(&rest).err()?;
    }
    None
}

/// Cuts out the key or value at a place: the innermost, or the `whole` of what begins there. Gives where the
/// mapping stands that it was in, and its key there.
fn cut(node: &mut Node, place: Place, whole: bool) -> Option<(Place, String)> {
    let parent = node.place;
    match &mut node.value {
        Value::List(elements) => {
            let here = |element: &Node| element.place == place;
            if !whole && let Some(cut) = elements.iter_mut().find_map(|element| cut(element, place, whole)) {
                return Some(cut);
            }
            if let Some(index) = elements.iter().position(here) {
                elements.remove(index);
                return Some((parent, format!("[{index}]")));
            }
            elements.iter_mut().find_map(|element| cut(element, place, whole))
        }
        Value::Map(fields) => {
            let here = |(key, value): &(Key, Node)| key.place == place || value.place == place;
            if !whole && let Some(cut) = fields.iter_mut().find_map(|(_, value)| cut(value, place, whole)) {
                return Some(cut);
            }
            if let Some(index) = fields.iter().position(here) {
                return Some((parent, fields.remove(index).0.text));
            }
            fields.iter_mut().find_map(|(_, value)| cut(value, place, whole))
        }
        _ => None,
    }
}
