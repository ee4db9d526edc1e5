//! What becomes of documents, right and wrong, as users write them.

use std::collections::HashMap;

use crossdock_config::{Document, Size, State, parse};

/// The faults of a document, one a line.
fn faults(yaml: &str) -> String {
    faults_in(yaml, None)
}

fn faults_in(yaml: &str, current: Option<&State>) -> String {
    match parse(yaml.as_bytes(), None, current) {
        Ok(parsed) => panic!("no fault in {parsed:?}"),
        Err(invalid) => invalid.to_string(),
    }
}

fn document(yaml: &str) -> Document {
    parse(yaml.as_bytes(), None, None).unwrap_or_else(|invalid| panic!("{invalid}")).document
}

const WHOLE: &str = r#"
topics:
  - {name: orders, durability: fsync, retention: {max_age: 7d, max_bytes: 1000000}}
  - name: github.push
    durability: memory
subscriptions:
  - name: billing
    topics: [orders, "github.**"]
    start: {offset: 5}
    backoff: {first: 100ms, max: 1m}
services:
  - name: route
    source: ./route.py
    processes: 2
    memory: 256MiB
    env: {PORT: 8080, RATE: 1.10, FLAG: yes, KEY: env:API_KEY}
users:
  - {name: alice, password: env:ALICE, api_key: file:/run/secrets/alice}
permissions:
  - {name: alice, users: [alice], publish: ["orders.**"], invoke: ["*"]}
rest_channels:
  - name: hooks
    path: /hooks/{source}
    methods: [POST, PUT]
    service: route
    timeout: 5s
    max_body: 64KiB
    authenticate: false
    message_id_header: X-GitHub-Delivery
    hmac_sha256: {header: X-Hub-Signature-256, prefix: "sha256=", secret: env:GITHUB_SECRET}
"#;

#[test]
fn a_whole_document_is_read() {
    let document = document(WHOLE);
    assert_eq!(document.topics.len(), 2);
    assert_eq!(document.subscriptions[0].topics[1].as_str(), "github.**");
    assert_eq!(document.services[0].memory, Size::mib(256));
    let env = serde_json::to_value(&document.services[0].env).unwrap();
    assert_eq!(
        env,
        serde_json::json!({"PORT": "8080", "RATE": "1.10", "FLAG": "yes", "KEY": "env:API_KEY"}),
        "values are texts as they are written"
    );
    assert!(!document.rest_channels[0].authenticate);
    assert!(document.rest_channels[0].hmac_sha256.is_some());
}

#[test]
fn nothing_is_a_document_too() {
    for yaml in ["", "\n", "# only a comment\n", "---\n", "{}", "topics:\n", "topics: []\nusers: ~\n"] {
        assert_eq!(document(yaml), Document::default(), "{yaml:?}");
    }
}

#[test]
fn every_fault_of_a_document_is_told_at_its_place() {
    let expected = include_str!("documents/faults.txt");
    assert_eq!(faults(include_str!("documents/faults.yaml")), expected.trim_end());
}

#[test]
fn yaml_that_cannot_be_read_is_one_fault_at_its_place() {
    let deep = format!("topics: {}{}", "[".repeat(200), "]".repeat(200));
    let deep_blocks: String = (0..200).map(|n| format!("{}a:\n", "  ".repeat(n))).collect();
    let aliases: String = (1..30).fold("a0: &a0 [x, x]\n".into(), |yaml, n| {
        format!("{yaml}a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)
    });
    let big = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 900].join(", "));
    let many = format!("topics: [{}]", vec!["a"; 300_000].join(","));
    for (yaml, expected) in [
        ("topics: [\n", "line 1, column 9: unclosed bracket '['"),
        ("topics:\n\t- a", "line 2, column 2: tabs disallowed within this context (block indentation)"),
        ("topics: []\ntopics: []\n", "line 2, column 1: duplicate mapping key `topics` is not allowed here"),
        ("topics: \"unfinished", "line 1, column 9: unclosed quote"),
        (
            "topics: []\n---\ntopics: []\n",
            "line 3, column 1: only single YAML document expected but multiple found",
        ),
        ("topics: *nothing", "line 1, column 9: reference to unknown value"),
        (
            "topics: [{name: ${X}}]",
            "line 1, column 18: in [ ] and { } a variable is written in double quotes, as in \"${NAME}\"",
        ),
        ("topics: &a [*a]", "line 1, column 13: Recursive reference not allowed here"),
        ("topics: !!int x", "line 1, column 15: invalid u64"),
        ("? [a]\n: b", "line 1, column 3: expected string scalar"),
        (
            "topics: \"\\q\"",
            "line 1, column 9: while parsing a quoted scalar, found unknown escape character",
        ),
        ("\u{feff}topics: {", "line 1, column 9: unclosed bracket '{'"),
        ("a: \u{1}", "line 1, column 4: unexpected character: `\\u{1}'"),
        (&deep, "line 1, column 41: recursion limit exceeded"),
        (
            &deep_blocks,
            "line 33, column 65: YAML document too large or too complex: limits breached: Depth { depth: 33 }",
        ),
        (
            &aliases,
            "line 7, column 20: YAML document too large or too complex: total_replayed_events=5001 > 5000",
        ),
        (
            &big,
            "line 2, column 669: YAML document too large or too complex: limits breached: ScalarBytes { total_scalar_bytes: 16800002 }",
        ),
        (
            &many,
            "line 1, column 400004: YAML document too large or too complex: limits breached: Nodes { nodes: 200001 }",
        ),
        (
            "- a",
            "line 1, column 1: a document is a mapping of kinds to lists, as in `topics: [...]`, and this is a list",
        ),
        (
            "just words",
            "line 1, column 1: a document is a mapping of kinds to lists, as in `topics: [...]`, and this is a text",
        ),
    ] {
        assert_eq!(faults(yaml), expected, "{}", yaml.chars().take(80).collect::<String>());
    }
}

#[test]
fn bytes_that_are_not_utf8_are_told_at_their_place() {
    let invalid = parse(b"topics:\n  - name: \xc3\xa9\xff\n", None, None).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "line 2, column 12: this is not UTF-8; save the document in that encoding"
    );
    let invalid = parse(b"a: 1\n\xff", None, None).unwrap_err();
    assert!(invalid.to_string().starts_with("line 2, column 1: "), "{invalid}");
    let invalid = parse(b"\xff\xfet\0o\0", None, None).unwrap_err();
    assert!(invalid.to_string().starts_with("line 1, column 1: "), "{invalid}");
}

#[test]
fn variables_stand_for_their_values_and_places_stay() {
    let variables: HashMap<String, String> =
        [("NAME", "orders"), ("COUNT", "010"), ("EMPTY", ""), ("TEXT", "a: [b, 'c")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let yaml = "services:
  - name: ${NAME}.${MISSING:-eu}
    source: ./${NAME}.py
    processes: ${PROCESSES:-3}
    env:
      A: ${COUNT}
      B: ${EMPTY}
      C: ${TEXT}
      D: $${NAME}
      E: '${NAME}'
      F: ${RATE:-1.10}
      G: $NAME
";
    let parsed = parse(yaml.as_bytes(), Some(&variables), None).unwrap();
    let service = &parsed.document.services[0];
    assert_eq!((service.name.as_str(), service.processes), ("orders.eu", 3));
    assert_eq!(
        serde_json::to_value(&service.env).unwrap(),
        serde_json::json!({"A": "010", "B": "", "C": "a: [b, 'c", "D": "${NAME}", "E": "${NAME}", "F": "1.10",
            "G": "$NAME"})
    );
    let quoted = r#"services:
  - {name: "${NAME}.${MISSING:-eu}", source: "./${NAME}.py", processes: 2, env: {
      A: "${COUNT}", B: "x${EMPTY:-y}${EMPTY}", C: "${TEXT}", D: "$${NAME} $NAME $$", E: "\x24{NAME}\t\"\\${NAME}\"",
      F: &f "${NAME}
      and more", G: *f, H: "${QUOTES}", I: "ä${NAME}ö" } }
"#;
    let more = [("QUOTES".to_owned(), "\"\\\n\u{1}ä".to_owned())];
    let all = variables.clone().into_iter().chain(more).collect();
    let quoted = parse(quoted.as_bytes(), Some(&all), None).unwrap_or_else(|invalid| panic!("{invalid}"));
    let service = &quoted.document.services[0];
    assert_eq!((service.name.as_str(), service.source.as_deref()), ("orders.eu", Some("./orders.py")));
    assert_eq!(
        serde_json::to_value(&service.env).unwrap(),
        serde_json::json!({"A": "010", "B": "xy", "C": "a: [b, 'c", "D": "${NAME} $NAME $$",
            "E": "${NAME}\t\"\\orders\"", "F": "orders and more", "G": "orders and more",
            "H": "\"\\\n\u{1}ä", "I": "äordersö"})
    );
    let place = quoted.place("services[0].processes").unwrap();
    assert_eq!((place.line, place.column), (2, 73));

    let place = parsed.place("services[0].processes").unwrap();
    assert_eq!((place.line, place.column), (4, 16));

    let yaml = "topics:\n  - {name: a}\n  - name: ${NAME}${MISSING}\n";
    let invalid = parse(yaml.as_bytes(), Some(&variables), None).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "line 3, column 11: the variable MISSING is not set; set it, or give a default as in ${MISSING:-default}"
    );
    for (text, says) in [
        ("${MISSING}", "the variable MISSING is not set"),
        ("${NAME", "without its }"),
        ("${}", "not understood in quotes"),
        ("${1}", "not understood in quotes"),
        ("${NAME:?no}", "not understood in quotes"),
        ("${MISSING:-${NAME}}", "cannot hold a variable"),
    ] {
        let yaml = format!("topics:\n  - {{name: a}}\n  - {{name: \"{text}\"}}\n");
        let invalid = parse(yaml.as_bytes(), Some(&variables), None).unwrap_err().to_string();
        assert!(invalid.starts_with("line 3, column 12: ") && invalid.contains(says), "{invalid}");
    }
}
