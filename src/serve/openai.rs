//! The protocol of OpenAI's clients.
//!
//! Owns what their requests may hold and how answers are written for them, whole and in events.
//! Knows no family of models: conversations, tools and forms go through `family`.

pub mod chat;
pub mod completions;
mod conversation;
mod logprobs;
pub mod models;
mod speech;
mod telling;
mod tools;
mod wire;

use super::fields::{Fields, Result};
use super::house::House;
use super::{fault::Fault, wanted::short};

/// How the answer is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sending {
    stream: bool,
    /// With a last event that has the usage.
    include_usage: bool,
}

impl Sending {
    fn read(fields: &Fields) -> Result<Sending> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")? {
            None => false,
            Some(_) if !stream => {
                return Err(fields.wrong("stream_options", "is only for requests with stream"));
            }
            Some(options) => options.flag("include_usage")?.unwrap_or(false),
        };
        Ok(Sending { stream, include_usage })
    }
}

/// The request must be for the model that is here.
fn check_model(fields: &Fields, house: &House) -> Result<()> {
    match fields.string("model")? {
        Some(name) if !house.is_ours(name) => Err(Fault::no_model(&short(name), &house.model.id)),
        _ => Ok(()),
    }
}
