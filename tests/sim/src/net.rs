//! The simulated network: listeners, connects, partitions. Connections are in `net/connection.rs`.
//!
//! A connection is a reliable stream, as TCP is: bytes arrive in order or the connection breaks.
//! What varies is delay, how bytes are cut into pieces, resets and partitions.

mod connection;

use crate::rng::Stream as Random;
use crate::sim::NodeId;
use crate::timeline::{Kind, Life, Timeline};
use cfs_seam::{Accepted, Address, Io, Listener, Net, NetError, Promise, Stream, io};
use connection::{Connection, Party};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

/// Linux' numbers, as `NetError::Os` carries them.
const EADDRINUSE: i32 = 98;
const ENETUNREACH: i32 = 101;
const ETIMEDOUT: i32 = 110;
/// Connections that wait to be accepted; more are refused.
const BACKLOG: usize = 128;
/// First port that is given out where 0 was asked for.
const FIRST_FREE_PORT: u16 = 40_000;

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct NetConfig {
    /// One way between nodes, nanoseconds, shortest and longest.
    pub latency_ns: (u64, u64),
    /// The same inside a node.
    pub loopback_latency_ns: (u64, u64),
    /// Bytes a sender may have on the way before its sends wait.
    pub window_bytes: usize,
    /// Connections that break, per million pieces delivered.
    pub reset_per_million: u32,
    /// How long a partition is sat out before connections break and connects give up.
    pub give_up_ns: u64,
}

impl Default for NetConfig {
    /// A sound data centre.
    fn default() -> Self {
        NetConfig {
            latency_ns: (20_000, 1_000_000),
            loopback_latency_ns: (2_000, 50_000),
            window_bytes: 256 << 10,
            reset_per_million: 0,
            give_up_ns: 5_000_000_000,
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    Tcp(NodeId, u16),
    Unix(NodeId, PathBuf),
}

impl Spot {
    fn node(&self) -> NodeId {
        match self {
            Spot::Tcp(node, _) | Spot::Unix(node, _) => *node,
        }
    }
}

struct Backlog {
    life: Life,
    /// Only for connects from the same node.
    local: bool,
    waiting: RefCell<VecDeque<Promise<Result<Accepted, NetError>>>>,
    arrived: RefCell<VecDeque<Accepted>>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<Spot, Rc<Backlog>>,
    /// Pairs that cannot reach each other, lower number first.
    cut: BTreeSet<(NodeId, NodeId)>,
    ports: BTreeMap<NodeId, u16>,
    connections: Vec<Weak<Connection>>,
}

/// The network between all nodes.
pub(crate) struct Fabric {
    pub timeline: Rc<Timeline>,
    pub rng: Random,
    pub config: NetConfig,
    state: RefCell<State>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

/// The address of a node's one interface.
pub(crate) fn ip_of(node: NodeId) -> IpAddr {
    let [high, low] = (node.get() + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

fn node_of(ip: IpAddr, from: NodeId) -> Option<NodeId> {
    match ip {
        ip if ip.is_loopback() || ip.is_unspecified() => Some(from),
        IpAddr::V4(ip) => match ip.octets() {
            [10, 0, high, low] => u16::from_be_bytes([high, low]).checked_sub(1).map(NodeId::new),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

impl Fabric {
    pub fn new(timeline: Rc<Timeline>, rng: Random, config: NetConfig) -> Rc<Fabric> {
        Rc::new(Fabric { timeline, rng, config, state: RefCell::default() })
    }

    /// The network as one incarnation of a node sees it.
    pub fn of_node(self: &Rc<Self>, node: NodeId, life: Life) -> Rc<dyn Net> {
        Rc::new(NodeNet { fabric: self.clone(), node, life })
    }

    pub fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.state.borrow().cut.contains(&pair(a, b))
    }

    pub fn set_cut(&self, a: NodeId, b: NodeId, cut: bool) {
        let mut state = self.state.borrow_mut();
        if cut {
            state.cut.insert(pair(a, b));
        } else {
            state.cut.remove(&pair(a, b));
        }
    }

    pub fn heal_all(&self) {
        self.state.borrow_mut().cut.clear();
    }

    /// One way from `a` to `b`, nanoseconds.
    pub fn latency(&self, a: NodeId, b: NodeId) -> u64 {
        let (low, high) = if a == b { self.config.loopback_latency_ns } else { self.config.latency_ns };
        self.rng.between(low, high)
    }

    /// Breaks the connections between two nodes.
    pub fn reset_between(&self, a: NodeId, b: NodeId) {
        for connection in self.connections(|c| pair(c.node(0), c.node(1)) == pair(a, b)) {
            connection.reset();
        }
    }

    /// A node is gone: its listeners and its ends of connections die, its peers notice later.
    pub fn node_died(&self, node: NodeId) {
        let dead: Vec<Rc<Backlog>> = {
            let mut state = self.state.borrow_mut();
            let spots: Vec<Spot> = state.listeners.keys().filter(|s| s.node() == node).cloned().collect();
            spots.iter().filter_map(|spot| state.listeners.remove(spot)).collect()
        };
        dead.iter().for_each(|backlog| backlog.clear());
        for connection in self.connections(|c| c.node(0) == node || c.node(1) == node) {
            connection.node_died(node);
        }
    }

    fn connections(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<Rc<Connection>> {
        let state = self.state.borrow();
        state.connections.iter().filter_map(Weak::upgrade).filter(|c| wanted(c)).collect()
    }

    fn free_port(&self, node: NodeId) -> u16 {
        let mut state = self.state.borrow_mut();
        let port = state.ports.entry(node).or_insert(FIRST_FREE_PORT);
        *port += 1;
        *port
    }

    /// A connect arrives: to be accepted or refused.
    fn answer(self: &Rc<Self>, from: &Party, spot: &Spot) -> Result<Rc<dyn Stream>, NetError> {
        let backlog = self.state.borrow().listeners.get(spot).cloned().ok_or(NetError::Closed)?;
        let refused = backlog.local && from.node != spot.node();
        if refused || backlog.arrived.borrow().len() == BACKLOG {
            return Err(NetError::Closed);
        }
        let to = Party {
            node: spot.node(),
            life: backlog.life.clone(),
            name: match spot {
                Spot::Tcp(node, port) => SocketAddr::new(ip_of(*node), *port).to_string(),
                Spot::Unix(_, path) => format!("unix:{}", path.display()),
            },
        };
        let local_socket = matches!(spot, Spot::Unix(..));
        let connection = Connection::new(self.clone(), [from.clone(), to], local_socket);
        let (near, far) = connection.ends();
        let mut state = self.state.borrow_mut();
        state.connections.retain(|c| c.strong_count() > 0);
        state.connections.push(Rc::downgrade(&connection));
        drop(state);
        backlog.arrive(far);
        Ok(near)
    }
}

impl Backlog {
    fn arrive(&self, stream: Accepted) {
        loop {
            let waiting = self.waiting.borrow_mut().pop_front();
            match waiting {
                Some(promise) if promise.is_abandoned() => continue,
                Some(promise) => return promise.complete(Ok(stream)),
                None => return self.arrived.borrow_mut().push_back(stream),
            }
        }
    }

    /// Refuses what waits. Streams are dropped outside of the borrow: that closes them.
    fn clear(&self) {
        let streams = std::mem::take(&mut *self.arrived.borrow_mut());
        let promises = std::mem::take(&mut *self.waiting.borrow_mut());
        drop(streams);
        promises.into_iter().for_each(|promise| promise.complete(Err(NetError::Closed)));
    }
}

struct NodeNet {
    fabric: Rc<Fabric>,
    node: NodeId,
    life: Life,
}

impl NodeNet {
    fn spot(&self, address: &Address) -> Option<Spot> {
        match address {
            Address::Tcp(addr) => node_of(addr.ip(), self.node).map(|node| Spot::Tcp(node, addr.port())),
            Address::Unix(path) => Some(Spot::Unix(self.node, path.clone())),
        }
    }
}

impl Net for NodeNet {
    fn listen(&self, address: &Address) -> Result<Rc<dyn Listener>, NetError> {
        let (address, local) = match address {
            Address::Tcp(addr) => {
                let port = if addr.port() == 0 { self.fabric.free_port(self.node) } else { addr.port() };
                (Address::Tcp(SocketAddr::new(addr.ip(), port)), addr.ip().is_loopback())
            }
            Address::Unix(_) => (address.clone(), true),
        };
        let spot = self.spot(&address).filter(|spot| spot.node() == self.node);
        let spot = spot.ok_or(NetError::Os(ENETUNREACH))?;
        if self.life.is_over() {
            return Err(NetError::Closed);
        }
        let mut state = self.fabric.state.borrow_mut();
        if state.listeners.contains_key(&spot) {
            return Err(NetError::Os(EADDRINUSE));
        }
        let backlog = Rc::new(Backlog {
            life: self.life.clone(),
            local,
            waiting: RefCell::default(),
            arrived: RefCell::default(),
        });
        state.listeners.insert(spot.clone(), backlog.clone());
        Ok(Rc::new(NodeListener { fabric: self.fabric.clone(), spot, address, backlog }))
    }

    fn connect(&self, address: &Address) -> Io<Result<Rc<dyn Stream>, NetError>> {
        let Some(spot) = self.spot(address) else {
            return Io::ready(Err(NetError::Os(ENETUNREACH)));
        };
        let (promise, done) = io();
        let fabric = self.fabric.clone();
        let name = match address {
            Address::Tcp(_) => SocketAddr::new(ip_of(self.node), fabric.free_port(self.node)).to_string(),
            Address::Unix(_) => String::from("unix:"),
        };
        let from = Party { node: self.node, life: self.life.clone(), name };
        let cut = fabric.is_cut(self.node, spot.node());
        let round_trip = fabric.latency(self.node, spot.node()) + fabric.latency(spot.node(), self.node);
        let delay = if cut { fabric.config.give_up_ns } else { round_trip };
        let at = fabric.timeline.nanos() + delay;
        self.fabric.timeline.schedule(at, &self.life, Kind::Connect, move || {
            if promise.is_abandoned() {
                return;
            }
            let blocked = cut || fabric.is_cut(from.node, spot.node());
            let answer = if blocked { Err(NetError::Os(ETIMEDOUT)) } else { fabric.answer(&from, &spot) };
            promise.complete(answer);
        });
        done
    }
}

struct NodeListener {
    fabric: Rc<Fabric>,
    spot: Spot,
    address: Address,
    backlog: Rc<Backlog>,
}

impl Listener for NodeListener {
    fn accept(&self) -> Io<Result<Accepted, NetError>> {
        if self.backlog.life.is_over() {
            return Io::ready(Err(NetError::Closed));
        }
        if let Some(stream) = self.backlog.arrived.borrow_mut().pop_front() {
            return Io::ready(Ok(stream));
        }
        let (promise, accepted) = io();
        self.backlog.waiting.borrow_mut().push_back(promise);
        accepted
    }
    fn address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for NodeListener {
    fn drop(&mut self) {
        let removed = {
            let mut state = self.fabric.state.borrow_mut();
            let mine = state.listeners.get(&self.spot).is_some_and(|b| Rc::ptr_eq(b, &self.backlog));
            if mine { state.listeners.remove(&self.spot) } else { None }
        };
        drop(removed);
        self.backlog.clear();
    }
}
