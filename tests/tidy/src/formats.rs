//! A format's page moves with its code: each page names the sources that encode it and their fingerprint.
//!
//! The last line of a page: ``Sources: `a.rs`, `b.rs`. Fingerprint: 0123456789abcdef.`` Whoever changes
//! such a source must look at the page, if only to write the new fingerprint there.

use crate::text::SourceFile;

/// A page of docs/formats: its path relative to the root, and its text.
pub struct FormatPage {
    /// Path relative to the root, with `/`.
    pub path: String,
    /// Text.
    pub text: String,
}

/// The line of a page that names its sources, and how it marks the fingerprint.
const SOURCES: &str = "Sources: ";
const FINGERPRINT: &str = "Fingerprint: ";

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv): enough to notice a change.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Pages whose sources are missing or have changed since the page was last looked at. `read` gives the text of
/// a source, by its path relative to the root.
pub fn stale_formats(pages: &[FormatPage], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    pages.iter().filter_map(|page| stale(page, &read).map(|wrong| format!("{}: {wrong}", page.path))).collect()
}

fn stale(page: &FormatPage, read: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let Some(line) = page.text.lines().rev().find(|line| line.starts_with(SOURCES)) else {
        return Some(format!("no line begins with '{SOURCES}'"));
    };
    let said = line.split_once(FINGERPRINT).map_or("", |(_, said)| said);
    let mut hash = FNV_OFFSET;
    let mut named = 0;
    for source in sources_of(line) {
        let Some(text) = read(source) else { return Some(format!("no file {source}")) };
        code_lines(&text).for_each(|line| hash = fnv(hash, line));
        named += 1;
    }
    let fingerprint = format!("{hash:016x}");
    match (named, said.trim_end_matches('.') == fingerprint) {
        (0, _) => Some("names no source".into()),
        (_, true) => None,
        (_, false) => Some(format!(
            "its sources have changed: make the page say what they do now, then end it with '{FINGERPRINT}{fingerprint}.'"
        )),
    }
}

/// The sources that the last line of a page names.
fn sources_of(line: &str) -> impl Iterator<Item = &str> {
    let sources = line.split(FINGERPRINT).next().unwrap_or_default();
    sources.split('`').skip(1).step_by(2)
}

/// What the code of a decoder has: a function that decodes, or types that are decoded as they are declared.
const DECODERS: [&str; 3] = ["fn decode", "fn parse", "Deserialize)]"];

/// Sources that decode a format and that no fuzz target names: `targets` are the texts of the targets, `read`
/// is as in [`stale_formats`].
pub fn unfuzzed_decoders(
    pages: &[FormatPage],
    read: impl Fn(&str) -> Option<String>,
    targets: &[SourceFile],
) -> Vec<String> {
    let lines = pages.iter().flat_map(|page| page.text.lines().filter(|line| line.starts_with(SOURCES)));
    let decodes = |source: &&str| {
        let text = read(source).unwrap_or_default();
        code_lines(&text).any(|line| DECODERS.iter().any(|mark| line.contains(mark)))
    };
    let named = |source: &&str| targets.iter().any(|target| target.text.contains(&format!("\"{source}\"")));
    let missing = lines.flat_map(sources_of).filter(decodes).filter(|source| !named(source));
    missing.map(|source| format!("{source}: no target of tests/fuzz names it")).collect()
}

/// The lines that can change bytes: no comments, no blank ones, no tests at the end.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

fn fnv(hash: u64, line: &str) -> u64 {
    let bytes = line.bytes().chain([b'\n']);
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Vec<FormatPage> {
        vec![FormatPage { path: "docs/formats/x.md".into(), text: text.into() }]
    }

    fn wrong(text: &str, source: &'static str) -> Vec<String> {
        stale_formats(&page(text), |path| (path == "x.rs").then(|| source.into()))
    }

    #[test]
    fn a_page_is_stale_once_its_code_changes_and_not_when_comments_or_tests_do() {
        let said = wrong("# X\n\nSources: `x.rs`. Fingerprint: .", "const A: u8 = 1;").join("");
        let fingerprint = &said[said.rfind(' ').expect("it ends with the fingerprint") + 1..said.len() - 2];
        let text = format!("# X\n\nSources: `x.rs`. Fingerprint: {fingerprint}.\n");
        assert!(wrong(&text, "const A: u8 = 1;").is_empty());
        assert!(wrong(&text, "// why\n\n    const A: u8 = 1;\n#[cfg(test)]\nmod tests {}").is_empty());
        assert_eq!(wrong(&text, "const A: u8 = 2;").len(), 1);
    }

    #[test]
    fn a_decoder_without_a_fuzz_target_is_found() {
        let pages = page("# X\n\nSources: `x.rs`, `y.rs`. Fingerprint: 0.\n");
        let read = |path: &str| Some(if path == "x.rs" { "pub fn decode() {}" } else { "pub fn encode() {}" }.into());
        let target = |text: &str| [SourceFile { path: "tests/fuzz/t.rs".into(), text: text.into() }];
        assert!(unfuzzed_decoders(&pages, read, &target("&[\"x.rs\"]")).is_empty());
        assert_eq!(unfuzzed_decoders(&pages, read, &target("// x.rs")).len(), 1);
    }

    #[test]
    fn a_page_without_sources_or_with_one_that_is_gone_is_refused() {
        assert_eq!(wrong("# X", "").len(), 1);
        assert_eq!(wrong("Sources: . Fingerprint: 0.", "").len(), 1);
        assert_eq!(wrong("Sources: `gone.rs`. Fingerprint: 0.", "").len(), 1);
    }
}
