//! Dependencies are declared once, in the workspace, each with its reason.

/// Dependencies of the workspace's manifest without a comment above them. A comment serves the lines below it
/// up to the next blank line or comment; crates of our own need none.
pub fn unexplained_dependencies(manifest: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut inside, mut explained) = (false, false);
    for line in manifest.lines().map(str::trim) {
        match line.chars().next() {
            Some('[') => inside = line == "[workspace.dependencies]",
            Some('#') => explained = true,
            None => explained = false,
            Some(_) if inside && !explained && !line.contains("path =") => {
                wrong.push(format!("{}: say why in a comment above", line.split(' ').next().unwrap_or_default()));
            }
            Some(_) => {}
        }
    }
    wrong
}

/// Dependencies of a member that do not take the workspace's declaration.
pub fn own_declarations(path: &str, manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut wrong = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && line.contains('=') && !line.starts_with('#') && !line.contains("workspace = true") {
            wrong.push(format!("{path}: declare it in the workspace: {line}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace.dependencies]\n# ours\na = { path = \"a\" }\n\n# why\nb = \"1\"\n\nc = \"1\"\n";
        assert_eq!(unexplained_dependencies(manifest), ["c: say why in a comment above"]);
    }

    #[test]
    fn a_member_with_a_version_of_its_own_is_found() {
        let manifest = "[package]\nversion = \"1\"\n[dependencies]\na.workspace = true\nb = \"1\"\n";
        assert_eq!(own_declarations("x", manifest), ["x: declare it in the workspace: b = \"1\""]);
    }
}
