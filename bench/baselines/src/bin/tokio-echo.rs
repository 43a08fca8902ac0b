//! `tokio-echo ADDR`: returns every byte; tokio's single-threaded runtime on the first CPU.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> std::io::Result<()> {
    cfs_baselines::pin_to_first_cpu();
    let address = cfs_baselines::address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("ready");
        let local = tokio::task::LocalSet::new();
        local.run_until(async {
            loop {
                let (mut stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::task::spawn_local(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..bytes]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }).await
    })
}
