//! `/execute` and `/cancel`: a prompt in, events out.
//!
//! The events are `started`, a `token` for each token, and `end` or `error`.

use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::account::{Attribution, Bill, Usage, milliseconds};
use super::answers::{Answers, Finish};
use super::family::ChatOptions;
use super::fault::Fault;
use super::fields::{self, Fields, Result, wrong};
use super::headers::{self, Wishes};
use super::house::House;
use super::openai::completions::ids;
use super::reply::{Call, Reply};
use super::routes::json;
use super::sse::{self, Frames};
use super::stream::{Stream, Teller};
use super::wanted::{Wanted, short};
use crate::engine::desk::Account;
use crate::model::Message;
use crate::model::channels::Voice;
use crate::model::sampling::{Choice, MAX_LOGPROBS};

pub async fn answer(house: &Rc<House>, call: &Call, request_id: &str) -> Result<Reply> {
    let wishes = Wishes::read(&call.headers)?;
    let body = fields::body(&call.body)?;
    let fields = Fields::of_body(&body);
    let mut wanted = Wanted::read(&fields, house)?;
    if wanted.answers != 1 {
        return Err(fields.wrong("n", "must be 1: these events are of one answer"));
    }
    let most = MAX_LOGPROBS as i64;
    wanted.sampling.logprobs = fields.integer("logprobs", 0..=most)?.map(|count| count as usize);
    let prompts = [prompt(house, &fields)?];
    let bill = Bill::new(vec![prompts[0].len()], 1);
    let id = house.new_name("exec");
    let requests = wanted.requests(house, &wishes, &prompts)?;
    let mut answers = Answers::order(house, &[&id, request_id], requests)?;
    let waited = answers.begin().await?;
    let teller = ExecuteTeller { id, bill, prompt_tokens: prompts[0].len() };
    let mut reply = sse::reply(Box::new(Stream::new(answers, teller)));
    headers::put_queue_time(&mut reply.headers, waited);
    Ok(reply)
}

/// A user's message, or with `raw` a text or token ids to continue as they are.
fn prompt(house: &House, fields: &Fields) -> Result<Vec<u32>> {
    let given = fields.get("prompt").ok_or_else(|| fields.missing("prompt", "a string"))?;
    let raw = fields.flag("raw")?.unwrap_or(false);
    let system = fields.string("system")?;
    if raw && system.is_some() {
        return Err(fields.wrong("system", "is only for prompts that are not raw"));
    }
    let unreadable = |reason: String| fields.wrong("prompt", reason);
    let tokens = match given {
        Value::String(text) if raw => {
            house.text.continue_tokens(text).map_err(|error| unreadable(error.to_string()))?
        }
        Value::String(text) => {
            let system = system.map(|text| Message::new("system", text));
            let user = Message::new("user", text.as_str());
            let messages: Vec<_> = system.into_iter().chain([user]).collect();
            let options = ChatOptions::default();
            house.family.chat_tokens(&house.text, &messages, &options).map_err(unreadable)?
        }
        Value::Array(list) if raw => ids(house, "prompt", list)?,
        other if raw => return Err(wrong("prompt", "a string or a list of token ids", other)),
        other => return Err(wrong("prompt", "a string (or token ids with raw)", other)),
    };
    if tokens.is_empty() {
        return Err(fields.wrong("prompt", "is empty; there is nothing to answer"));
    }
    if tokens.len() >= house.model.context {
        return Err(Fault::long_prompt("prompt", tokens.len(), house.model.context));
    }
    Ok(tokens)
}

#[derive(Serialize)]
struct Started<'a> {
    id: &'a str,
    prompt_tokens: usize,
    queue_ms: f64,
}

/// `id` is null for text that was held back until the end.
#[derive(Serialize)]
struct Token<'a> {
    id: Option<u32>,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    voice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<(u32, f32)>>,
}

#[derive(Serialize)]
struct Ended {
    reason: &'static str,
    usage: Usage,
    penstock: Attribution,
}

struct ExecuteTeller {
    id: String,
    bill: Bill,
    prompt_tokens: usize,
}

impl Teller for ExecuteTeller {
    fn started(&mut self, frames: &mut Frames, _: usize, waited: Duration) {
        let ExecuteTeller { id, prompt_tokens, .. } = self;
        let queue_ms = milliseconds(waited);
        frames.event("started", &Started { id, prompt_tokens: *prompt_tokens, queue_ms });
    }

    fn token(&mut self, frames: &mut Frames, _: usize, choice: Choice, text: String, voice: Voice) {
        let is_thought = voice == Voice::Thought;
        if is_thought {
            self.bill.thought();
        }
        let voice = is_thought.then_some("thought");
        let (logprob, top) = match &choice.logprobs {
            None => (None, None),
            Some((chosen, top)) => {
                let top = top.iter().map(|one| (one.id, one.logprob)).collect::<Vec<_>>();
                (Some(chosen.logprob), (!top.is_empty()).then_some(top))
            }
        };
        frames.event("token", &Token { id: Some(choice.id), text: &text, voice, logprob, top });
    }

    fn ended(
        &mut self,
        frames: &mut Frames,
        at: usize,
        outcome: Result<Finish>,
        text: String,
        account: Account,
    ) {
        if !text.is_empty() {
            let held = Token { id: None, text: &text, voice: None, logprob: None, top: None };
            frames.event("token", &held);
        }
        self.bill.take(at, account);
        let reason = match &outcome {
            Ok(finish) => finish.name(),
            Err(fault) if fault.is_cancelled() => "cancelled",
            Err(fault) => return frames.event("error", &fault.envelope()),
        };
        let penstock = Attribution::of(&self.bill.sum());
        frames.event("end", &Ended { reason, usage: self.bill.usage(), penstock });
    }
}

#[derive(Serialize)]
struct Cancelled<'a> {
    id: &'a str,
    cancelled: bool,
}

/// Cancels an answer of any protocol by its id, or by the `X-Request-Id` that it was asked under.
pub fn cancel(house: &House, call: &Call) -> Result<Reply> {
    let body = fields::body(&call.body)?;
    let id = Fields::of_body(&body).needed_string("id")?;
    match house.cancel(id) {
        true => Ok(json(&Cancelled { id, cancelled: true })),
        false => Err(Fault::not_found(format!("no answer {:?} is under way", short(id)))),
    }
}
