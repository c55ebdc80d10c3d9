//! The key–value part of a GGUF file, asked for by type.
//!
//! Every getter comes in two forms: `u32(key)` needs the key, `u32_opt(key)` gives `None` where it
//! is missing. A value of the wrong type is an error in both.

use std::path::Path;
use std::sync::Arc;

use super::value::{Array, Text, Value};
use crate::weights::error::{Error, Quoted, Result};

#[derive(Debug)]
pub struct Metadata {
    path: Arc<Path>,
    entries: Vec<(String, Value)>,
    /// Positions in `entries`, ordered by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// Refuses a key that occurs twice.
    pub(super) fn new(path: Arc<Path>, entries: Vec<(String, Value)>) -> Result<Metadata> {
        let mut by_key: Vec<u32> = (0..entries.len() as u32).collect();
        by_key.sort_unstable_by(|&a, &b| entries[a as usize].0.cmp(&entries[b as usize].0));
        for pair in by_key.windows(2) {
            let key = &entries[pair[0] as usize].0;
            if *key == entries[pair[1] as usize].0 {
                return Err(bad_key(&path, key, "occurs twice"));
            }
        }
        Ok(Metadata { path, entries, by_key })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self.by_key.binary_search_by(|&i| self.entries[i as usize].0.as_str().cmp(key));
        found.ok().map(|at| &self.entries[self.by_key[at] as usize].1)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file, for messages about its metadata.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a key.
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        bad_key(&self.path, key, reason)
    }

    pub fn u32_opt(&self, key: &str) -> Result<Option<u32>> {
        self.get(key).map(|value| self.integer(key, value)).transpose()
    }

    pub fn u32(&self, key: &str) -> Result<u32> {
        self.required(key, self.u32_opt(key)?)
    }

    pub fn u64_opt(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|value| self.integer(key, value)).transpose()
    }

    pub fn u64(&self, key: &str) -> Result<u64> {
        self.required(key, self.u64_opt(key)?)
    }

    pub fn f32_opt(&self, key: &str) -> Result<Option<f32>> {
        self.get(key)
            .map(|value| value.as_f32().ok_or_else(|| self.wrong(key, "a float", value)))
            .transpose()
    }

    pub fn f32(&self, key: &str) -> Result<f32> {
        self.required(key, self.f32_opt(key)?)
    }

    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| self.wrong(key, "a bool", value)))
            .transpose()
    }

    pub fn bool(&self, key: &str) -> Result<bool> {
        self.required(key, self.bool_opt(key)?)
    }

    pub fn text_opt(&self, key: &str) -> Result<Option<&Text>> {
        self.get(key)
            .map(|value| value.as_text().ok_or_else(|| self.wrong(key, "a string", value)))
            .transpose()
    }

    pub fn string_opt(&self, key: &str) -> Result<Option<&str>> {
        let Some(text) = self.text_opt(key)? else { return Ok(None) };
        match text.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(self.bad(key, "is not valid UTF-8")),
        }
    }

    pub fn string(&self, key: &str) -> Result<&str> {
        self.required(key, self.string_opt(key)?)
    }

    pub fn array_opt(&self, key: &str) -> Result<Option<&Array>> {
        self.get(key)
            .map(|value| value.as_array().ok_or_else(|| self.wrong(key, "an array", value)))
            .transpose()
    }

    pub fn array(&self, key: &str) -> Result<&Array> {
        self.required(key, self.array_opt(key)?)
    }

    /// An array of strings, to be walked with [`Array::strings`]; checked to be one.
    pub fn strings_opt(&self, key: &str) -> Result<Option<super::value::Strings<'_>>> {
        let Some(array) = self.array_opt(key)? else { return Ok(None) };
        match array.strings() {
            Some(strings) => Ok(Some(strings)),
            None => Err(self.wrong_elements(key, "strings", array)),
        }
    }

    pub fn strings(&self, key: &str) -> Result<super::value::Strings<'_>> {
        self.required(key, self.strings_opt(key)?)
    }

    pub fn u32s_opt(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(array) = self.array_opt(key)? else { return Ok(None) };
        self.elements(key, array, "integers", |value| self.integer(key, value)).map(Some)
    }

    pub fn u32s(&self, key: &str) -> Result<Vec<u32>> {
        self.required(key, self.u32s_opt(key)?)
    }

    pub fn i32s_opt(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let Some(array) = self.array_opt(key)? else { return Ok(None) };
        self.elements(key, array, "integers", |value| self.integer(key, value)).map(Some)
    }

    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.required(key, self.i32s_opt(key)?)
    }

    pub fn f32s_opt(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(array) = self.array_opt(key)? else { return Ok(None) };
        let float = |value: &Value| value.as_f32().ok_or_else(|| self.wrong(key, "a float", value));
        self.elements(key, array, "floats", float).map(Some)
    }

    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.required(key, self.f32s_opt(key)?)
    }

    /// A number per layer, which the file gives either once for all layers or one by one.
    pub fn u32_per_layer_opt(&self, key: &str, layers: usize) -> Result<Option<Vec<u32>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                self.per_layer_len(key, array, layers)?;
                self.u32s_opt(key)
            }
            Some(one) => Ok(Some(vec![self.integer(key, one)?; layers])),
        }
    }

    pub fn u32_per_layer(&self, key: &str, layers: usize) -> Result<Vec<u32>> {
        self.required(key, self.u32_per_layer_opt(key, layers)?)
    }

    /// A yes or no per layer, which the file gives either once for all layers or one by one.
    pub fn bool_per_layer_opt(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let boolean =
            |value: &Value| value.as_bool().ok_or_else(|| self.wrong(key, "a bool", value));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                self.per_layer_len(key, array, layers)?;
                self.elements(key, array, "bools", boolean).map(Some)
            }
            Some(one) => Ok(Some(vec![boolean(one)?; layers])),
        }
    }

    fn per_layer_len(&self, key: &str, array: &Array, layers: usize) -> Result<()> {
        if array.len() == layers {
            return Ok(());
        }
        Err(self.bad(key, format!("has {} values for {layers} layers", array.len())))
    }

    fn elements<T>(
        &self,
        key: &str,
        array: &Array,
        expected: &str,
        read: impl Fn(&Value) -> Result<T>,
    ) -> Result<Vec<T>> {
        let Some(values) = array.scalars() else {
            return Err(self.wrong_elements(key, expected, array));
        };
        values.map(|value| read(&value)).collect()
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, value: &Value) -> Result<T> {
        let Some(number) = value.as_integer() else {
            return Err(self.wrong(key, "an integer", value));
        };
        T::try_from(number).map_err(|_| {
            let wanted = std::any::type_name::<T>();
            self.bad(key, format!("is {number}, which does not fit into {wanted}"))
        })
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.bad(key, "is missing"))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.bad(key, format!("expected {expected}, found a value of type {}", found.kind()))
    }

    fn wrong_elements(&self, key: &str, expected: &str, found: &Array) -> Error {
        self.bad(key, format!("expected {expected}, found an array of {}", found.kind()))
    }
}

pub(super) fn bad_key(path: &Path, key: &str, reason: impl Into<String>) -> Error {
    Error::bad(path, format!("metadata key {}", Quoted(key)), reason)
}
