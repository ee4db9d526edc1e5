//! docs/CONFIG.md: its example has every field there is, and its tables name every field with its default.

use std::collections::{BTreeSet, HashMap};

use crossdock_config::{Document, parse};
use crossdock_topics::time::human;
use serde_json::Value;

const GUIDE: &str = include_str!("../../docs/CONFIG.md");

fn example() -> &'static str {
    let (_, rest) = GUIDE.split_once("```yaml\n").expect("an example");
    rest.split_once("```").expect("its end").0
}

fn read(yaml: &str) -> Document {
    parse(yaml.as_bytes(), Some(&HashMap::new()), None).unwrap_or_else(|invalid| panic!("{invalid}")).document
}

/// The fields of an entry, as `retention.max_age`; below `env` and `headers` names are the user's own.
fn fields(entry: &Value, before: &str, found: &mut BTreeSet<String>) {
    for (name, value) in entry.as_object().into_iter().flatten() {
        let name = format!("{before}{name}");
        match value {
            Value::Object(_) if !["env", "filter.headers"].contains(&name.as_str()) => {
                fields(value, &format!("{name}."), found)
            }
            _ => drop(found.insert(name)),
        }
    }
}

/// The rows of a kind's table, by field.
fn rows(title: &str) -> HashMap<String, Vec<String>> {
    let (_, section) = GUIDE.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no {title}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|cells: Vec<String>| (cells[0].trim_matches('`').to_owned(), cells)).collect()
}

#[test]
fn the_example_and_the_tables_have_every_field() {
    let example = serde_json::to_value(read(example())).unwrap();
    // What is there when nothing but what must be is said.
    let least = read(
        "topics: [{name: t}]\nsubscriptions: [{name: s, topics: [t]}]\nservices: [{name: s, code: x}]\n\
         users: [{name: u}]\npermissions: [{name: p}]\nrest_channels: [{name: c, path: /c, topic: t}]\n",
    );
    let least = serde_json::to_value(least).unwrap();
    for (kind, title) in [
        ("topics", "Topics"),
        ("subscriptions", "Subscriptions"),
        ("services", "Services"),
        ("users", "Users"),
        ("permissions", "Permissions"),
        ("rest_channels", "REST channels"),
    ] {
        let mut used = BTreeSet::new();
        example[kind].as_array().into_iter().flatten().for_each(|entry| fields(entry, "", &mut used));
        used.extend((kind == "services").then(|| "code".to_owned()));
        let rows = rows(title);
        assert_eq!(used, rows.keys().cloned().collect(), "{title}");

        for (field, cells) in &rows {
            let pointer = format!("/{kind}/0/{}", field.replace('.', "/"));
            let Some(value) = least.pointer(&pointer).filter(|_| cells[2] != "required") else { continue };
            let default = cells[2].trim_matches('`');
            let shown = match value {
                // The same time can be written in several ways.
                Value::String(text)
                    if human::parse(text).is_ok_and(|time| human::parse(default) == Ok(time)) =>
                {
                    default.to_owned()
                }
                Value::String(text) => text.clone(),
                Value::Array(list) if list.is_empty() => "none".into(),
                Value::Array(list) => {
                    format!("[{}]", list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
                }
                Value::Null => "none".into(),
                Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
                other => other.to_string(),
            };
            assert!(
                ["code", "topic"].contains(&field.as_str()) || shown == default,
                "{kind}.{field}: {shown}, not {default}"
            );
        }
    }
}
