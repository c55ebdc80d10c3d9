//! The protocols before a counter that says what it is told to.

mod bad_requests;
mod golden;
mod life;
mod mutants;
mod requests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future::{block_on, poll_fn};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use super::family::{Calls, ChatOptions, Family, Said, Shape};
use super::house::{Counter, House, ModelCard, Updates};
use super::reply::{Body, Call, Reply};
use super::routes;
use crate::engine::desk::{Account, Load, Refusal, Request, Update};
use crate::engine::{End, Settings};
use crate::model::channels::Voice;
use crate::model::sampling::{Choice, LogProb};
use crate::model::tokenizer::{Detokenizer, Special};
use crate::model::{Message, Text, demo};

const CONTEXT: usize = 256;

/// What becomes of one request.
enum Fate {
    Refused(Refusal),
    /// Some texts, and how it ends with what is held back.
    Says(Vec<(Voice, &'static str)>, End, &'static str),
    /// It starts, says something and then nothing more until it is cancelled.
    Hangs(&'static str),
    /// It never leaves the queue.
    Waits,
    /// It ends in the queue.
    Dies(End),
}

/// What the tests see of the engine's side.
#[derive(Default)]
struct Backstage {
    fates: RefCell<VecDeque<Fate>>,
    requests: RefCell<Vec<Request>>,
    load: Cell<Load>,
    /// Requests that are under way, and those of them that were cancelled.
    open: RefCell<Vec<u64>>,
    cancelled: RefCell<Vec<u64>>,
    shapes: RefCell<Vec<Shape>>,
    messages: RefCell<Vec<Message>>,
    options: RefCell<ChatOptions>,
}

struct Fake {
    stage: Rc<Backstage>,
    text: Rc<Text>,
}

struct Script {
    id: u64,
    updates: VecDeque<Update>,
    /// Whether it goes on when these are told.
    endless: bool,
    begun: bool,
    /// Every update comes at the second time of asking.
    asked: bool,
    stage: Rc<Backstage>,
}

impl Counter for Fake {
    fn submit(&self, request: Request) -> Result<Box<dyn Updates>, Refusal> {
        let fate = self.stage.fates.borrow_mut().pop_front();
        let fate = fate.unwrap_or(Fate::Says(vec![(Voice::Answer, "Hello world")], End::Text, ""));
        let id = self.stage.requests.borrow().len() as u64 + 1;
        let mut updates = VecDeque::new();
        let waited = Duration::from_micros(1500);
        let mut endless = false;
        let mut tokens = 0;
        let mut say = |updates: &mut VecDeque<Update>, voice, text: &str| {
            let tokenizer = &self.text.tokenizer;
            let mut detokenizer = Detokenizer::new(tokenizer, true);
            for id in tokenizer.encode(text, Special::Plain, false).unwrap() {
                let mut piece = String::new();
                detokenizer.push(tokenizer, id, &mut piece);
                let top = |count| {
                    (0..count as u32)
                        .map(|i| LogProb { id: id + i, logprob: -0.25 - i as f32 })
                        .collect()
                };
                let chosen = LogProb { id, logprob: -0.25 };
                let logprobs = request.settings.sampling.logprobs.map(|n| (chosen, top(n)));
                tokens += 1;
                let choice = Choice { id, logprobs };
                updates.push_back(Update::Token { choice, text: piece, voice });
            }
        };
        match fate {
            Fate::Refused(refusal) => return Err(refusal),
            Fate::Says(texts, end, held) => {
                updates.push_back(Update::Started { waited });
                texts.iter().for_each(|(voice, text)| say(&mut updates, *voice, text));
                let account = Account {
                    queued: waited,
                    prefill: Duration::from_millis(20),
                    decode: Duration::from_millis(30),
                    disk: Duration::from_millis(12),
                    prompt_tokens: request.prompt.len(),
                    shared_tokens: 1,
                    answer_tokens: tokens,
                    steps: tokens as u64,
                    batch: 2.5,
                    moved: 1000,
                    held: 300,
                    read: 100,
                    ..Account::default()
                };
                updates.push_back(Update::Ended { end, text: held.into(), account });
            }
            Fate::Hangs(text) => {
                updates.push_back(Update::Started { waited });
                say(&mut updates, Voice::Answer, text);
                endless = true;
            }
            Fate::Waits => endless = true,
            Fate::Dies(end) => {
                let (text, account) = (String::new(), Account::default());
                updates.push_back(Update::Ended { end, text, account });
            }
        }
        self.stage.requests.borrow_mut().push(request);
        self.stage.open.borrow_mut().push(id);
        let stage = Rc::clone(&self.stage);
        Ok(Box::new(Script { id, updates, endless, begun: false, asked: false, stage }))
    }

    fn load(&self) -> Load {
        self.stage.load.get()
    }

    fn cancel(&self, id: u64) -> bool {
        let found = self.stage.open.borrow().contains(&id);
        if found {
            self.stage.cancelled.borrow_mut().push(id);
        }
        found
    }
}

impl Updates for Script {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Update>> {
        if self.stage.cancelled.borrow().contains(&self.id) && self.endless {
            self.endless = false;
            let account = Account::default();
            self.updates =
                [Update::Ended { end: End::Cancelled, text: String::new(), account }].into();
        }
        if !std::mem::replace(&mut self.asked, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.asked = self.begun;
        self.begun = true;
        match self.updates.pop_front() {
            None if self.endless => Poll::Pending,
            update => Poll::Ready(update),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stage.open.borrow_mut().retain(|id| *id != self.id);
    }
}

/// A family whose calls are written `@name{arguments}@`.
struct At(Rc<Backstage>);

impl Family for At {
    fn chat_tokens(
        &self,
        text: &Text,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, String> {
        *self.0.messages.borrow_mut() = messages.to_vec();
        *self.0.options.borrow_mut() = options.clone();
        if options.extra.contains_key("refuse") {
            return Err("the chat template refuses these messages: as told".into());
        }
        text.chat_tokens(messages).map_err(|error| error.to_string())
    }

    fn bind(&self, shape: &Shape, _: &mut Settings) -> Result<(), String> {
        self.0.shapes.borrow_mut().push(shape.clone());
        match shape {
            Shape::Regex(text) if text.ends_with('(') => Err("unclosed group".into()),
            _ => Ok(()),
        }
    }

    fn equip(&self, _: &[Value], _: &mut Settings) -> Result<(), String> {
        Ok(())
    }

    fn calls(&self, _: &[Value]) -> Option<Box<dyn Calls>> {
        Some(Box::new(AtCalls::default()))
    }
}

#[derive(Default)]
struct AtCalls {
    held: String,
    index: usize,
    within: bool,
}

impl Calls for AtCalls {
    fn push(&mut self, text: &str, said: &mut Vec<Said>) {
        self.held += text;
        loop {
            let wanted = if self.within { "}@" } else { "{" };
            let at = match (self.within, self.held.find('@')) {
                (false, None) => {
                    said.push(Said::Text(std::mem::take(&mut self.held)));
                    return;
                }
                _ => self.held.find(wanted),
            };
            let Some(at) = at else { return };
            if self.within {
                let delta = self.held[..=at].to_owned();
                said.push(Said::Arguments { index: self.index, delta });
                self.held = self.held[at + 2..].to_owned();
                self.index += 1;
            } else {
                let mark = self.held.find('@').unwrap();
                let name = self.held[mark + 1..at].to_owned();
                said.push(Said::Text(self.held[..mark].to_owned()));
                let id = format!("call_{}", self.index);
                said.push(Said::Call { index: self.index, id, name });
                self.held = self.held[at..].to_owned();
            }
            self.within = !self.within;
        }
    }

    fn finish(&mut self, said: &mut Vec<Said>) {
        said.push(Said::Text(std::mem::take(&mut self.held)));
    }
}

fn text() -> Rc<Text> {
    thread_local!(static TEXT: Rc<Text> = Rc::new(Text::open(&demo::source().unwrap()).unwrap()));
    TEXT.with(Rc::clone)
}

/// A house with what goes on behind its counter.
fn house() -> (Rc<House>, Rc<Backstage>) {
    let stage = Rc::new(Backstage::default());
    let model = ModelCard {
        id: "demo".into(),
        aliases: vec!["demo-q4.gguf".into(), "our/demo".into()],
        created: 1_700_000_000,
        context: CONTEXT,
        vocab: text().tokenizer.vocab_size(),
        fingerprint: "fp_demo".into(),
    };
    let counter = Box::new(Fake { stage: Rc::clone(&stage), text: text() });
    let family = Box::new(At(Rc::clone(&stage)));
    let metrics = Box::new(|| "# TYPE penstock_up gauge\npenstock_up 1\n".to_owned());
    let house = House::new(counter, text(), family, model, metrics);
    house.ready.set(true);
    (Rc::new(house), stage)
}

fn call(method: &str, path: &str, body: impl Into<Vec<u8>>) -> Call {
    let body = hyper::body::Bytes::from(body.into());
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    Call { method, path: path.into(), headers: HeaderMap::new(), body }
}

fn post(path: &str, body: &Value) -> Call {
    call("POST", path, body.to_string())
}

fn with(mut call: Call, name: &'static str, value: &str) -> Call {
    call.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    call
}

/// A reply that has come in whole, events included.
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The events' data that are JSON.
    fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|d| serde_json::from_str(d).unwrap()).collect()
    }
}

fn see(reply: Reply) -> Seen {
    let body = match reply.body {
        Body::Whole(bytes) => bytes.to_vec(),
        Body::Events(mut events) => block_on(async {
            let mut all = Vec::new();
            while let Some(chunk) = poll_fn(|context| events.poll_next(context)).await {
                all.extend_from_slice(&chunk);
            }
            all
        }),
    };
    let body = String::from_utf8(body).unwrap();
    Seen { status: reply.status.as_u16(), headers: reply.headers, body }
}

fn ask(house: &Rc<House>, call: Call) -> Seen {
    see(block_on(routes::answer(house, call)))
}

/// A good chat request.
fn chat() -> Value {
    json!({ "model": "demo", "messages": [{ "role": "user", "content": "Hi" }] })
}

/// An object with some fields set anew.
fn set(base: &Value, fields: Value) -> Value {
    let mut base = base.clone();
    for (name, value) in fields.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}
