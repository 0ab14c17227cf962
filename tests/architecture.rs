//! The floors of the house: a file imports from its own floor and from those below, and no files import each other in a
//! circle. `docs/architecture.md` says what belongs on which floor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Bottom up.
const FLOORS: [&str; 9] =
    ["model", "ledger", "store", "engine", "identity", "http", "llm", "routes", "testing"];

/// A module path, such as `["store", "cache"]`. The root is empty.
type Module = Vec<String>;

struct Source {
    file: String,
    module: Module,
    /// Without comments, string contents and the tests at its end.
    lines: Vec<String>,
}

/// A path that a line names, with the module that it is relative to resolved.
struct Import {
    line: usize,
    path: Vec<String>,
    is_reexport: bool,
}

struct House {
    sources: Vec<Source>,
    /// By module, the index of its source.
    modules: BTreeMap<Module, usize>,
    /// By source: where the names come from that it exports of others.
    reexports: Vec<BTreeMap<String, Vec<String>>>,
    imports: Vec<Vec<Import>>,
}

#[test]
fn no_file_imports_from_a_higher_floor() {
    let house = House::read();
    let mut faults = Vec::new();
    for (from, imports) in house.imports.iter().enumerate() {
        let source = &house.sources[from];
        let Some(floor) = floor_of(&source.module) else { continue };
        for import in imports {
            if import.path.is_empty() {
                faults.push(format!(
                    "{}:{}: imports all of the crate, which hides what it uses. Name the items.",
                    source.file, import.line
                ));
            }
            let Some(to) = house.source_of(&import.path) else { continue };
            let above = floor_of(&house.sources[to].module).filter(|above| *above > floor);
            if let Some(above) = above {
                faults.push(format!(
                    "{}:{}: floor `{}` imports `{}` from floor `{}`, which is above it. Move what is needed down to \
                     `{}`, or the code that needs it up to src/{}.",
                    source.file,
                    import.line,
                    FLOORS[floor],
                    import.path.join("::"),
                    FLOORS[above],
                    FLOORS[floor],
                    FLOORS[above],
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_is_on_a_floor() {
    let house = House::read();
    let stray: Vec<_> = house
        .sources
        .iter()
        .filter(|it| !it.module.is_empty() && floor_of(&it.module).is_none())
        .collect();
    let files: Vec<_> = stray.iter().map(|source| source.file.as_str()).collect();
    assert!(files.is_empty(), "on no floor of {FLOORS:?}: {files:?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let house = House::read();
    let edges: Vec<BTreeMap<usize, usize>> = (0..house.sources.len())
        .map(|from| {
            let imports = house.imports[from].iter().filter(|import| !import.is_reexport);
            let targets =
                imports.filter_map(|import| Some((house.source_of(&import.path)?, import.line)));
            targets.filter(|(to, _)| *to != from).collect()
        })
        .collect();
    let reached: Vec<BTreeSet<usize>> =
        (0..edges.len()).map(|from| reachable(&edges, from)).collect();
    let mut faults = Vec::new();
    for (from, targets) in edges.iter().enumerate() {
        for (to, line) in targets.iter().filter(|(to, _)| reached[**to].contains(&from)) {
            let (file, other) = (&house.sources[from].file, &house.sources[*to].file);
            faults.push(format!(
                "{file}:{line}: imports {other}, which imports {file}, directly or through others"
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "files in circles; move what both need into a file below:\n{}",
        faults.join("\n")
    );
}

fn floor_of(module: &[String]) -> Option<usize> {
    let name = module.first()?;
    FLOORS.iter().position(|floor| floor == name)
}

fn reachable(edges: &[BTreeMap<usize, usize>], from: usize) -> BTreeSet<usize> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(at) = left.pop() {
        for to in edges[at].keys().filter(|to| seen.insert(**to)) {
            left.push(*to);
        }
    }
    seen
}

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = Vec::new();
        read_dir(&root, &root, &mut sources);
        assert!(sources.len() > 50, "the sources are in src");
        let modules: BTreeMap<_, _> =
            sources.iter().enumerate().map(|(at, it)| (it.module.clone(), at)).collect();
        let imports: Vec<_> = sources.iter().map(|source| imports(source, &modules)).collect();
        let reexports = imports
            .iter()
            .map(|imports| {
                let named = imports.iter().filter(|import| import.is_reexport);
                named
                    .filter_map(|import| Some((import.path.last()?.clone(), import.path.clone())))
                    .collect()
            })
            .collect();
        Self { sources, modules, reexports, imports }
    }

    /// The source that defines what the path names, behind re-exports.
    fn source_of(&self, path: &[String]) -> Option<usize> {
        let mut path = path.to_vec();
        // A chain of re-exports is short.
        for _ in 0..8 {
            let depth =
                (0..=path.len()).rev().find(|depth| self.modules.contains_key(&path[..*depth]))?;
            let at = self.modules[&path[..depth]];
            match path.get(depth).and_then(|name| self.reexports[at].get(name)) {
                Some(origin) => path.splice(..=depth, origin.iter().cloned()).for_each(drop),
                None if depth == 0 => return None,
                None => return Some(at),
            }
        }
        panic!("{} is re-exported in a circle", path.join("::"));
    }
}

fn read_dir(root: &Path, dir: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && name != "tests" {
            read_dir(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            let relative = path.strip_prefix(root).unwrap();
            let mut module: Module =
                relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            module.pop();
            if !matches!(&*name, "mod" | "lib") {
                module.push(name);
            }
            let lines = code(&fs::read_to_string(&path).unwrap());
            sources.push(Source { file: format!("src/{}", relative.display()), module, lines });
        }
    }
}

/// The lines of a file without comments, and without the test module at its end.
fn code(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut text = text.lines().peekable();
    while let Some(line) = text.next() {
        let is_tests =
            line == "#[cfg(test)]" && text.peek().is_some_and(|next| next.ends_with('{'));
        if is_tests {
            break;
        }
        lines.push(without_comment(line).to_owned());
    }
    lines
}

/// A line up to `//`, unless that is in a string.
fn without_comment(line: &str) -> &str {
    let (mut is_string, mut is_escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !is_escaped => is_string = !is_string,
            '/' if !is_string && line[at..].starts_with("//") => return &line[..at],
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    line
}

#[test]
fn no_way_of_writing_an_import_escapes() {
    let source = |module: &[&str], text: &str| Source {
        file: "src/x.rs".to_owned(),
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        lines: code(text),
    };
    let modules = BTreeMap::from([
        (Module::new(), 0),
        (vec!["http".to_owned()], 1),
        (vec!["store".to_owned()], 2),
    ]);
    for text in [
        "use crate::http::problem;",
        "use crate::{model::Key, http::{problem, rejection}};",
        "use super::super::http::problem as it;",
        "macro_rules! m { () => { $crate::http::problem() } }",
        "let x = self::super::super::http::problem();",
        "let x = (\"https://example.com\", crate::http::problem());",
    ] {
        let imports = imports(&source(&["store", "cache"], text), &modules);
        assert!(
            imports.iter().any(|import| import.path.first().is_some_and(|name| name == "http")),
            "{text}"
        );
    }
    for text in [
        "use crate::*;",
        "use crate as root;",
        "use super::super::{self as root};",
        "m!(crate::{http::problem})",
    ] {
        let imports = imports(&source(&["store", "cache"], text), &modules);
        assert!(imports.iter().any(|import| import.path.is_empty()), "{text}");
    }
    assert!(
        imports(&source(&["store"], "let x = \"a\"; // crate::http::problem"), &modules).is_empty()
    );
}

/// All paths of this crate that a source names, in `use` and in place.
fn imports(source: &Source, modules: &BTreeMap<Module, usize>) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut lines = source.lines.iter().enumerate();
    while let Some((at, line)) = lines.next() {
        let statement = line.trim_start();
        let (visibility, rest) = match statement.split_once("use ") {
            Some((visibility, rest)) if visibility.is_empty() || visibility.starts_with("pub") => {
                (visibility, rest)
            }
            _ => {
                let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                let words = words.map(|word| word.strip_prefix("self::").unwrap_or(word));
                for path in
                    words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"))
                {
                    let path = path
                        .split("::")
                        .filter(|name| !name.is_empty())
                        .map(str::to_owned)
                        .collect();
                    imports.extend(absolute(path, source, modules).map(|path| Import {
                        line: at + 1,
                        path,
                        is_reexport: false,
                    }));
                }
                continue;
            }
        };
        let mut tree = rest.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().expect("a `use` ends").1.trim());
        }
        let mut paths = Vec::new();
        flatten(&[], tree.trim_end().trim_end_matches(';'), &mut paths);
        let is_reexport = !visibility.is_empty();
        imports.extend(paths.into_iter().filter_map(|path| {
            Some(Import { line: at + 1, path: absolute(path, source, modules)?, is_reexport })
        }));
    }
    imports
}

/// Takes `a::{b, c::d as e}` apart.
fn flatten(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, group.trim_end().strip_suffix('}')),
        None => (tree.split(" as ").next().unwrap_or_default(), None),
    };
    let names = head
        .split("::")
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "self" && *name != "*");
    let path: Vec<_> = prefix.iter().cloned().chain(names.map(str::to_owned)).collect();
    let Some(group) = group else { return paths.push(path) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&path, &group[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        flatten(&path, &group[start..], paths);
    }
}

/// The path from the root of the crate; `None` for what is of another crate.
fn absolute(
    path: Vec<String>,
    source: &Source,
    modules: &BTreeMap<Module, usize>,
) -> Option<Vec<String>> {
    let first = path.first()?;
    if first == "crate" {
        return Some(path[1..].to_vec());
    }
    let up = path.iter().take_while(|name| *name == "super").count();
    let mut absolute = source.module.clone();
    absolute.truncate(source.module.len().checked_sub(up)?);
    absolute.extend(path[up..].iter().cloned());
    // Without `super`, a child of this module, or another crate.
    let child = &absolute[..(source.module.len() + 1 - up).min(absolute.len())];
    (up > 0 || modules.contains_key(child)).then_some(absolute)
}
