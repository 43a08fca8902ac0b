//! `glommio-echo ADDR`: returns every byte; one glommio executor on the first CPU, as its own
//! examples do it.

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpListener;
use glommio::{LocalExecutorBuilder, Placement};

fn main() {
    cfs_baselines::pin_to_first_cpu();
    let address = cfs_baselines::address();
    let executor = LocalExecutorBuilder::new(Placement::Unbound).name("echo").make().expect("glommio starts: mind memlock");
    executor.run(async move {
        let listener = TcpListener::bind(address).expect("the address is free");
        println!("ready");
        while let Ok(mut stream) = listener.accept().await {
            let _nodelay = stream.set_nodelay(true);
            glommio::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..bytes]).await.is_err() {
                        return;
                    }
                }
            })
            .detach();
        }
    });
}
