//! The one binary: parse, build, wait, drain.
fn main() {}
