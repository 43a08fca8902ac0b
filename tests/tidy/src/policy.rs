//! What dependencies may be, as deny.toml says: their licences, where they come from, and which are refused.
//!
//! The same rules as those of cargo-deny, which takes too long to build in CI. Advisories need its database and
//! are left to it.

/// The lists of deny.toml.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    licences: Vec<String>,
    refused: Vec<String>,
    registries: Vec<String>,
    repositories: Vec<String>,
}

/// A package and the licence it declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Package {
    /// Name and version.
    pub name: String,
    /// SPDX expression; None where it declares none.
    pub licence: Option<String>,
}

/// Allowed where deny.toml names no registries.
const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

impl Policy {
    /// Reads deny.toml; what is missing or not as strict as this enforces is told.
    pub fn read(deny: &str) -> Result<Policy, String> {
        for key in ["unknown-registry", "unknown-git"] {
            if value(deny, "sources", key).as_deref() != Some("\"deny\"") {
                return Err(format!("[sources] {key} is not \"deny\""));
            }
        }
        let list = |section, key| value(deny, section, key).map(|text| quoted(&text));
        let licences = list("licenses", "allow").ok_or("[licenses] allows nothing")?;
        let refused = list("bans", "deny").ok_or("[bans] denies nothing")?;
        let registries = list("sources", "allow-registry").unwrap_or_else(|| vec![CRATES_IO.into()]);
        let repositories = list("sources", "allow-git").unwrap_or_default();
        Ok(Policy { licences, refused, registries, repositories })
    }

    /// Packages of Cargo.lock that are refused, or that come from elsewhere than they may.
    pub fn refused_packages(&self, lock: &str) -> Vec<String> {
        let quoted_value = |line: &str, key: &str| Some(quoted(line.strip_prefix(key)?.strip_prefix(" = ")?).concat());
        let (mut wrong, mut name) = (Vec::new(), String::new());
        for line in lock.lines() {
            if let Some(next) = quoted_value(line, "name") {
                if self.refused.contains(&next) {
                    wrong.push(format!("{next}: [bans] deny names it"));
                }
                name = next;
            }
            if let Some(source) = quoted_value(line, "source").filter(|source| !self.may_come_from(source)) {
                wrong.push(format!("{name}: [sources] knows no {source}"));
            }
        }
        wrong
    }

    fn may_come_from(&self, source: &str) -> bool {
        let listed = |list: &[String], place: &str| list.iter().any(|known| known == place);
        match (source.strip_prefix("registry+"), source.strip_prefix("git+")) {
            (Some(registry), _) => listed(&self.registries, registry),
            (_, Some(git)) => listed(&self.repositories, git.split(['?', '#']).next().unwrap_or_default()),
            (None, None) => false,
        }
    }

    /// Packages whose licence is none of those allowed.
    pub fn refused_licences(&self, packages: &[Package]) -> Vec<String> {
        let refused = packages.iter().filter_map(|package| match &package.licence {
            None => Some(format!("{}: declares no licence", package.name)),
            Some(licence) if !self.allows(licence) => Some(format!("{}: {licence} is not allowed", package.name)),
            Some(_) => None,
        });
        refused.collect()
    }

    /// Whether an SPDX expression can be met. OR binds less than AND; a slash is an old form of OR; a licence
    /// with an exception is one of its own.
    fn allows(&self, expression: &str) -> bool {
        let text = expression.trim();
        let whole = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        if let Some(inner) = whole.filter(|inner| depths(inner).all(|(_, depth)| depth >= 0)) {
            return self.allows(inner);
        }
        if let Some((one, other)) = cut(text, " OR ").or_else(|| cut(text, "/")) {
            return self.allows(one) || self.allows(other);
        }
        match cut(text, " AND ") {
            Some((one, other)) => self.allows(one) && self.allows(other),
            None => self.licences.iter().any(|licence| licence == text),
        }
    }
}

/// Depth of parentheses behind each character.
fn depths(text: &str) -> impl Iterator<Item = (usize, i32)> {
    text.char_indices().scan(0, |depth, (at, c)| {
        *depth += i32::from(c == '(') - i32::from(c == ')');
        Some((at, *depth))
    })
}

/// The two sides of the first `word` outside of parentheses.
fn cut<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let at = depths(text).find(|(at, depth)| *depth == 0 && text[*at..].starts_with(word))?.0;
    Some((&text[..at], &text[at + word.len()..]))
}

/// What stands behind `key =` in a section of a TOML file, comments left out; a list to its end.
fn value(toml: &str, section: &str, key: &str) -> Option<String> {
    let lines = toml.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let inside =
        lines.skip_while(|line| *line != format!("[{section}]")).skip(1).take_while(|line| !line.starts_with('['));
    let mut rest = inside.skip_while(|line| line.split('=').next().map(str::trim) != Some(key));
    let mut text = rest.next()?.split_once('=')?.1.trim().to_string();
    while text.starts_with('[') && !text.ends_with(']') {
        text += rest.next()?;
    }
    Some(text)
}

fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\"] # why\n[bans]\ndeny = [\n    # old\n    \
        { crate = \"bincode\" },\n]\n[sources]\nunknown-registry = \"deny\"\nunknown-git = \"deny\"\n";

    fn policy() -> Policy {
        Policy::read(DENY).expect("strict")
    }

    #[test]
    fn a_policy_that_enforces_nothing_is_no_policy() {
        assert_eq!(policy().refused, ["bincode"]);
        for (strict, lax) in
            [("unknown-git = \"deny\"", "unknown-git = \"warn\""), ("allow =", "allowed ="), ("deny = [", "x = [")]
        {
            assert!(Policy::read(&DENY.replacen(strict, lax, 1)).is_err(), "{lax}");
        }
    }

    #[test]
    fn refused_packages_and_strange_sources_are_found() {
        let lock = |name: &str, source: &str| format!("[[package]]\nname = \"{name}\"\nsource = \"{source}\"\n");
        let crates_io = format!("registry+{CRATES_IO}");
        assert!(policy().refused_packages(&lock("bytes", &crates_io)).is_empty());
        for (name, source) in [("bincode", &*crates_io), ("x", "registry+https://y"), ("x", "git+https://y?rev=1#2")] {
            assert_eq!(policy().refused_packages(&lock(name, source)).len(), 1, "{name} from {source}");
        }
    }

    #[test]
    fn licences_are_read_as_expressions() {
        for (licence, allowed) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("MIT/GPL-3.0-only", true),
            ("(MIT OR GPL-3.0-only) AND Apache-2.0", true),
            ("(MIT OR GPL-3.0-only) AND (GPL-2.0-only OR GPL-3.0-only)", false),
            ("GPL-3.0-only AND Apache-2.0 OR MIT", true),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
        ] {
            let package = |licence| Package { name: "x".into(), licence };
            assert_eq!(policy().refused_licences(&[package(Some(licence.into()))]).is_empty(), allowed, "{licence}");
            assert_eq!(policy().refused_licences(&[package(None)]).len(), 1);
        }
    }
}
