//! Floor 5: the server. A Unix socket, HTTP, and the protocols that clients speak.
//!
//! Owns sockets, connections, requests as text and answers as text. Knows no tensor, no page and no
//! step: it hands token ids in at the engine's desk and writes out what comes back. Imports
//! `engine`, `shard` (its task queues), `model` (its text side), `host`, `base`.
//!
//! ```text
//! server     from open sockets to the last answer      http       connections, calls, replies
//! socket     where clients come in                     peer       who may
//! systemd    what it is told                           announce   what an orchestrator is told
//! reply      the joint between transport and protocols
//! fetch      what another server answers, for `penstock top`
//! ```

use std::rc::Rc;

mod account;
pub mod announce;
mod answers;
mod execute;
pub mod family;
mod fault;
pub mod fetch;
mod fields;
mod headers;
pub mod house;
pub mod http;
pub mod log;
pub mod metrics;
mod openai;
pub mod peer;
pub mod reply;
pub mod routes;
mod server;
pub mod socket;
mod sse;
mod stream;
mod systemd;
#[cfg(test)]
mod tests;
pub mod till;
mod tokens;
mod wanted;

pub use server::{Drained, Entrance, Options, Shutdown};

/// Where remarks for the operator go, a line each.
pub type Notice = Rc<dyn Fn(&str)>;
