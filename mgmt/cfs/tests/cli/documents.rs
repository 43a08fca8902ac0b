//! Pages in docs/ that are made from the binary: they must say what it says. With
//! `CFS_WRITE_GOLDEN=1` they are written anew.

use crate::stage::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("CFS_WRITE_GOLDEN").is_some() {
        fs::write(&path, text).expect("a writable source tree");
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    let wrong = page.lines().zip(text.lines()).find(|(page, real)| page != real);
    assert!(page == text, "docs/{name} is out of date at {wrong:?}: run this test with CFS_WRITE_GOLDEN=1");
}

#[test]
fn the_command_line_is_documented() {
    const COMMANDS: &[&str] =
        &["dev", "format", "server", "mount", "umount", "fsck", "scrub", "device", "status", "top"];
    const NESTED: &[[&str; 2]] = &[["device", "add"], ["device", "retire"]];
    let stage = Stage::new();
    let help = |arguments: &[&str]| {
        let output = stage.run(&[arguments, &["--help"]].concat());
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let top = help(&[]);
    let listed = top.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let listed: Vec<&str> = listed.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help").collect();
    assert_eq!(listed, COMMANDS, "a command is missing here");
    let mut page = String::from(
        "# The command line\n\nMade from `--help` by a test (`documents` in `mgmt/cfs/tests/cli`).\n\nExit status: 0 done, 1 failed (with the reason on stderr), 2 the command line cannot be meant so.\n`CFS_RUNTIME_DIR` moves the folder in which servers announce themselves to `cfs mount` and `cfs status`\n(default: `/run/cfs` for root, `$XDG_RUNTIME_DIR/cfs` or `~/.cache/cfs/run` for others); mounts in the background keep\ntheir logs there. `CFS_STATE_DIR` moves the folder of the secrets and sockets of block devices (default: `/var/lib/cfs` for\nroot, `~/.local/share/cfs/devices` for others).\n",
    );
    for command in std::iter::once(None).chain(COMMANDS.iter().map(Some)) {
        let (title, text) = match command {
            None => ("cfs".to_string(), top.clone()),
            Some(command) => (format!("cfs {command}"), help(&[command])),
        };
        write!(page, "\n## {title}\n\n```text\n{}\n```\n", text.trim_end()).expect("a String takes any text");
        for nested in NESTED.iter().filter(|nested| command == Some(&nested[0])) {
            let (title, text) = (nested.join(" "), help(nested));
            write!(page, "\n## cfs {title}\n\n```text\n{}\n```\n", text.trim_end()).expect("a String takes any text");
        }
    }
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    compare("CLI.md", &(lines.join("\n") + "\n"));
}

#[test]
fn the_metrics_are_documented() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::write(stage.path("mnt/file"), "text").expect("written");
    let text = dev.get("/metrics").1;
    let (mut help, mut kind, mut labels) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::<&str, BTreeSet<&str>>::new());
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a help text");
            current = name;
            help.insert(name, words);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind.insert(current, rest.split_once(' ').expect("a type").1);
        } else if let Some((_, set)) = line.split_once('{') {
            let keys = set.split('}').next().unwrap_or_default().split(',').filter_map(|l| l.split('=').next());
            labels.entry(current).or_default().extend(keys.filter(|key| *key != "le"));
        }
    }
    let mut page = String::from(
        "# Metrics\n\nWhat `/metrics` says (OpenMetrics text; `/metrics/json` has the same). Made from a running server by a\ntest (`documents` in `mgmt/cfs/tests/cli`). Names end in their unit, counters then in `_total`. Buckets of\nhistograms are powers of two of a microsecond. Operations appear once they were asked for.\n\n| metric | type | labels | what |\n|---|---|---|---|\n",
    );
    for (name, words) in &help {
        let kind = kind[name];
        let total = if kind == "counter" { "_total" } else { "" };
        let labels: Vec<&str> = labels.get(name).into_iter().flatten().copied().collect();
        writeln!(page, "| `{name}{total}` | {kind} | {} | {words} |", labels.join(", "))
            .expect("a String takes any text");
    }
    assert!(help.len() > 40, "{} metrics", help.len());
    compare("METRICS.md", &page);
}
