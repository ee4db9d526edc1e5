//! Topic patterns: parsing, matching, and whether one stands for all that another one stands for.
//!
//! The input is lines: a grant, a pattern, and names. Matching is held against a slow and obvious one, and the
//! algebra against matching.
#![no_main]

use crossdock_access::covers;
use crossdock_topics::{TopicName, TopicPattern};
use libfuzzer_sys::fuzz_target;

/// The definition, word by word.
fn stands_for(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), Some(_)) => (1..=name.len()).any(|many| stands_for(rest, &name[many..])),
        (Some((wanted, rest)), Some((segment, others))) => {
            (*wanted == "*" || wanted == segment) && stands_for(rest, others)
        }
        _ => false,
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let (Some(grant), Some(wanted)) = (lines.next(), lines.next()) else { return };
    let (Ok(grant), Ok(wanted)) = (grant.parse::<TopicPattern>(), wanted.parse::<TopicPattern>()) else {
        return;
    };
    assert_eq!(grant.as_str().parse::<TopicPattern>().as_ref(), Ok(&grant));
    let covered = covers(&grant, &wanted);
    if let Some(name) = wanted.literal() {
        assert_eq!(covered, grant.matches(name.as_str()), "{grant} over {name}");
        assert!(wanted.matches(name.as_str()));
    }
    for name in lines.take(8).filter_map(|line| line.parse::<TopicName>().ok()) {
        for pattern in [&grant, &wanted] {
            let system = pattern.as_str().starts_with('*') && name.is_system();
            let segments: Vec<&str> = pattern.as_str().split('.').collect();
            // The slow way takes ages for long names and many wildcards; the fast one is shown not to.
            if name.as_str().len() <= 40 {
                let names: Vec<&str> = name.as_str().split('.').collect();
                assert_eq!(
                    pattern.matches(name.as_str()),
                    !system && stands_for(&segments, &names),
                    "{pattern} {name}"
                );
            } else {
                let _ = pattern.matches(name.as_str());
            }
        }
        assert!(
            !covered || !wanted.matches(name.as_str()) || grant.matches(name.as_str()),
            "{grant} {wanted} {name}"
        );
    }
});
