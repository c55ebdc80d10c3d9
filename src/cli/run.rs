//! `penstock run`: one answer, or a conversation.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use serde_json::json;

use super::open::Wish;
use super::out::note;
use super::signals::Stop;
use super::tokenize::token_json;
use super::{Compute, Outcome, Usage, chat, counted, open, positive, read, whole};
use crate::base::units::Bytes;
use crate::engine::{End, Engine, Session, Settings, What};
use crate::model::channels::Voice;
use crate::model::config::Config;
use crate::model::sampling::{Choice, LogProb, SamplingParams};
use crate::model::{Message, Text};
use crate::shard::Lead;
use crate::weights::stage::Reading;

/// Write an answer to a prompt, or chat on a terminal
///
/// Without MODEL the demo model inside this program answers. Without PROMPT, a prompt is read
/// from standard input when it is piped; on a terminal a conversation begins (/help lists its
/// commands). The answer goes to standard output, everything else to standard error, whose last
/// line says how fast it was.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  penstock run demo                                  a conversation
  penstock run demo \"Tell me a story\" -n 100 -t 0    the same story each time
  git diff | penstock run MODEL --system \"Write a commit message for this.\"
  penstock run MODEL --json --logprobs 5 -- \"- a prompt that begins with a dash\"")]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    #[arg(default_value = "demo", hide_default_value = true)]
    model: String,

    /// What to answer; one that begins with a dash goes after `--`
    prompt: Option<String>,

    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,

    /// A system message to begin with
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    system: Option<String>,

    /// Print one JSON object instead of streaming text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sampling: Sampling,

    /// Tokens to write at most [default: until the answer ends or the context is full]
    #[arg(long, short = 'n', value_name = "N", value_parser = positive)]
    #[arg(allow_negative_numbers = true)]
    max_tokens: Option<usize>,

    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,

    /// Positions to make room for [default: as many as the model was trained for, if memory
    /// allows]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,

    #[command(flatten)]
    compute: Compute,
}

/// How tokens are chosen.
#[derive(clap::Args)]
#[command(next_help_heading = "How tokens are chosen", allow_negative_numbers = true)]
struct Sampling {
    /// 0 takes the likeliest token each time; higher is more varied
    #[arg(long, short = 't', value_name = "T", default_value_t = 0.7)]
    #[arg(value_parser = checked(|p, t| p.temperature = t))]
    temperature: f32,

    /// Choose among this many likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = whole::<usize>)]
    top_k: usize,

    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    #[arg(value_parser = checked(|p, top_p| p.top_p = top_p))]
    top_p: f32,

    /// Leave out tokens less likely than this share of the likeliest one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    #[arg(value_parser = checked(|p, min_p| p.min_p = min_p))]
    min_p: f32,

    /// Make tokens that occurred less likely by this factor; 1 is none
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    #[arg(value_parser = checked(|p, penalty| p.repetition_penalty = penalty))]
    repetition_penalty: f32,

    /// Take this off the logit of tokens that occurred
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    #[arg(value_parser = checked(|p, penalty| p.presence_penalty = penalty))]
    presence_penalty: f32,

    /// Take this off for each time a token occurred
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    #[arg(value_parser = checked(|p, penalty| p.frequency_penalty = penalty))]
    frequency_penalty: f32,

    /// Add to a token's logit (-inf forbids it); may be given several times
    #[arg(long, value_name = "ID=X", value_parser = bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,

    /// The same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>)]
    seed: u64,

    /// With --json: log-probabilities of the chosen token and of this many others
    #[arg(long, value_name = "N", requires = "json", value_parser = logprobs)]
    logprobs: Option<usize>,
}

/// A number within the bounds that sampling has for it.
fn checked(
    set: impl Fn(&mut SamplingParams, f32) + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = text.parse().map_err(|_| "expected a number")?;
        within(|params| set(params, value))?;
        Ok(value)
    }
}

fn within(set: impl FnOnce(&mut SamplingParams)) -> Result<(), String> {
    let mut params = SamplingParams::default();
    set(&mut params);
    params.check().map_err(|e| format!("it must be {}", e.bounds))
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parse = || {
        let (id, by) = text.split_once('=')?;
        Some((id.trim().parse().ok()?, by.trim().parse().ok()?))
    };
    let pair = parse().ok_or("expected a token id and a number, as in 42=-1.5")?;
    within(|params| params.logit_bias.extend([pair]))?;
    Ok(pair)
}

fn logprobs(text: &str) -> Result<usize, String> {
    let count = whole(text)?;
    within(|params| params.logprobs = Some(count))?;
    Ok(count)
}

impl Sampling {
    fn params(&self) -> Outcome<SamplingParams> {
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().copied().collect(),
            seed: self.seed,
            logprobs: self.logprobs,
            ..SamplingParams::default()
        };
        params.check()?;
        Ok(params)
    }
}

pub fn run(args: Args) -> Outcome {
    args.compute.clone().seated(|lead| answer(args, lead))
}

async fn answer(args: Args, lead: Lead) -> Outcome {
    // One positional that cannot be a path is a prompt for the demo model.
    let (model, prompt) = match (args.model, args.prompt) {
        (only, None) if is_prose(&only) => ("demo".to_string(), Some(only)),
        both => both,
    };
    let chatting = prompt.is_none() && io::stdin().is_terminal();
    if chatting && args.json {
        return Err(Usage("--json needs a prompt, as an argument or piped").into());
    }
    let sampling = args.sampling.params()?;
    let source = open::source(&model).map_err(|error| match prompt {
        None if !model.is_empty() && !Path::new(&model).exists() => {
            format!("{error}; to ask the demo model, write `penstock run demo {model:?}`").into()
        }
        _ => error,
    })?;
    let text = open::text(&source)?;
    let model_of = open::model(&source)?;
    let wish = Wish { context: args.context, sessions: 1, ..Wish::default() };
    let mut engine = open::engine(&source, model_of, &args.compute.how, wish, lead).await?;
    let Config { vocab, context: trained, .. } = engine.model().config;
    if engine.context() > trained {
        note!("penstock: the model was trained for {trained} positions; beyond them it may ramble");
    }
    if let Some((id, _)) = args.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
        return Err(format!("--logit-bias: token {id} is not in the vocabulary of {vocab}").into());
    }
    let settings = Settings {
        sampling,
        max_tokens: args.max_tokens,
        stop: args.stop,
        tokenizer: Some(Rc::clone(&text.tokenizer)),
        ..Settings::default()
    };
    if chatting {
        let (system, raw) = (args.system, args.raw);
        let chatted = chat::chat(&model, &mut engine, &text, settings, system, raw).await;
        let closed = open::close(&mut engine, &args.compute.how);
        return chatted.and(closed);
    }

    let prompt = match prompt {
        Some(prompt) => prompt,
        None => read::stdin()?,
    };
    let tokens = match args.raw {
        true => text.continue_tokens(&prompt)?,
        false if prompt.trim().is_empty() => return Err("the prompt is empty".into()),
        false => {
            let system = args.system.map(|text| Message::new("system", text));
            let messages: Vec<_> =
                system.into_iter().chain([Message::new("user", prompt)]).collect();
            text.chat_tokens(&messages)?
        }
    };
    let mut session = engine.open(tokens, settings)?;
    // Not before standard input was read: until then the signals themselves are right.
    let stop = Stop::on_any()?;
    let mut answer = Answer::default();
    let mut out = io::stdout().lock();
    let show = |voice, piece: &str| match args.json {
        true => Ok(()),
        false => say(&mut out, voice, piece),
    };
    let written = answer.write(&mut engine, &mut session, &stop, show).await;
    let closed = open::close(&mut engine, &args.compute.how);
    written?;
    closed?;
    if args.json {
        writeln!(out, "{}", answer.json(&text))?;
    } else {
        writeln!(out)?;
    }
    note!("{}", answer.line());
    match answer.end {
        Some(End::Cancelled) => Err(stop.interrupted().into()),
        Some(End::ContextFull) => {
            let room = engine.context();
            note!("penstock: the context of {room} tokens is full; --context makes more room");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether a word on the command line is meant for the model rather than for the file system.
/// "what is 1/2" is, "old models/llama" is not where there is such a folder.
fn is_prose(word: &str) -> bool {
    let path = Path::new(word);
    let in_a_folder = path.parent().is_some_and(|p| !p.as_os_str().is_empty() && p.exists());
    word.contains(char::is_whitespace)
        && !word.starts_with(['/', '~'])
        && !word.starts_with("./")
        && !word.starts_with("../")
        && !word.ends_with(".gguf")
        && !in_a_folder
        && !path.exists()
}

/// Shows a piece of an answer as it comes: thoughts beside it, on standard error.
pub fn say(out: &mut impl Write, voice: Voice, piece: &str) -> io::Result<()> {
    match voice {
        Voice::Answer => {
            out.write_all(piece.as_bytes())?;
            out.flush()
        }
        Voice::Thought | Voice::Call => {
            let mut err = io::stderr();
            // A thought that cannot be shown is not worth an answer.
            let _ = match err.is_terminal() {
                true => write!(err, "\x1b[2m{piece}\x1b[0m"),
                false => err.write_all(piece.as_bytes()),
            };
            Ok(())
        }
    }
}

/// An answer as it was written, and how fast.
#[derive(Default)]
pub struct Answer {
    pub text: String,
    thoughts: String,
    pub end: Option<End>,
    prompt_tokens: usize,
    /// Of the prompt, those an earlier answer had computed.
    kept_tokens: usize,
    tokens: Vec<Choice>,
    prefill_seconds: f64,
    decode_seconds: f64,
    moved: u64,
    /// Of experts, where they stream, and bytes per second that their drive gives.
    reading: Reading,
}

impl Answer {
    /// Runs a session to its end; `stop` cancels it at the next token.
    pub async fn write(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        stop: &Stop,
        mut show: impl FnMut(Voice, &str) -> io::Result<()>,
    ) -> Outcome {
        let before = engine.meter();
        let start = Instant::now();
        let (mut first, mut speaking) = (None, Voice::Answer);
        self.prompt_tokens = session.tokens().len();
        self.kept_tokens = self.prompt_tokens;
        let mut last = start;
        while session.end_reason().is_none() {
            let mut events = engine.step(&mut [&mut *session]).await;
            if first.is_none() {
                let computed = (engine.meter().rows - before.rows) as usize;
                self.kept_tokens = self.prompt_tokens.saturating_sub(computed);
            }
            if stop.take() {
                events.extend(session.cancel());
            }
            for event in events {
                let (voice, piece) = match event.what {
                    What::Prefilled { .. } => continue,
                    What::Token { choice, text, voice } => {
                        last = Instant::now();
                        first.get_or_insert(last);
                        self.tokens.push(choice);
                        (voice, text)
                    }
                    What::Ended { end, text } => {
                        // The step that ends a text yields no token to count.
                        if first.is_none() {
                            last = Instant::now();
                        }
                        self.end = Some(end);
                        (Voice::Answer, text)
                    }
                };
                if speaking != Voice::Answer && (voice == Voice::Answer || self.end.is_some()) {
                    show(speaking, "\n")?;
                    speaking = Voice::Answer;
                }
                if !piece.is_empty() {
                    speaking = voice;
                    show(voice, &piece)?;
                    match voice {
                        Voice::Answer => self.text += &piece,
                        Voice::Thought | Voice::Call => self.thoughts += &piece,
                    }
                }
            }
        }
        let first = first.unwrap_or(last);
        self.prefill_seconds = (first - start).as_secs_f64();
        self.decode_seconds = (last - first).as_secs_f64();
        let done = engine.meter().since(&before);
        (self.moved, self.reading) = (done.tally.moved, done.reading);
        match &self.end {
            Some(End::Failed(error)) => Err(error.clone().into()),
            Some(End::Lost(reason)) => Err(reason.as_str().into()),
            _ => Ok(()),
        }
    }

    fn prefill_rate(&self) -> f64 {
        (self.prompt_tokens - self.kept_tokens) as f64 / self.prefill_seconds.max(1e-9)
    }

    /// Of the tokens after the first, which the prompt's own step yields.
    fn decode_rate(&self) -> Option<f64> {
        let tokens = self.tokens.len().saturating_sub(1);
        (tokens > 0).then(|| tokens as f64 / self.decode_seconds.max(1e-9))
    }

    fn gigabytes_per_second(&self) -> f64 {
        self.moved as f64 / 1e9 / (self.prefill_seconds + self.decode_seconds).max(1e-9)
    }

    /// The line that ends every answer.
    pub fn line(&self) -> String {
        let kept = match self.kept_tokens {
            0 => String::new(),
            kept => format!(" ({kept} kept)"),
        };
        let decode = self.decode_rate().map_or(String::new(), |rate| format!(", {rate:.1} tok/s"));
        format!(
            "prompt {}{kept}, {:.1} tok/s; answer {}{decode}; {:.2} GB/s of weights{}",
            counted(self.prompt_tokens, "token"),
            self.prefill_rate(),
            counted(self.tokens.len(), "token"),
            self.gigabytes_per_second(),
            self.of_disk(),
        )
    }

    /// Where the experts came from.
    fn of_disk(&self) -> String {
        let Some(hits) = self.reading.hit_rate() else { return String::new() };
        let seconds = self.prefill_seconds + self.decode_seconds;
        let waited = self.reading.waited.as_secs_f64();
        format!(
            "; experts: {:.0}% in memory, {} read at {:.2} GB/s, {:.0}% of the time waited for",
            100.0 * hits,
            Bytes(self.reading.read),
            self.reading.read as f64 / 1e9 / seconds.max(1e-9),
            100.0 * waited / seconds.max(1e-9),
        )
    }

    fn json(&self, text: &Text) -> serde_json::Value {
        let entry = |p: &LogProb| {
            let mut token = token_json(&text.tokenizer, p.id);
            token["logprob"] = json!(p.logprob);
            token
        };
        let tokens: Vec<_> = self
            .tokens
            .iter()
            .map(|choice| match &choice.logprobs {
                None => json!(choice.id),
                Some((chosen, top)) => {
                    let mut entry_of_chosen = entry(chosen);
                    entry_of_chosen["top"] = top.iter().map(entry).collect();
                    entry_of_chosen
                }
            })
            .collect();
        json!({
            "text": self.text,
            "thoughts": self.thoughts,
            "end": self.end.as_ref().map(end_name),
            "tokens": tokens,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.tokens.len(),
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "prefill_tokens_per_second": self.prefill_rate(),
            "decode_tokens_per_second": self.decode_rate(),
            "weight_bytes_read": self.moved,
            "gigabytes_per_second": self.gigabytes_per_second(),
            "experts": self.reading.hit_rate().map(|hits| json!({
                "hit_rate": hits,
                "bytes_in_memory": self.reading.held,
                "bytes_forecast_and_used": self.reading.forecast_used,
                "bytes_forecast_in_vain": self.reading.forecast_vain,
                "bytes_demanded": self.reading.demanded,
                "bytes_read": self.reading.read,
                "seconds_waited_for_disk": self.reading.waited.as_secs_f64(),
            })),
        })
    }
}

fn end_name(end: &End) -> &'static str {
    match end {
        End::Text | End::Stop => "stop",
        End::Length | End::ContextFull | End::NoPages => "length",
        End::Cancelled => "cancelled",
        End::Expired => "expired",
        End::Failed(_) | End::Lost(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_told_from_paths() {
        for prose in ["Tell me a story", "what is 1/2 of 10?", "and/or else", "a b"] {
            assert!(is_prose(prose), "{prose}");
        }
        for path in
            ["demo", "Hello", "my model.gguf", "/no such/folder", "./a b", "~/a b", "src/a b"]
        {
            assert!(!is_prose(path), "{path}");
        }
    }
}
