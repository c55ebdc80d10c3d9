//! The parts of the pipeline: normalizer, pre-tokenizer, post-processor, decoder.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::super::detokenizer::{First, Joining};
use super::super::error::{Blame, Error, Result, shown};
use super::super::pieces::{Kind, Pieces};

/// Most steps in a sequence. The longest in use has seven.
const MAX_STEPS: usize = 32;
/// Longest regular expression. The longest in use, DeepSeek's list of letters, has 700 bytes.
const MAX_PATTERN: usize = 8192;
/// Longest text that a step may put in. Those in use have at most 3 bytes.
const MAX_INSERT: usize = 16;

const NORMALIZERS: &[&str] = &[
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Nmt",
    "Replace",
    "Prepend",
    "ByteLevel",
    "BertNormalizer",
];

const PRE_TOKENIZERS: &[&str] = &[
    "ByteLevel",
    "Split",
    "Metaspace",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "UnicodeScripts",
];

/// How the names of tokens spell text.
pub(super) enum Spelling {
    ByteLevel,
    /// Text with marks in it (`▁` for a space), and perhaps tokens for single bytes.
    Marks {
        replace: Vec<(String, String)>,
        byte_tokens: bool,
    },
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("nameless")
}

fn refuse(blame: Blame, field: &str, value: &Value, known: &[&str]) -> Error {
    let reason = format!("\"{}\" is not read; known are {}", shown(kind(value)), known.join(", "));
    blame.bad(field, reason)
}

/// The steps of a part, with sequences laid flat, each of a known kind and of a sane size.
fn steps<'a>(
    blame: Blame,
    field: &str,
    value: &'a Value,
    list: &str,
    known: &[&str],
) -> Result<Vec<&'a Value>> {
    let mut found = Vec::new();
    let mut open = vec![value];
    let mut visited = 0;
    while let Some(step) = open.pop() {
        visited += 1;
        if visited > MAX_STEPS {
            return Err(blame.bad(field, format!("has more than {MAX_STEPS} steps")));
        }
        if step.is_null() {
            continue;
        }
        if kind(step) == "Sequence" {
            let inner = step.get(list).and_then(Value::as_array);
            let inner =
                inner.ok_or_else(|| blame.bad(field, format!("a sequence has no {list}")))?;
            open.extend(inner.iter().rev());
            continue;
        }
        if !known.contains(&kind(step)) {
            return Err(refuse(blame, field, step, known));
        }
        check_sizes(blame, field, step)?;
        found.push(step);
    }
    Ok(found)
}

fn check_sizes(blame: Blame, field: &str, step: &Value) -> Result<()> {
    let inserted = ["content", "prepend"].iter().filter_map(|f| step.get(f)?.as_str());
    if inserted.into_iter().any(|text| text.len() > MAX_INSERT) {
        return Err(blame.bad(field, format!("puts in more than {MAX_INSERT} bytes at a place")));
    }
    let pattern = step.get("pattern").and_then(Value::as_object);
    let long = |v: &Value| v.as_str().is_some_and(|s| s.len() > MAX_PATTERN);
    if pattern.is_some_and(|p| p.values().any(long)) {
        return Err(blame.bad(field, format!("a pattern is longer than {MAX_PATTERN} bytes")));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(blame: Blame, field: &str, step: &Value) -> Result<T> {
    serde_json::from_value(step.clone())
        .map_err(|e| blame.bad(format!("{field} ({})", shown(kind(step))), e.to_string()))
}

pub(super) fn normalizers(blame: Blame, value: &Value) -> Result<Vec<NormalizerWrapper>> {
    let field = "normalizer";
    steps(blame, field, value, "normalizers", NORMALIZERS)?
        .into_iter()
        .map(|step| parse(blame, field, step))
        .collect()
}

pub(super) fn pre_tokenizer(blame: Blame, value: &Value) -> Result<Option<PreTokenizerWrapper>> {
    let field = "pre_tokenizer";
    let steps: Vec<PreTokenizerWrapper> =
        steps(blame, field, value, "pretokenizers", PRE_TOKENIZERS)?
            .into_iter()
            .map(|step| parse(blame, field, step))
            .collect::<Result<_>>()?;
    Ok(match steps.len() {
        0 => None,
        _ => Some(tokenizers::pre_tokenizers::sequence::Sequence::new(steps).into()),
    })
}

/// The ids before and after a text. Only what happens to a single text counts.
pub(super) fn post_processor(
    blame: Blame,
    value: &Value,
    pieces: &Pieces,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let known = ["ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"];
    let field = "post_processor";
    let (mut prefix, mut suffix): (Vec<u32>, Vec<u32>) = (vec![], vec![]);
    for step in steps(blame, field, value, "processors", &known)? {
        let (before, after) = match kind(step) {
            "TemplateProcessing" => template(blame, step)?,
            "BertProcessing" | "RobertaProcessing" => {
                let id = |name: &str| {
                    let id = step.get(name).and_then(|v| v.get(1)?.as_u64());
                    id.ok_or_else(|| blame.bad(format!("{field}.{name}"), "has no id"))
                };
                (vec![id("cls")?], vec![id("sep")?])
            }
            _ => (vec![], vec![]),
        };
        let known = |id: u64| match u32::try_from(id) {
            Ok(id) if pieces.kind(id) != Kind::Hole => Ok(id),
            _ => Err(blame.bad(field, format!("id {id} is no token"))),
        };
        let before: Vec<u32> = before.into_iter().map(known).collect::<Result<_>>()?;
        let after: Vec<u32> = after.into_iter().map(known).collect::<Result<_>>()?;
        prefix.splice(0..0, before);
        suffix.extend(after);
    }
    Ok((prefix, suffix))
}

fn template(blame: Blame, step: &Value) -> Result<(Vec<u64>, Vec<u64>)> {
    let field = "post_processor.single";
    let single = step.get("single").and_then(Value::as_array);
    let single = single.ok_or_else(|| blame.bad(field, "is not a list"))?;
    let (mut before, mut after) = (vec![], vec![]);
    let mut text_seen = false;
    for part in single {
        if part.get("Sequence").is_some() {
            text_seen = true;
            continue;
        }
        let ids = part
            .get("SpecialToken")
            .and_then(|t| t.get("id")?.as_str())
            .and_then(|name| step.get("special_tokens")?.get(name)?.get("ids")?.as_array());
        let ids = ids.ok_or_else(|| blame.bad(field, "names a token without ids"))?;
        let side = if text_seen { &mut after } else { &mut before };
        for id in ids {
            side.push(id.as_u64().ok_or_else(|| blame.bad(field, "has an id that is no number"))?);
        }
    }
    Ok((before, after))
}

pub(super) fn decoder(blame: Blame, value: &Value) -> Result<(Spelling, Joining)> {
    let known = ["ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];
    let field = "decoder";
    let mut joining = Joining { first: First::Keep, between: "", each_byte: false };
    let mut replace = Vec::new();
    let (mut byte_tokens, mut byte_level, mut fused) = (false, false, false);
    let steps = steps(blame, field, value, "decoders", &known)?;
    if steps.is_empty() {
        // Without a decoder, tokens are words.
        joining.between = " ";
    }
    let text = |step: &Value, name: &str| {
        let text = step.get(name).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| blame.bad(format!("{field}.{name}"), "is not a string"))
    };
    for step in &steps {
        match kind(step) {
            "ByteLevel" => byte_level = true,
            "ByteFallback" => byte_tokens = true,
            "Fuse" => fused = true,
            "Replace" if !fused => {
                let from = step.get("pattern").and_then(|p| p.get("String")?.as_str());
                let from = from.filter(|f| !f.is_empty()).ok_or_else(|| {
                    blame.bad(field, "Replace is read only with a plain string to replace")
                })?;
                replace.push((from.to_owned(), text(step, "content")?));
            }
            "Strip" if fused => {
                let number = |name: &str| step.get(name).and_then(Value::as_u64);
                let (content, stop) = (text(step, "content")?, number("stop"));
                let Some(start) = number("start").filter(|_| content == " " && stop == Some(0))
                else {
                    return Err(blame.bad(field, "Strip is read only for spaces at the start"));
                };
                joining.first = First::StripSpaces(start.min(1 << 16) as usize);
            }
            "Metaspace" => {
                let mark = text(step, "replacement")?;
                let scheme = step.get("prepend_scheme").and_then(Value::as_str);
                let prefix = step.get("add_prefix_space").and_then(Value::as_bool);
                let mut chars = mark.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    return Err(blame.bad("decoder.replacement", "is not one character"));
                };
                if scheme != Some("never") && prefix != Some(false) {
                    joining.first = First::DropMarks(c);
                }
                replace.push((mark, " ".to_owned()));
            }
            other => {
                let reason = format!("{other} is read only in SentencePiece's order of steps");
                return Err(blame.bad(field, reason));
            }
        }
    }
    if byte_level {
        if steps.len() > 1 {
            return Err(blame.bad(field, "ByteLevel is read only by itself"));
        }
        return Ok((Spelling::ByteLevel, joining));
    }
    joining.each_byte = byte_tokens;
    Ok((Spelling::Marks { replace, byte_tokens }, joining))
}
