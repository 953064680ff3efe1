//! Order that nobody keeps by goodwill: floors, sizes, banned calls, dead files. Works on the text of the sources, which
//! rustfmt has laid out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `lib.rs`. A module imports only from lower floors and from itself.
const FLOORS: &[(u8, &[&str])] = &[
    (7, &["main", "server", "cli"]),
    (6, &["session", "admin"]),
    (5, &["cache"]),
    (4, &["gate", "backend"]),
    (3, &["plan"]),
    (2, &["policy", "rules", "audit", "metrics"]),
    (1, &["sql", "wire", "crypto", "event"]),
    (0, &["calendar", "config", "catalog", "principal", "finding", "id", "error", "mutants", "worker"]),
];

/// On the lowest floor and the highest, neighbours may import each other as long as there is no circle.
const NEIGHBOURLY: [u8; 2] = [0, 7];

/// No `_ =>` where kinds of syntax nodes are told apart (TOTAL): in a match with an arm that names one of [`NODES`].
const TOTAL: [&str; 4] = ["src/sql", "src/plan", "src/policy", "src/gate"];
const NODES: [&str; 7] = ["NodeEnum::", "NodeRef::", "Statement::", "SetExpr::", "TableFactor::", " Expr::", "SelectItem::"];
/// Says, on the line or the one before, why a wildcard there is harmless: `// tidy: every other kind is judged in expr()`.
const REASON: &str = "// tidy: ";

/// Outside input reaches these: nothing in them may panic on purpose.
const NO_PANIC: [&str; 4] = ["src/wire", "src/session", "src/sql", "src/backend"];
const PANICS: [&str; 6] = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("];

/// Calls among these that nothing from outside can reach: `file`, a piece of the line.
const UNREACHABLE: &[(&str, &str)] = &[
    ("src/wire/scram.rs", "HMAC takes keys of any length"),
    // The body of a fuzz target, which is there to panic.
    ("src/sql/lexer.rs", "accepted {text:?}, but the scanner says"),
];

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 100;
/// Functions that are longer, and may not grow: `file`, `function`, lines. Take one out when it shrinks.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// The top of the repository, besides dotfiles and what .gitignore names.
const TOP: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "proxy.toml",
    "policies",
    "tests",
    "benches",
    "docker",
    "Makefile",
    "README.md",
    "LICENSE",
    "deny.toml",
    "clippy.toml",
    "rustfmt.toml",
];

/// A source file, without what only tests see.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    /// Lines of code that is not test code, numbered from 1; comment lines are kept.
    lines: Vec<(usize, String)>,
    all_lines: usize,
}

impl Source {
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|p| self.path == format!("{p}.rs") || self.path.starts_with(&format!("{p}/")))
    }

    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().map(|(n, l)| (*n, l.as_str())).filter(|(_, l)| !l.trim_start().starts_with("//"))
    }

    /// The top module that it belongs to.
    fn module(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
}

#[test]
fn modules_import_only_from_lower_floors() {
    let floor_of: BTreeMap<&str, u8> = FLOORS.iter().flat_map(|(f, names)| names.iter().map(move |n| (*n, *f))).collect();
    let mut faults = Vec::new();
    let mut neighbours: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let sources = sources();
    for source in sources.iter().filter(|s| s.path != "src/lib.rs") {
        let module = source.module();
        let Some(floor) = floor_of.get(module) else {
            faults.push(format!("{}: `{module}` has no floor", source.path));
            continue;
        };
        for (line, import) in imports(source) {
            // `crate::mutant!(..)` is the macro of `mutants`.
            let import = if import == "mutant" { "mutants".to_owned() } else { import };
            if import == module {
                continue;
            }
            match floor_of.get(import.as_str()) {
                Some(other) if other < floor => {}
                Some(other) if other == floor && NEIGHBOURLY.contains(floor) => {
                    neighbours.entry(module).or_default().insert(import);
                }
                Some(other) => {
                    faults.push(format!("{}:{line}: `{module}` (floor {floor}) imports `{import}` (floor {other})", source.path));
                }
                None => faults.push(format!("{}:{line}: `{import}` has no floor", source.path)),
            }
        }
    }
    for module in neighbours.keys() {
        if reaches(&neighbours, module, module, &mut BTreeSet::new()) {
            faults.push(format!("`{module}` imports itself by way of its neighbours: {neighbours:?}"));
        }
    }
    report("floors (see src/lib.rs)", &faults);
}

#[test]
fn kinds_of_syntax_nodes_are_told_apart_without_a_wildcard() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| s.is_in(&TOTAL)) {
        for (at, (number, line)) in source.lines.iter().enumerate() {
            let is_code = !line.trim_start().starts_with("//");
            let has_reason = line.contains(REASON) || at > 0 && source.lines[at - 1].1.contains(REASON);
            if is_code && wildcard(line) && !has_reason && is_over_nodes(&source.lines, at) {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("`_ =>` over kinds of syntax nodes (name them, or say why not: `// tidy: ..`)", &faults);
}

#[test]
fn outside_input_meets_no_panic() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| s.is_in(&NO_PANIC)) {
        for (number, line) in source.code() {
            let is_known = UNREACHABLE.iter().any(|(file, piece)| source.path == *file && line.contains(piece));
            if PANICS.iter().any(|p| line.contains(p)) && !is_known {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("panics", &faults);
}

#[test]
fn files_and_functions_stay_small() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.all_lines > MAX_FILE_LINES {
            faults.push(format!("{}: {} lines, more than {MAX_FILE_LINES}", source.path, source.all_lines));
        }
        for (name, number, length) in functions(&source) {
            let listed = LONG_FUNCTIONS.iter().find(|(file, function, _)| *file == source.path && *function == name);
            match listed {
                Some((_, _, most)) if length > *most => {
                    faults.push(format!("{}:{number}: fn {name} grew to {length} lines", source.path));
                }
                Some(_) if length <= MAX_FUNCTION_LINES => {
                    faults.push(format!("{}:{number}: fn {name} is short enough now, take it off the list", source.path));
                }
                Some(_) => {}
                None if length > MAX_FUNCTION_LINES => {
                    faults
                        .push(format!("{}:{number}: fn {name} has {length} lines, more than {MAX_FUNCTION_LINES}", source.path));
                }
                None => {}
            }
        }
    }
    report("sizes", &faults);
}

#[test]
fn every_source_file_is_part_of_the_program() {
    let mut faults = Vec::new();
    for path in rust_files(Path::new("src")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if matches!(path.to_str().unwrap(), "src/main.rs" | "src/lib.rs") {
            continue;
        }
        let directory = path.parent().unwrap();
        // The file that must say `mod name;`, and the name it must say.
        let (parents, name) = if name == "mod" { (directory.parent().unwrap(), stem(directory)) } else { (directory, name) };
        let candidates = [parents.join("mod.rs"), parents.join("lib.rs"), parents.with_extension("rs")];
        let declared = candidates.iter().filter_map(|c| fs::read_to_string(c).ok()).any(|text| {
            text.lines().any(|l| l.trim_end().ends_with(&format!("mod {name};")) && !l.trim_start().starts_with("//"))
        });
        let has_path = files(directory)
            .iter()
            .filter_map(|f| fs::read_to_string(f).ok())
            .any(|text| text.lines().any(|l| attribute_path(l).is_some_and(|file| directory.join(file) == path)));
        if !declared && !has_path {
            faults.push(format!("{}: no `mod {name};` leads to it", path.display()));
        }
    }
    report("dead files", &faults);
}

#[test]
fn the_top_of_the_repository_is_the_one_of_the_map() {
    let ignored = fs::read_to_string(".gitignore").unwrap_or_default();
    let is_ignored = |name: &str| ignored.lines().any(|l| l.trim().trim_matches('/') == name);
    let mut faults = Vec::new();
    for entry in fs::read_dir(".").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && !TOP.contains(&name.as_str()) && !is_ignored(&name) {
            faults.push(name);
        }
    }
    report("top of the repository", &faults);
}

#[test]
fn nothing_is_left_over() {
    // In pieces, so that this file does not hold what it looks for.
    let words = [["/wo", "rk/"], ["/tmp", "/wt"], ["dbg", "!("], ["TO", "DO"], ["FIX", "ME"], ["X", "XX "]].map(|w| w.concat());
    let mut faults = Vec::new();
    for top in ["src", "tests", "benches", "docker", "policies", ".ci"] {
        for path in files(Path::new(top)) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            faults.extend(left_over(&path, &text, &words));
        }
    }
    for name in ["Cargo.toml", "proxy.toml", "Makefile", "README.md", "deny.toml", "clippy.toml", "rustfmt.toml"] {
        faults.extend(left_over(Path::new(name), &fs::read_to_string(name).unwrap_or_default(), &words));
    }
    report("left over", &faults);
}

fn left_over(path: &Path, text: &str, words: &[String]) -> Vec<String> {
    let hits = text.lines().enumerate().filter(|(_, line)| words.iter().any(|w| line.contains(w.as_str())));
    hits.map(|(i, line)| format!("{}:{}: {}", path.display(), i + 1, line.trim())).collect()
}

// === reading the sources

fn report(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

/// Directories of things that are made, not written.
const BUILT: [&str; 7] = ["target", "node_modules", "__pycache__", "logs", "corpus", "artifacts", "crashes"];

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let is_built = path.file_name().is_some_and(|n| BUILT.iter().any(|b| n == *b));
        if path.is_dir() && !is_built && !path.is_symlink() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    files(directory).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).collect()
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
}

fn sources() -> Vec<Source> {
    let texts: Vec<(PathBuf, String)> =
        rust_files(Path::new("src")).into_iter().map(|p| (p.clone(), fs::read_to_string(p).unwrap())).collect();
    let test_files: BTreeSet<PathBuf> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    texts
        .into_iter()
        // What a test module declares is test code as well.
        .filter(|(path, _)| !test_files.iter().any(|t| path == t || path.starts_with(t.with_extension(""))))
        .map(|(path, text)| Source {
            path: path.to_str().unwrap().replace('\\', "/"),
            lines: without_tests(&text),
            all_lines: text.lines().count(),
        })
        .collect()
}

/// Files that a parent declares under `#[cfg(test)]`.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let directory = match stem(path) {
        "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .flat_map(|pair| match attribute_path(pair[1]) {
            Some(file) => vec![path.parent().unwrap().join(file)],
            None => match pair[1].strip_suffix(';').and_then(|l| l.rsplit("mod ").next()) {
                Some(name) => vec![directory.join(format!("{name}.rs")), directory.join(name).join("mod.rs")],
                None => Vec::new(),
            },
        })
        .collect()
}

/// `x.rs` of `#[path = "x.rs"]`.
fn attribute_path(line: &str) -> Option<&str> {
    line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
}

/// Takes out each item under `#[cfg(test)]`: up to its closing brace, which rustfmt puts under its beginning.
fn without_tests(text: &str) -> Vec<(usize, String)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l)).peekable();
    while let Some((number, line)) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push((number, line.to_owned()));
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        for (_, line) in lines.by_ref() {
            let ends_in_line = line.ends_with(';') && !line.trim_end().ends_with('{') && line.starts_with(indent);
            if line == format!("{indent}}}") || (ends_in_line && !line[indent.len()..].starts_with(' ')) {
                break;
            }
        }
    }
    kept
}

/// Top modules named after `crate::`, with the line; of a group `crate::{a, b::c}` each.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let text: Vec<(usize, &str)> = source.code().collect();
    let roots: &[&str] =
        if source.path.matches('/').count() == 1 { &["crate::", "super::"] } else { &["crate::", "super::super::"] };
    // `super::super::` in src/a/b/c.rs stays inside `a`.
    let depth = source.path.matches('/').count();
    for (at, (number, line)) in text.iter().enumerate() {
        for root in roots.iter().filter(|r| depth <= 2 || **r == "crate::") {
            for (i, _) in line.match_indices(root) {
                let is_path_start = !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
                let rest = &line[i + root.len()..];
                if !is_path_start || rest.starts_with("super::") {
                    continue;
                }
                if !rest.starts_with('{') {
                    found.push((*number, identifier(rest)));
                    continue;
                }
                let group: String = text[at..].iter().map(|(_, l)| *l).collect::<Vec<_>>().join(" ");
                let group = group.split_once(&format!("{root}{{")).map_or("", |(_, g)| g);
                found.extend(group_heads(group).into_iter().map(|name| (*number, name)));
            }
        }
    }
    found.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

/// `a, b::{c, d}, e}` gives a, b, e.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut expects_head = true;
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_head = true,
            c if expects_head && (c.is_alphanumeric() || c == '_') => {
                heads.push(identifier(&group[i..]));
                expects_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether the line has an arm that is a bare `_`.
fn wildcard(line: &str) -> bool {
    line.match_indices("_ =>").any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Whether the arms beside this one, which rustfmt puts under each other, name kinds of syntax nodes.
fn is_over_nodes(lines: &[(usize, String)], at: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let own = indent(&lines[at].1);
    let is_inside = |(_, line): &&(usize, String)| line.trim().is_empty() || indent(line) >= own;
    let above = lines[..at].iter().rev().take_while(is_inside);
    let below = lines[at..].iter().take_while(is_inside);
    above.chain(below).any(|(_, line)| {
        let pattern = line.split("=>").next().unwrap_or_default();
        let is_arm = indent(line) == own && (line.contains("=>") || line.trim_start().starts_with("| ") || line.ends_with('{'));
        is_arm && !line.trim_start().starts_with("//") && NODES.iter().any(|n| format!(" {pattern}").contains(n))
    })
}

fn reaches<'a>(graph: &'a BTreeMap<&str, BTreeSet<String>>, from: &str, to: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let Some(next) = graph.get(from) else { return false };
    next.iter().any(|n| n == to || (seen.insert(n.as_str()) && reaches(graph, n, to, seen)))
}

/// Name, first line and length of each function.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, (number, line)) in source.lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_comment = trimmed.starts_with("//");
        let Some((before, rest)) = trimmed.split_once("fn ") else { continue };
        let is_item = before
            .split_whitespace()
            .all(|w| w.starts_with("pub") || matches!(w, "async" | "const" | "unsafe" | "crate)" | "super)" | "extern"));
        if is_comment || !is_item || line.trim_end().ends_with(';') {
            continue;
        }
        let indent = &line[..line.len() - trimmed.len()];
        let end = source.lines[at..].iter().find(|(_, l)| *l == format!("{indent}}}")).map_or(*number, |(n, _)| *n);
        let is_one_line = line.trim_end().ends_with('}');
        let length = if is_one_line { 1 } else { end - number + 1 };
        found.push((identifier(rest), *number, length));
    }
    found
}

#[test]
fn this_test_sees_what_it_should() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), lines: without_tests(text), all_lines: 0 };
    let text = "use crate::gate;\nuse crate::{policy::{self, load}, wire as w};\n// crate::server\nfn f() {\n    crate::plan::x();\n}\n\
                #[cfg(test)]\nmod tests {\n    use crate::session;\n}\nfn g() {}\n";
    let s = source("src/sql/a.rs", text);
    let names: Vec<String> = imports(&s).into_iter().map(|(_, n)| n).collect();
    assert_eq!(names, ["gate", "policy", "wire", "plan"]);
    assert_eq!(functions(&s), [("f".to_owned(), 4, 3), ("g".to_owned(), 11, 1)]);
    assert_eq!(imports(&source("src/gate.rs", "use super::cli;\n")), [(1, "cli".to_owned())]);
    assert!(wildcard("_ => 1") && wildcard("(a, _) | _ => 1") && !wildcard("Kind::of_ => 1"));
    let over = |arm: &str| {
        without_tests(&format!("match x {{\n    {arm} => 1,\n    _ => match y {{\n        1 => 2,\n        _ => 3,\n    }},\n}}"))
    };
    assert!(is_over_nodes(&over("NodeEnum::SelectStmt(_)"), 2));
    assert!(!is_over_nodes(&over("NodeEnum::SelectStmt(_)"), 4), "the inner match is over numbers");
    assert!(!is_over_nodes(&over("Token::Comma"), 2));
}
