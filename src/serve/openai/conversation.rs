//! The messages of a chat request, as its template will see them.

use serde_json::{Map, Value, json};

use super::super::fault::Fault;
use super::super::fields::{Fields, Result, wrong};
use super::super::wanted::short;
use crate::model::Message;

pub fn read(fields: &Fields) -> Result<Vec<Message>> {
    let list = fields.list("messages", "messages")?;
    let list = list.ok_or_else(|| fields.missing("messages", "a list of messages"))?;
    if list.is_empty() {
        return Err(fields.wrong("messages", "is empty; give one message at least"));
    }
    let one = |(at, value)| message(&Fields::at(format!("messages[{at}]"), value)?);
    list.iter().enumerate().map(one).collect()
}

fn message(fields: &Fields) -> Result<Message> {
    let role = match fields.needed_string("role")? {
        // A newer name for the same; templates know the older.
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool") => role,
        other => {
            let role = short(other);
            let wanted = "system, developer, user, assistant or tool";
            return Err(fields.wrong("role", format!("is {role:?}, but must be {wanted}")));
        }
    };
    let mut more = Map::new();
    if let Some(name) = fields.string("name")? {
        more.insert("name".into(), name.into());
    }
    let mut calls = false;
    match role {
        "assistant" => {
            if let Some(list) = fields.list("tool_calls", "tool calls")?.filter(|l| !l.is_empty()) {
                let path = fields.path("tool_calls");
                let read = |(at, value)| tool_call(&Fields::at(format!("{path}[{at}]"), value)?);
                let list: Vec<_> = list.iter().enumerate().map(read).collect::<Result<_>>()?;
                more.insert("tool_calls".into(), list.into());
                calls = true;
            }
            for name in ["reasoning_content", "reasoning"] {
                if let Some(thoughts) = fields.string(name)? {
                    more.insert("reasoning_content".into(), thoughts.into());
                    break;
                }
            }
        }
        "tool" => {
            let id = fields.needed_string("tool_call_id")?;
            more.insert("tool_call_id".into(), id.into());
        }
        _ => {}
    }
    let content = match fields.get("content") {
        Some(value) => content(fields.path("content"), value)?.into(),
        // Templates tell an answer that is only calls by content that is none.
        None if calls => Value::Null,
        None => return Err(fields.missing("content", "a string or a list of text parts")),
    };
    Ok(Message { role: role.to_owned(), content, fields: more })
}

/// A text, or the texts of a list of parts, one under the other.
fn content(path: String, value: &Value) -> Result<String> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(path, "a string or a list of text parts", other)),
    };
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        let part = Fields::at(format!("{path}[{at}]"), part)?;
        let piece = match part.needed_string("type")? {
            "text" => part.needed_string("text")?,
            "refusal" => part.needed_string("refusal")?,
            other => {
                let kind = short(other);
                let what = format!("is {kind:?}, but this model reads parts of type text alone");
                return Err(part.wrong("type", what));
            }
        };
        if at > 0 {
            text.push('\n');
        }
        text.push_str(piece);
    }
    Ok(text)
}

/// A call that the assistant made. Clients send its arguments as text; templates want the object.
fn tool_call(fields: &Fields) -> Result<Value> {
    if let Some(other) = fields.string("type")?.filter(|kind| *kind != "function") {
        let what = format!("is {:?}, but must be function", short(other));
        return Err(fields.wrong("type", what));
    }
    let id = fields.needed_string("id")?;
    let function = fields.object("function")?;
    let function = function.ok_or_else(|| fields.missing("function", "an object"))?;
    let name = function.needed_string("name")?;
    let arguments = match function.get("arguments") {
        None => return Err(function.missing("arguments", "the JSON that the model wrote")),
        Some(Value::Object(map)) => Value::Object(map.clone()),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Value::Object(map),
            _ if text.trim().is_empty() => Value::Object(Map::new()),
            // What a model wrote need not be JSON; it stays what it was.
            _ => text.as_str().into(),
        },
        Some(other) => {
            return Err(wrong(function.path("arguments"), "a string of JSON", other));
        }
    };
    let function = json!({ "name": name, "arguments": arguments });
    Ok(json!({ "id": id, "type": "function", "function": function }))
}

/// Names that a template is given by the server and nobody else.
const RESERVED: [&str; 7] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
];

/// More variables for the template.
pub fn template_fields(fields: &Fields) -> Result<Map<String, Value>> {
    let mut extra = Map::new();
    if let Some(effort) = fields.string("reasoning_effort")? {
        extra.insert("reasoning_effort".into(), effort.into());
    }
    match fields.get("chat_template_kwargs") {
        None => {}
        Some(Value::Object(map)) => {
            for (name, value) in map {
                if RESERVED.contains(&&**name) {
                    let path = format!("chat_template_kwargs.{name}");
                    return Err(Fault::field(path, "is the server's to set; leave it out"));
                }
                extra.insert(name.clone(), value.clone());
            }
        }
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", other)),
    }
    Ok(extra)
}
