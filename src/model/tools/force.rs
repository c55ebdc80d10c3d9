//! Grammars that leave a model no choice but to call.

use std::fmt::Write;
use std::rc::Rc;

use super::{Tool, ToolChoice, ToolError, ToolFamily, Tools};
use crate::model::grammar::{Grammar, Vocabulary};
use crate::model::tokenizer::{Kind, Tokenizer};

/// The grammar by which an answer is a call as `choice` demands, in the form that `family`'s
/// reading finds; `None` if it demands none. For the families whose arguments are no JSON, the
/// call is written as JSON in their tags, which is read as well.
pub fn grammar(
    vocabulary: &Rc<Vocabulary>,
    tokenizer: &Tokenizer,
    family: ToolFamily,
    tools: &Tools,
    choice: &ToolChoice,
) -> Result<Option<Grammar>, ToolError> {
    let (wanted, most): (Vec<&Tool>, _) = match choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => (tools.list.iter().collect(), usize::MAX),
        ToolChoice::Named(name) => (tools.list.iter().filter(|t| t.name == *name).collect(), 1),
    };
    // A schema that cannot be enforced is named by its own place, not by one in all of them.
    for (at, tool) in tools.list.iter().enumerate() {
        if wanted.iter().any(|wanted| wanted.name == tool.name) {
            Grammar::json_schema(vocabulary, &tool.parameters).map_err(|error| ToolError {
                field: format!("tools[{at}].function.parameters"),
                reason: error.to_string(),
            })?;
        }
    }
    let rules = rules(tokenizer, family, &wanted, most);
    let grammar = Grammar::lark(vocabulary, &rules)
        .map_err(|error| ToolError { field: "tools".into(), reason: error.to_string() })?;
    Ok(Some(match family {
        // Its frames are in the grammar.
        ToolFamily::Harmony => grammar.over_all(),
        _ => grammar,
    }))
}

fn rules(tokenizer: &Tokenizer, family: ToolFamily, tools: &[&Tool], most: usize) -> String {
    let mark = |name: &str| match tokenizer.find(name) {
        Some(id) if tokenizer.kind(id) == Kind::Control => format!("<[{id}]>"),
        _ => quoted(name),
    };
    let mut out = String::new();
    let names: Vec<String> = (0..tools.len()).map(|at| format!("call{at}")).collect();
    let json = |name: &str, arguments: &str| format!("{{\"name\": \"{name}\", \"{arguments}\": ");
    for (at, tool) in tools.iter().enumerate() {
        let name = &tool.name;
        let (before, behind) = match family {
            ToolFamily::Hermes | ToolFamily::QwenCoder | ToolFamily::Glm => (
                format!(
                    "{} {}",
                    mark("<tool_call>"),
                    quoted(&format!("\n{}", json(name, "arguments")))
                ),
                format!("{} {}", quoted("}\n"), mark("</tool_call>")),
            ),
            ToolFamily::Llama => (quoted(&json(name, "parameters")), quoted("}")),
            ToolFamily::Mistral => (quoted(&json(name, "arguments")), quoted("}")),
            ToolFamily::MistralArgs => (
                format!("{} {} {}", mark("[TOOL_CALLS]"), quoted(name), mark("[ARGS]")),
                String::new(),
            ),
            ToolFamily::DeepSeek => {
                let [_, open, sep, close, _] = super::forms::DEEPSEEK.all;
                (format!("{} {} {}", mark(open), quoted(name), mark(sep)), mark(close))
            }
            ToolFamily::Kimi => {
                let [_, open, sep, close, _] = super::forms::KIMI.all;
                let head = quoted(&format!("functions.{name}:"));
                (format!("{} {head} /[0-9]{{1,2}}/ {}", mark(open), mark(sep)), mark(close))
            }
            ToolFamily::Harmony => {
                let to = quoted(&format!("commentary to=functions.{name} "));
                let (channel, message) = (mark("<|channel|>"), mark("<|message|>"));
                let json = match tokenizer.find("<|constrain|>") {
                    Some(_) => format!("{} \"json\"", mark("<|constrain|>")),
                    None => "\"json\"".into(),
                };
                (format!("{channel} {to} {json} {message}"), String::new())
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "call{at}: {before} args{at} {behind}");
        let _ = writeln!(out, "args{at}: %json {}", tool.parameters);
    }
    let _ = writeln!(out, "call: {}", names.join(" | "));
    let several = most > 1;
    let start = match family {
        ToolFamily::Mistral if several => {
            format!("{} \" [\" call (\", \" call)* \"]\"", mark("[TOOL_CALLS]"))
        }
        ToolFamily::Mistral => format!("{} \" [\" call \"]\"", mark("[TOOL_CALLS]")),
        ToolFamily::DeepSeek | ToolFamily::Kimi => {
            let form = match family {
                ToolFamily::Kimi => super::forms::KIMI,
                _ => super::forms::DEEPSEEK,
            };
            let [open, .., close] = form.all;
            let calls = if several { "call+" } else { "call" };
            format!("{} {calls} {}", mark(open), mark(close))
        }
        ToolFamily::Hermes | ToolFamily::QwenCoder | ToolFamily::Glm if several => {
            "call (\"\\n\" call)*".into()
        }
        ToolFamily::MistralArgs if several => "call+".into(),
        // One at a time: theirs is a turn, or an answer that is nothing else.
        _ => "call".into(),
    };
    let _ = writeln!(out, "start: {start}");
    out
}

/// A text as the notation of Lark has it, which is JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
