//! Floor 5: the server. A Unix socket, HTTP, and the protocols that clients speak.
//!
//! Owns sockets, connections, requests as text and answers as text. Knows no tensor, no page and no
//! step: it hands token ids in at the engine's desk and writes out what comes back. Imports
//! `engine`, `shard` (its task queues), `model` (its text side), `host`, `base`.

use std::rc::Rc;

pub mod announce;
pub mod http;
pub mod peer;
pub mod reply;
mod server;
pub mod socket;
mod systemd;

pub use server::{Drained, Open, Options, Shutdown};

/// Where remarks for the operator go, a line each.
pub type Notice = Rc<dyn Fn(&str)>;
