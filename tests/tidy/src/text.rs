//! Rules on the text of source files.

/// A source file: path relative to the root, and its text.
pub struct SourceFile {
    /// Path relative to the root, with `/`.
    pub path: String,
    /// Text.
    pub text: String,
}

/// Longest file, lines.
const FILE_LINES_MAX: usize = 1_000;
/// Longest function, lines.
const FUNCTION_LINES_MAX: usize = 70;
/// Names that say nothing.
const NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];
/// Marks of unfinished or hidden work. Spelled in two halves so that this file passes itself.
const WORDS: &[(&str, &str)] = &[
    ("todo", "!("),
    ("unimplemented", "!("),
    ("allow(dead", "_code)"),
    ("allow(unused", ")"),
    ("FIX", "ME"),
    ("XX", "X"),
];
/// Where unsafe code may stand.
const UNSAFE_FOLDERS: &[&str] = &[
    "engine/runtime/",
    "engine/exec/src/waker",
    "fuse-client/fuse/",
    "mgmt/cfs/src/",
    "bench/baselines/",
    "tests/fuzz/src/allocation.rs",
];

/// Files over the limit.
pub fn long_files(files: &[SourceFile]) -> Vec<String> {
    let long = files.iter().filter(|f| f.text.lines().count() > FILE_LINES_MAX);
    long.map(|f| format!("{}: {} lines, at most {FILE_LINES_MAX}", f.path, f.text.lines().count())).collect()
}

/// Functions over the limit, test code left out. Counts from `fn` to the closing brace at the
/// same indentation, which formatted code guarantees.
pub fn long_functions(files: &[SourceFile]) -> Vec<String> {
    let mut long = Vec::new();
    for file in files.iter().filter(|f| !is_test(&f.path)) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            // Tests in the file come last; a module in a file of its own may be named anywhere.
            if line.trim() == "#[cfg(test)]" && lines.get(start + 1).is_some_and(|next| !next.ends_with(';')) {
                break;
            }
            let indent = line.len() - line.trim_start().len();
            let body = line.trim_start();
            if !is_function(body) || body.ends_with(';') || body.ends_with('}') {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0);
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: {length} lines, at most {FUNCTION_LINES_MAX}", file.path, start + 1));
            }
        }
    }
    long
}

/// Whether a line, without its indentation, begins a function: `fn` behind its visibility and qualifiers.
fn is_function(line: &str) -> bool {
    let visible = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(rest, |(_, rest)| rest),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let mut words = visible.split_whitespace();
    words.by_ref().find(|word| !["const", "async", "unsafe", "extern", "\"C\""].contains(word)) == Some("fn")
}

/// Files or folders with names that say nothing.
pub fn forbidden_names(files: &[SourceFile]) -> Vec<String> {
    let bad = files.iter().filter(|f| f.path.split('/').any(|part| NAMES.contains(&part.trim_end_matches(".rs"))));
    bad.map(|f| format!("{}: name it after what it holds", f.path)).collect()
}

/// Marks of unfinished or hidden work.
pub fn forbidden_words(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            for (a, b) in WORDS {
                if line.contains(&format!("{a}{b}")) {
                    found.push(format!("{}:{}: {a}{b}", file.path, number + 1));
                }
            }
        }
    }
    found
}

/// Unsafe code outside of the crates that may have it.
pub fn misplaced_unsafe(files: &[SourceFile]) -> Vec<String> {
    let outside = files.iter().filter(|f| !UNSAFE_FOLDERS.iter().any(|u| f.path.starts_with(u)));
    let mut found = Vec::new();
    for file in outside.filter(|f| !f.path.starts_with("tests/tidy/")) {
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl") {
                found.push(format!("{}:{}: unsafe code belongs elsewhere", file.path, number + 1));
            }
        }
    }
    found
}

/// Source files that do not begin with a module doc.
pub fn missing_docs(files: &[SourceFile]) -> Vec<String> {
    let bare = files.iter().filter(|f| !f.text.trim_start().starts_with("//!"));
    bare.map(|f| format!("{}: begins with no `//!` that says what it is for", f.path)).collect()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Vec<SourceFile> {
        vec![SourceFile { path: path.into(), text: text.into() }]
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        assert_eq!(long_files(&file("a.rs", &"x\n".repeat(1001))).len(), 1);
        let long = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(71));
        assert_eq!(long_functions(&file("a.rs", &long)).len(), 1);
        for head in ["pub const fn", "pub(in crate::x) async fn", "unsafe extern \"C\" fn"] {
            let other = long.replacen("fn", head, 1);
            assert_eq!(long_functions(&file("a.rs", &other)).len(), 1, "{head}");
            let named = format!("#[cfg(test)]\nmod tests;\n{other}");
            assert_eq!(long_functions(&file("a.rs", &named)).len(), 1, "{head}");
        }
        assert_eq!(forbidden_names(&file("engine/x/src/utils.rs", "")).len(), 1);
        assert_eq!(forbidden_words(&file("a.rs", concat!("todo", "!()"))).len(), 1);
        assert_eq!(misplaced_unsafe(&file("engine/kv/src/a.rs", "unsafe { x }")).len(), 1);
        assert_eq!(missing_docs(&file("a.rs", "fn f() {}")).len(), 1);
    }

    #[test]
    fn clean_files_pass() {
        let ok = file("engine/runtime/src/ring.rs", "//! Ring.\nfn f() {\n    unsafe { x() }\n}\n");
        assert!(long_functions(&ok).is_empty() && misplaced_unsafe(&ok).is_empty() && missing_docs(&ok).is_empty());
    }
}
