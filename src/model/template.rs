//! Chat templates: messages to the text that a model was trained to see.
//!
//! Owns the template language with the functions that Hugging Face templates expect, and its
//! defence: a template comes with a model file and is not trusted. Whatever it does, rendering
//! ends in text or in a sentence; it cannot loop for ever, fill memory or exhaust the stack.
//! Knows no tokenizer and no model. Imports nothing of the house.

mod budget;
mod environment;
mod guard;
mod python;

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, ErrorKind, Value};
use serde_json::Map;

use budget::Budget;

/// Longest template taken. The longest in use has about 20 KB.
pub const MAX_TEMPLATE: usize = 1 << 20;

/// Goes through a template inside what is only text, to say where that came out. It is a
/// noncharacter, which no text may use for interchange.
pub const MARK: char = '\u{fdd0}';

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("chat template: {0}")]
    Refused(String),
    #[error("chat template, line {line}: {reason}")]
    At { line: usize, reason: String },
    /// The template itself objects to the messages.
    #[error("the chat template refuses these messages: {0}")]
    Raised(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// One message of a conversation. Fields beyond the two usual ones are the template's affair.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: String,
    /// A string in nearly all cases; a list of parts or nothing in some.
    pub content: serde_json::Value,
    pub fields: Map<String, serde_json::Value>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        let content = serde_json::Value::String(content.into());
        Message { role: role.into(), content, fields: Map::new() }
    }

    fn value(&self) -> serde_json::Value {
        let mut map = Map::new();
        map.insert("role".into(), self.role.clone().into());
        map.insert("content".into(), self.content.clone());
        map.extend(self.fields.clone());
        // Templates read a message's reasoning under either of two names.
        let names = ["reasoning_content", "thinking", "reasoning"];
        let reasoning = names.iter().find_map(|n| map.get(*n).filter(|v| !v.is_null()).cloned());
        if let Some(reasoning) = reasoning {
            map.entry("thinking").or_insert_with(|| reasoning.clone());
            map.insert("reasoning_content".into(), reasoning);
        }
        map.into()
    }
}

/// Everything beside the messages that a template may ask for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    pub tools: Option<serde_json::Value>,
    /// More variables (`enable_thinking`, `reasoning_effort` ...). They overrule all others.
    pub extra: Map<String, serde_json::Value>,
    /// The time for `strftime_now`, in seconds since 1970, UTC.
    pub now: i64,
}

/// A template that is known to compile.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    special: Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// `bos` and `eos` are the texts of those tokens, where the model has them.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE {
            let reason = format!("{} bytes, more than the {MAX_TEMPLATE} taken", source.len());
            return Err(Error::Refused(reason));
        }
        let source = without_generation_tags(source);
        guard::check_chains(&source, syntax()?)
            .map_err(|(line, reason)| Error::At { line: line as usize, reason })?;
        compile(&source)?;
        let mut special = Map::new();
        for (name, text) in [("bos_token", bos), ("eos_token", eos)] {
            if let Some(text) = text {
                special.insert(name.into(), text.into());
            }
        }
        Ok(ChatTemplate { source, special })
    }

    /// The template for models that come with none, which are base models: the messages' texts,
    /// one under the other, with no roles, for the model to continue.
    pub fn plain() -> ChatTemplate {
        let source = "{%- for message in messages -%}\
            {%- if message.content is string -%}{{ message.content + '\\n' }}{%- endif -%}\
            {%- endfor -%}";
        ChatTemplate { source: source.to_owned(), special: Map::new() }
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, messages: &[Message], options: &Options) -> Result<String> {
        let mut context = Map::new();
        let list: Vec<_> = messages.iter().map(Message::value).collect();
        context.insert("messages".into(), list.into());
        context.insert("tools".into(), options.tools.clone().unwrap_or_default());
        context.insert("documents".into(), serde_json::Value::Null);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.extend(self.special.clone());
        context.extend(options.extra.clone());

        let budget =
            Arc::new(Budget::new(self.source.len() + context.values().map(size).sum::<usize>()));
        let raised = environment::Raised::default();
        let env = environment::build(&budget, &raised, options.now);
        let (instructions, blocks) = compile(&self.source)?;
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let context = Value::from(minijinja::value::Serde(context));
        let done = eval(&env, &instructions, context, &blocks, &mut output, AutoEscape::None);
        let failed = done.map(|_| ()).err();
        drop(output);
        match (failed, raised.lock().ok().and_then(|mut r| r.take())) {
            (None, _) => Ok(text),
            (Some(_), Some(message)) => Err(Error::Raised(message)),
            (Some(error), None) => Err(explain(&error)),
        }
    }
}

/// Roughly the bytes of a value, for the budget.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 16,
        serde_json::Value::Array(list) => 16 + list.iter().map(size).sum::<usize>(),
        serde_json::Value::Object(map) => {
            16 + map.iter().map(|(k, v)| k.len() + size(v)).sum::<usize>()
        }
        _ => 16,
    }
}

fn syntax() -> Result<SyntaxConfig> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| explain(&e))
}

type Compiled<'a> = (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>);

fn compile(source: &str) -> Result<Compiled<'_>> {
    let tree = parse(source, "template", syntax()?).map_err(|e| explain(&e))?;
    let tree = guard::stmt(&tree).map_err(|e| explain(&e))?;
    let mut generator = CodeGenerator::new("template", source);
    generator.compile_stmt(&tree);
    Ok(generator.finish())
}

fn explain(error: &minijinja::Error) -> Error {
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not come to an end".to_owned(),
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => Error::At { line, reason },
        None => Error::Refused(reason),
    }
}

/// Hugging Face marks the assistant's text for training with `{% generation %}`. Here the marks
/// become conditions that always hold, on the same lines.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let inner = tag[2..].trim_start_matches(['-', '+']);
        let word = inner.trim_start();
        let name: &str =
            &word[..word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len())];
        let replacement = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                out.push_str(&tag[..tag.len() - word.len()]);
                out.push_str(replacement);
                rest = &word[name.len()..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}
