//! Filters, compiled.
//!
//! A jq program is somebody's own, and what it is given is somebody else's. So it may ask and not build: it cannot
//! define, loop, assign, multiply (a text times a number is a large text) or reach outside; each step of it costs fuel,
//! and when that is used up it counts as not evaluated. It runs on a thread of its own, with a stack that what can be
//! written in [`crossdock_topics::filter::MAX_PROGRAM`] bytes does not use up, and outside of every lock.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use crossdock_topics::{Error, Filter, Record};
use jaq_core::data::{DataT, HasLut};
use jaq_core::load::lex::{Lexer, StrPart, Tok, Token};
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Lut, ValT, Vars, unwrap_valr};
use jaq_json::Val;

/// How many steps a program may take for one message: some milliseconds.
const FUEL: u32 = 100_000;
/// A larger payload is not evaluated.
const MAX_EVALUATED: usize = 1024 * 1024;
/// After so long the rest of a batch is left for the next one.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// How often a program may add: each time may double what it holds.
const MAX_ADDITIONS: usize = 8;
const STACK: usize = 64 << 20;

/// What a predicate does not need, and what could be used to hold a broker up.
const REFUSED: &[&str] = &[
    "def",
    "reduce",
    "foreach",
    "label",
    "import",
    "include",
    "range",
    "repeat",
    "while",
    "until",
    "walk",
    "combinations",
    "limit",
    "recurse",
    "env",
    "halt",
    "halt_error",
    "input",
    "inputs",
    "debug",
    "stderr",
    "*",
    "=",
    "|=",
    "+=",
    "-=",
    "*=",
    "/=",
    "%=",
    "//=",
];

/// A filter, ready to be asked.
pub(crate) struct Sieve {
    filter: Filter,
    program: Option<jaq_core::Filter<Fueled>>,
}

impl Sieve {
    /// Compiles a filter.
    ///
    /// # Errors
    /// `InvalidArgument` naming the place in the program.
    pub(crate) fn compile(filter: &Filter) -> Result<Self, Error> {
        let Some(code) = filter.jq.clone() else {
            return Ok(Self { filter: filter.clone(), program: None });
        };
        let program = on_a_thread(move || compile(&code)).and_then(|compiled| compiled)?;
        Ok(Self { filter: filter.clone(), program: Some(program) })
    }

    /// Whether the message has the headers that are asked for.
    pub(crate) fn has_headers(&self, record: &Record) -> bool {
        self.filter.has_headers(record)
    }

    /// Whether there is a program to be asked as well.
    pub(crate) fn has_program(&self) -> bool {
        self.program.is_some()
    }

    /// Asks the program about messages in turn; gives the first verdicts, at least one. For a thread of
    /// [`on_a_thread`]'s kind.
    pub(crate) fn judge(&self, records: &[(u64, Record)]) -> Vec<(u64, bool)> {
        let until = Instant::now() + BATCH_TIME;
        let mut verdicts = Vec::with_capacity(records.len());
        for (offset, record) in records {
            verdicts.push((*offset, self.passes(&record.payload())));
            if Instant::now() > until {
                break;
            }
        }
        verdicts
    }

    /// The first result decides; without one it does not pass; what cannot be evaluated passes.
    fn passes(&self, payload: &[u8]) -> bool {
        let Some(program) = &self.program else { return true };
        if payload.len() > MAX_EVALUATED {
            return true;
        }
        // The depth of what is read is limited by serde_json.
        let Ok(value) = serde_json::from_slice::<Val>(payload) else { return true };
        let fuel = Cell::new(FUEL);
        let asked = AssertUnwindSafe(|| {
            let ctx = Ctx::<Fueled>::new(Tank { lut: &program.lut, fuel: &fuel }, Vars::new([]));
            program
                .id
                .run((ctx, value))
                .map(unwrap_valr)
                .next()
                .map(|result| result.map(|value: Val| value.as_bool()))
        });
        match catch_unwind(asked) {
            Ok(Some(Ok(passes))) => passes,
            Ok(None) => false,
            Ok(Some(Err(_))) | Err(_) => true,
        }
    }
}

/// Runs something on a thread with a deep stack and waits for it.
fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let failed = || Error::internal("a filter's thread failed");
    spawn(run)?.join().map_err(|_| failed())
}

/// Starts something on a thread with a deep stack.
pub(crate) fn spawn<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, Error> {
    let thread = std::thread::Builder::new().name("broker-filter".into()).stack_size(STACK);
    thread.spawn(run).map_err(|cause| Error::internal(format!("cannot start a filter's thread: {cause}")))
}

fn compile(code: &str) -> Result<jaq_core::Filter<Fueled>, Error> {
    let wrong = |at: &str, what: String| {
        let start = load::span(code, at).start;
        let before = code.get(..start).unwrap_or_default();
        let (line, column) =
            (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        Error::invalid(format!("filter.jq, line {line} column {column}: {what}"))
    };
    let tokens = Lexer::new(code).lex().map_err(|errors| match errors.first() {
        Some((expected, at)) => wrong(at, format!("expected {}", expected.as_str())),
        None => wrong(code, "it cannot be read".into()),
    })?;
    let mut additions = 0;
    if let Some(at) = first_refused(&tokens, &mut additions) {
        return Err(wrong(at, format!("a filter cannot use {at:?}"))
            .hint("a filter only asks: it defines, loops over, assigns and multiplies nothing"));
    }
    if additions > MAX_ADDITIONS {
        return Err(wrong(code, format!("a filter can add at most {MAX_ADDITIONS} times")));
    }
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules =
        Loader::new(defs).load(&arena, File { code, path: () }).map_err(|errors| match errors.first() {
            Some((_, load::Error::Parse(errors))) if let Some((expected, at)) = errors.first() => {
                let at = if at.is_empty() { &code[code.len()..] } else { at };
                wrong(at, format!("expected {}", expected.as_str()))
            }
            _ => wrong(code, "it cannot be read".into()),
        })?;
    Compiler::default().with_funs(funs).compile(modules).map_err(|errors| {
        match errors.first().and_then(|(_, errors)| errors.first()) {
            Some((at, undefined)) => wrong(at, format!("there is no {} {at}", undefined.as_str())),
            None => wrong(code, "it cannot be compiled".into()),
        }
    })
}

/// The first word or symbol that is refused, strings' inner programs included.
fn first_refused<'a>(tokens: &[Token<&'a str>], additions: &mut usize) -> Option<&'a str> {
    let mut after_dot = false;
    for Token(text, kind) in tokens {
        let refused = match kind {
            Tok::Block(inner) => first_refused(inner, additions),
            Tok::Str(parts) => parts.iter().find_map(|part| match part {
                StrPart::Term(term) => first_refused(std::slice::from_ref(term), additions),
                _ => None,
            }),
            Tok::Word | Tok::Sym if !after_dot && REFUSED.contains(text) => Some(*text),
            Tok::Var if *text == "$ENV" => Some(*text),
            _ => None,
        };
        if refused.is_some() {
            return refused;
        }
        *additions += usize::from(matches!(kind, Tok::Sym) && *text == "+");
        *additions += usize::from(matches!(kind, Tok::Word) && matches!(*text, "add" | "join"));
        after_dot = matches!(kind, Tok::Sym) && *text == ".";
    }
    None
}

/// Evaluation that ends when its fuel does.
struct Fueled;

/// What goes along with each step.
struct Tank<'a> {
    lut: &'a Lut<Fueled>,
    fuel: &'a Cell<u32>,
}

impl DataT for Fueled {
    type V<'a> = Val;
    type Data<'a> = Tank<'a>;
}

impl<'a> HasLut<'a, Fueled> for Tank<'a> {
    fn lut(&self) -> &'a Lut<Fueled> {
        self.lut
    }
}

/// The interpreter takes this along by cloning it, once for each step: the only place where it can be stopped.
impl Clone for Tank<'_> {
    fn clone(&self) -> Self {
        match self.fuel.get().checked_sub(1) {
            Some(left) => self.fuel.set(left),
            None => resume_unwind(Box::new("out of fuel")),
        }
        Self { lut: self.lut, fuel: self.fuel }
    }
}

#[cfg(test)]
mod tests {
    use crossdock_topics::{Batch, Message};

    use super::*;

    fn sieve(code: &str) -> Result<Sieve, Error> {
        Sieve::compile(&Filter { jq: Some(code.into()), ..Filter::default() })
    }

    fn passes(code: &str, payload: &str) -> bool {
        let (sieve, payload) = (sieve(code).unwrap(), payload.to_owned());
        on_a_thread(move || sieve.passes(payload.as_bytes())).unwrap()
    }

    #[test]
    fn the_first_result_decides() {
        let order = r#"{"total": 120, "country": "DE", "lines": [{"sku": "a"}, {"sku": "b"}], "range": 1}"#;
        for (code, expected) in [
            (".total > 100", true),
            (".total > 200", false),
            (".total / 2 + 1 == 61", true),
            ("select(.country == \"FR\")", false),
            (".missing", false),
            ("false, true", false),
            ("any(.lines[]; .sku == \"b\") and (.country | test(\"^D\"))", true),
            (".lines | length == 2", true),
            (".range == 1", true),
            ("[..] | length > 3", true),
            ("\"\\(.total) EUR\" == \"120 EUR\"", true),
            ("(.lines[0].sku as $x | $x) == \"a\"", true),
            ("if has(\"total\") then .total >= 120 else false end", true),
        ] {
            assert_eq!(passes(code, order), expected, "{code}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_passes() {
        assert!(passes(".a", "not json"));
        assert!(passes(".a | tonumber > 1", "{\"a\": \"x\"}"));
        assert!(passes(".a.b", "[1]"));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(passes("false", &deep));
        assert!(passes("false", &format!("\"{}\"", "x".repeat(MAX_EVALUATED))));
    }

    #[test]
    fn a_program_that_runs_on_is_stopped() {
        let row = format!("[{}0]", "0,".repeat(2000));
        assert!(passes("[.[] as $a | .[] as $b | .[] as $c | select($a + $b + $c > 1)] | length > 0", &row));
        let hard = format!("{}false", ".[]|".repeat(900));
        assert!(!passes(&hard, "[]"), "a deep program has room");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (code, place) in [
            (".a >", "line 1 column 5"),
            (".a\n| nonsense", "line 2 column 3"),
            (".a | $x", "line 1 column 6"),
            ("(.a", "line 1"),
            ("def f: f; f", "\"def\""),
            ("[range(1000000000)]", "\"range\""),
            (".name * .count", "\"*\""),
            ("\"\\(env)\"", "\"env\""),
            ("$ENV", "\"$ENV\""),
            (".a |= 1", "\"|=\""),
            (".+.|.+.|.+.|.+.|.+.|.+.|.+.|.+.|.+.", "at most 8"),
            (&"[".repeat(4096), "line 1"),
        ] {
            let Err(error) = sieve(code) else { panic!("{code} was taken") };
            assert!(error.message.contains(place), "{code}: {error}");
        }
    }

    #[test]
    fn a_batch_is_judged_in_turn() {
        let sieve = sieve(".n > 1").unwrap();
        let records: Vec<_> = (0..4u64)
            .map(|n| {
                let batch = Batch::of(&Message::json(format!("{{\"n\":{n}}}"))).unwrap();
                (n, Record::slice(&batch.as_bytes().to_vec().into(), 0).unwrap().0)
            })
            .collect();
        assert_eq!(sieve.judge(&records), [(0, false), (1, false), (2, true), (3, true)]);
    }
}
