//! How each family writes a call.
//!
//! All of this looks at text that begins with an opener and may be cut off anywhere. So each
//! reading has three ends: a call, none, or not to be told yet.

mod json;
mod tags;

use super::{ToolFamily, Tools, is_name, is_name_char};
use crate::model::channels;
use json::Scan;

pub(super) const TAGS: [&str; 6] =
    ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"];
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const MISTRAL: [&str; 3] = ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"];

/// A form that frames all calls, and each, by tokens of their own: what opens all, opens one,
/// stands before its arguments, closes it and closes all.
pub(super) struct Framed {
    pub all: [&'static str; 5],
}

pub(super) const DEEPSEEK: Framed = Framed {
    all: [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ],
};

pub(super) const KIMI: Framed = Framed {
    all: [
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ],
};

#[derive(Debug)]
pub(super) struct Call {
    pub name: String,
    /// A JSON object, as the model wrote it where it wrote JSON.
    pub arguments: String,
}

pub(super) enum Taken {
    /// The text begins with these calls, which end at a byte.
    Calls(Vec<Call>, usize),
    /// It is no call.
    No,
    /// What follows must tell.
    More,
}

/// What reading a part of a call came to; the rest of the text is kept by the reader.
enum Stop {
    No,
    More,
}

type Read<T> = Result<T, Stop>;

/// How many bytes are plain text, and how long the opener is that follows them, if one does. An
/// opener that may be coming is neither.
pub(super) fn find(
    family: ToolFamily,
    alone: bool,
    text: &str,
    done: bool,
) -> (usize, Option<usize>) {
    let openers: &[&str] = match family {
        ToolFamily::Hermes | ToolFamily::QwenCoder | ToolFamily::Glm => {
            &["<tool_call>", "<function="]
        }
        ToolFamily::Llama => &[PYTHON_TAG],
        ToolFamily::Mistral | ToolFamily::MistralArgs => &["[TOOL_CALLS]"],
        ToolFamily::DeepSeek => &DEEPSEEK.all[..1],
        ToolFamily::Kimi => &KIMI.all[..1],
        ToolFamily::Harmony => &[channels::CALL],
    };
    let space = text.len() - text.trim_start().len();
    if family == ToolFamily::Llama && alone && text[space..].starts_with('{') {
        return (space, Some(1));
    }
    // Two calls are kept apart by it.
    if family == ToolFamily::Llama && alone && !done && text.trim() == ";" {
        return (0, None);
    }
    let found = openers.iter().filter_map(|o| text.find(o).map(|at| (at, o.len()))).min();
    if let Some((at, len)) = found {
        return (at, Some(len));
    }
    if done {
        return (text.len(), None);
    }
    let longest = openers.iter().map(|o| o.len()).max().unwrap_or(1);
    let from = text.len().saturating_sub(longest - 1);
    let coming = |&at: &usize| {
        text.is_char_boundary(at) && openers.iter().any(|o| o.starts_with(&text[at..]))
    };
    ((from..text.len()).find(coming).unwrap_or(text.len()), None)
}

/// How much of the text behind a call is kept: white space goes, and what stands between two.
pub(super) fn behind_call(family: ToolFamily, text: &str, done: bool) -> usize {
    let text = text.trim_start();
    if family == ToolFamily::Llama
        && let Some(rest) = text.strip_prefix(';')
        && (rest.trim_start().starts_with('{') || rest.trim().is_empty() && done)
    {
        return rest.trim_start().len();
    }
    text.len()
}

/// Reads the calls that `text` begins with; its first `opener` bytes are an opener.
pub(super) fn take(
    family: ToolFamily,
    tools: &Tools,
    opener: usize,
    text: &str,
    done: bool,
) -> Taken {
    let mut at = Cursor { text, at: opener, done };
    let read = match family {
        ToolFamily::Hermes | ToolFamily::QwenCoder | ToolFamily::Glm => {
            tags::call(&mut at, tools).map(|call| vec![call])
        }
        ToolFamily::Llama => llama(&mut at, tools),
        ToolFamily::Mistral | ToolFamily::MistralArgs => mistral(&mut at),
        ToolFamily::DeepSeek => framed(&mut at, &DEEPSEEK),
        ToolFamily::Kimi => framed(&mut at, &KIMI),
        ToolFamily::Harmony => harmony(&mut at).map(|call| vec![call]),
    };
    match read {
        Ok(calls) => Taken::Calls(calls, at.at),
        Err(Stop::No) => Taken::No,
        Err(Stop::More) => Taken::More,
    }
}

/// A place in a text that may not be whole.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Nothing follows.
    done: bool,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Steps over `mark` if it is there.
    fn skip(&mut self, mark: &str) -> Read<bool> {
        if self.rest().starts_with(mark) {
            self.at += mark.len();
            return Ok(true);
        }
        match mark.starts_with(self.rest()) {
            true => Err(Stop::More),
            false => Ok(false),
        }
    }

    fn expect(&mut self, mark: &str) -> Read<()> {
        self.skip(mark)?.then_some(()).ok_or(Stop::No)
    }

    /// Steps over `mark` behind white space. At the end of the answer it may be cut or missing.
    fn close(&mut self, mark: &str) -> Read<()> {
        self.skip_space();
        if self.done && mark.starts_with(self.rest()) {
            self.at = self.text.len();
            return Ok(());
        }
        self.expect(mark)
    }

    /// What stands before `mark`, which is stepped over.
    fn until(&mut self, mark: &str) -> Read<&'a str> {
        let rest = self.rest();
        let len = rest.find(mark).ok_or(Stop::More)?;
        self.at += len + mark.len();
        Ok(&rest[..len])
    }

    /// A name of a tool. What follows it must be there, else it may be longer.
    fn name(&mut self) -> Read<&'a str> {
        let rest = self.rest();
        let len = rest.find(|c| !is_name_char(c)).ok_or(Stop::More)?;
        self.at += len;
        is_name(&rest[..len]).then_some(&rest[..len]).ok_or(Stop::No)
    }

    /// A JSON object or list behind white space.
    fn json(&mut self, opener: char) -> Read<&'a str> {
        self.skip_space();
        let rest = self.rest();
        match rest.chars().next() {
            None => Err(Stop::More),
            Some(c) if c != opener => Err(Stop::No),
            Some(_) => match json::scan(rest) {
                Scan::End(len) => {
                    self.at += len;
                    Ok(&rest[..len])
                }
                Scan::More => Err(Stop::More),
                Scan::Bad => Err(Stop::No),
            },
        }
    }
}

/// A call from an object with its name and its arguments, by either of their names.
fn call_of(object: &str) -> Read<Call> {
    let members = json::members(object).ok_or(Stop::No)?;
    let get = |key: &str| members.iter().find(|m| m.0 == key).map(|m| m.1);
    let name: String = get("name").and_then(|t| serde_json::from_str(t).ok()).ok_or(Stop::No)?;
    let arguments = match get("arguments").or_else(|| get("parameters")) {
        Some(text) => json::object(text).ok_or(Stop::No)?,
        None => "{}".into(),
    };
    is_name(&name).then_some(Call { name, arguments }).ok_or(Stop::No)
}

fn llama(at: &mut Cursor, tools: &Tools) -> Read<Vec<Call>> {
    let bare = !at.text.starts_with(PYTHON_TAG);
    if bare {
        at.at = 0;
        // An answer that happens to be JSON is not held back.
        const KEYS: [&str; 6] =
            ["\"name\"", "\"parameters\"", "\"arguments\"", "\"type\"", "\"function\"", "\"id\""];
        let first = at.rest()[1..].trim_start();
        if !KEYS.iter().any(|key| key.starts_with(first) || first.starts_with(key)) {
            return Err(Stop::No);
        }
    }
    let object = at.json('{')?;
    let has =
        |key: &str| json::members(object).is_some_and(|members| members.iter().any(|m| m.0 == key));
    let call = call_of(object)?;
    let arguments = has("parameters") || has("arguments");
    match bare && !(arguments && (tools.is_empty() || tools.has(&call.name))) {
        true => Err(Stop::No),
        false => Ok(vec![call]),
    }
}

fn mistral(at: &mut Cursor) -> Read<Vec<Call>> {
    at.skip_space();
    match at.rest().chars().next() {
        None => return Err(Stop::More),
        Some('[') => {
            let list = at.json('[')?;
            let items = json::items(list).ok_or(Stop::No)?;
            let calls = items.into_iter().map(call_of).collect::<Read<Vec<_>>>()?;
            return if calls.is_empty() { Err(Stop::No) } else { Ok(calls) };
        }
        Some(_) => {}
    }
    let name = at.name()?.to_owned();
    if at.skip("[CALL_ID]")? {
        at.name()?;
    }
    at.skip("[ARGS]")?;
    let arguments = at.json('{')?.to_owned();
    Ok(vec![Call { name, arguments }])
}

fn framed(at: &mut Cursor, form: &Framed) -> Read<Vec<Call>> {
    let [_, open, sep, close, close_all] = form.all;
    let mut calls = Vec::new();
    loop {
        at.skip_space();
        if at.done && !calls.is_empty() && close_all.starts_with(at.rest()) {
            at.at = at.text.len();
            return Ok(calls);
        }
        match at.skip(open) {
            Ok(true) => {}
            // It may still be the other.
            Ok(false) | Err(Stop::More) => match at.skip(close_all)? {
                true if !calls.is_empty() => return Ok(calls),
                true => return Err(Stop::No),
                false if open.starts_with(at.rest()) => return Err(Stop::More),
                false => return Err(Stop::No),
            },
            Err(Stop::No) => return Err(Stop::No),
        }
        let head = at.until(sep)?.trim();
        at.skip_space();
        let (name, fenced) = match head {
            // The older form: a type, then the name on a line of its own.
            "function" if !at.rest().starts_with('{') => (at.name()?, true),
            // Kimi numbers its calls.
            head => {
                let name = head.strip_prefix("functions.").unwrap_or(head);
                (name.split_once(':').map_or(name, |(name, _)| name), false)
            }
        };
        if !is_name(name) {
            return Err(Stop::No);
        }
        if fenced {
            at.skip_space();
            at.expect("```json")?;
        }
        let arguments = at.json('{')?.to_owned();
        calls.push(Call { name: name.to_owned(), arguments });
        if fenced {
            at.skip_space();
            at.expect("```")?;
        }
        at.close(close)?;
    }
}

fn harmony(at: &mut Cursor) -> Read<Call> {
    let name = at.until(channels::ARGUMENTS)?.to_owned();
    let arguments = at.json('{')?.to_owned();
    is_name(&name).then_some(Call { name, arguments }).ok_or(Stop::No)
}
