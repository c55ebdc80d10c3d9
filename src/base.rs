//! Floor 0: the numbers every room shares and the units they are printed in.
//!
//! Owns limits with their proofs, human-readable units, dates, the sum of a block of bytes and trace
//! records. Knows no machine, no file, no tensor. Imports nothing of the house.

pub mod date;
pub mod limits;
pub mod sum;
pub mod trace;
pub mod units;
