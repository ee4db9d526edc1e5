use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::run::description;

fn document() -> Value {
    serde_json::to_value(description()).unwrap()
}

/// Every operation, as `GET /api/v1/topics` and its description.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    });
    operations.collect()
}

/// All references to schemas, anywhere in a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_guide_lists_the_routes_that_there_are() {
    let guide = include_str!("../../../docs/ADMIN_API.md");
    let listed: BTreeSet<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|cell| cell.contains(" /api/"))
        .map(str::to_owned)
        .collect();
    let document = document();
    assert_eq!(listed, operations(&document).into_keys().collect());
}

#[test]
fn every_operation_has_a_name_a_summary_and_the_shape_of_its_errors() {
    let document = document();
    let mut names = BTreeSet::new();
    for (route, operation) in operations(&document) {
        assert!(names.insert(operation["operationId"].as_str().unwrap()), "{route}: its name is taken");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{route}");
        assert!(operation["responses"]["default"]["content"].get("application/problem+json").is_some());
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap_or_default().is_empty(), "{route}: {status}");
        }
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<_> = parameters.iter().map(|p| p["name"].to_string()).collect();
        assert_eq!(named.len(), parameters.len(), "{route}: a parameter is described twice");
        assert_eq!(route.contains("{name}"), named.contains("\"name\""), "{route}");
        // Two are open; all others ask for what the whole document asks for.
        let open = operation["security"] == serde_json::json!([{}]);
        assert_eq!(open, route.ends_with("/health") || route.ends_with("/openapi.json"), "{route}");
    }
}

#[test]
fn whatever_is_referred_to_is_there() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for requirement in document["security"].as_array().unwrap() {
        for scheme in requirement.as_object().unwrap().keys() {
            assert!(document["components"]["securitySchemes"].get(scheme).is_some(), "{scheme}");
        }
    }
}
