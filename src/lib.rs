//! Penstock serves Mixture-of-Experts language models on one dedicated Linux host.
//!
//! The house has floors, and imports run strictly downward (`tests/floors.rs` checks it):
//!
//! ```text
//! floor 6  main.rs, cli   commands: read options, open the model, print
//! floor 5  serve          sockets, HTTP, the protocols clients speak; knows no tensors
//!          plan           where every byte of a memory budget goes, decided before one is read
//! floor 4  engine         sessions, KV pages, the step that drives a model layer by layer
//! floor 3  shard          a seat: one pinned thread, its reactor, its rings, its poll order
//! floor 2  model          what a model is: config, tokenizer, chat template, layers, sampling
//!          weights        the bytes of a model: GGUF, safetensors, tensors by name
//! floor 1  math           panels and kernels: the scalar oracle and its vector twins
//!          host           the machine: processors, memory, mapped files, threads that work together
//! floor 0  base           limits, units
//! ```
//!
//! Unsafe code lives in `math` and `host` alone.

#![deny(unsafe_code)]

pub mod base;
#[allow(unsafe_code)]
pub mod host;
#[allow(unsafe_code)]
pub mod math;

pub mod model;
pub mod weights;

pub mod shard;

pub mod engine;

pub mod plan;

pub mod serve;

pub mod cli;
