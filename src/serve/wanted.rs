//! How an answer is wanted: the fields that all protocols share.

use std::rc::Rc;

use serde_json::Value;

use super::family::Shape;
use super::fault::Fault;
use super::fields::{self, Fields, Result, texts, wrong};
use super::headers::{self, Wishes};
use super::house::House;
use crate::engine::Settings;
use crate::engine::desk::Request;
use crate::engine::scheduler::Priority;
use crate::model::sampling::{ParamError, SamplingParams};

/// Answers to one prompt.
const MOST_ANSWERS: i64 = 16;
/// Stop strings of one request, and bytes of each.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 4096;
/// Texts of which a `guided_choice` chooses.
const MOST_CHOICES: usize = 1000;

pub struct Wanted {
    /// Its seed is not yet set.
    pub sampling: SamplingParams,
    /// `None`: another one for every answer.
    pub seed: Option<u64>,
    pub answers: usize,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    pub ignore_end: bool,
    pub priority: Option<Priority>,
    /// What the answer must look like, and the field that says so.
    pub shape: Option<(String, Shape)>,
    /// What the answer may call.
    pub tools: Vec<Value>,
}

impl Wanted {
    pub fn read(fields: &Fields, house: &House) -> Result<Wanted> {
        let defaults = SamplingParams::default();
        let number = |name, default| Ok(fields.number(name)?.unwrap_or(default));
        let sampling = SamplingParams {
            temperature: number("temperature", defaults.temperature)?,
            // Some clients turn it off by -1.
            top_k: fields.integer("top_k", -1..=i64::MAX)?.map_or(0, |k| k.max(0) as usize),
            top_p: number("top_p", defaults.top_p)?,
            min_p: number("min_p", defaults.min_p)?,
            repetition_penalty: number("repetition_penalty", defaults.repetition_penalty)?,
            presence_penalty: number("presence_penalty", defaults.presence_penalty)?,
            frequency_penalty: number("frequency_penalty", defaults.frequency_penalty)?,
            logit_bias: Default::default(),
            ..defaults
        };
        sampling.check().map_err(|error| bounds(error.name, &error))?;
        let mut wanted = Wanted {
            sampling,
            seed: seed(fields)?,
            answers: fields.integer("n", 1..=MOST_ANSWERS)?.unwrap_or(1) as usize,
            max_tokens: max_tokens(fields)?,
            stop: stop(fields)?,
            ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
            priority: priority(fields)?,
            shape: shape(fields)?,
            tools: Vec::new(),
        };
        wanted.bias(fields, house.model.vocab)?;
        Ok(wanted)
    }

    fn bias(&mut self, fields: &Fields, vocab: usize) -> Result<()> {
        let Some(value) = fields.get("logit_bias") else { return Ok(()) };
        let Value::Object(map) = value else {
            return Err(wrong(
                fields.path("logit_bias"),
                "an object of token ids to numbers",
                value,
            ));
        };
        for (token, by) in map {
            let path = || format!("logit_bias.{}", short(token));
            let id = token.parse().ok().filter(|&id: &u32| (id as usize) < vocab);
            let bad = || Fault::field(path(), format!("is no token id below {vocab}"));
            let id = id.ok_or_else(bad)?;
            let by = by.as_f64().ok_or_else(|| wrong(path(), "a number", by))? as f32;
            let alone =
                SamplingParams { logit_bias: [(id, by)].into(), ..SamplingParams::default() };
            alone.check().map_err(|error| bounds(path(), &error))?;
            self.sampling.logit_bias.insert(id, by);
        }
        Ok(())
    }

    /// The settings of all answers, but for their seeds.
    fn settings(&self, house: &House) -> Result<Settings> {
        let mut settings = Settings {
            sampling: self.sampling.clone(),
            max_tokens: self.max_tokens,
            tokenizer: Some(Rc::clone(&house.text.tokenizer)),
            ignore_end: self.ignore_end,
            ..Settings::default()
        };
        settings.stop.clone_from(&self.stop);
        if !self.tools.is_empty() {
            let equipped = house.family.equip(&self.tools, &mut settings);
            equipped.map_err(|reason| Fault::field("tools", reason))?;
        }
        if let Some((path, shape)) = &self.shape {
            let bound = house.family.bind(shape, &mut settings);
            bound.map_err(|reason| Fault::field(path, reason))?;
        }
        Ok(settings)
    }

    /// One request to the engine for every answer, those of one prompt one after the other. Of a
    /// seed that is given, each answer has the one that follows, so that the first is the same as
    /// alone.
    pub fn requests(
        &self,
        house: &House,
        wishes: &Wishes,
        prompts: &[Vec<u32>],
    ) -> Result<Vec<Request>> {
        let settings = self.settings(house)?;
        let request = |prompt: &Vec<u32>, at: u64| {
            let mut settings = settings.clone();
            settings.sampling.seed = match self.seed {
                Some(seed) => seed.wrapping_add(at),
                None => house.draw(),
            };
            Request {
                prompt: prompt.clone(),
                settings,
                priority: wishes.priority.or(self.priority).unwrap_or_default(),
                batching: wishes.batching,
                max_wait: wishes.max_wait,
            }
        };
        let each = |prompt| (0..self.answers as u64).map(move |at| request(prompt, at));
        Ok(prompts.iter().flat_map(each).collect())
    }
}

fn bounds(path: impl Into<String>, error: &ParamError) -> Fault {
    Fault::field(path, format!("is {}, but must be {}", error.value, error.bounds))
}

fn seed(fields: &Fields) -> Result<Option<u64>> {
    match fields.get("seed") {
        Some(value) if value.is_u64() => Ok(value.as_u64()),
        // Negative seeds are as good as others.
        _ => Ok(fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64)),
    }
}

/// It had an older name, and still has it in completions.
fn max_tokens(fields: &Fields) -> Result<Option<usize>> {
    let newer = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
    let older = fields.integer("max_tokens", 1..=i64::MAX)?;
    if let (Some(newer), Some(older)) = (newer, older)
        && newer != older
    {
        let what = format!("is {older}, but max_completion_tokens is {newer}; give one of them");
        return Err(fields.wrong("max_tokens", what));
    }
    Ok(newer.or(older).map(|most| most as usize))
}

fn stop(fields: &Fields) -> Result<Vec<String>> {
    let Some(value) = fields.get("stop") else { return Ok(Vec::new()) };
    let stops = texts("stop", value)?;
    if stops.len() > MOST_STOPS {
        let what = format!("has {} strings; give at most {MOST_STOPS}", stops.len());
        return Err(fields.wrong("stop", what));
    }
    let mut strings = Vec::new();
    for (path, text) in stops {
        if text.is_empty() {
            return Err(Fault::field(path, "is empty; leave it out"));
        }
        if text.len() > LONGEST_STOP {
            let what = format!("has {} bytes; give at most {LONGEST_STOP}", text.len());
            return Err(Fault::field(path, what));
        }
        strings.push(text.to_owned());
    }
    Ok(strings)
}

fn priority(fields: &Fields) -> Result<Option<Priority>> {
    let Some(word) = fields.string("priority")? else { return Ok(None) };
    let bad = || fields.wrong("priority", format!("is {word:?}, but must be high, medium or low"));
    headers::priority(word).ok_or_else(bad).map(Some)
}

/// The fields that ask for a form. Only one of them may.
const SHAPES: [&str; 6] = [
    "response_format",
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_grammar",
    "guided_choice",
];

fn shape(fields: &Fields) -> Result<Option<(String, Shape)>> {
    let mut found: Option<(String, Shape)> = None;
    for name in SHAPES {
        let Some(value) = fields.get(name) else { continue };
        let shape = match name {
            "response_format" => response_format(value)?,
            "grammar" => Some(grammar(value)?),
            "guided_json" => Some((name.into(), schema(name.into(), value)?)),
            "guided_choice" => Some((name.into(), choice(value)?)),
            "guided_regex" => {
                Some((name.into(), Shape::Regex(fields.needed_string(name)?.to_owned())))
            }
            _ => Some((name.into(), Shape::Lark(fields.needed_string(name)?.to_owned()))),
        };
        if let (Some((before, _)), Some(_)) = (&found, &shape) {
            return Err(fields.wrong(name, format!("cannot be combined with {before}")));
        }
        found = found.or(shape);
    }
    Ok(found)
}

fn response_format(value: &Value) -> Result<Option<(String, Shape)>> {
    let path = "response_format";
    let format = Fields::at(path, value)?;
    match format.needed_string("type")? {
        "text" => Ok(None),
        "json_object" => Ok(Some((path.into(), Shape::JsonObject))),
        "json_schema" => {
            let inner = format.object("json_schema")?;
            let inner = inner.ok_or_else(|| format.missing("json_schema", "an object"))?;
            let found = inner.get("schema");
            let found = found.ok_or_else(|| inner.missing("schema", "a JSON schema"))?;
            let path = inner.path("schema");
            Ok(Some((path.clone(), schema(path, found)?)))
        }
        other => {
            let what =
                format!("is {:?}, but must be text, json_object or json_schema", short(other));
            Err(format.wrong("type", what))
        }
    }
}

/// A schema, as it is or as text.
fn schema(path: String, value: &Value) -> Result<Shape> {
    let parsed;
    let found = match value {
        Value::String(text) => {
            let bad = |error| Fault::field(&*path, format!("is not valid JSON: {error}"));
            parsed = serde_json::from_str(text).map_err(bad)?;
            &parsed
        }
        other => other,
    };
    match found {
        Value::Object(_) => Ok(Shape::JsonSchema(found.clone())),
        other => Err(wrong(path, "a JSON schema, which is an object", other)),
    }
}

/// Lark as a string, or an object that says which kind it is.
fn grammar(value: &Value) -> Result<(String, Shape)> {
    if let Value::String(lark) = value {
        return Ok(("grammar".into(), Shape::Lark(lark.clone())));
    }
    if !value.is_object() {
        return Err(wrong("grammar", "a Lark grammar, {\"lark\": …} or {\"regex\": …}", value));
    }
    let fields = Fields::at("grammar", value)?;
    match (fields.string("lark")?, fields.string("regex")?) {
        (Some(lark), None) => Ok((fields.path("lark"), Shape::Lark(lark.to_owned()))),
        (None, Some(regex)) => Ok((fields.path("regex"), Shape::Regex(regex.to_owned()))),
        _ => Err(Fault::field("grammar", "must have one of lark and regex")),
    }
}

/// One of some texts, which is a regular expression.
fn choice(value: &Value) -> Result<Shape> {
    let path = "guided_choice";
    let Value::Array(list) = value else { return Err(wrong(path, "a list of strings", value)) };
    if list.is_empty() || list.len() > MOST_CHOICES {
        let what = format!("has {} strings; give 1 to {MOST_CHOICES}", list.len());
        return Err(Fault::field(path, what));
    }
    let texts = fields::texts(path, value)?;
    let escaped: Vec<_> = texts.iter().map(|(_, text)| escape(text)).collect();
    Ok(Shape::Regex(format!("(?:{})", escaped.join("|"))))
}

/// A regular expression of this text alone.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// The beginning of what a client wrote, for a sentence about it.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
