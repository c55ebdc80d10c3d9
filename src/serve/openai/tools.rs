//! The tools of a chat request, and whether they must be used.

use serde_json::Value;

use super::super::fields::{Fields, Result, wrong};
use super::super::wanted::short;

const MOST_TOOLS: usize = 128;
const LONGEST_NAME: usize = 64;

/// What the model may call.
#[derive(Debug, Default, PartialEq)]
pub struct Tools {
    /// As the template sees them; none where none may be called.
    pub list: Vec<Value>,
    /// The answer must be a call.
    pub forced: bool,
    /// Of this tool.
    pub named: Option<String>,
    /// No more than one call in one answer.
    pub single: bool,
}

impl Tools {
    pub fn read(fields: &Fields) -> Result<Tools> {
        for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
            if fields.get(old).is_some() {
                return Err(fields.wrong(old, format!("is no longer taken; use {new}")));
            }
        }
        let list = fields.list("tools", "tools")?.unwrap_or_default();
        if list.len() > MOST_TOOLS {
            let what = format!("has {} tools; give at most {MOST_TOOLS}", list.len());
            return Err(fields.wrong("tools", what));
        }
        let mut names = Vec::new();
        for (at, value) in list.iter().enumerate() {
            let tool = Fields::at(format!("tools[{at}]"), value)?;
            let name = check(&tool)?;
            if names.contains(&name) {
                let what = format!("is {name:?}, as that of another tool");
                return Err(tool.wrong("function.name", what));
            }
            names.push(name);
        }
        let single = !fields.flag("parallel_tool_calls")?.unwrap_or(true);
        let all = |forced| Tools { list: list.to_vec(), forced, named: None, single };
        let choice = fields.get("tool_choice");
        if list.is_empty() {
            return match choice.and_then(Value::as_str) {
                Some("none" | "auto") => Ok(Tools::default()),
                _ if choice.is_none() => Ok(Tools::default()),
                _ => Err(fields.wrong("tool_choice", "is only for requests with tools")),
            };
        }
        match choice {
            None => Ok(all(false)),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Ok(all(false)),
                "required" => Ok(all(true)),
                "none" => Ok(Tools::default()),
                other => {
                    let wanted = "none, auto, required or {\"type\": \"function\", …}";
                    let what = format!("is {:?}, but must be {wanted}", short(other));
                    Err(fields.wrong("tool_choice", what))
                }
            },
            Some(value @ Value::Object(_)) => {
                let name = named(&Fields::at("tool_choice", value)?)?;
                match names.iter().position(|known| *known == name) {
                    Some(at) => {
                        let named = Some(name.to_owned());
                        Ok(Tools { list: vec![list[at].clone()], forced: true, named, single })
                    }
                    None => {
                        let what = format!("is {:?}, which is none of the tools", short(name));
                        Err(fields.wrong("tool_choice.function.name", what))
                    }
                }
            }
            Some(other) => Err(wrong("tool_choice", "a string or an object", other)),
        }
    }
}

/// A tool is a function with a name, and a schema of its arguments where it has some.
fn check<'a>(tool: &Fields<'a>) -> Result<&'a str> {
    only_functions(tool)?;
    let function = tool.object("function")?;
    let function = function.ok_or_else(|| tool.missing("function", "an object"))?;
    let name = function.needed_string("name")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fits) {
        let what = format!(
            "is {:?}, but must be 1 to {LONGEST_NAME} letters, digits, dots, dashes and underscores",
            short(name)
        );
        return Err(function.wrong("name", what));
    }
    function.string("description")?;
    function.object("parameters")?;
    function.flag("strict")?;
    Ok(name)
}

fn named<'a>(choice: &Fields<'a>) -> Result<&'a str> {
    only_functions(choice)?;
    let function = choice.object("function")?;
    let function = function.ok_or_else(|| choice.missing("function", "an object"))?;
    function.needed_string("name")
}

fn only_functions(fields: &Fields) -> Result<()> {
    match fields.needed_string("type")? {
        "function" => Ok(()),
        other => Err(fields.wrong("type", format!("is {:?}, but must be function", short(other)))),
    }
}
