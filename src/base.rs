//! Floor 0: the numbers every room shares and the units they are printed in.
//!
//! Owns limits with their proofs, human-readable units and the sum of a block of bytes. Knows no
//! machine, no file, no tensor. Imports nothing of the house.

pub mod limits;
pub mod sum;
pub mod units;
