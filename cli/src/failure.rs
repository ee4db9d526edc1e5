//! How a command fails, and how that is shown.

use std::fmt;

use crossdock_topics::{Error, ErrorCode};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::exit::Exit;

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the server said, or what was found wrong before it was asked.
    Refused(Error),
    /// A file is wrong at a known place, which is shown.
    InFile(Box<InFile>),
    /// Whoever reads our standard output has gone. That is no error: `crossdock tail orders | head`.
    OutputClosed,
    /// A second Ctrl-C: ended before all was finished.
    Interrupted,
}

/// An error with its place in a file.
#[derive(Debug)]
pub(crate) struct InFile {
    error: Error,
    source: NamedSource<String>,
    spans: Vec<LabeledSpan>,
}

impl Failure {
    /// An error at lines and columns (both from 1) of a file's text, each with a few words. A place outside of
    /// the text is shown at its nearest end.
    pub(crate) fn in_file(file: &str, text: &str, places: &[(usize, usize, String)], error: Error) -> Self {
        let label = |(line, column, words): &(usize, usize, String)| {
            let (start, length) = span(text, *line, *column);
            LabeledSpan::new(Some(words.clone()), start, length)
        };
        let spans = places.iter().map(label).collect();
        Self::InFile(Box::new(InFile { error, source: NamedSource::new(file, text.to_owned()), spans }))
    }

    /// What kind of failure it is.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Refused(error) => error.code.into(),
            Self::InFile(at) => at.error.code.into(),
            Self::OutputClosed => Exit::Done,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// The text for the terminal, empty when there is nothing to say. A traceback is shown as it is, so that
    /// an editor or a terminal finds its places.
    pub(crate) fn render(&self, colour: bool) -> String {
        match self {
            Self::OutputClosed => return String::new(),
            Self::Interrupted => return "ended at once; what was acknowledged is safe".into(),
            Self::Refused(_) | Self::InFile(_) => {}
        }
        let mut text = String::new();
        if let Some((traceback, _)) = self.traceback() {
            text.push_str(traceback);
            text.push_str("\n\n");
        }
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        if handler.render_report(&mut text, self).is_err() {
            text.push_str(&self.to_string());
        }
        text
    }

    /// A failed service's own many lines, and the last of them.
    fn traceback(&self) -> Option<(&str, &str)> {
        match self {
            Self::Refused(error) if error.code == ErrorCode::ServiceFailed => {
                let text = error.message.trim_end();
                text.rsplit_once('\n').map(|(_, last)| (text, last))
            }
            _ => None,
        }
    }

    fn error(&self) -> Option<&Error> {
        match self {
            Self::Refused(error) => Some(error),
            Self::InFile(at) => Some(&at.error),
            Self::OutputClosed | Self::Interrupted => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.traceback(), self.error()) {
            (Some((_, last)), _) => f.write_str(last),
            (None, Some(error)) => f.write_str(&error.message),
            (None, None) => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.error()?.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.error()?.hint.as_deref()?))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::InFile(at) => Some(&at.source),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match self {
            Self::InFile(at) => Some(Box::new(at.spans.iter().cloned())),
            _ => None,
        }
    }
}

/// The bytes of the word at a line and column.
fn span(text: &str, line: usize, column: usize) -> (usize, usize) {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = text[start..].split('\n').next().unwrap_or_default();
    let at = rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at);
    let word = rest[at..].find([' ', ',', ':', ']', '}']).unwrap_or(rest.len() - at);
    (start + at, word)
}

/// An error of a file of the user's: says which, and what to do where that is known.
pub(crate) fn file(what: &str, path: &std::path::Path, cause: &std::io::Error) -> Error {
    use std::io::ErrorKind;
    let code = match cause.kind() {
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::AlreadyExists => ErrorCode::AlreadyExists,
        ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
        ErrorKind::IsADirectory => ErrorCode::InvalidArgument,
        _ => ErrorCode::Internal,
    };
    let error = Error::new(code, format!("cannot {what} {}: {cause}", path.display()));
    match cause.kind() {
        ErrorKind::PermissionDenied => error.hint("check who owns it, and its mode"),
        ErrorKind::IsADirectory => error.hint("name a file in it"),
        ErrorKind::StorageFull => error.hint("the disk is full: make room and try again"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_file_shows_the_line_and_points_at_the_word() {
        let text = "topics:\n  - name: orders\n    durabilty: fsync\n";
        let failure = Failure::in_file(
            "c.yaml",
            text,
            &[(3, 5, "here".into())],
            Error::invalid("there is no field durabilty").hint("is it durability?"),
        );
        insta::assert_snapshot!(failure.render(false));
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn a_place_outside_of_the_text_is_no_panic() {
        for (line, column) in [(0, 0), (1, 99), (99, 1), (2, 1)] {
            let places = [(line, column, "here".into())];
            let failure = Failure::in_file("c.yaml", "a: ü", &places, Error::invalid("x"));
            assert!(failure.render(false).contains("invalid_argument"));
        }
        assert!(
            Failure::in_file("c.yaml", "", &[(1, 1, "here".into())], Error::invalid("x"))
                .render(false)
                .contains('x')
        );
    }

    #[test]
    fn a_traceback_is_shown_as_it_is_and_its_last_line_is_the_error() {
        let traceback =
            "Traceback (most recent call last):\n  File \"route.py\", line 3\nImportError: no jso";
        let failure = Failure::from(Error::new(ErrorCode::ServiceFailed, traceback));
        let text = failure.render(false);
        assert!(text.starts_with(traceback), "{text}");
        assert_eq!(failure.to_string(), "ImportError: no jso");
        assert_eq!(failure.exit(), Exit::ServiceFailed);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        assert_eq!(Failure::OutputClosed.render(true), "");
        assert_eq!(Failure::OutputClosed.exit(), Exit::Done);
    }
}
