//! `glommio-empty FOLDER`: glommio learns how to read from the first file it opens; where that one
//! is empty, reads of later files fail.

use glommio::io::OpenOptions;
use glommio::{LocalExecutorBuilder, Placement};
use std::path::PathBuf;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("usage: glommio-empty FOLDER"));
    let (empty, full) = (folder.join("glommio-empty"), folder.join("glommio-full"));
    std::fs::write(&empty, "").expect("an empty file");
    std::fs::write(&full, vec![1; 1 << 16]).expect("a file");
    for first in [&full, &empty] {
        let (first, second) = (first.clone(), full.clone());
        let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("glommio starts: mind memlock");
        let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let said = executor.run(async move {
            let opened = OpenOptions::new().read(true).dma_open(&first).await.expect("it opens");
            let _first = opened.read_at(0, 4096).await;
            let file = OpenOptions::new().read(true).dma_open(&second).await.expect("it opens");
            match file.read_at(0, 4096).await {
                Ok(bytes) => format!("{} bytes", bytes.len()),
                Err(error) => error.to_string(),
            }
        });
        println!("first opened {name}: reading the full file gives {said}");
    }
    let _removed = (std::fs::remove_file(empty), std::fs::remove_file(full));
}
