//! Damage on the disk: a byte of a copy of the data is changed, and a broker opens the copy.
//!
//! It may refuse to, or say so when it reads; it may not notice only when nothing is missing and nothing is wrong.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crossdock_topics::Result;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::Connect;
use crate::child::{Child, Launch};
use crate::history::Found;
use crate::judge::{Rule, Violation};
use crate::load::Shared;

/// What came of damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Damages {
    /// The broker refused to open what was damaged.
    pub refused: u64,
    /// It opened it, and reported the damage to who read.
    pub reported: u64,
    /// Nothing was missing and nothing was wrong.
    pub harmless: u64,
}

/// Damages a copy of `data`, which nobody has open, and looks what a broker makes of it. Without dice nothing is damaged,
/// and nothing may be wrong: otherwise the trials would show nothing.
pub(crate) async fn trial(
    launch: &Launch,
    connect: &Connect,
    data: &Path,
    shared: &Shared,
    expected: &Found,
    dice: Option<&mut StdRng>,
    damages: &mut Damages,
) -> io::Result<Vec<Violation>> {
    let copy = data.with_file_name("damaged");
    let _ = fs::remove_dir_all(&copy);
    copy_folder(data, &copy)?;
    let whole = dice.is_none();
    let damage = dice.map_or(Ok("an exact copy".into()), |dice| flip(&copy, dice))?;
    let mut violations = Vec::new();
    match Child::start(launch, &copy, 0, None).await {
        Err(error) if whole => {
            violations
                .push(Violation { rule: Rule::Lost, what: format!("an exact copy does not open: {error}") });
        }
        Err(_) => damages.refused += 1,
        Ok(child) => {
            match read(connect, &child, shared).await {
                Err(error) if whole => {
                    violations.push(Violation {
                        rule: Rule::Lost,
                        what: format!("an exact copy is not read: {error}"),
                    });
                }
                Err(_) => damages.reported += 1,
                Ok((found, wrong)) => {
                    let same = found.freight == expected.freight
                        && found.outputs == expected.outputs
                        && found.dead == expected.dead;
                    let rule = if wrong.is_empty() { Rule::SilentDamage } else { Rule::WrongBytes };
                    if same && wrong.is_empty() {
                        damages.harmless += u64::from(!whole);
                    } else {
                        let what = format!(
                            "{damage}: {} of {} messages, {} of {} outputs, {} of {} dead letters, and no error",
                            found.freight.len(),
                            expected.freight.len(),
                            found.outputs.len(),
                            expected.outputs.len(),
                            found.dead.len(),
                            expected.dead.len(),
                        );
                        violations.push(Violation { rule, what });
                    }
                }
            }
            child.kill().await;
        }
    }
    if violations.is_empty() {
        fs::remove_dir_all(&copy)?;
    }
    Ok(violations)
}

async fn read(connect: &Connect, child: &Child, shared: &Shared) -> Result<(Found, Vec<String>)> {
    let shared = shared.on(connect(child.address).await?);
    let found = shared.read_all().await?;
    Ok((found, shared.history.into_parts().1))
}

/// Changes one byte of one file; says which.
fn flip(folder: &Path, dice: &mut StdRng) -> io::Result<String> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    let (path, length) = &files[dice.random_range(0..files.len())];
    let (at, mask) = (dice.random_range(0..*length), dice.random_range(1..=255u8));
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ mask], at)?;
    Ok(format!("byte {at} of {} xor {mask:#04x}", path.display()))
}

/// The files that hold something, but those in which the engine only talks about itself.
fn list(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if data.is_dir() {
            list(&entry.path(), files)?;
        } else if data.len() > 0 && !entry.file_name().to_string_lossy().starts_with("LOG") {
            files.push((entry.path(), data.len()));
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
