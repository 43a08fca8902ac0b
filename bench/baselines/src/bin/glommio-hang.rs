//! `glommio-hang [RUNS] [matters|preempt]`: does a glommio executor park although tasks are
//! runnable?
//!
//! Each run is a process of its own: an executor with a task queue of `Latency::Matters(1 ms)`
//! (or a preempt timer of 1 ms), tasks in it that yield for ever, and tasks beside it that read a
//! file and sleep. Every task counts; each is runnable, or waits for something that takes at most
//! some milliseconds. A run in which no count moves for three seconds has hung.

use glommio::io::{DmaFile, OpenOptions};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_secs(8);
const STUCK: Duration = Duration::from_secs(3);
const HUNG: i32 = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "one") {
        return one(arguments.get(1).is_some_and(|a| a == "preempt"));
    }
    let runs: u32 = arguments.first().and_then(|n| n.parse().ok()).unwrap_or(5);
    let kind = arguments.get(1).cloned().unwrap_or("matters".into());
    let own = std::env::current_exe().expect("our own path");
    let mut hung = 0;
    for run in 0..runs {
        let status = Command::new(&own).args(["one", &kind]).status().expect("a child");
        hung += u32::from(status.code() == Some(HUNG));
        println!("run {run} ({kind}): {}", if status.code() == Some(HUNG) { "HUNG" } else { "ended" });
    }
    println!("{hung} of {runs} runs hung");
}

fn watch(count: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let start = Instant::now();
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = count.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > STUCK {
                println!("  no task has moved for {STUCK:?} after {now} steps");
                std::process::exit(HUNG);
            }
            if start.elapsed() > RUN {
                std::process::exit(0);
            }
        }
    });
}

fn one(preempt: bool) {
    let count = Arc::new(AtomicU64::new(0));
    let mut builder = LocalExecutorBuilder::new(Placement::Unbound);
    if preempt {
        builder = builder.preempt_timer(Duration::from_millis(1));
    }
    let executor = builder.make().expect("glommio starts: mind memlock");
    let path = std::env::temp_dir().join(format!("glommio-hang-{}", std::process::id()));
    std::fs::write(&path, vec![1; 1 << 20]).expect("a file");
    watch(count.clone());
    executor.run(async move {
        let latency = if preempt { Latency::NotImportant } else { Latency::Matters(Duration::from_millis(1)) };
        let queue = glommio::executor().create_task_queue(Shares::Static(1000), latency, "yields");
        let other = glommio::executor().create_task_queue(Shares::Static(100), Latency::NotImportant, "reads");
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let count = count.clone();
            let body = async move {
                loop {
                    glommio::yield_if_needed().await;
                    count.fetch_add(1, Ordering::Relaxed);
                    glommio::executor().yield_task_queue_now().await;
                }
            };
            tasks.push(glommio::spawn_local_into(body, queue).expect("the queue exists"));
        }
        let file = OpenOptions::new().read(true).dma_open(&path).await.expect("it opens");
        let file = std::rc::Rc::new(file);
        for _ in 0..4 {
            let (count, file) = (count.clone(), file.clone());
            tasks.push(glommio::spawn_local_into(read(count, file), other).expect("the queue exists"));
        }
        let _unlinked = std::fs::remove_file(&path);
        for task in tasks {
            task.await;
        }
    });
}

async fn read(count: Arc<AtomicU64>, file: std::rc::Rc<DmaFile>) {
    for turn in 0_u64.. {
        let bytes = file.read_at(turn * 4096 % (1 << 20), 4096).await;
        bytes.expect("the read succeeds");
        count.fetch_add(1, Ordering::Relaxed);
        glommio::timer::sleep(Duration::from_micros(turn * 37 % 2000)).await;
    }
}
