//! Floor 1: the machine. Its processors and memory, files mapped and written, the clock.
//!
//! Owns what is asked of the machine beyond opening and listing files, and the mechanism by which
//! threads work together (`crew`, `bell`). Knows no model, no tensor, no request. Imports `base`.
//! Unsafe code is allowed here, each block with its reason.
//!
//! ```text
//! topology  processors                    memory   how much there is     arena    and pieces of it
//! mapping   files, mapped                 output   files, written        direct   past the cache
//! drive     what is asked of a disk: by   ring     an io_uring, by       mover    many, by urgency,
//!                                                                                 on all shards
//!                                         sim      what a seed says
//! sink      where words go, unwaited for  terminal as a screen
//! roof      how fast memory is            profile  and a drive           tuning   and what slows it
//! socket    where others connect          bell     how threads are woken     scratch  what memory
//! limits    what the host allows                                                  has no room for
//! ```

pub mod arena;
pub mod bell;
pub mod crew;
pub mod direct;
pub mod drive;
pub mod limits;
pub mod mapping;
pub mod memory;
pub mod mover;
pub mod output;
pub mod profile;
pub mod ring;
pub mod roof;
pub mod scratch;
pub mod sim;
pub mod sink;
pub mod socket;
pub mod terminal;
pub mod topology;
pub mod tuning;
