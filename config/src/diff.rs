//! What differs between two things of one kind, field by field, for people to read.

use serde::Serialize;
use serde_json::Value;

/// How much of a value is shown.
const SHOWN: usize = 60;

/// The fields that differ, each as `path: before -> after`, where `-` stands for nothing. Empty when nothing
/// differs.
pub(crate) fn changes<T: Serialize + PartialEq>(before: &T, after: &T) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let mut changes = Vec::new();
    match (serde_json::to_value(before), serde_json::to_value(after)) {
        (Ok(before), Ok(after)) => compare("", Some(&before), Some(&after), &mut changes),
        _ => changes.push("definition".into()),
    }
    changes
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<String>) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (before, after) {
        let added = after.keys().filter(|key| !before.contains_key(*key));
        for key in before.keys().chain(added) {
            let dot = if path.is_empty() { "" } else { "." };
            compare(&format!("{path}{dot}{key}"), before.get(key), after.get(key), changes);
        }
        return;
    }
    changes.push(format!("{path}: {} -> {}", shown(before), shown(after)));
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
