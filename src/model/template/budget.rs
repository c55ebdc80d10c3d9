//! What one rendering may use, and the checks that hold it to that.
//!
//! The engine counts instructions, but one instruction can double a string, and forty of them
//! would fill any memory. So every value that a template makes passes through here: its bytes
//! are charged to a budget, and its nesting is bounded, so that printing or dropping it cannot
//! exhaust the stack.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Instructions of the template engine. A long conversation takes some tens of thousands.
pub(super) const FUEL: u64 = 2_000_000;
/// Bytes that a rendering may make on top of [`PER_INPUT_BYTE`] for each byte it is given.
const BASE: u64 = 16 << 20;
const PER_INPUT_BYTE: u64 = 64;
/// How deep lists and maps made by a template may nest. JSON schemas of tools reach about 20.
const MAX_DEPTH: usize = 64;
/// What an element of a list or a map is charged, beside its text.
const PER_NODE: u64 = 32;

/// The key by which a namespace is told from a map: a namespace can come to hold itself.
pub(super) const NAMESPACE: &str = "\0namespace";

pub(super) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub fn new(input_bytes: usize) -> Budget {
        let more = (input_bytes as u64).saturating_mul(PER_INPUT_BYTE);
        Budget { left: AtomicU64::new(BASE.saturating_add(more)) }
    }

    pub fn charge(&self, bytes: u64) -> Result<(), Error> {
        // One thread renders; the atomic only satisfies the engine's bounds on its functions.
        let left = self.left.load(Ordering::Relaxed);
        match left.checked_sub(bytes) {
            Some(rest) => {
                self.left.store(rest, Ordering::Relaxed);
                Ok(())
            }
            None => Err(bad("it makes more text than its messages can call for")),
        }
    }

    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Charges a value that an expression made.
    pub fn made(&self, value: &Value) -> Result<(), Error> {
        self.visit(value, 0)
    }

    /// Charges a value that a variable or an attribute is about to hold. Lazy values are made
    /// real: what they draw on might change under them, or come to contain them.
    pub fn stored(&self, value: Value, in_namespace: bool) -> Result<Value, Error> {
        let value = if value.kind() == ValueKind::Iterable {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                self.charge(PER_NODE)?;
                items.push(item?);
            }
            Value::from(items)
        } else {
            value
        };
        self.visit(&value, usize::from(in_namespace))?;
        Ok(value)
    }

    fn visit(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return self.charge(text.len() as u64 + PER_NODE);
        }
        self.charge(PER_NODE)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Map if depth > MAX_DEPTH => {
                Err(bad(format!("it nests values more than {MAX_DEPTH} deep")))
            }
            ValueKind::Seq => {
                for item in value.try_iter()?.checked() {
                    self.visit(&item?, depth + 1)?;
                }
                Ok(())
            }
            ValueKind::Map if is_namespace(value) => match depth {
                0 => Ok(()),
                _ => Err(bad("it puts a namespace into another value")),
            },
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    self.visit(&key, depth + 1)?;
                    self.visit(&value.get_item(&key)?, depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn is_namespace(value: &Value) -> bool {
    value.get_attr(NAMESPACE).is_ok_and(|mark| !mark.is_undefined())
}

pub(super) fn bad(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
