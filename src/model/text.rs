//! A model's text side: its tokenizer and chat template, found where its container keeps them.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::grammar::{self, Vocabulary};
use super::template::{self, ChatTemplate, MARK, Message};
use super::tokenizer::{self, GgufVocab, JsonFile, JsonFiles, Kind, Special, Tokenizer};
use super::tools::ToolFamily;
use crate::weights::gguf::Metadata;
use crate::weights::{self, Gguf, HfFolder, Source};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    Template(#[from] template::Error),
    #[error(
        "{file}: there is no tokenizer in it, so it can only be given token ids, as `penstock logits \
         --tokens` does"
    )]
    Missing { file: String },
    #[error("a message has a part of type {kind:?}, but this model reads only text")]
    Part { kind: String },
    #[error("the last message cannot be continued: the chat template does not show it as it is")]
    Continue,
}

pub struct Text {
    pub tokenizer: Rc<Tokenizer>,
    template: Option<ChatTemplate>,
    /// Names of the tokens that steer the model. In what users write they are only text.
    controls: Vec<String>,
    /// The template reads contents that are strings.
    strings: bool,
    tool_family: Option<ToolFamily>,
    vocabulary: OnceCell<Rc<Vocabulary>>,
}

/// What a conversation is rendered with, beside its messages.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// A list of tools (`tools::Tools::value`), for templates that show them.
    pub tools: Option<Value>,
    /// More variables for the template: `enable_thinking`, `reasoning_effort` and whatever else
    /// it knows.
    pub extra: Map<String, Value>,
    pub ending: Ending,
}

/// Where a rendered conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Where the model's next answer begins.
    #[default]
    Answer,
    /// Inside of the last message, for the model to go on with it.
    Continue,
    /// Behind the last message.
    Closed,
}

impl Text {
    pub fn open(source: &Source) -> Result<Text, Error> {
        let (tokenizer, template) = match source {
            Source::Gguf(file) => from_gguf(file)?,
            Source::Folder(folder) => from_folder(folder)?,
        };
        let special = tokenizer.special();
        let name = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
        let (bos, eos) = (name(special.bos), name(special.eos));
        let template = template
            .map(|source| ChatTemplate::new(&source, bos.as_deref(), eos.as_deref()))
            .transpose()?;
        let controls = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.kind(id) == Kind::Control)
            .map(|id| tokenizer.token_text(id).into_owned())
            .filter(|name| name.chars().nth(1).is_some())
            .collect();
        Ok(Text::of(tokenizer, template, controls))
    }

    fn of(tokenizer: Tokenizer, template: Option<ChatTemplate>, controls: Vec<String>) -> Text {
        let shows = |content: Value| {
            let message = Message { role: "user".into(), content, fields: Map::new() };
            let options = template::Options::default();
            let shown = template.as_ref().map(|t| t.render(&[message], &options));
            shown.is_none_or(|shown| shown.is_ok_and(|text| text.contains("needle")))
        };
        let parts = json!([{"type": "text", "text": "needle"}]);
        Text {
            strings: shows("needle".into()) || !shows(parts),
            tool_family: template
                .as_ref()
                .and_then(|template| ToolFamily::of(template.source(), &tokenizer)),
            tokenizer: Rc::new(tokenizer),
            template,
            controls,
            vocabulary: OnceCell::new(),
        }
    }

    /// How the model writes calls of tools, by its chat template.
    pub fn tool_family(&self) -> Option<ToolFamily> {
        self.tool_family
    }

    /// What grammars need of the tokenizer, made when it is first asked for.
    pub fn vocabulary(&self) -> Result<Rc<Vocabulary>, grammar::Error> {
        if let Some(made) = self.vocabulary.get() {
            return Ok(Rc::clone(made));
        }
        let made = Vocabulary::new(&self.tokenizer)?;
        Ok(Rc::clone(self.vocabulary.get_or_init(|| made)))
    }

    pub fn template_source(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// Tokens of a text to be continued as it is: with what the model wants at its beginning,
    /// without what it wants at an end.
    pub fn continue_tokens(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut tokens = self.tokenizer.prefix().to_vec();
        tokens.extend(self.tokenizer.encode(text, Special::Plain, false)?);
        Ok(tokens)
    }

    /// Tokens of a conversation, up to where the model's next answer begins. A model without a
    /// chat template continues the bare text of the messages.
    pub fn chat_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        self.chat_tokens_with(messages, &Chat::default())
    }

    /// The same, with tools and variables, and another ending if that is wanted.
    ///
    /// Nothing of what messages, tools and variables say becomes a control token: roles, contents,
    /// arguments and results of calls, names, and whatever else is in them.
    pub fn chat_tokens_with(&self, messages: &[Message], chat: &Chat) -> Result<Vec<u32>, Error> {
        let mut messages = messages.to_vec();
        for message in &mut messages {
            self.flatten(&mut message.content)?;
        }
        let mut rendered = self.render(&messages, chat)?;
        if chat.ending == Ending::Continue {
            let last = messages.last().and_then(|last| last.content.as_str()).unwrap_or("");
            let last = disarm(last.trim(), &self.controls);
            let at = if last.is_empty() { None } else { rendered.rfind(&last) };
            rendered.truncate(at.ok_or(Error::Continue)? + last.len());
        }
        let (rendered, guards) = unmarked(&rendered);
        let mut tokens = self.tokenizer.encode_guarded(&rendered, &guards)?;
        // Templates of some files begin with the token, those of others leave it to the reader.
        let prefix = self.tokenizer.prefix();
        if !tokens.starts_with(prefix) {
            tokens.splice(0..0, prefix.iter().copied());
        }
        Ok(tokens)
    }

    fn render(&self, messages: &[Message], chat: &Chat) -> Result<String, template::Error> {
        let plain;
        let template = match &self.template {
            Some(template) => template,
            None => {
                plain = ChatTemplate::plain();
                &plain
            }
        };
        let options = template::Options {
            add_generation_prompt: chat.ending == Ending::Answer,
            tools: chat.tools.as_ref().map(|tools| self.disarmed(tools)),
            extra: self.disarmed_map(&chat.extra),
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64),
        };
        let render = |messages: Vec<Message>| {
            let message = |m: Message| Message {
                role: disarm(&m.role, &self.controls),
                content: self.disarmed(&m.content),
                fields: self.disarmed_map(&m.fields),
            };
            template.render(&messages.into_iter().map(message).collect::<Vec<_>>(), &options)
        };
        // Clients send a call's arguments as text. Most templates want what the text says, a few
        // want the text, and either kind fails on the other's.
        let mut read = messages.to_vec();
        match read.iter_mut().map(read_arguments).fold(false, |any, read| any | read) {
            false => render(read),
            true => render(read).or_else(|first| render(messages.to_vec()).map_err(|_| first)),
        }
    }

    /// Makes one text of a list of texts, unless the template wants the list.
    fn flatten(&self, content: &mut Value) -> Result<(), Error> {
        let Value::Array(parts) = content else { return Ok(()) };
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts.iter() {
            match (part["type"].as_str(), part.as_str().or(part["text"].as_str())) {
                (None | Some("text" | "refusal"), Some(text)) => texts.push(text),
                (kind, _) => {
                    let kind = kind.unwrap_or("unknown").chars().take(40).collect();
                    return Err(Error::Part { kind });
                }
            }
        }
        if self.strings {
            *content = texts.join("\n").into();
        }
        Ok(())
    }

    /// A value in whose texts each name of a control token has a [`MARK`] behind its first
    /// character. The template sees the marks (it will not find such a name, and counts one
    /// character more); the tokenizer does not.
    fn disarmed(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => disarm(text, &self.controls).into(),
            Value::Array(list) => list.iter().map(|item| self.disarmed(item)).collect(),
            Value::Object(map) => self.disarmed_map(map).into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn disarmed_map(&self, map: &Map<String, Value>) -> Map<String, Value> {
        let entry =
            |(key, value): (&String, _)| (disarm(key, &self.controls), self.disarmed(value));
        map.iter().map(entry).collect()
    }
}

/// Reads the arguments of a message's calls where they are text. Says whether any were.
fn read_arguments(message: &mut Message) -> bool {
    let calls = message.fields.get_mut("tool_calls").and_then(Value::as_array_mut);
    let mut any = false;
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        let read = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(read @ Value::Object(_)) = read {
            (*arguments, any) = (read, true);
        }
    }
    any
}

/// A rendered text without its marks, and the offsets at which they stood.
fn unmarked(rendered: &str) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(rendered.len());
    let mut guards = Vec::new();
    for part in rendered.split_inclusive(MARK) {
        match part.strip_suffix(MARK) {
            Some(part) => {
                text.push_str(part);
                guards.push(text.len());
            }
            None => text.push_str(part),
        }
    }
    (text, guards)
}

fn disarm(content: &str, controls: &[String]) -> String {
    let mut content = content.replace(MARK, "");
    // Taking one name apart may leave another whole (names inside names), never make one.
    for name in controls {
        if let (true, Some(first)) = (content.contains(&**name), name.chars().next()) {
            let (head, tail) = name.split_at(first.len_utf8());
            content = content.replace(&**name, &format!("{head}{MARK}{tail}"));
        }
    }
    content
}

fn from_folder(folder: &HfFolder) -> Result<(Tokenizer, Option<String>), Error> {
    const TOKENIZER: &str = "tokenizer.json";
    let path = |name: &str| folder.path().join(name).display().to_string();
    let read = |name: &str| -> Result<_, Error> { Ok(folder.file(name)?.map(|b| (path(name), b))) };
    let Some(tokenizer) = read(TOKENIZER)? else {
        return Err(Error::Missing { file: path("") });
    };
    let others =
        [read("tokenizer_config.json")?, read("generation_config.json")?, read("config.json")?];
    let file = |(name, bytes)| JsonFile { name, bytes };
    let [tokenizer_config, generation_config, config] =
        others.each_ref().map(|f| f.as_ref().map(|(name, bytes)| file((name.as_str(), &**bytes))));
    let files = JsonFiles {
        tokenizer: file((&tokenizer.0, &tokenizer.1)),
        tokenizer_config,
        generation_config,
        config,
    };
    Ok((Tokenizer::from_json(&files)?, folder.chat_template().map(str::to_owned)))
}

fn from_gguf(file: &Gguf) -> Result<(Tokenizer, Option<String>), Error> {
    let meta = file.metadata();
    let name = file.path().display().to_string();
    let model = meta.string_opt("tokenizer.ggml.model")?.filter(|&model| model != "none");
    let Some(model) = model else { return Err(Error::Missing { file: name }) };
    let template = meta.string_opt("tokenizer.chat_template")?.map(str::to_owned);
    Ok((Tokenizer::from_gguf(&vocab(meta, name, model)?)?, template))
}

fn vocab(meta: &Metadata, file: String, model: &str) -> Result<GgufVocab, weights::Error> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    // -1 stands for "none" in some files.
    let id = |name: &str| -> Result<Option<u32>, weights::Error> {
        let key = key(&format!("{name}_token_id"));
        match meta.get(&key).and_then(|value| value.as_integer()) {
            Some(-1) => Ok(None),
            _ => meta.u32_opt(&key),
        }
    };
    let merges = meta.strings_opt(&key("merges"))?;
    Ok(GgufVocab {
        file,
        model: model.to_owned(),
        pre: meta.string_opt(&key("pre"))?.map(str::to_owned),
        tokens: meta.strings(&key("tokens"))?.map(<[u8]>::to_vec).collect(),
        scores: meta.f32s_opt(&key("scores"))?,
        types: meta.i32s_opt(&key("token_type"))?,
        merges: merges.map(|list| list.map(<[u8]>::to_vec).collect()),
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unknown: id("unknown")?,
        pad: id("padding")?,
        add_bos: meta.bool_opt(&key("add_bos_token"))?,
        add_eos: meta.bool_opt(&key("add_eos_token"))?,
        add_space_prefix: meta.bool_opt(&key("add_space_prefix"))?,
    })
}

#[cfg(test)]
mod tests;
