//! What serving needs to know of a model's family: how a conversation with tools is written for
//! it, how its tool calls are read, and how an answer is held to a form.
//!
//! The seam between the protocols and `model`: requests are checked on this side of it, and
//! nothing on this side knows a family.

use serde_json::{Map, Value};

use crate::engine::Settings;
use crate::model::{Message, Text};

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema(Value),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
    Regex(String),
    /// A call of one of these tools, which are as the client gave them.
    Call(Vec<Value>),
}

/// Everything beside the messages that a template is given.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    pub tools: Option<Value>,
    pub extra: Map<String, Value>,
}

/// A part of an answer with tool calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Text(String),
    /// A call begins.
    Call {
        index: usize,
        id: String,
        name: String,
    },
    /// More of a call's arguments, which are JSON.
    Arguments {
        index: usize,
        delta: String,
    },
}

/// Takes the calls out of one answer as it is written.
pub trait Calls {
    fn push(&mut self, text: &str, said: &mut Vec<Said>);
    /// The answer has ended.
    fn finish(&mut self, said: &mut Vec<Said>);
}

pub trait Family {
    /// Tokens of a conversation, up to where the answer begins.
    fn chat_tokens(
        &self,
        text: &Text,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, String>;

    /// Holds an answer to a shape.
    fn bind(&self, shape: &Shape, settings: &mut Settings) -> Result<(), String>;

    /// Makes an answer ready that may call these tools.
    fn equip(&self, tools: &[Value], settings: &mut Settings) -> Result<(), String>;

    /// What reads one answer's calls of these tools; `None` if the family has none.
    fn calls(&self, tools: &[Value]) -> Option<Box<dyn Calls>>;
}

/// A family that has text and nothing else.
pub struct Plain;

impl Family for Plain {
    fn chat_tokens(
        &self,
        text: &Text,
        messages: &[Message],
        _: &ChatOptions,
    ) -> Result<Vec<u32>, String> {
        text.chat_tokens(messages).map_err(|error| error.to_string())
    }

    fn bind(&self, _: &Shape, _: &mut Settings) -> Result<(), String> {
        Err("this model's answers cannot be held to a form".into())
    }

    fn equip(&self, _: &[Value], _: &mut Settings) -> Result<(), String> {
        Err("are not known to this model's family".into())
    }

    fn calls(&self, _: &[Value]) -> Option<Box<dyn Calls>> {
        None
    }
}
