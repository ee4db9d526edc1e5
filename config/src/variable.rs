//! Variables in double-quoted texts. Those in plain ones are replaced by the YAML reader, which takes what comes
//! out of it for a number or a text as the place wants it; what is quoted is a text.

use std::collections::HashMap;

use crate::Place;

/// A double-quoted text as it is written, quotes and escapes included, with `${NAME}` and `${NAME:-default}`
/// replaced by what YAML reads as the value, and `$${` by what it reads as `${`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn replaced(quoted: &str, variables: &HashMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some(at) = rest.find(['$', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("\\x24{");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (inside, after) = after
                .split_once('}')
                .ok_or("here is a ${ without its }; write $${ for a ${ that stays as it is")?;
            out.push_str(&value(inside, variables)?);
            rest = after;
        } else {
            // An escape and what it escapes, or a lone `$`.
            let escaped = rest.strip_prefix('\\').and_then(|after| after.chars().next());
            let (one, after) = rest.split_at(1 + escaped.map_or(0, char::len_utf8));
            out.push_str(one);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands for `NAME` or `NAME:-default`, to be put between double quotes.
fn value(inside: &str, variables: &HashMap<String, String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(fine) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "${{{inside}}} is not understood in quotes: write ${{NAME}} or ${{NAME:-default}}, or $${{ for a ${{ \
             that stays as it is"
        ));
    }
    match (variables.get(name), default) {
        // The default is quoted already, by the quotes around it.
        (value, Some(default)) if value.is_none_or(String::is_empty) => match default.contains("${") {
            false => Ok(default.to_owned()),
            true => Err(format!("the default of {name} cannot hold a variable in quotes")),
        },
        (Some(value), _) => {
            // What JSON writes between quotes, YAML reads.
            let json = serde_json::to_string(value).map_err(|cause| cause.to_string())?;
            Ok(json[1..json.len() - 1].to_owned())
        }
        (None, _) => Err(unset(name)),
    }
}

/// What is said of a variable without quotes where YAML takes its braces for a mapping.
pub(crate) const QUOTE_IT: &str = "in [ ] and { } a variable is written in double quotes, as in \"${NAME}\"";

/// Whether a place that YAML cannot read is the brace of a `${`.
pub(crate) fn is_bare(document: &str, place: Place) -> bool {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
    let line = document.lines().nth(at(place.line).saturating_sub(1)).unwrap_or_default();
    line.chars().skip(at(place.column).saturating_sub(2)).take(2).eq("${".chars())
}

/// What is said of a variable that is not there.
pub(crate) fn unset(name: &str) -> String {
    format!("the variable {name} is not set; set it, or give a default as in ${{{name}:-default}}")
}
