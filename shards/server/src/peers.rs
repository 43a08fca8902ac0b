//! Calls between the cores of one process, over the mesh.
//!
//! A core owns its state; another core asks for what it needs by message and gets an owned
//! answer. Calls to oneself take the same path without the ring.
//!
//! Invariants: every request gets exactly one reply; a full ring makes the caller yield, nothing is
//! dropped. A reply never waits behind requests: two cores that serve each other's could otherwise
//! wait for ever. So requests are bounded where they begin, not here.

use cfs_seam::{Class, Io, MeshMessage, Promise, World, io, spawn};
use cfs_types::CoreId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};

use crate::messages::{CoreReply, CoreRequest};

/// What travels on the mesh.
pub enum Envelope {
    /// A request and the number its reply carries.
    Request(u64, CoreRequest),
    /// The reply to a request of the receiver.
    Reply(u64, CoreReply),
    /// A request from a thread that is no core, and what is done with the reply.
    Outside(CoreRequest, Box<dyn FnOnce(CoreReply) + Send>),
}

/// Answers requests of other cores, and of this one.
pub trait Handler {
    /// Serves one request to its end.
    fn handle(self: Rc<Self>, from: CoreId, request: CoreRequest) -> Pin<Box<dyn Future<Output = CoreReply>>>;
}

/// This core's side of the mesh.
pub struct Peers {
    world: World,
    waiting: RefCell<BTreeMap<u64, Promise<CoreReply>>>,
    next: Cell<u64>,
    /// Whoever serves holds us: a strong one would keep both alive for ever.
    handler: RefCell<Option<Weak<dyn Handler>>>,
    /// Messages sent to other cores since start, for metrics.
    pub sent: Cell<u64>,
}

impl Peers {
    /// Not yet serving: see [`Peers::serve`].
    pub fn new(world: World) -> Rc<Self> {
        Rc::new(Peers {
            world,
            waiting: RefCell::default(),
            next: Cell::new(1),
            handler: RefCell::default(),
            sent: Cell::new(0),
        })
    }

    /// This core.
    pub fn me(&self) -> CoreId {
        self.world.mesh.me()
    }

    /// Cores of this process.
    pub fn cores(&self) -> u16 {
        self.world.mesh.cores()
    }

    /// Sends a request and waits for the answer.
    pub async fn call(&self, to: CoreId, request: CoreRequest) -> CoreReply {
        if to == self.me() {
            let handler = self.handler.borrow().as_ref().and_then(Weak::upgrade).expect("serving while calling");
            return handler.handle(to, request).await;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let (promise, answer): (_, Io<CoreReply>) = io();
        self.waiting.borrow_mut().insert(number, promise);
        self.post(to, Envelope::Request(number, request)).await;
        answer.await
    }

    /// Receives until the core stops. `handler` serves requests, each in its own task.
    pub async fn serve(self: Rc<Self>, handler: Rc<dyn Handler>) {
        *self.handler.borrow_mut() = Some(Rc::downgrade(&handler));
        loop {
            let (from, message) = self.world.mesh.recv().await;
            match message.downcast::<Envelope>().map(|e| *e) {
                Ok(Envelope::Reply(number, reply)) => {
                    let promise = self.waiting.borrow_mut().remove(&number);
                    if let Some(promise) = promise {
                        promise.complete(reply);
                    }
                }
                Ok(Envelope::Request(number, request)) => {
                    let (me, handler) = (self.clone(), handler.clone());
                    let task = async move {
                        let reply = handler.handle(from, request).await;
                        me.post(from, Envelope::Reply(number, reply)).await;
                    };
                    spawn(&self.world.tasks, Class::Foreground, task).detach();
                }
                Ok(Envelope::Outside(request, reply)) => {
                    let handler = handler.clone();
                    let task = async move { reply(handler.handle(from, request).await) };
                    spawn(&self.world.tasks, Class::Foreground, task).detach();
                }
                Err(_) => debug_assert!(false, "only envelopes travel on the mesh"),
            }
        }
    }

    async fn post(&self, to: CoreId, envelope: Envelope) {
        self.sent.set(self.sent.get() + 1);
        let mut message: MeshMessage = Box::new(envelope);
        while let Err(full) = self.world.mesh.send(to, message) {
            message = full.0;
            self.world.tasks.yield_now().await;
        }
    }
}
