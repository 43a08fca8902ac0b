//! A task with directories of its own on a device that fails: an act that ends in an input/output error
//! may have happened or not, so that what must be seen later is one of several trees.
//!
//! Invariant: every answer but such an error is one that some tree of those in question gives, and
//! the others are out of question from then on.

use crate::act::{Act, Answer, DIRS, Seen, call};
use crate::history::{ME, name};
use cfs_model::Model;
use cfs_types::{InodeId, Nanos};
use cfs_volume::Volume;
use cfs_wire::Op;
use std::collections::VecDeque;
use std::rc::Rc;

/// Trees in question with which it stops: the history has found out all it will.
const TREES_MAX: usize = 128;
/// Steps that a failure shows.
const TRAIL: usize = 40;

/// The trees that there may be.
pub struct Doubt {
    label: String,
    dirs: [InodeId; DIRS],
    model_dirs: [InodeId; DIRS],
    trees: Vec<Model>,
    trail: VecDeque<String>,
}

/// An answer on one line.
fn brief(answer: &Answer) -> String {
    match answer {
        Ok(Seen::Bytes(bytes)) => {
            let ends = bytes.chunk_by(|a, b| a == b).map(|run| format!("{}x{:02x}", run.len(), run[0]));
            format!("{} bytes: {}", bytes.len(), ends.take(8).collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

impl Doubt {
    /// Makes the directories, on a device that is well yet.
    pub async fn new(volume: &Rc<Volume>, label: String) -> Doubt {
        let mut model = Model::new(0o755, 0, 0, Nanos::default());
        let top = volume.mkdir(&ME, InodeId::ROOT, &name(&label), 0o755).await.expect("nobody uses the name");
        let (mut dirs, mut model_dirs) = ([top.attr.ino; DIRS], [InodeId::ROOT; DIRS]);
        for n in 1..DIRS {
            let at = name(&format!("dir{n}"));
            dirs[n] = volume.mkdir(&ME, dirs[0], &at, 0o755).await.expect("nobody uses the name").attr.ino;
            let made = call(&mut model, Op::Mkdir { dir: InodeId::ROOT, name: at.clone(), mode: 0o755 }, Vec::new());
            made.expect("nobody uses the name");
            let (entries, _) = model.node(InodeId::ROOT).and_then(|node| node.directory()).expect("a directory");
            model_dirs[n] = entries[&at];
        }
        Doubt { label, dirs, model_dirs, trees: vec![model], trail: VecDeque::new() }
    }

    /// So much is in question that nothing more is to be learnt.
    pub fn is_hopeless(&self) -> bool {
        self.trees.len() > TREES_MAX
    }

    /// Does one thing and takes in its answer. False where no tree in question gives it.
    pub async fn step(&mut self, volume: &Rc<Volume>, act: &Act) -> Answer {
        let is_loud = std::env::var_os("CFS_SIM_VERBOSE").is_some();
        if is_loud {
            eprintln!("{} {act:?}", self.label);
        }
        let got = act.perform(volume, self.dirs).await;
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        let told = match &got {
            Ok(_) => "as it should".into(),
            Err(error) => format!("{error:?}"),
        };
        self.trail.push_back(format!("{act:?}: {told}"));
        if is_loud {
            eprintln!("{} {act:?}: {told}", self.label);
        }
        got
    }

    /// Takes in an answer. False where no tree in question gives it.
    pub fn take(&mut self, act: &Act, got: &Answer) -> bool {
        let dirs = self.model_dirs;
        if got.as_ref().is_err_and(|error| error.is_failure()) {
            if act.changes() {
                let mut after = self.trees.clone();
                after.retain_mut(|tree| act.apply(tree, dirs).is_ok());
                after.retain(|tree| !self.trees.contains(tree));
                self.trees.append(&mut after);
            }
            return true;
        }
        let answers: Vec<Answer> = self.trees.iter_mut().map(|tree| act.apply(tree, dirs)).collect();
        let mut right = answers.iter().map(|want| want == got);
        self.trees.retain(|_| right.next() == Some(true));
        if self.trees.is_empty() {
            let want: Vec<String> = answers.iter().map(brief).collect();
            self.trail.push_back(format!("answered {}, should be one of {want:?}", brief(got)));
        }
        !self.trees.is_empty()
    }

    /// What it did last, for whoever wants to know what went wrong.
    pub fn story(&self) -> String {
        let trail: Vec<&str> = self.trail.iter().map(String::as_str).collect();
        format!("{}: the last answer is one that nothing explains, after:\n  {}", self.label, trail.join("\n  "))
    }
}
