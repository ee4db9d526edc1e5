//! From the bytes of a stream to lines.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

/// Longer lines are cut.
const MAX_LINE: usize = 8 * 1024;
/// How long to wait for more once a process has ended.
pub(super) const LEFT_WITHIN: Duration = Duration::from_millis(200);

/// Gives each line of a stream, cut to [`MAX_LINE`], whatever bytes it holds.
///
/// Once `ended` is cancelled it reads what is left and stops: something that the process has started and that
/// got away may hold the stream open for ever.
pub(super) async fn read_lines(
    mut stream: impl AsyncRead + Unpin,
    ended: CancellationToken,
    mut line: impl FnMut(String),
) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = if ended.is_cancelled() {
            tokio::time::timeout(LEFT_WITHIN, stream.read(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = stream.read(&mut buffer) => read,
                () = ended.cancelled() => continue,
            }
        };
        match read {
            Ok(read @ 1..) => lines.feed(&buffer[..read], &mut line),
            _ => break,
        }
    }
    lines.end(&mut line);
}

#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    cut: usize,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], line: &mut impl FnMut(String)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.cut += text.len().saturating_sub(room);
            if ends {
                self.emit(line);
            }
        }
    }

    fn end(&mut self, line: &mut impl FnMut(String)) {
        if !self.line.is_empty() {
            self.emit(line);
        }
    }

    fn emit(&mut self, line: &mut impl FnMut(String)) {
        let bytes = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if self.cut > 0 {
            text.push_str(&format!(" ... and {} more bytes", self.cut));
        }
        self.line.clear();
        self.cut = 0;
        line(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, &mut |line| seen.push(line));
        }
        lines.end(&mut |line| seen.push(line));
        seen
    }

    #[test]
    fn output_becomes_lines_wherever_it_is_cut() {
        assert_eq!(lines(&[b"a\nb", b"c\r\n", b"\n", b"last"]), ["a", "bc", "", "last"]);
        assert_eq!(lines(&[b"\xff\xfeok\n"]), ["\u{fffd}\u{fffd}ok"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut_and_costs_no_more_than_its_limit() {
        let piece = vec![b'x'; 100_000];
        let seen = lines(&[&piece, &piece, b"\nnext\n"]);
        assert_eq!(seen.len(), 2);
        assert!(
            seen[0].ends_with(&format!("x ... and {} more bytes", 200_000 - MAX_LINE)),
            "{}",
            seen[0].len()
        );
        assert_eq!(seen[1], "next");
    }
}
