//! The server as its clients meet it: the real binary, real sockets, and clients of every manner.
//!
//! Nothing here depends on the words the demo model knows, and nothing is measured.

#[path = "serve/answers.rs"]
mod answers;
#[path = "serve/client.rs"]
mod client;
#[path = "serve/crowd.rs"]
mod crowd;
#[path = "serve/drafts.rs"]
mod drafts;
#[path = "serve/foreign.rs"]
mod foreign;
#[path = "serve/limits.rs"]
mod limits;
#[path = "serve/rough.rs"]
mod rough;
#[path = "serve/server.rs"]
mod server;
#[path = "serve/spill.rs"]
mod spill;
#[path = "serve/stops.rs"]
mod stops;
