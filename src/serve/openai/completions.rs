//! `/v1/completions`.

use std::rc::Rc;

use serde_json::Value;

use super::super::account::{Attribution, Bill};
use super::super::answers::Answers;
use super::super::fault::Fault;
use super::super::fields::{self, Fields, Result, integer, wrong};
use super::super::headers::{self, Wishes};
use super::super::house::House;
use super::super::reply::{Call, Reply};
use super::super::routes::json;
use super::super::sse;
use super::super::stream::Stream;
use super::super::wanted::Wanted;
use super::logprobs;
use super::telling::{Continuation, TextTeller};
use super::wire::{Head, TextChoice};
use super::{Sending, check_model};
use crate::engine::desk::Update;
use crate::model::channels::Voice;
use crate::model::sampling::MAX_LOGPROBS;

/// Answers of one request, over all its prompts.
const MOST_ANSWERS: usize = 128;
/// What the protocol says of a request that has no limit.
const MAX_TOKENS: usize = 16;

struct Asked {
    prompts: Vec<Vec<u32>>,
    wanted: Wanted,
    sending: Sending,
    echo: bool,
}

pub async fn answer(house: &Rc<House>, call: &Call, request_id: &str) -> Result<Reply> {
    let wishes = Wishes::read(&call.headers)?;
    let body = fields::body(&call.body)?;
    let asked = Asked::read(house, &Fields::of_body(&body))?;
    let head = Head::new(house, "cmpl");
    let bill = Bill::new(asked.prompts.iter().map(Vec::len).collect(), asked.wanted.answers);
    let texts = asked.continuations(house);
    let requests = asked.wanted.requests(house, &wishes, &asked.prompts)?;
    let mut answers = Answers::order(house, &[&head.id, request_id], requests)?;
    let logprobs = asked.wanted.sampling.logprobs.is_some();
    if asked.sending.stream {
        let waited = answers.begin().await?;
        let usage = asked.sending.include_usage;
        let teller = TextTeller::new(Rc::clone(house), head, bill, texts, usage, logprobs);
        let mut reply = sse::reply(Box::new(Stream::new(answers, teller)));
        headers::put_queue_time(&mut reply.headers, waited);
        return Ok(reply);
    }
    whole(house, &head, &mut answers, bill, texts, logprobs).await
}

async fn whole(
    house: &House,
    head: &Head,
    answers: &mut Answers,
    mut bill: Bill,
    mut texts: Vec<Continuation>,
    logprobs: bool,
) -> Result<Reply> {
    let mut written = vec![(String::new(), ""); texts.len()];
    while let Some((at, update)) = answers.next().await {
        match update {
            Update::Started { .. } => {}
            Update::Token { choice, text, voice } => {
                if voice == Voice::Thought {
                    bill.thought();
                }
                written[at].0 += &texts[at].hear(Some(choice), text);
            }
            Update::Ended { end, text, account } => {
                written[at].1 = answers.outcome(at, &end)?.name();
                written[at].0 += &texts[at].hear(None, text);
                bill.take(at, account);
            }
        }
    }
    let told: Vec<_> = texts.iter_mut().map(Continuation::told).collect();
    let tokenizer = &*house.text.tokenizer;
    let mut choices = Vec::new();
    for (index, ((text, reason), told)) in written.iter().zip(&told).enumerate() {
        let logprobs = logprobs.then_some(logprobs::Legacy { tokenizer, told });
        choices.push(TextChoice { index, text, logprobs, finish_reason: Some(*reason) });
    }
    let mut envelope = head.envelope("text_completion", choices);
    envelope.usage = Some(Some(bill.usage()));
    let account = bill.sum();
    envelope.penstock = Some(Attribution::of(&account));
    let mut reply = json(&envelope);
    headers::put_account(&mut reply.headers, &account);
    Ok(reply)
}

impl Asked {
    fn read(house: &House, fields: &Fields) -> Result<Asked> {
        check_model(fields, house)?;
        let mut wanted = Wanted::read(fields, house)?;
        wanted.max_tokens = wanted.max_tokens.or(Some(MAX_TOKENS));
        wanted.sampling.logprobs = logprobs(fields)?;
        let sending = Sending::read(fields)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if echo && wanted.sampling.logprobs.is_some() {
            let what = "cannot be combined with logprobs: those of the prompt are not kept";
            return Err(fields.wrong("echo", what));
        }
        if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            let what = "is not taken: text cannot be filled in before a given end";
            return Err(fields.wrong("suffix", what));
        }
        let best_of = fields.integer("best_of", 1..=i64::MAX)?;
        if best_of.is_some_and(|best_of| best_of != 1) {
            return Err(fields.wrong("best_of", "must be 1; for several answers, use n"));
        }
        let given = fields.get("prompt");
        let missing = || fields.missing("prompt", "a string, a list of strings or token ids");
        let prompts = prompts(house, given.ok_or_else(missing)?)?;
        if prompts.len() * wanted.answers > MOST_ANSWERS {
            let what = format!(
                "has {} prompts of {} answers each; ask for at most {MOST_ANSWERS} in one request",
                prompts.len(),
                wanted.answers
            );
            return Err(fields.wrong("prompt", what));
        }
        Ok(Asked { prompts, wanted, sending, echo })
    }

    fn continuations(&self, house: &House) -> Vec<Continuation> {
        let text = |prompt: &Vec<u32>| self.echo.then(|| house.text.tokenizer.decode(prompt, true));
        let each = |prompt| vec![text(prompt); self.wanted.answers];
        self.prompts.iter().flat_map(each).map(Continuation::new).collect()
    }
}

/// A number of likeliest tokens; some clients say true for the chosen alone.
fn logprobs(fields: &Fields) -> Result<Option<usize>> {
    match fields.get("logprobs") {
        Some(Value::Bool(wanted)) => Ok(wanted.then_some(0)),
        _ => {
            let most = MAX_LOGPROBS as i64;
            Ok(fields.integer("logprobs", 0..=most)?.map(|count| count as usize))
        }
    }
}

/// A prompt is a text or a list of token ids, and there may be a list of either.
fn prompts(house: &House, value: &Value) -> Result<Vec<Vec<u32>>> {
    let list = match value {
        Value::String(_) => return Ok(vec![prompt(house, "prompt".into(), value)?]),
        Value::Array(list) if list.is_empty() => {
            return Err(Fault::field("prompt", "is empty; give a string or token ids"));
        }
        Value::Array(list) => list,
        other => return Err(wrong("prompt", "a string, a list of strings or token ids", other)),
    };
    if list[0].is_number() {
        return Ok(vec![prompt(house, "prompt".into(), value)?]);
    }
    if list.len() > MOST_ANSWERS {
        let what = format!("has {} prompts; give at most {MOST_ANSWERS}", list.len());
        return Err(Fault::field("prompt", what));
    }
    let one = |(at, value)| prompt(house, format!("prompt[{at}]"), value);
    list.iter().enumerate().map(one).collect()
}

fn prompt(house: &House, path: String, value: &Value) -> Result<Vec<u32>> {
    let tokens = match value {
        Value::String(text) => {
            let bad = |error| Fault::field(&*path, format!("cannot be read: {error}"));
            house.text.continue_tokens(text).map_err(bad)?
        }
        Value::Array(list) => ids(house, &path, list)?,
        other => return Err(wrong(path, "a string or a list of token ids", other)),
    };
    if tokens.is_empty() {
        return Err(Fault::field(path, "is empty; there is nothing to continue"));
    }
    if tokens.len() >= house.model.context {
        return Err(Fault::long_prompt(&path, tokens.len(), house.model.context));
    }
    Ok(tokens)
}

/// Token ids of this model.
pub fn ids(house: &House, path: &str, list: &[Value]) -> Result<Vec<u32>> {
    let most = house.model.vocab as i64 - 1;
    let id = |(at, value)| Ok(integer(format!("{path}[{at}]"), value, 0..=most)? as u32);
    list.iter().enumerate().map(id).collect()
}
