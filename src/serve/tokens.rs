//! `/tokenize` and `/detokenize`.

use serde::Serialize;
use serde_json::Value;

use super::fields::{self, Fields, Result};
use super::house::House;
use super::openai::completions::ids;
use super::reply::{Call, Reply};
use super::routes::json;
use crate::model::tokenizer::Special;

#[derive(Serialize)]
struct Tokens<T> {
    tokens: Vec<T>,
    count: usize,
}

/// A token with what it stands for: text, or bytes where it is part of a character.
#[derive(Serialize)]
struct Token<'a> {
    id: u32,
    piece: Piece<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// Special tokens that are written out in the text are text unless `parse_special` says otherwise.
pub fn tokenize(house: &House, call: &Call) -> Result<Reply> {
    let body = fields::body(&call.body)?;
    let fields = Fields::of_body(&body);
    let text = match fields.first(&["text", "content", "prompt"]) {
        Some((_, Value::String(text))) => text,
        Some((name, other)) => return Err(fields::wrong(name, "a string", other)),
        None => return Err(fields.missing("text", "a string")),
    };
    let ends = fields.flag("add_special")?.unwrap_or(false);
    let special = match fields.flag("parse_special")?.unwrap_or(false) {
        true => Special::Parse,
        false => Special::Plain,
    };
    let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
    let tokenizer = &house.text.tokenizer;
    let tokens = tokenizer.encode(text, special, ends);
    let tokens = tokens.map_err(|error| fields.wrong("text", error.to_string()))?;
    let count = tokens.len();
    if !with_pieces {
        return Ok(json(&Tokens { tokens, count }));
    }
    let token = |id| {
        let bytes = tokenizer.token_bytes(id);
        let piece = std::str::from_utf8(bytes).map_or(Piece::Bytes(bytes), Piece::Text);
        Token { id, piece }
    };
    Ok(json(&Tokens { tokens: tokens.into_iter().map(token).collect(), count }))
}

#[derive(Serialize)]
struct Content {
    content: String,
}

/// The text of tokens, control tokens by their names.
pub fn detokenize(house: &House, call: &Call) -> Result<Reply> {
    let body = fields::body(&call.body)?;
    let fields = Fields::of_body(&body);
    let list = fields.list("tokens", "token ids")?;
    let list = list.ok_or_else(|| fields.missing("tokens", "a list of token ids"))?;
    let tokens = ids(house, "tokens", list)?;
    Ok(json(&Content { content: house.text.tokenizer.decode(&tokens, false) }))
}
