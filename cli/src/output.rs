//! What commands print: data on standard output in the format asked for, talk on standard error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, TableStyle};
use crossdock_topics::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// The format of data: columns for people; JSON, where what comes one by one is one line each; YAML, where that
/// is one document each; or names only, one a line. (Comments on the variants would be in every help text.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    Name,
}

/// How a kind of data looks in each format. JSON and YAML are its own serialization.
pub(crate) trait Show: Serialize {
    /// The columns of its table.
    const COLUMNS: &'static [&'static str];
    /// Its row of the table: as many cells as there are columns.
    fn row(&self) -> Vec<String>;
    /// What it is called.
    fn name(&self) -> String;
    /// All that is worth seeing of a single one; its row unless there is more to say.
    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

/// Where a command's data goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// Data in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format.
    pub(crate) fn format(self) -> Format {
        self.format
    }

    /// Prints several of a kind.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn list<T: Show>(self, all: &[T]) -> Result<()> {
        print(&list(self.format, all)?)
    }

    /// Prints a single one.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn one<T: Show>(self, one: &T) -> Result<()> {
        print(&single(self.format, one)?)
    }

    /// Prints one of those that come one by one.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn next<T: Show>(self, one: &T) -> Result<()> {
        print(&next(self.format, one)?)
    }

    /// Tells that something was done: a sentence for people, or the data that came of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn done<T: Show>(self, one: &T, sentence: &str) -> Result<()> {
        match self.format {
            Format::Table => {
                say(sentence);
                Ok(())
            }
            format => print(&single(format, one)?),
        }
    }
}

fn list<T: Show>(format: Format, all: &[T]) -> Result<String> {
    Ok(match format {
        Format::Table => table(T::COLUMNS, all.iter().map(Show::row)),
        Format::Json => json(&all, true)?,
        Format::Yaml => yaml(&all)?,
        Format::Name => all.iter().map(|one| one.name() + "\n").collect(),
    })
}

fn single<T: Show>(format: Format, one: &T) -> Result<String> {
    Ok(match format {
        Format::Table => {
            let rows = one.details();
            let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
            let line = |(label, value): (&str, String)| {
                let value = value.trim_end().replace('\n', &format!("\n{:width$}  ", ""));
                format!("{}\n", format!("{label:width$}  {value}").trim_end())
            };
            rows.into_iter().map(line).collect()
        }
        Format::Json => json(one, true)?,
        Format::Yaml => yaml(one)?,
        Format::Name => one.name() + "\n",
    })
}

fn next<T: Show>(format: Format, one: &T) -> Result<String> {
    Ok(match format {
        Format::Table => one.row().join("  ").trim_end().to_owned() + "\n",
        Format::Json => json(one, false)?,
        Format::Yaml => format!("---\n{}", yaml(one)?),
        Format::Name => one.name() + "\n",
    })
}

fn json(value: &impl Serialize, pretty: bool) -> Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map(|text| text + "\n").map_err(|cause| unprintable(&cause))
}

fn yaml(value: &impl Serialize) -> Result<String> {
    // Payloads are kept as JSON text, which only JSON's own writer understands.
    let value = serde_json::to_value(value).map_err(|cause| unprintable(&cause))?;
    serde_saphyr::to_string(&value).map_err(|cause| unprintable(&cause))
}

fn unprintable(cause: &dyn std::fmt::Display) -> Failure {
    Error::internal(format!("the data cannot be written in this format: {cause}")).into()
}

/// Columns with two spaces between them, no lines drawn, so that `cut`, `awk` and people can read it. Wide
/// cells are wrapped on a terminal only.
fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(columns.iter().map(|name| name.to_uppercase()));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Writes data to standard output at once.
///
/// # Errors
/// [`Failure::OutputClosed`] when nobody reads it any more; `Internal` for a full disk and the like.
pub(crate) fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// The same for bytes that need not be text.
///
/// # Errors
/// Those of [`print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(cause) => Err(Error::internal(format!("cannot write to standard output: {cause}")).into()),
    }
}

/// Says something to the person at the terminal. It goes to standard error; nobody there is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Puts a question to the person at the terminal, who answers on the same line.
pub(crate) fn ask(question: &str) {
    let mut terminal = anstream::stderr();
    let _ = write!(terminal, "{question}").and_then(|()| terminal.flush());
}

/// Whether errors are shown in colour: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colour() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// A progress bar over `total` (of whatever `unit` names), on standard error and on a terminal only.
pub(crate) fn progress(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{human_pos}} of {{human_len}} {unit}, {{per_sec}}, {{eta}} left");
    bar(ProgressBar::new(total), &template)
}

/// A sign of life for work of unknown length.
pub(crate) fn spinner(doing: &str) -> ProgressBar {
    let spinner = bar(ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})");
    spinner.set_message(doing.to_owned());
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}

/// A bar over time, for loads that run for a while.
pub(crate) fn countdown(length: std::time::Duration) -> ProgressBar {
    let total = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    bar(ProgressBar::new(total), "{bar:30} {elapsed} {msg}")
}

fn bar(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.set_draw_target(ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// A number of bytes as people read it: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Parcel {
        name: &'static str,
        weight: u32,
        note: Option<&'static str>,
    }

    impl Show for Parcel {
        const COLUMNS: &'static [&'static str] = &["name", "weight", "note"];
        fn row(&self) -> Vec<String> {
            vec![self.name.into(), self.weight.to_string(), self.note.unwrap_or_default().into()]
        }
        fn name(&self) -> String {
            self.name.into()
        }
    }

    fn parcels() -> [Parcel; 2] {
        [
            Parcel { name: "box", weight: 7, note: None },
            Parcel { name: "crate", weight: 1200, note: Some("a b") },
        ]
    }

    #[test]
    fn several_in_each_format() {
        let all: Vec<_> = Format::value_variants().iter().map(|f| list(*f, &parcels()).unwrap()).collect();
        insta::assert_snapshot!(all.join("----\n"));
    }

    #[test]
    fn a_single_one_in_each_format() {
        let [_, one] = parcels();
        let all: Vec<_> = Format::value_variants().iter().map(|f| single(*f, &one).unwrap()).collect();
        insta::assert_snapshot!(all.join("----\n"));
    }

    #[test]
    fn one_by_one_each_is_a_line_or_a_document() {
        let [one, _] = parcels();
        let all: Vec<_> = Format::value_variants().iter().map(|f| next(*f, &one).unwrap()).collect();
        insta::assert_snapshot!(all.join("----\n"));
    }

    #[test]
    fn none_is_an_empty_list_and_still_valid() {
        let none: [Parcel; 0] = [];
        assert_eq!(list(Format::Table, &none).unwrap(), "NAME  WEIGHT  NOTE\n");
        assert_eq!(list(Format::Json, &none).unwrap(), "[]\n");
        assert_eq!(list(Format::Name, &none).unwrap(), "");
    }
}
