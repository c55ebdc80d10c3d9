//! Floor 1: the machine. Files mapped and written, memory, the clock.
//!
//! Owns what is asked of the machine beyond opening and listing files. Knows no model, no tensor, no request. Imports
//! `base`. Unsafe code is allowed here, each block with its reason.

pub mod crew;
pub mod mapping;
pub mod memory;
pub mod output;
