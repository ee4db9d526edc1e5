//! Messages on the terminal: read from the command line, shown as text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use crossdock_control::api::Message;
use crossdock_topics::message::MAX_PAYLOAD;
use crossdock_topics::{Error, ErrorCode};

use crate::failure;
use crate::output::Show;

/// Where a payload comes from.
#[derive(Debug, Default, Args)]
pub(crate) struct Input {
    /// The payload; `-` reads standard input, as does leaving it out
    #[arg(value_name = "DATA", conflicts_with = "file")]
    data: Option<String>,
    /// Read the payload from a file
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Input {
    /// What an option gives, or a file.
    pub(crate) fn new(data: Option<String>, file: Option<PathBuf>) -> Self {
        Self { data, file }
    }

    /// All of it, at most as much as a message can hold.
    ///
    /// # Errors
    /// When it cannot be read, or is too large.
    pub(crate) fn whole(self) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        let (mut reader, what) = self.open()?;
        reader
            .by_ref()
            .take(MAX_PAYLOAD as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|cause| Error::internal(format!("cannot read {what}: {cause}")))?;
        if bytes.len() > MAX_PAYLOAD {
            return Err(too_large(&what));
        }
        Ok(bytes.into())
    }

    /// Its length in bytes, where that is known before it is read.
    pub(crate) fn length(&self) -> Option<u64> {
        let file = self.file.as_ref()?.metadata().ok()?;
        file.is_file().then_some(file.len())
    }

    /// Its lines.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn lines(self) -> Result<Lines, Error> {
        let (reader, what) = self.open()?;
        Ok(Lines { reader, what, read: 0 })
    }

    fn open(self) -> Result<(BufReader<Box<dyn Read>>, String), Error> {
        let (reader, what): (Box<dyn Read>, String) = self.source()?;
        Ok((BufReader::with_capacity(64 * 1024, reader), what))
    }

    fn source(self) -> Result<(Box<dyn Read>, String), Error> {
        match (self.data, self.file) {
            (Some(data), _) if data != "-" => Ok((Box::new(io::Cursor::new(data)), "the argument".into())),
            (_, Some(path)) => {
                let file = File::open(&path).map_err(|cause| failure::file("read", &path, &cause))?;
                Ok((Box::new(file), path.display().to_string()))
            }
            (_, None) => Ok((Box::new(io::stdin()), "standard input".into())),
        }
    }
}

/// The lines of an input, without their ends. Empty ones are passed over.
pub(crate) struct Lines {
    reader: BufReader<Box<dyn Read>>,
    what: String,
    read: u64,
}

impl Lines {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than a message can be.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let mut line = Vec::new();
            let read = self
                .reader
                .by_ref()
                .take(MAX_PAYLOAD as u64 + 2)
                .read_until(b'\n', &mut line)
                .map_err(|cause| Error::internal(format!("cannot read {}: {cause}", self.what)))?;
            self.read += read as u64;
            if read == 0 {
                return Ok(None);
            }
            for end in [b'\n', b'\r'] {
                if line.last() == Some(&end) {
                    line.pop();
                }
            }
            if line.len() > MAX_PAYLOAD {
                return Err(too_large(&format!("a line of {}", self.what)));
            }
            if !line.is_empty() {
                return Ok(Some(line.into()));
            }
        }
    }

    /// Whether the next line may have to be waited for: whoever writes slowly still wants each line published.
    pub(crate) fn would_wait(&self) -> bool {
        !self.reader.buffer().contains(&b'\n')
    }

    /// How many bytes have been read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }
}

fn too_large(what: &str) -> Error {
    Error::new(ErrorCode::TooLarge, format!("{what} is larger than {MAX_PAYLOAD} bytes"))
        .hint("no message can be; send it in parts, or where it lies")
}

/// The media type of a payload nobody has named: JSON and text are recognised, anything else is just bytes.
pub(crate) fn guess_content_type(payload: &[u8]) -> Option<String> {
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
        return Some("application/json".into());
    }
    std::str::from_utf8(payload).is_ok().then(|| "text/plain; charset=utf-8".into())
}

/// A header as it is given on the command line, `NAME=VALUE`; names are in lower case.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("write it like source=web".into()),
    }
}

/// Text that can do nothing to a terminal: control characters, but for line breaks and tabs, are shown as
/// escapes.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same in one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n").replace('\t', " ")
}

/// The line of a reason that says most: a traceback's last one, anything else's first.
pub(crate) fn gist(reason: &str) -> &str {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or_default();
    if first.starts_with("Traceback") { lines.next_back().unwrap_or(first) } else { first }
}

/// A payload as text: as it is when it is text, otherwise how many bytes it has.
pub(crate) fn payload(message: &Message) -> String {
    match message.payload() {
        Ok(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("<{} bytes>", bytes.len()),
        },
        Err(error) => format!("<{error}>"),
    }
}

impl Show for Message {
    const COLUMNS: &'static [&'static str] = &["offset", "time", "key", "data"];

    fn row(&self) -> Vec<String> {
        vec![
            format!("{:>8}", self.offset),
            self.time.to_string(),
            one_line(self.key.as_deref().unwrap_or("-")),
            one_line(&payload(self)),
        ]
    }

    fn name(&self) -> String {
        format!("{}:{}", self.topic, self.offset)
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("message", Show::name(self)), ("time", self.time.to_string())];
        all.extend(self.key.as_ref().map(|key| ("key", one_line(key))));
        all.extend(self.id.as_ref().map(|id| ("id", one_line(id))));
        all.extend(self.correlation_id.as_ref().map(|id| ("correlation id", one_line(id))));
        all.extend(self.deliver_at.map(|at| ("deliver at", at.to_string())));
        all.extend(self.expires_at.map(|at| ("expires at", at.to_string())));
        all.extend(self.priority.map(|priority| ("priority", priority.to_string())));
        all.extend(self.content_type.as_ref().map(|kind| ("content type", one_line(kind))));
        all.extend(
            self.headers.0.iter().map(|(name, value)| ("header", one_line(&format!("{name}: {value}")))),
        );
        all.push(("data", printable(&payload(self))));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(data: &str) -> Input {
        Input { data: Some(data.into()), file: None }
    }

    #[test]
    fn lines_come_without_their_ends_and_empty_ones_are_passed_over() {
        let mut lines = input("a\r\n\n{\"b\": 1}\n\nc").lines().unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(line);
        }
        assert_eq!(all, ["a", "{\"b\": 1}", "c"]);
        assert_eq!(lines.read(), 15);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Input { data: None, file: Some("no/such".into()) }.whole().unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.contains("no/such"), "{error}");
    }

    #[test]
    fn json_and_text_are_recognised() {
        let kind = |bytes: &[u8]| guess_content_type(bytes);
        assert_eq!(kind(b"{\"a\": 1}").as_deref(), Some("application/json"));
        assert_eq!(kind(b"hello").as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(kind(b"\xff\x00"), None);
    }

    #[test]
    fn a_payload_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\nc");
        assert_eq!(one_line("a\n\tb\u{9b}"), "a\\n b\\u{9b}");
    }

    #[test]
    fn headers_are_lower_case() {
        assert_eq!(header("Source = web=1").unwrap(), ("source".into(), "web=1".into()));
        assert!(header("=x").is_err() && header("x").is_err());
    }

    #[test]
    fn a_reason_in_one_line_is_the_exception_or_how_the_process_ended() {
        assert_eq!(gist("Traceback (most recent call last):\n  File\nValueError: bad"), "ValueError: bad");
        assert_eq!(gist("the process exited with status 9\nlast words"), "the process exited with status 9");
        assert_eq!(gist(""), "");
    }
}
