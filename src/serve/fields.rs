//! The fields of a JSON body, read with their paths, so that every complaint names one.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::fault::Fault;

pub type Result<T> = std::result::Result<T, Fault>;

/// A whole body, which is an object.
pub fn body(bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::request("the body is empty; send a JSON object"));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            let what = kind(&other);
            Err(Fault::request(format!("the body must be a JSON object, not {what}")))
        }
        Err(error) => Err(Fault::request(format!("the body is not valid JSON: {error}"))),
    }
}

/// What a value is, as a sentence says it.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value is of the wrong kind.
pub fn wrong(path: impl Into<String>, wanted: impl Display, value: &Value) -> Fault {
    Fault::field(path, format!("must be {wanted}, not {}", kind(value)))
}

/// An object somewhere in the body. A field that is null is as good as absent, as in every client
/// that writes out its defaults.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where the object is; empty for the body itself.
    path: String,
}

impl<'a> Fields<'a> {
    pub fn of_body(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { map, path: String::new() }
    }

    /// The object that `value`, found at `path`, must be.
    pub fn at(path: impl Into<String>, value: &'a Value) -> Result<Fields<'a>> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other => Err(wrong(path, "an object", other)),
        }
    }

    pub fn path(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The first of several names that is given, since protocols differ in them.
    pub fn first(&self, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    pub fn wrong(&self, name: &str, what: impl Display) -> Fault {
        Fault::field(self.path(name), what)
    }

    /// A field that must be there is not.
    pub fn missing(&self, name: &str, wanted: &str) -> Fault {
        self.wrong(name, format!("is missing; give {wanted}"))
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(self.path(name), "a string", other)),
        }
    }

    pub fn needed_string(&self, name: &str) -> Result<&'a str> {
        self.string(name)?.ok_or_else(|| self.missing(name, "a string"))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(self.path(name), "true or false", other)),
        }
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        self.get(name).map(|value| Fields::at(self.path(name), value)).transpose()
    }

    pub fn list(&self, name: &str, of: &str) -> Result<Option<&'a [Value]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(wrong(self.path(name), format!("a list of {of}"), other)),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(wrong(self.path(name), "a number", value)),
        }
    }

    pub fn integer(&self, name: &str, within: RangeInclusive<i64>) -> Result<Option<i64>> {
        self.get(name).map(|value| integer(self.path(name), value, within)).transpose()
    }
}

/// A whole number; one written as 3.0 is 3.
pub fn integer(path: impl Into<String>, value: &Value, within: RangeInclusive<i64>) -> Result<i64> {
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= 2f64.powi(53);
    let number = match value {
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().filter(whole).map(|number| number as i64))
        }
        other => return Err(wrong(path, "a whole number", other)),
    };
    match number.filter(|number| within.contains(number)) {
        Some(number) => Ok(number),
        None => {
            let (least, most) = (within.start(), within.end());
            let bounds = match *most {
                i64::MAX => format!("a whole number of at least {least}"),
                most => format!("a whole number from {least} to {most}"),
            };
            Err(Fault::field(path, format!("is {value}, but must be {bounds}")))
        }
    }
}

/// Texts given as one string or as a list of them, with the path of each.
pub fn texts<'a>(path: &str, value: &'a Value) -> Result<Vec<(String, &'a str)>> {
    match value {
        Value::String(text) => Ok(vec![(path.to_owned(), text)]),
        Value::Array(list) => {
            let one = |(at, value): (usize, &'a Value)| {
                let path = format!("{path}[{at}]");
                match value {
                    Value::String(text) => Ok((path, text.as_str())),
                    other => Err(wrong(path, "a string", other)),
                }
            };
            list.iter().enumerate().map(one).collect()
        }
        other => Err(wrong(path, "a string or a list of strings", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_json_says_where() {
        let said = |bytes: &[u8]| body(bytes).unwrap_err().message;
        assert!(said(b"{\"a\": 1,\n}").contains("line 2 column 1"));
        assert!(said(b" ").contains("empty"));
        assert!(said(b"[1]").contains("not a list"));
        assert!(said(b"{\"a\": \"\xff\"}").contains("unicode"));
        assert!(said("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats_that_are_whole() {
        let read = |value: Value| integer("n", &value, 1..=16);
        assert_eq!(read(3.into()), Ok(3));
        assert_eq!(read(3.0.into()), Ok(3));
        for bad in [Value::from(3.5), 0.into(), 17.into(), u64::MAX.into(), 1e300.into()] {
            let message = read(bad.clone()).unwrap_err().message;
            assert!(message.ends_with("from 1 to 16"), "{bad}: {message}");
        }
        assert!(read("3".into()).unwrap_err().message.contains("not a string"));
    }
}
