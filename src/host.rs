//! Floor 1: the machine. Its processors and memory, files mapped and written, the clock.
//!
//! Owns what is asked of the machine beyond opening and listing files, and the mechanism by which
//! threads work together (`crew`, `bell`). Knows no model, no tensor, no request. Imports `base`.
//! Unsafe code is allowed here, each block with its reason.

pub mod arena;
pub mod bell;
pub mod crew;
pub mod direct;
pub mod drive;
pub mod mapping;
pub mod memory;
pub mod mover;
pub mod output;
pub mod profile;
pub mod ring;
pub mod roof;
pub mod sim;
pub mod topology;
pub mod tuning;
