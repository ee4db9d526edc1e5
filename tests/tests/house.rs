//! The rules of the house that a reviewer would otherwise have to remember: who may depend on whom, and how
//! large a file may grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on, of ours: docs/ARCHITECTURE.md says why. The ones in the middle never know
/// each other; the binary puts them together.
const MAY_USE: &[(&str, &[&str])] = &[
    ("topics", &[]),
    ("wire", &["topics"]),
    ("config", &["topics"]),
    ("access", &["topics", "config"]),
    ("http", &["topics", "config", "access"]),
    ("broker", &["topics", "wire", "config", "access"]),
    ("gateway", &["topics", "wire", "config", "access", "http"]),
    ("workers", &["topics", "wire", "config", "access"]),
    ("control", &["topics", "wire", "config", "access", "http"]),
    ("verify", &["topics"]),
    (
        "cli",
        &["topics", "wire", "config", "access", "http", "broker", "gateway", "workers", "control", "verify"],
    ),
    ("tests", &[]),
    ("bench", &["topics", "access", "broker", "tests"]),
    ("fuzz", &["topics", "wire", "config", "access", "broker"]),
];

/// What tests of a crate may use beside that: the real engine and its suite, and the sandbox.
const TESTS_MAY_USE: &[&str] = &["topics", "broker", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn members() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn short(name: &str) -> &str {
    name.strip_prefix("crossdock-").unwrap_or_else(|| panic!("{name} is not called crossdock-..."))
}

#[test]
fn crates_depend_downwards_only() {
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in members() {
        let name = short(package["name"].as_str().expect("a name")).to_owned();
        let Some(allowed) = rules.get(name.as_str()) else {
            wrong.push(format!("{name} has no rule yet: give it its place in {}", file!()));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            let Some(used) = used.strip_prefix("crossdock-") else { continue };
            let in_tests = dependency["kind"] == "dev" && TESTS_MAY_USE.contains(&used);
            if !allowed.contains(&used) && !in_tests {
                wrong.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_small_enough_to_read_and_are_named_for_what_they_hold() {
    const LINES: usize = 700; // most are half of that; beyond this a file holds more than one idea
    const NAMELESS: &[&str] = &["common", "helper", "helpers", "manager", "misc", "types", "util", "utils"];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in members() {
        let folder = Path::new(package["manifest_path"].as_str().expect("a path"))
            .parent()
            .expect("a folder")
            .to_owned();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in
                std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path())
            {
                let stem = entry.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
                if entry.is_dir() {
                    if !stem.starts_with('.') && !["target", "data", "fixtures"].contains(&stem.as_str()) {
                        folders.push(entry);
                    }
                    continue;
                }
                if entry.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                seen += 1;
                let name = entry.strip_prefix(root()).unwrap_or(&entry).display().to_string();
                let lines = std::fs::read_to_string(&entry).expect("a text").lines().count();
                if lines > LINES {
                    wrong.push(format!("{name} has {lines} lines; the most is {LINES}: split it by idea"));
                }
                if NAMELESS.contains(&stem.as_str()) || stem.ends_with("_v2") || stem.ends_with("_old") {
                    wrong.push(format!("{name}: name it for what it holds"));
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} files were found: the test looks in the wrong place");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_that_needs_a_system_tls_or_a_long_build_has_crept_in() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for banned in ["openssl-sys", "native-tls", "aws-lc-sys", "serde_yaml", "serde_yml"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"\n")), "{banned} is banned: see deny.toml");
    }
}

#[test]
fn links_in_the_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("examples/github-webhooks/README.md")];
    let docs = std::fs::read_dir(root().join("docs"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a text");
        let folder = page.parent().expect("a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
