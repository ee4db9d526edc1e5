//! Whether one pattern stands for everything another one stands for.

use std::collections::HashSet;

use crossdock_topics::TopicPattern;

/// How many states are looked at before giving up. Real patterns need some dozens.
const MAX_STATES: usize = 10_000;

/// A set of places in the grant's pattern, one bit each: a pattern has at most 100 segments.
type Places = u128;

/// Whether every name that `pattern` matches is matched by `grant`. Errs only towards `false`, for patterns
/// made to be hard.
///
/// Names that `pattern` matches are walked through in the abstract: where it has a wildcard, the segment is
/// taken to be one that `grant` does not name, for if the grant takes that one it takes any. Each step keeps
/// all the places of the grant's pattern that the walk may have come to.
#[must_use]
pub fn covers(grant: &TopicPattern, pattern: &TopicPattern) -> bool {
    let grant: Vec<&str> = grant.as_str().split('.').collect();
    let pattern: Vec<&str> = pattern.as_str().split('.').collect();
    let accepted: Places = 1 << grant.len();
    // (how many segments of the pattern are behind, where in the grant's that may be)
    let mut waiting: Vec<(usize, Places)> = vec![(0, 1)];
    let mut seen: HashSet<(usize, Places)> = HashSet::new();
    while let Some((at, places)) = waiting.pop() {
        if places == 0 || seen.len() > MAX_STATES {
            return false;
        }
        if !seen.insert((at, places)) {
            continue;
        }
        let Some(segment) = pattern.get(at) else {
            if places & accepted == 0 {
                return false;
            }
            continue;
        };
        let literal = (!segment.starts_with('*')).then_some(*segment);
        let mut next = step(&grant, places, literal);
        if *segment == "**" {
            // One segment, two, three: until a further one leads nowhere new.
            let mut walked = HashSet::new();
            while walked.insert(next) {
                waiting.push((at + 1, next));
                next = step(&grant, next, None);
            }
        } else {
            waiting.push((at + 1, next));
        }
    }
    true
}

/// Where the grant's pattern may be after one more segment: a literal, or one that the pattern does not name.
fn step(grant: &[&str], places: Places, segment: Option<&str>) -> Places {
    let mut next = 0;
    for (place, wanted) in grant.iter().enumerate() {
        // `**` is entered from its place and stays at the one behind it, from where it may go on.
        let here = places & (1 << place) != 0;
        let inside = *wanted == "**" && places & (1 << (place + 1)) != 0;
        let system = place == 0 && here && segment.is_some_and(|segment| segment.starts_with('_'));
        let takes = match *wanted {
            "**" => (here && !system) || inside,
            "*" => here && !system,
            wanted => here && segment == Some(wanted),
        };
        if takes {
            next |= 1 << (place + 1);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().unwrap()
    }

    #[test]
    fn examples() {
        for (grant, wanted, covered) in [
            ("orders.**", "orders.*", true),
            ("orders.**", "orders.new.**", true),
            ("orders.**", "orders", false),
            ("orders.*", "orders.**", false),
            ("**", "*.**.x", true),
            ("**.**", "*.**", true),
            ("*.**", "**.**", true),
            ("**.**", "**", false),
            ("**", "_logs.*", false),
            ("_logs.*", "_logs.x", true),
            ("*.x.**", "a.x.**.y", true),
            ("**.x.**", "a.**.b", false),
            ("a.**.b", "a.*.*.b", true),
            ("a.**.b", "a.**.**.b", true),
            ("a.**.**.b", "a.**.b", false),
        ] {
            assert_eq!(covers(&pattern(grant), &pattern(wanted)), covered, "{grant} over {wanted}");
        }
    }

    #[test]
    fn the_longest_patterns_are_answered_at_once() {
        let long = |segment: &str| pattern(&[segment; 66].join("."));
        let nested =
            pattern(&format!("**.{}.**.{}.**.{}.**", "*.".repeat(20) + "a", "*.".repeat(20) + "a", "a"));
        let begun = std::time::Instant::now();
        assert!(covers(&long("*"), &long("a")));
        assert!(covers(&pattern("**"), &nested));
        assert!(covers(&nested, &nested));
        assert!(!covers(&long("*"), &nested));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    /// All names of up to five segments over four segments, one of which no pattern names.
    fn names() -> Vec<String> {
        let segments = ["a", "b", "_s", "other"];
        let mut all: Vec<String> = segments.iter().map(|s| (*s).to_string()).collect();
        let mut longest = all.clone();
        for _ in 1..5 {
            longest = longest.iter().flat_map(|n| segments.iter().map(move |s| format!("{n}.{s}"))).collect();
            all.extend(longest.iter().cloned());
        }
        all
    }

    fn patterns() -> impl Strategy<Value = TopicPattern> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("_s"), Just("*"), Just("**")];
        proptest::collection::vec(segment, 1..=3).prop_map(|segments| pattern(&segments.join(".")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// With three segments on either side, five segments are enough to tell any two patterns apart.
        #[test]
        fn it_says_what_trying_all_names_says(grant in patterns(), wanted in patterns()) {
            let names = names();
            let missed = names.iter().find(|name| wanted.matches(name) && !grant.matches(name));
            prop_assert_eq!(covers(&grant, &wanted), missed.is_none(), "{:?}", missed);
        }
    }
}
