//! Configuration files: read and checked here, so that an error is shown with its line.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crossdock_config::{Document, Fault, Parsed, Place, parse};
use crossdock_topics::{Error, ErrorCode};

use crate::failure::{self, Failure, Result};

/// The largest document, and the largest source of a service, that are read. The server takes less.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A file of configuration.
#[derive(Debug)]
pub(crate) struct File {
    /// As it was named; `-` is standard input.
    name: String,
    /// What `source:` is relative to.
    folder: PathBuf,
    text: String,
}

impl File {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is not UTF-8.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let (bytes, folder) = if path == Path::new("-") {
            (bounded(std::io::stdin().lock(), path)?, PathBuf::new())
        } else {
            let file = std::fs::File::open(path).map_err(|cause| failure::file("read", path, &cause))?;
            (bounded(file, path)?, path.parent().unwrap_or(Path::new("")).to_owned())
        };
        let text = String::from_utf8(bytes).map_err(|cause| {
            Error::invalid(format!("{name} is not UTF-8: {cause}")).hint("save it as UTF-8")
        })?;
        Ok(Self { name, folder, text })
    }

    /// Checks all that it says, with `${VAR:-default}` replaced from `variables` and the services' code filled in.
    ///
    /// # Errors
    /// Everything that is wrong with it, at its places.
    pub(crate) fn check(self, variables: &HashMap<String, String>) -> Result<Checked> {
        let mut parsed = match parse(self.text.as_bytes(), Some(variables), None) {
            Ok(parsed) => parsed,
            Err(invalid) => {
                let faults: Vec<_> = invalid.faults().iter().map(|f| (f.place, f.message.clone())).collect();
                return Err(self.wrong(&faults));
            }
        };
        let mut faults = Vec::new();
        let mut services = std::mem::take(&mut parsed.document.services);
        for (index, service) in services.iter_mut().enumerate() {
            let Some(source) = service.source.take() else { continue };
            match source_text(&self.folder.join(&source)) {
                Ok(code) => service.code = Some(code),
                Err(error) => {
                    let place = parsed.place(&format!("services[{index}].source")).unwrap_or_default();
                    faults.push((place, error.message.into_owned()));
                }
            }
        }
        parsed.document.services = services;
        if faults.is_empty() { Ok(Checked { file: self, parsed }) } else { Err(self.wrong(&faults)) }
    }

    fn wrong(&self, faults: &[(Place, String)]) -> Failure {
        let message = match faults {
            [(_, message)] => format!("{}: {message}", self.name),
            many => format!("{} is wrong in {} places", self.name, many.len()),
        };
        let error = Error::invalid(message).hint("nothing of it was applied: correct it and apply it again");
        let labels: Vec<_> = faults
            .iter()
            .map(|(place, message)| {
                let position = |number| usize::try_from(number).unwrap_or(usize::MAX);
                let text = if faults.len() == 1 { "here".to_owned() } else { message.clone() };
                (position(place.line), position(place.column), text)
            })
            .collect();
        Failure::in_file(&self.name, &self.text, &labels, error)
    }
}

/// A file without faults, as far as can be said without the server.
#[derive(Debug)]
pub(crate) struct Checked {
    file: File,
    parsed: Parsed,
}

impl Checked {
    /// What it says, as it is sent.
    pub(crate) fn document(&self) -> &Document {
        &self.parsed.document
    }

    /// What the server finds wrong with it, knowing what there is already, at the file's own places: those of
    /// the server are in the text it was sent.
    pub(crate) fn refused(&self, faults: &[Fault]) -> Failure {
        let own = |fault: &Fault| (self.place(&fault.path), fault.message.clone());
        self.file.wrong(&faults.iter().map(own).collect::<Vec<_>>())
    }

    /// Where the innermost part of a path stands that is in the file.
    fn place(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.parsed.place(path) {
                return place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place { line: 1, column: 1 },
            }
        }
    }
}

/// The text of a service's file.
///
/// # Errors
/// When it cannot be read, is too large, or is not UTF-8.
pub(crate) fn source_text(path: &Path) -> Result<String, Error> {
    let file = std::fs::File::open(path).map_err(|cause| failure::file("read", path, &cause))?;
    String::from_utf8(bounded(file, path)?).map_err(|cause| {
        Error::invalid(format!("{} is not UTF-8: {cause}", path.display())).hint("save it as UTF-8")
    })
}

fn bounded(file: impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|cause| failure::file("read", path, &cause))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::new(ErrorCode::TooLarge, format!("{} is larger than 16 MiB", path.display())));
    }
    Ok(bytes)
}

/// The environment, as far as it is UTF-8: nothing else can stand in a document.
pub(crate) fn variables() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn file(text: &str, folder: &Path) -> File {
        File { name: "c.yaml".into(), folder: folder.to_owned(), text: text.into() }
    }

    #[test]
    fn code_is_read_relative_to_the_file_and_variables_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("services")).unwrap();
        std::fs::write(folder.path().join("services/a.py"), "print('ü')\n").unwrap();
        let path = folder.path().join("c.yaml");
        let text = "topics:\n  - name: ${T}\n  - name: ${U:-other}\nservices: [{name: a, source: ./services/a.py}]\n";
        std::fs::write(&path, text).unwrap();
        let variables = HashMap::from([("T".to_owned(), "orders".to_owned())]);
        let checked = File::read(&path).unwrap().check(&variables).unwrap();
        let document = checked.document();
        let topics: Vec<&str> = document.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(topics, ["orders", "other"]);
        assert_eq!(document.services[0].code.as_deref(), Some("print('ü')\n"));
        assert_eq!(document.services[0].source, None);
        // What is sent is JSON, which is YAML, and says the same.
        let sent = serde_json::to_vec(document).unwrap();
        assert_eq!(&parse(&sent, None, None).unwrap().document, document);
    }

    #[test]
    fn every_fault_is_shown_at_its_place() {
        let text = "topics:\n  - nmae: a\n  - name: b\n    durability: maybe\n";
        let failure = file(text, Path::new("")).check(&HashMap::new()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        insta::assert_snapshot!(failure.render(false));
    }

    #[test]
    fn code_that_is_not_there_is_shown_where_it_is_named() {
        let text = "services:\n  - name: a\n    source: ./no.py\n";
        let failure = file(text, Path::new("")).check(&HashMap::new()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let shown = failure.render(false);
        assert!(shown.contains("c.yaml:3") && shown.contains("no.py"), "{shown}");
    }

    #[test]
    fn what_the_server_finds_is_shown_in_the_file() {
        let text = "topics:\n  - name: a\n\npermissions:\n  - name: p\n    users: [bob]\n";
        let checked = file(text, Path::new("")).check(&HashMap::new()).unwrap();
        let fault = |path: &str| Fault {
            place: Place { line: 1, column: 99 },
            path: path.into(),
            message: "there is no user bob".into(),
        };
        for path in ["permissions[0].users[0]", "permissions[0].users[0].x"] {
            let shown = checked.refused(&[fault(path)]).render(false);
            assert!(shown.contains("c.yaml:6") && shown.contains("bob"), "{shown}");
        }
        assert!(checked.refused(&[fault("")]).render(false).contains("c.yaml:1"));
    }

    #[test]
    fn a_file_that_is_not_there_or_not_text_is_named() {
        assert_eq!(File::read(Path::new("no/such.yaml")).unwrap_err().exit(), Exit::NotFound);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(File::read(&path).unwrap_err().exit(), Exit::Usage);
    }
}
