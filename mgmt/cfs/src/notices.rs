//! What cores have to say to whoever runs the server: the management executor writes it to standard error, so that
//! no core waits for a terminal.

use cfs_server::Notices;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};

/// Lines that wait to be written. What there is no room for is still in the lists that it came from.
const LINES_MAX: usize = 256;

/// The end where lines come out.
pub struct NoticeBoard(Mutex<Receiver<String>>);

/// Both ends.
pub fn notices() -> (Notices, NoticeBoard) {
    let (to, lines) = channel(LINES_MAX);
    let say = move |line| {
        let _no_room = to.try_send(line);
    };
    (Notices::new(say), NoticeBoard(Mutex::new(lines)))
}

impl NoticeBoard {
    /// Writes every line; ends once no core is left that could say one.
    pub async fn write(&self) {
        let mut lines = self.0.lock().await;
        while let Some(line) = lines.recv().await {
            complain!("cfs: {line}");
        }
    }
}
