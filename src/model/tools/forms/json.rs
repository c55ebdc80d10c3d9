//! JSON that may be cut off, and the texts of its parts. Numbers keep the digits they were
//! written with.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Deserializer;

pub enum Scan {
    /// A value, so long.
    End(usize),
    /// It is cut off.
    More,
    Bad,
}

/// The value that a text begins with.
pub fn scan(text: &str) -> Scan {
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Scan::End(values.byte_offset()),
        // A number that ends like this is cut off, which the library calls wrong.
        Some(Err(error)) if !error.is_eof() && !text.ends_with(['-', '+', '.', 'e', 'E']) => {
            Scan::Bad
        }
        Some(Err(_)) | None => Scan::More,
    }
}

/// The value that a text begins with, and what follows it.
fn value<'a, T: Deserialize<'a>>(text: &'a str) -> Option<(T, &'a str)> {
    let mut values = Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, text[values.byte_offset()..].trim_start()))
}

fn raw(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = value::<IgnoredAny>(text)?;
    Some((text[..text.len() - rest.len()].trim(), rest))
}

/// Keys of an object with the texts of their values.
pub fn members(object: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = object.trim().strip_prefix('{')?.trim_start();
    let mut members = Vec::new();
    while !rest.starts_with('}') {
        let (key, behind) = value::<String>(rest)?;
        let (text, behind) = raw(behind.strip_prefix(':')?.trim_start())?;
        members.push((key, text));
        rest = behind.strip_prefix(',').unwrap_or(behind).trim_start();
    }
    Some(members)
}

/// Texts of a list's values.
pub fn items(list: &str) -> Option<Vec<&str>> {
    let mut rest = list.trim().strip_prefix('[')?.trim_start();
    let mut items = Vec::new();
    while !rest.starts_with(']') {
        let (text, behind) = raw(rest)?;
        items.push(text);
        rest = behind.strip_prefix(',').unwrap_or(behind).trim_start();
    }
    Some(items)
}

/// The text of an object; some models write it inside of a string.
pub fn object(text: &str) -> Option<String> {
    let text = match text.starts_with('"') {
        true => serde_json::from_str::<String>(text).ok()?,
        false => text.to_owned(),
    };
    (text.trim().starts_with('{') && is_json(&text)).then_some(text)
}

pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}
