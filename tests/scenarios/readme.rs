//! The README's tutorial, as it stands there.

use crate::sandbox;

const README: &str = include_str!("../../README.md");

/// The blocks of shell in the tutorial, in their order.
fn blocks() -> Vec<String> {
    let tutorial = README.split("\n## ").find(|section| section.starts_with("Tutorial")).expect("a tutorial");
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in tutorial.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(text), "```") => {
                blocks.push(std::mem::take(text));
                block = None;
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

#[tokio::test]
async fn given_a_newcomer_when_the_tutorial_is_pasted_should_print_what_it_says() {
    let blocks = blocks();
    assert!(blocks.len() >= 4, "{blocks:?}");
    let sandbox = sandbox().start().await;
    // The tutorial is about a platform in ./quickstart on the usual ports; this one is elsewhere.
    let gateway = sandbox.gateway().address();
    let script = blocks.concat().replace("localhost:7400", &gateway).replace("\"quickstart/", "\"data/");
    let script = script
        .replace("crossdock://127.0.0.1:7402", &sandbox.broker_url())
        .replace("--port-base 7500", "--port-base 0");
    let ran = sandbox.bash(&script).await.expect(0);
    // What the README promises to be printed is in comments that begin with "# prints ".
    for promised in script.lines().filter_map(|line| line.split(" # prints ").nth(1)) {
        assert!(
            ran.stdout.contains(promised.trim()),
            "{promised:?} was not printed\n{}\n{}",
            ran.stdout,
            ran.stderr
        );
    }
}
