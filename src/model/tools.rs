//! Calls of tools: what a client offers, how a model writes a call, and what came of it.
//!
//! Models are trained to write calls in text, each family in its own way, and the chat template
//! shows which ([`ToolFamily::of`]). `calls` finds them in a streamed answer, `forms` knows how
//! each family writes one, `force` makes the grammar that leaves a model no choice. Knows no
//! protocol: ids of calls and the shape of events are the server's.
//!
//! Nothing a model writes is lost: what is no call after all comes out as the text it is.

mod calls;
mod force;
mod forms;

use std::rc::Rc;

use serde_json::{Value, json};

use super::tokenizer::{Kind, Tokenizer};

pub use calls::{Calls, Piece};
pub use force::grammar;

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFamily {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>…</parameter></function></tool_call>`.
    QwenCoder,
    /// `<tool_call>NAME<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`.
    Glm,
    /// `{"name": …, "parameters": {…}}` and nothing else, perhaps behind `<|python_tag|>`. Also
    /// what a model is held to that was never taught a form.
    Llama,
    /// `[TOOL_CALLS] [{"name": …, "arguments": {…}}]`.
    Mistral,
    /// `[TOOL_CALLS]NAME[ARGS]{…}`.
    MistralArgs,
    /// `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}…`, or with the arguments
    /// fenced as Markdown.
    DeepSeek,
    /// `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0…`.
    Kimi,
    /// A channel of its own (`model::channels`).
    Harmony,
}

impl ToolFamily {
    /// The form that a chat template shows its model; `None` if it shows none that is known.
    pub fn of(template: &str, tokenizer: &Tokenizer) -> Option<ToolFamily> {
        // What is looked for is longest or rarest first: later forms borrowed from earlier ones.
        let shows = |text: &str| template.contains(text);
        if shows("<|channel|>") && shows("functions") && tokenizer.find("<|channel|>").is_some() {
            return Some(ToolFamily::Harmony);
        }
        let by_text = [
            ("<｜tool▁calls▁begin｜>", ToolFamily::DeepSeek),
            ("<|tool_calls_section_begin|>", ToolFamily::Kimi),
            ("<arg_key>", ToolFamily::Glm),
            ("<function=", ToolFamily::QwenCoder),
            ("<tool_call>", ToolFamily::Hermes),
            ("[ARGS]", ToolFamily::MistralArgs),
            ("[TOOL_CALLS]", ToolFamily::Mistral),
            ("<|python_tag|>", ToolFamily::Llama),
            ("Environment: ipython", ToolFamily::Llama),
        ];
        by_text.into_iter().find(|(text, _)| shows(text)).map(|(_, family)| family)
    }

    /// Tokens that belong to a call although they are control tokens, whose names are not printed
    /// otherwise: for [`Settings::shown`](crate::engine::Settings).
    pub fn shown(self, tokenizer: &Tokenizer) -> Rc<[u32]> {
        let control = |id: &u32| tokenizer.kind(*id) == Kind::Control;
        self.marks().iter().filter_map(|name| tokenizer.find(name)).filter(control).collect()
    }

    fn marks(self) -> &'static [&'static str] {
        match self {
            ToolFamily::Hermes | ToolFamily::QwenCoder | ToolFamily::Glm => &forms::TAGS,
            ToolFamily::Llama => &[forms::PYTHON_TAG],
            ToolFamily::Mistral | ToolFamily::MistralArgs => &forms::MISTRAL,
            ToolFamily::DeepSeek => &forms::DEEPSEEK.all,
            ToolFamily::Kimi => &forms::KIMI.all,
            ToolFamily::Harmony => &[],
        }
    }
}

/// What is wrong with the tools a client sent, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ToolError {
    pub field: String,
    pub reason: String,
}

/// The tools that a client offers, checked.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    list: Vec<Tool>,
    value: Value,
}

#[derive(Clone, Debug)]
struct Tool {
    name: String,
    parameters: Value,
}

/// Most tools taken, and the longest name.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

impl Tools {
    /// From a list of `{"type": "function", "function": {"name": …, "parameters": …}}`.
    pub fn read(value: &Value) -> Result<Tools, ToolError> {
        let refuse = |field: String, reason: &str| Err(ToolError { field, reason: reason.into() });
        let Value::Array(items) = value else {
            return refuse("tools".into(), "must be a list");
        };
        if items.len() > MAX_TOOLS {
            return refuse("tools".into(), &format!("has more than {MAX_TOOLS} tools"));
        }
        let mut list: Vec<Tool> = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let field = |name: &str| format!("tools[{at}].{name}");
            if item["type"] != "function" {
                return refuse(field("type"), "must be \"function\"");
            }
            let function = &item["function"];
            let Some(name) = function["name"].as_str().filter(|name| is_name(name)) else {
                let reason = format!(
                    "must be 1 to {MAX_NAME} letters, digits, underscores, dots and dashes"
                );
                return refuse(field("function.name"), &reason);
            };
            if list.iter().any(|tool| tool.name == name) {
                return refuse(field("function.name"), "is that of another tool, too");
            }
            if !matches!(function.get("description"), None | Some(Value::Null | Value::String(_))) {
                return refuse(field("function.description"), "must be a text");
            }
            let parameters = match function.get("parameters") {
                None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
                Some(schema @ Value::Object(_)) => schema.clone(),
                Some(_) => return refuse(field("function.parameters"), "must be a JSON schema"),
            };
            list.push(Tool { name: name.to_owned(), parameters });
        }
        Ok(Tools { list, value: value.clone() })
    }

    /// As they came, for the chat template.
    pub fn value(&self) -> &Value {
        &self.value
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.list.iter().any(|tool| tool.name == name)
    }

    /// The schema of one argument.
    fn argument(&self, name: &str, key: &str) -> Option<&Value> {
        self.list.iter().find(|t| t.name == name)?.parameters.get("properties")?.get(key)
    }
}

/// A name that means nothing in any form of call, grammar or expression.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Which tools a model may call, or must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// None: they are not shown to it.
    None,
    /// Any, or none.
    Auto,
    /// At least one, whichever.
    Required,
    /// This one, once.
    Named(String),
}

impl ToolChoice {
    /// From `"none"`, `"auto"`, `"required"` or `{"type": "function", "function": {"name": …}}`.
    pub fn read(value: Option<&Value>, tools: &Tools) -> Result<ToolChoice, ToolError> {
        let refuse = |field: &str, reason: &str| {
            Err(ToolError { field: field.into(), reason: reason.into() })
        };
        let choice = match value {
            None | Some(Value::Null) if tools.is_empty() => ToolChoice::None,
            None | Some(Value::Null) => ToolChoice::Auto,
            Some(Value::String(word)) => match word.as_str() {
                "none" => ToolChoice::None,
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return refuse("tool_choice", "must be none, auto, required or a function"),
            },
            Some(choice) => match choice["function"]["name"].as_str() {
                Some(name) if tools.has(name) => ToolChoice::Named(name.to_owned()),
                Some(_) => return refuse("tool_choice.function.name", "is that of no tool"),
                None => return refuse("tool_choice.function.name", "is missing"),
            },
        };
        match (&choice, tools.is_empty()) {
            (ToolChoice::Required, true) => {
                refuse("tool_choice", "requires a tool, but there is none")
            }
            _ => Ok(choice),
        }
    }
}
