//! YAML that somebody applies to a cluster.
//!
//! Whatever it is, it ends in a document or in faults that stand somewhere in it; a document can be written as YAML
//! and read back as it was.
#![no_main]

use std::collections::HashMap;

use crossdock_config::{State, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let variables =
        HashMap::from([("NAME".to_owned(), "orders".to_owned()), ("EMPTY".to_owned(), String::new())]);
    let _ = parse(data, Some(&variables), Some(&State::default()));
    let _ = parse(data, Some(&variables), None);
    match parse(data, None, None) {
        Ok(parsed) => {
            let yaml = parsed.document.to_yaml().expect("a document that was read");
            let again = parse(yaml.as_bytes(), None, None)
                .unwrap_or_else(|invalid| panic!("{invalid}\nin what was written:\n{yaml}"));
            assert_eq!(again.document, parsed.document, "{yaml}");
        }
        Err(invalid) => assert!(!invalid.faults().is_empty() && !invalid.to_string().is_empty()),
    }
});
