//! `/v1/chat/completions`.

use std::rc::Rc;

use serde_json::Value;

use super::super::account::{Attribution, Bill};
use super::super::answers::{Answers, Finish};
use super::super::family::{ChatOptions, Said, Shape};
use super::super::fault::Fault;
use super::super::fields::{self, Fields, Result};
use super::super::headers::{self, Wishes};
use super::super::house::House;
use super::super::reply::{Call, Reply};
use super::super::routes::json;
use super::super::sse;
use super::super::stream::Stream;
use super::super::wanted::Wanted;
use super::logprobs::{self, Told};
use super::speech::{Piece, Speech};
use super::telling::ChatTeller;
use super::tools::Tools;
use super::wire::{self, ChatChoice, Function, Head, Message};
use super::{Sending, check_model, conversation};
use crate::engine::desk::Update;
use crate::model::channels::Voice;
use crate::model::sampling::MAX_LOGPROBS;

/// A request that was found good.
struct Asked {
    prompt: Vec<u32>,
    wanted: Wanted,
    sending: Sending,
    /// No more than one call in one answer.
    single: bool,
}

pub async fn answer(house: &Rc<House>, call: &Call, request_id: &str) -> Result<Reply> {
    let wishes = Wishes::read(&call.headers)?;
    let body = fields::body(&call.body)?;
    let asked = Asked::read(house, &Fields::of_body(&body))?;
    let head = Head::new(house, "chatcmpl");
    let speeches = asked.speeches(house);
    let prompts = [asked.prompt];
    let bill = Bill::new(prompts.iter().map(Vec::len).collect(), asked.wanted.answers);
    let requests = asked.wanted.requests(house, &wishes, &prompts)?;
    let mut answers = Answers::order(house, &[&head.id, request_id], requests)?;
    if asked.sending.stream {
        let waited = answers.begin().await?;
        let logprobs = asked.wanted.sampling.logprobs.is_some();
        let usage = asked.sending.include_usage;
        let teller = ChatTeller::new(Rc::clone(house), head, bill, speeches, usage, logprobs);
        let mut reply = sse::reply(Box::new(Stream::new(answers, teller)));
        headers::put_queue_time(&mut reply.headers, waited);
        return Ok(reply);
    }
    let whole = Whole::gather(&mut answers, bill, speeches).await?;
    Ok(whole.reply(house, &head, asked.wanted.sampling.logprobs.is_some()))
}

impl Asked {
    fn read(house: &House, fields: &Fields) -> Result<Asked> {
        check_model(fields, house)?;
        let messages = conversation::read(fields)?;
        let mut wanted = Wanted::read(fields, house)?;
        wanted.sampling.logprobs = logprobs(fields)?;
        let sending = Sending::read(fields)?;
        let tools = Tools::read(fields)?;
        if let (Some((path, _)), false) = (&wanted.shape, tools.list.is_empty()) {
            let what = "cannot be combined with tools; set tool_choice to \"none\"";
            return Err(Fault::field(path, what));
        }
        if tools.forced {
            wanted.shape = Some((
                "tool_choice".into(),
                Shape::Call { tools: tools.list.clone(), named: tools.named.clone() },
            ));
        }
        let given = (!tools.list.is_empty()).then(|| Value::from(tools.list.clone()));
        let options = ChatOptions { tools: given, extra: conversation::template_fields(fields)? };
        let prompt = house.family.chat_tokens(&house.text, &messages, &options);
        let prompt = prompt.map_err(|reason| fields.wrong("messages", reason))?;
        if prompt.is_empty() {
            return Err(fields.wrong("messages", "have no text to answer"));
        }
        if prompt.len() >= house.model.context {
            return Err(Fault::long_prompt("messages", prompt.len(), house.model.context));
        }
        wanted.tools = tools.list;
        Ok(Asked { prompt, wanted, sending, single: tools.single })
    }

    fn speeches(&self, house: &House) -> Vec<Speech> {
        let tools = &self.wanted.tools;
        let calls = || house.family.calls(tools).filter(|_| !tools.is_empty());
        (0..self.wanted.answers).map(|_| Speech::new(calls(), self.single)).collect()
    }
}

fn logprobs(fields: &Fields) -> Result<Option<usize>> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0..=MAX_LOGPROBS as i64)? {
        Some(top) if wanted => Ok(Some(top as usize)),
        Some(0) | None => Ok(wanted.then_some(0)),
        Some(_) => Err(fields.wrong("top_logprobs", "is only for requests with logprobs: true")),
    }
}

/// What clients are told of an end.
pub fn reason(finish: Finish, speech: &Speech) -> &'static str {
    match finish {
        Finish::Stop if speech.called() => "tool_calls",
        finish => finish.name(),
    }
}

/// All answers, to be sent at once.
struct Whole {
    written: Vec<Written>,
    bill: Bill,
}

#[derive(Default)]
struct Written {
    content: String,
    thoughts: Option<String>,
    calls: Vec<wire::Call>,
    /// The parser's number of each call.
    numbers: Vec<usize>,
    told: Vec<Told>,
    reason: &'static str,
}

impl Whole {
    async fn gather(
        answers: &mut Answers,
        mut bill: Bill,
        mut speeches: Vec<Speech>,
    ) -> Result<Whole> {
        let mut written: Vec<Written> = speeches.iter().map(|_| Written::default()).collect();
        let mut pieces = Vec::new();
        while let Some((at, update)) = answers.next().await {
            match update {
                Update::Started { .. } => {}
                Update::Token { choice, text, voice } => {
                    if voice == Voice::Thought {
                        bill.thought();
                    }
                    speeches[at].hear(choice, text, voice, &mut pieces);
                }
                Update::Ended { end, text, account } => {
                    let finish = answers.outcome(at, &end)?;
                    speeches[at].finish(text, &mut pieces);
                    bill.take(at, account);
                    written[at].reason = reason(finish, &speeches[at]);
                    written[at].told = std::mem::take(&mut speeches[at].told);
                }
            }
            pieces.drain(..).for_each(|piece| written[at].add(piece));
        }
        Ok(Whole { written, bill })
    }

    fn reply(self, house: &House, head: &Head, logprobs: bool) -> Reply {
        let tokenizer = &*house.text.tokenizer;
        let mut choices = Vec::new();
        for (index, written) in self.written.iter().enumerate() {
            let told = &written.told;
            let logprobs = logprobs.then_some(logprobs::Chat { tokenizer, told });
            let (message, finish_reason) = (written.message(), written.reason);
            choices.push(ChatChoice { index, message, logprobs, finish_reason });
        }
        let mut envelope = head.envelope("chat.completion", choices);
        envelope.usage = Some(Some(self.bill.usage()));
        let account = self.bill.sum();
        envelope.penstock = Some(Attribution::of(&account));
        let mut reply = json(&envelope);
        headers::put_account(&mut reply.headers, &account);
        reply
    }
}

impl Written {
    fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Thought(text) => self.thoughts.get_or_insert_default().push_str(&text),
            Piece::Said(Said::Text(text)) => self.content.push_str(&text),
            Piece::Said(Said::Call { index, id, name }) => {
                let function = Function { name: Some(name), arguments: String::new() };
                let kind = Some("function");
                self.calls.push(wire::Call { index: None, id: Some(id), kind, function });
                self.numbers.push(index);
            }
            Piece::Said(Said::Arguments { index, delta }) => {
                if let Some(at) = self.numbers.iter().position(|number| *number == index) {
                    self.calls[at].function.arguments.push_str(&delta);
                }
            }
        }
    }

    fn message(&self) -> Message<'_> {
        let silent = self.content.is_empty() && !self.calls.is_empty();
        Message {
            role: "assistant",
            content: (!silent).then_some(&self.content),
            refusal: (),
            reasoning_content: self.thoughts.as_deref(),
            tool_calls: &self.calls,
        }
    }
}
