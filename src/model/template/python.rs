//! Values as Python writes them: `str()`, `repr()` and `json.dumps`, which templates print.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::MARK;
use super::budget::{Budget, NAMESPACE, bad};

/// Text under construction, cut off by an error when it exceeds what is left of a budget.
pub(super) struct Writer {
    pub text: String,
    limit: usize,
}

impl Writer {
    pub fn new(budget: &Budget) -> Writer {
        Writer { text: String::new(), limit: budget.left().min(usize::MAX as u64) as usize }
    }

    pub fn push(&mut self, text: &str) -> Result<(), Error> {
        if text.len() > self.limit - self.text.len() {
            return Err(bad("it makes more text than its messages can call for"));
        }
        self.text.push_str(text);
        Ok(())
    }

    /// `str(value)`
    pub fn str(&mut self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.push(text),
            None => self.repr(value),
        }
    }

    /// `repr(value)`
    fn repr(&mut self, value: &Value) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.quoted(text);
        }
        match value.kind() {
            ValueKind::Undefined => Ok(()),
            ValueKind::None => self.push("None"),
            ValueKind::Bool => self.push(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.number(value),
            ValueKind::Seq | ValueKind::Iterable => {
                let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
                self.push(open)?;
                let mut count = 0;
                for item in value.try_iter()?.checked() {
                    self.push(if count == 0 { "" } else { ", " })?;
                    self.repr(&item?)?;
                    count += 1;
                }
                self.push(if value.is_tuple() && count == 1 { "," } else { "" })?;
                self.push(close)
            }
            ValueKind::Map => {
                self.push("{")?;
                let mut first = true;
                for (key, item) in pairs(value)? {
                    self.push(if first { "" } else { ", " })?;
                    self.repr(&key)?;
                    self.push(": ")?;
                    self.repr(&item)?;
                    first = false;
                }
                self.push("}")
            }
            _ => self.push(&value.to_string()),
        }
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return self.push(&value.to_string());
        }
        match f64::try_from(value.clone()) {
            Ok(number) => self.push(&float(number)),
            Err(_) => self.push(&value.to_string()),
        }
    }

    fn quoted(&mut self, text: &str) -> Result<(), Error> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        let mut out = String::from(quote);
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c == quote => out.extend(['\\', c]),
                MARK => out.push(MARK),
                c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                    out.push_str(&format!("\\x{:02x}", c as u32));
                }
                c => out.push(c),
            }
        }
        out.push(quote);
        self.push(&out)
    }
}

fn pairs(map: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let mut pairs = Vec::new();
    for key in map.try_iter()?.checked() {
        let key = key?;
        if key.as_str() != Some(NAMESPACE) {
            let item = map.get_item(&key)?;
            pairs.push((key, item));
        }
    }
    Ok(pairs)
}

/// `repr` of a float: the shortest digits that read back the same, with an exponent below 1e-4
/// and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

/// How `json.dumps` is to write.
#[derive(Default)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// What one level is indented by; without it all is on one line.
    pub indent: Option<String>,
    pub item_separator: Option<String>,
    pub key_separator: Option<String>,
    pub sort_keys: bool,
}

impl Writer {
    pub fn json(&mut self, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.json_string(text, style.ensure_ascii);
        }
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.number(value),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(n) if n.is_nan() => self.push("NaN"),
                Ok(n) if n.is_infinite() => {
                    self.push(if n > 0.0 { "Infinity" } else { "-Infinity" })
                }
                _ => self.number(value),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if items.is_empty() {
                    return self.push("[]");
                }
                self.push("[")?;
                for (at, item) in items.iter().enumerate() {
                    self.separate(at, style, depth + 1)?;
                    self.json(item, style, depth + 1)?;
                }
                self.line(style, depth)?;
                self.push("]")
            }
            ValueKind::Map => {
                let mut pairs = pairs(value)?;
                if pairs.is_empty() {
                    return self.push("{}");
                }
                if style.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.push("{")?;
                for (at, (key, item)) in pairs.iter().enumerate() {
                    self.separate(at, style, depth + 1)?;
                    self.json_key(key, style)?;
                    self.push(style.key_separator.as_deref().unwrap_or(": "))?;
                    self.json(item, style, depth + 1)?;
                }
                self.line(style, depth)?;
                self.push("}")
            }
            kind => Err(bad(format!("a value of type {kind} cannot be written as JSON"))),
        }
    }

    fn json_key(&mut self, key: &Value, style: &JsonStyle) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.json(key, style, 0),
            ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                self.push("\"")?;
                self.json(key, style, 0)?;
                self.push("\"")
            }
            kind => Err(bad(format!("a {kind} cannot be a key in JSON"))),
        }
    }

    fn separate(&mut self, at: usize, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        if at > 0 {
            let default = if style.indent.is_some() { "," } else { ", " };
            self.push(style.item_separator.as_deref().unwrap_or(default))?;
        }
        self.line(style, depth)
    }

    fn line(&mut self, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.push("\n")?;
        for _ in 0..depth {
            self.push(indent)?;
        }
        Ok(())
    }

    fn json_string(&mut self, text: &str, ensure_ascii: bool) -> Result<(), Error> {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                MARK => out.push(MARK),
                c if (c as u32) < 0x20 || (ensure_ascii && !(' '..='~').contains(&c)) => {
                    // DEL is ASCII, and Python leaves it alone.
                    if c == '\u{7f}' {
                        out.push(c);
                        continue;
                    }
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        self.push(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_as_in_python() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
            (1.5e300, "1.5e+300"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
