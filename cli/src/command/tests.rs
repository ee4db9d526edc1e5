//! The command line as a whole: it is consistent, and every help text is as it was.

use clap::{CommandFactory, Parser};

use super::Arguments;

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn help_texts() {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut all = String::new();
    write_help(&mut command, "crossdock", &mut all);
    insta::assert_snapshot!(all);
}

fn write_help(command: &mut clap::Command, path: &str, all: &mut String) {
    all.push_str(&format!("==== {path} --help\n{}\n", command.render_long_help()));
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let names: Vec<String> = shown.map(|sub| sub.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        if let Some(sub) = command.find_subcommand_mut(name) {
            write_help(sub, &format!("{path} {name}"), all);
        }
    }
}

#[test]
fn every_command_is_in_the_documentation() {
    let documented = include_str!("../../../docs/CLI.md");
    let mut command = Arguments::command();
    command.build();
    for group in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        let leaves: Vec<String> = group
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
            .map(|sub| format!("crossdock {} {}", group.get_name(), sub.get_name()))
            .collect();
        let names = if leaves.is_empty() { vec![format!("crossdock {}", group.get_name())] } else { leaves };
        for name in names {
            assert!(documented.contains(&format!("`{name}")), "{name} is not in docs/CLI.md");
        }
    }
}

#[test]
fn wrong_usage_is_refused() {
    for wrong in [
        "topic create",
        "topic create a..b",
        "topic create orders --durability disk",
        "topic create orders --max-age soon",
        "pub orders x --lines --id 1",
        "pub orders x --file y",
        "pub orders x --header nothing",
        "pub orders x --priority 10",
        "pub orders x --deliver-in soon",
        "tail orders --from yesterday",
        "sub create s",
        "dlq retry s",
        "dlq retry s orders:1 --all",
        "dlq retry s --reason x --all",
        "dlq retry s orders:1 --since soon",
        "dlq discard s --rate 1 --all",
        "dlq show s orders",
        "dlq edit s orders:1 --data x --file y",
        "explain orders",
        "sub seek s",
        "sub seek s --to somewhere",
        "sub keys s --max 0",
        "sub create s --topic t --order fifo",
        "sub create s --topic t --filter-header nothing",
        "topic replay a --from start",
        "topic replay a --into b",
        "pub orders x --expect-last soon",
        "pub orders x --expect-key-last 1",
        "pub orders --lines --expect-last 1",
        "service deploy a.py --memory lots",
        "service deploy a.py --env NAME",
        "bench pub --in-flight 0",
        "bench pub --size 0",
        "quickstart --port-base 65535",
        "status -o xml",
        "completion tcsh",
    ] {
        let words = std::iter::once("crossdock").chain(wrong.split(' '));
        let error = Arguments::try_parse_from(words).expect_err(wrong);
        assert_eq!(error.exit_code(), 2, "{wrong}");
    }
}
