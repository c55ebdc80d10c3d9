//! Imports run strictly downward, and every room has a door that says what it owns.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room with the rooms it may import. `lib.rs` draws the floors.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("host", &["base"]),
    ("math", &["base"]),
    ("weights", &["base", "host", "math"]),
    ("model", &["base", "host", "math", "weights"]),
    ("shard", &["base", "host", "model"]),
    ("engine", &["base", "host", "math", "weights", "model", "shard"]),
    ("plan", &["base", "host", "math", "weights", "model", "engine"]),
    ("serve", &["base", "host", "model", "shard", "engine"]),
    ("cli", &["base", "host", "math", "weights", "model", "shard", "engine", "plan", "serve"]),
    // The two roots: one declares the rooms, the other enters the topmost.
    ("lib", &[]),
    ("main", &["cli"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms a source names as `crate::room` (or `penstock::room` in `main.rs`).
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for marker in ["crate::", "penstock::"] {
            for (at, _) in code.match_indices(marker) {
                let rest = &code[at + marker.len()..];
                let name: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number + 1, name));
                // `use crate::{a, b}` would slip past the check below.
                assert!(!rest.starts_with('{'), "line {}: name one room per import", number + 1);
            }
        }
    }
    found
}

#[test]
fn imports_run_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        let allowed = rooms.get(room).unwrap_or_else(|| panic!("{room} is on no floor"));
        for (line, name) in imports(&fs::read_to_string(&file).unwrap()) {
            if name != room && rooms.contains_key(&*name) && !allowed.contains(&&*name) {
                wrong.push(format!("{}:{line}: {room} imports {name}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `super` leads out of a room too. A file's own tests may go one further up.
#[test]
fn nobody_climbs_by_super() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let depth = inside.components().count();
        let mut tests = 0;
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            tests += usize::from(line.starts_with("mod tests"));
            let code = line.split("//").next().unwrap_or("");
            let climbed = code.split("super::").collect::<Vec<_>>();
            let longest = climbed.iter().skip(1).take_while(|part| part.is_empty()).count() + 1;
            let up = if climbed.len() > 1 { longest } else { 0 };
            assert!(up < depth + tests, "{}:{}: leaves its room", inside.display(), number + 1);
        }
    }
}

#[test]
fn every_room_has_a_door() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let is_root = file.ends_with("main.rs");
        assert!(is_root || text.starts_with("//!"), "{} says nothing of itself", file.display());
        let mut rooms = Vec::new();
        if file.with_extension("").is_dir() {
            sources(&file.with_extension(""), &mut rooms);
        }
        let is_mod = |line: &str| line.starts_with("mod ") || line.starts_with("pub mod ");
        let opens = rooms.is_empty() || text.lines().any(is_mod);
        assert!(opens, "{} is a door that leads nowhere", file.display());
    }
}

/// CUDA reads the limits that Rust proves.
#[test]
fn kernels_share_the_limits() {
    use penstock::base::limits;
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/limits.h");
    let header = fs::read_to_string(header).unwrap();
    let defined: BTreeMap<&str, usize> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define PENSTOCK_"))
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect();
    let expected = BTreeMap::from([
        ("LANES", limits::LANES),
        ("PANEL_ROWS", limits::PANEL_ROWS),
        ("SEGMENT", limits::SEGMENT),
        ("SUPER_BLOCK", limits::SUPER_BLOCK),
        ("SMALL_BLOCK", limits::SMALL_BLOCK),
        ("PAGE", limits::PAGE),
        ("ATTENTION_BLOCK", limits::ATTENTION_BLOCK),
        ("ATTENTION_SEGMENT", limits::ATTENTION_SEGMENT),
    ]);
    assert_eq!(defined, expected);
}
