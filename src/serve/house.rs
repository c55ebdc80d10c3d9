//! What every handler is given: the model's text side, the counter where requests are handed in,
//! and the names under which answers may be cancelled.
//!
//! It lives on the lead's reactor, and nothing of it is shared between threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use super::family::Family;
use crate::engine::desk::{Load, Refusal, Request, Update};
use crate::model::Text;

/// Who takes requests.
pub trait Counter {
    fn submit(&self, request: Request) -> Result<Box<dyn Updates>, Refusal>;
    fn load(&self) -> Load;
    /// Whether there was such a request.
    fn cancel(&self, id: u64) -> bool;
}

/// What becomes of one request. Dropping it cancels the request.
pub trait Updates {
    fn id(&self) -> u64;
    /// `None` after `Ended`.
    fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Update>>;
}

/// The model as clients know it.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// The name it is listed under.
    pub id: String,
    /// Other names it is asked for by, such as that of its file.
    pub aliases: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Positions there is room for.
    pub context: usize,
    /// One more than the highest token id.
    pub vocab: usize,
    /// Changes when answers to the same request may.
    pub fingerprint: String,
}

pub struct House {
    pub counter: Box<dyn Counter>,
    pub text: Rc<Text>,
    pub family: Box<dyn Family>,
    pub model: ModelCard,
    /// Writes what Prometheus reads.
    pub metrics: Box<dyn Fn() -> String>,
    /// Whether the model is loaded. Until then requests are asked to come back.
    pub ready: Cell<bool>,
    random: RandomState,
    drawn: Cell<u64>,
    /// Answers under way by their names.
    names: RefCell<HashMap<String, Vec<u64>>>,
}

impl House {
    pub fn new(
        counter: Box<dyn Counter>,
        text: Rc<Text>,
        family: Box<dyn Family>,
        model: ModelCard,
        metrics: Box<dyn Fn() -> String>,
    ) -> House {
        House {
            counter,
            text,
            family,
            model,
            metrics,
            ready: Cell::new(false),
            random: RandomState::new(),
            drawn: Cell::new(0),
            names: RefCell::default(),
        }
    }

    /// A number that nobody can foresee: a counter under a hash whose key is the system's.
    pub(super) fn draw(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.random.hash_one(self.drawn.get())
    }

    /// A name for an answer, as `chatcmpl-0123456789abcdef`.
    pub(super) fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}-{:016x}", self.draw())
    }

    /// Makes the requests `ids` known under a name until what is returned is dropped.
    pub(super) fn register(self: &Rc<House>, name: &str, ids: &[u64]) -> Registered {
        let mut names = self.names.borrow_mut();
        names.entry(name.to_owned()).or_default().extend(ids);
        Registered { house: Rc::clone(self), name: name.to_owned(), ids: ids.to_vec() }
    }

    /// Cancels what goes by a name, which is forgotten; whether anything did.
    pub(super) fn cancel(&self, name: &str) -> bool {
        // The counter is not asked while the names are borrowed: it may end an answer at once.
        let ids = self.names.borrow_mut().remove(name).unwrap_or_default();
        ids.iter().fold(false, |any, &id| self.counter.cancel(id) | any)
    }

    /// Whether no answer is under way under any name.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.names.borrow().is_empty()
    }

    /// Whether a request asks for this model. One that names none does.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        name.is_empty() || name == self.model.id || self.model.aliases.iter().any(|a| a == name)
    }
}

/// An answer that has a name.
pub(super) struct Registered {
    house: Rc<House>,
    name: String,
    ids: Vec<u64>,
}

impl Registered {
    /// Whether it was cancelled under this name.
    pub(super) fn is_cancelled(&self) -> bool {
        let names = self.house.names.borrow();
        !names.get(&self.name).is_some_and(|known| self.ids.iter().all(|id| known.contains(id)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut names = self.house.names.borrow_mut();
        if let Some(known) = names.get_mut(&self.name) {
            known.retain(|id| !self.ids.contains(id));
            if known.is_empty() {
                names.remove(&self.name);
            }
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
