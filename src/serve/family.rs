//! What serving needs to know of a model's family: how a conversation with tools is written for
//! it, how its tool calls are read, and how an answer is held to a form.
//!
//! The seam between the protocols and `model`: requests are checked on this side of it, and
//! nothing on this side knows a family.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::engine::Settings;
use crate::model::grammar::Grammar;
use crate::model::tools::{self, Piece, ToolChoice, ToolError, ToolFamily, Tools};
use crate::model::{Chat, Message, Text};

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
    /// A call of one of these tools, which are as the client gave them; of the named one once.
    Call {
        tools: Vec<Value>,
        named: Option<String>,
    },
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

/// What a model's own files say of its family.
pub struct OfText {
    text: Rc<Text>,
    random: RandomState,
    calls: Cell<u64>,
}

impl OfText {
    pub fn new(text: Rc<Text>) -> OfText {
        OfText { text, random: RandomState::new(), calls: Cell::new(0) }
    }

    fn tools(&self, list: &[Value]) -> Result<(ToolFamily, Tools), String> {
        let family = self.text.tool_family();
        let family = family.ok_or("this model's chat template shows no way to call tools")?;
        let tools = Tools::read(&Value::from(list.to_vec())).map_err(|error| sentence(&error))?;
        Ok((family, tools))
    }
}

fn sentence(error: &ToolError) -> String {
    format!("{} {}", error.field, error.reason)
}

impl Family for OfText {
    fn chat_tokens(
        &self,
        text: &Text,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, String> {
        let ChatOptions { tools, extra } = options.clone();
        let chat = Chat { tools, extra, ..Chat::default() };
        text.chat_tokens_with(messages, &chat).map_err(|error| error.to_string())
    }

    fn bind(&self, shape: &Shape, settings: &mut Settings) -> Result<(), String> {
        let words = self.text.vocabulary().map_err(|error| error.to_string())?;
        let grammar = match shape {
            Shape::JsonObject => Grammar::json_object(&words),
            Shape::JsonSchema(schema) => Grammar::json_schema(&words, schema),
            Shape::Lark(rules) => Grammar::lark(&words, rules),
            Shape::Regex(regex) => Grammar::regex(&words, regex),
            Shape::Call { tools, named } => {
                let (family, tools) = self.tools(tools)?;
                let choice = match named {
                    Some(name) => ToolChoice::Named(name.clone()),
                    None => ToolChoice::Required,
                };
                let tokenizer = &self.text.tokenizer;
                let grammar = tools::grammar(&words, tokenizer, family, &tools, &choice);
                settings.grammar = grammar.map_err(|error| sentence(&error))?;
                return Ok(());
            }
        };
        settings.grammar = Some(grammar.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn equip(&self, list: &[Value], settings: &mut Settings) -> Result<(), String> {
        let (family, _) = self.tools(list)?;
        settings.shown = family.shown(&self.text.tokenizer);
        Ok(())
    }

    fn calls(&self, list: &[Value]) -> Option<Box<dyn Calls>> {
        let (family, tools) = self.tools(list).ok()?;
        self.calls.set(self.calls.get() + 1);
        let name = format!("call_{:016x}", self.random.hash_one(self.calls.get()));
        Some(Box::new(Named { calls: tools::Calls::new(family, tools), name }))
    }
}

/// Calls with ids, which models do not write.
struct Named {
    calls: tools::Calls,
    name: String,
}

impl Named {
    fn pass(&self, pieces: Vec<Piece>, said: &mut Vec<Said>) {
        said.extend(pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => Said::Text(text),
            Piece::Begin { index, name } => {
                Said::Call { index, id: format!("{}{index:02x}", self.name), name }
            }
            Piece::Arguments { index, json } => Said::Arguments { index, delta: json },
        }));
    }
}

impl Calls for Named {
    fn push(&mut self, text: &str, said: &mut Vec<Said>) {
        let pieces = self.calls.push(text);
        self.pass(pieces, said);
    }

    fn finish(&mut self, said: &mut Vec<Said>) {
        let pieces = self.calls.finish();
        self.pass(pieces, said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::demo;
    use serde_json::json;

    #[test]
    fn a_model_without_tools_has_forms_all_the_same() {
        let family = OfText::new(Rc::new(Text::open(&demo::source().unwrap()).unwrap()));
        for shape in [
            Shape::JsonObject,
            Shape::JsonSchema(json!({ "type": "integer" })),
            Shape::Lark("start: \"a\"".into()),
            Shape::Regex("(?:a\\.b|c\\-d|e\\#\\&\\~)".into()),
        ] {
            let mut settings = Settings::default();
            assert_eq!(family.bind(&shape, &mut settings), Ok(()), "{shape:?}");
            assert!(settings.grammar.is_some());
        }
        let bad = family.bind(&Shape::Regex("(".into()), &mut Settings::default());
        assert!(!bad.unwrap_err().is_empty());
        let tool = json!({ "type": "function", "function": { "name": "f" } });
        let refused = family.equip(std::slice::from_ref(&tool), &mut Settings::default());
        assert!(refused.unwrap_err().contains("no way to call tools"));
        assert!(family.calls(&[tool]).is_none());
    }
}
