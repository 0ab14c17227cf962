//! What a process was answered, written down before it asks the next thing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

/// One line for each answer: its status, what was asked for, what that costs, and the entry where the answer names one.
#[derive(Debug)]
pub(crate) struct Journal(Mutex<File>);

/// What the answer says of the charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charged {
    /// It is charged, with this many micro-units.
    Yes(i64),
    /// It is not.
    No,
    /// The answer does not say.
    Perhaps,
}

impl Journal {
    pub(crate) fn new(dir: &Path, number: usize) -> Self {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(dir.join(format!("journal-{number}")));
        Self(Mutex::new(file.unwrap()))
    }

    /// The line is with the operating system when this returns: a killed process cannot take it back. A kill that comes
    /// before may leave the line's beginning.
    pub(crate) fn write(&self, status: u16, reference: &str, charged: Charged, entry: &str) {
        let charged = match charged {
            Charged::Yes(micros) => micros.to_string(),
            Charged::No => "no".to_owned(),
            Charged::Perhaps => "perhaps".to_owned(),
        };
        self.line(&format!("{status} {reference} {charged} {entry}\n"));
    }

    /// Marks a clean end: every charge was settled.
    pub(crate) fn end(&self) {
        self.line(END);
    }

    fn line(&self, line: &str) {
        let mut file = self.0.lock().unwrap();
        assert_eq!(file.write(line.as_bytes()).unwrap(), line.len());
    }
}

const END: &str = "end\n";

/// All journals together.
#[derive(Debug, Default)]
pub(crate) struct Journals {
    /// References that were charged, with micro-units.
    pub(crate) acknowledged: Vec<(String, i64)>,
    /// Entries that an answer named.
    pub(crate) entries: Vec<String>,
    /// References that every answer refused.
    pub(crate) refused: Vec<String>,
    pub(crate) answers: BTreeMap<u16, usize>,
}

impl Journals {
    pub(crate) fn read(dir: &Path) -> Self {
        let mut all = Self::default();
        let (mut acknowledged, mut perhaps, mut refused) =
            (HashMap::new(), HashSet::new(), HashSet::new());
        for file in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if !file.file_name().to_string_lossy().starts_with("journal-") {
                continue;
            }
            let journal = std::fs::read_to_string(file.path()).unwrap();
            // A killed process may have taken with it what was to undo a payment that it had no answer to.
            let (lines, ended) =
                journal.strip_suffix(END).map_or((&*journal, false), |lines| (lines, true));
            for line in lines.split_inclusive('\n') {
                // Linux looks for a kill between the pages of a `write`: what it leaves then was not acknowledged.
                let Some(line) = line.strip_suffix('\n') else {
                    assert!(!ended, "the end is in the middle of a line: {line}");
                    continue;
                };
                let fields: Vec<_> = line.split(' ').collect();
                let [status, reference, charged, entry] = fields[..] else {
                    panic!("not an answer: {line}")
                };
                *all.answers.entry(status.parse().unwrap()).or_default() += 1;
                let reference = reference.to_owned();
                match charged {
                    "no" if status == "503" && !ended => drop(perhaps.insert(reference)),
                    "no" => drop(refused.insert(reference)),
                    "perhaps" => drop(perhaps.insert(reference)),
                    micros => drop(acknowledged.insert(reference, micros.parse().unwrap())),
                }
                if entry != "-" {
                    all.entries.push(entry.to_owned());
                }
            }
        }
        refused.retain(|it| !acknowledged.contains_key(it) && !perhaps.contains(it));
        all.acknowledged = acknowledged.into_iter().collect();
        all.refused = refused.into_iter().collect();
        all
    }
}

#[test]
fn what_a_kill_left_of_a_line_is_not_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let killed = Journal::new(dir.path(), 1);
    killed.write(200, "1-0-0", Charged::Yes(20_000), "7");
    killed.write(402, "1-1-0", Charged::No, "-");
    let file = dir.path().join("journal-1");
    let whole = std::fs::read_to_string(&file).unwrap();
    for torn in ["", "2", "200 1-2", "200 1-2-0 20000", "200 1-2-0 20000 12", "503 1-2-0 no -"] {
        std::fs::write(&file, format!("{whole}{torn}")).unwrap();
        let all = Journals::read(dir.path());
        assert_eq!(all.acknowledged, [("1-0-0".to_owned(), 20_000)], "{torn}");
        assert_eq!(
            (all.entries, all.refused),
            (vec!["7".to_owned()], vec!["1-1-0".to_owned()]),
            "{torn}"
        );
        assert_eq!(all.answers, BTreeMap::from([(200, 1), (402, 1)]), "{torn}");
    }
}
