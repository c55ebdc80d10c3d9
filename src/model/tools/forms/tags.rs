//! Calls inside of `<tool_call>`: as JSON, in Qwen3-Coder's tags, or in GLM's pairs. Which it is
//! shows in its first characters, so that one reading does for all three.

use serde_json::Value;

use super::{Call, Cursor, Read, Stop, call_of, json};
use crate::model::tools::Tools;

const CLOSE: &str = "</tool_call>";
const FUNCTION: &str = "<function=";

pub fn call(at: &mut Cursor, tools: &Tools) -> Read<Call> {
    // Qwen3-Coder forgets the outer tag at times.
    let bare = at.text.starts_with(FUNCTION);
    if bare {
        return function(at, tools);
    }
    at.skip_space();
    let call = match at.rest().chars().next() {
        None => return Err(Stop::More),
        Some('{') => call_of(at.json('{')?)?,
        Some('<') => {
            at.expect(FUNCTION)?;
            function(at, tools)?
        }
        Some(_) => return pairs(at, tools),
    };
    at.close(CLOSE)?;
    Ok(call)
}

/// From behind `<function=`.
fn function(at: &mut Cursor, tools: &Tools) -> Read<Call> {
    let name = at.name()?.to_owned();
    at.expect(">")?;
    let mut arguments = Arguments::default();
    loop {
        at.skip_space();
        if either(at, "</function>", "<parameter=")? {
            return Ok(Call { name, arguments: arguments.finish() });
        }
        let key = at.until(">")?;
        let value = at.until("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.add(key, value, tools.argument(&name, key));
    }
}

/// From behind `<tool_call>`, as GLM has it.
fn pairs(at: &mut Cursor, tools: &Tools) -> Read<Call> {
    let name = at.name()?.to_owned();
    // A word between two tags would be a call of it.
    if !tools.is_empty() && !tools.has(&name) {
        return Err(Stop::No);
    }
    let mut arguments = Arguments::default();
    loop {
        at.skip_space();
        if at.done && CLOSE.starts_with(at.rest()) {
            at.at = at.text.len();
            return Ok(Call { name, arguments: arguments.finish() });
        }
        if either(at, CLOSE, "<arg_key>")? {
            return Ok(Call { name, arguments: arguments.finish() });
        }
        let key = at.until("</arg_key>")?.trim();
        at.skip_space();
        at.expect("<arg_value>")?;
        let value = at.until("</arg_value>")?;
        arguments.add(key, value, tools.argument(&name, key));
    }
}

/// Steps over one of two marks, and says whether it was the first.
fn either(at: &mut Cursor, first: &str, second: &str) -> Read<bool> {
    let rest = at.rest();
    if rest.starts_with(first) {
        at.at += first.len();
        return Ok(true);
    }
    if rest.starts_with(second) {
        at.at += second.len();
        return Ok(false);
    }
    match first.starts_with(rest) || second.starts_with(rest) {
        true => Err(Stop::More),
        false => Err(Stop::No),
    }
}

/// A JSON object in the making.
#[derive(Default)]
struct Arguments(String);

impl Arguments {
    fn add(&mut self, key: &str, value: &str, schema: Option<&Value>) {
        self.0.push_str(if self.0.is_empty() { "{" } else { ", " });
        self.0.push_str(&Value::from(key).to_string());
        self.0.push_str(": ");
        self.0.push_str(&typed(value, schema));
    }

    fn finish(self) -> String {
        match self.0.is_empty() {
            true => "{}".into(),
            false => self.0 + "}",
        }
    }
}

/// A value that was written as text, as JSON: a text if its schema says so, otherwise whatever it
/// reads as.
fn typed(text: &str, schema: Option<&Value>) -> String {
    let trimmed = text.trim();
    let of = |name: &str| schema.is_some_and(|schema| describes(schema, name));
    if of("string") {
        return match trimmed == "null" && of("null") {
            true => "null".into(),
            false => Value::from(text).to_string(),
        };
    }
    match trimmed {
        // Trained on Python, some write its words.
        "True" => "true".into(),
        "False" => "false".into(),
        "None" => "null".into(),
        _ if json::is_json(trimmed) => trimmed.to_owned(),
        _ => Value::from(text).to_string(),
    }
}

/// Whether a schema speaks of a type, in itself or in one of its cases.
fn describes(schema: &Value, name: &str) -> bool {
    let here = match &schema["type"] {
        Value::String(kind) => kind == name,
        Value::Array(kinds) => kinds.iter().any(|kind| kind == name),
        _ => false,
    };
    let cases = ["anyOf", "oneOf"].iter().filter_map(|key| schema[key].as_array()).flatten();
    // One level is what generators of schemas write.
    here || cases.into_iter().any(|case| case["type"] == name)
        || name == "string"
            && schema["enum"].as_array().is_some_and(|l| l.iter().all(Value::is_string))
}
