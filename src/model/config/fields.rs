//! Reads numbers out of `config.json` with errors that name the key.

use std::path::Path;

use serde_json::Value;

use crate::weights::{Error, error::Result};

/// One JSON object of a config file.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    pub path: &'a Path,
    pub object: &'a serde_json::Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::bad(self.path, key, reason)
    }

    /// The value of a key; `null` counts as absent, as it does for the reference implementation.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { path: self.path, object })),
            Some(other) => {
                Err(self.bad(key, format!("expected an object, found {}", brief(other))))
            }
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Some exporters write sizes as floats (`4096.0`).
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64)
        });
        match whole.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.bad(key, format!("expected a whole number, found {}", brief(value)))),
        }
    }

    pub fn need_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.bad(key, "missing"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(f) if f.is_finite() => Ok(Some(f)),
            _ => Err(self.bad(key, format!("expected a number, found {}", brief(value)))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_bool() {
            Some(b) => Ok(Some(b)),
            None => Err(self.bad(key, format!("expected true or false, found {}", brief(value)))),
        }
    }

    /// A flag whose `null` the reference takes as false, not as absent.
    pub fn nullable_flag(&self, key: &str, absent: bool) -> Result<bool> {
        match self.object.get(key) {
            None => Ok(absent),
            Some(_) => Ok(self.flag(key)?.unwrap_or(false)),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_str() {
            Some(s) => Ok(Some(s)),
            None => Err(self.bad(key, format!("expected a string, found {}", brief(value)))),
        }
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a Vec<Value>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_array() {
            Some(list) => Ok(Some(list)),
            None => Err(self.bad(key, format!("expected a list, found {}", brief(value)))),
        }
    }
}

fn brief(value: &Value) -> String {
    let mut text: String = value.to_string().chars().take(40).collect();
    if text.chars().count() == 40 {
        text.push('…');
    }
    text
}
