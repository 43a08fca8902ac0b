//! `glommio-empty FOLDER`: glommio finds out how to read a device from the first file that a process
//! opens; where that file is empty it finds wrongly, and reads of later files fail.

use glommio::io::OpenOptions;
use glommio::{LocalExecutorBuilder, Placement};
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("usage: glommio-empty FOLDER"));
    if let Some(first) = arguments.next() {
        return one(folder.join(first), folder.join("glommio-full"));
    }
    let files = [("glommio-full", 1 << 16), ("glommio-empty", 0)];
    for (name, bytes) in files {
        std::fs::write(folder.join(name), vec![1; bytes]).expect("a file");
    }
    let own = std::env::current_exe().expect("our own path");
    for (name, _) in files {
        let status = Command::new(&own).arg(&folder).arg(name).status().expect("a child");
        assert!(status.success(), "the child ends well");
    }
    for (name, _) in files {
        std::fs::remove_file(folder.join(name)).expect("it is there");
    }
}

fn one(first: PathBuf, second: PathBuf) {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("glommio starts: mind memlock");
    let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let said = executor.run(async move {
        let _first = OpenOptions::new().read(true).dma_open(&first).await.expect("it opens");
        let file = OpenOptions::new().read(true).dma_open(&second).await.expect("it opens");
        match file.read_at(0, 4096).await {
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(error) => error.to_string(),
        }
    });
    println!("opened {name} first: reading glommio-full gives {said}");
}
