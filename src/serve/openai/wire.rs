//! Answers as OpenAI's clients read them. Field order is theirs.

use serde::Serialize;

use super::super::account::{Attribution, Usage};
use super::super::house::{House, ModelCard, now};
use super::logprobs;

/// What every answer and every event of it begins with.
#[derive(Clone, Debug)]
pub struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

/// An answer, whole (`C` are its choices) or in events. `usage` is absent, null or there.
#[derive(Serialize)]
pub struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penstock: Option<Attribution>,
}

impl Head {
    /// Of an answer that begins now, under a new name of this kind.
    pub fn new(house: &House, kind: &str) -> Head {
        let ModelCard { id, fingerprint, .. } = &house.model;
        Head {
            id: house.new_name(kind),
            created: now(),
            model: id.clone(),
            fingerprint: fingerprint.clone(),
        }
    }

    pub fn envelope<C>(&self, object: &'static str, choices: C) -> Envelope<'_, C> {
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: None,
            penstock: None,
        }
    }
}

#[derive(Serialize)]
pub struct ChatChoice<'a> {
    pub index: usize,
    pub message: Message<'a>,
    pub logprobs: Option<logprobs::Chat<'a>>,
    pub finish_reason: &'static str,
}

#[derive(Serialize)]
pub struct Message<'a> {
    pub role: &'static str,
    pub content: Option<&'a str>,
    pub refusal: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tool_calls: &'a [Call],
}

/// A tool call, whole or as far as an event has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: Function,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

#[derive(Serialize)]
pub struct ChatDelta<'a> {
    pub index: usize,
    pub delta: Delta<'a>,
    pub logprobs: Option<logprobs::Chat<'a>>,
    pub finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
pub struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[&'a Call; 1]>,
}

/// A choice of a completion, whole or in events.
#[derive(Serialize)]
pub struct TextChoice<'a> {
    pub index: usize,
    pub text: &'a str,
    pub logprobs: Option<logprobs::Legacy<'a>>,
    pub finish_reason: Option<&'static str>,
}
