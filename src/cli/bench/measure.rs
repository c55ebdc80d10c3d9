//! One measurement: sessions are opened and stepped as everybody's are, and the engine's meter is
//! read before and after.

use std::time::Instant;

use serde::Serialize;

use super::super::Outcome;
use crate::engine::{End, Engine, Meter, Session, Settings};
use crate::model::compute::Stage;
use crate::model::sampling::SamplingParams;
use crate::weights::stage::Reading;

/// What was measured, and what came out: of all rounds the one in the middle.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub what: What,
    pub tokens_per_second: f64,
    /// Of weights, each read once in a step whatever the number of tokens.
    pub bytes_per_second: f64,
    pub operations_per_second: f64,
    pub steps: u64,
    pub seconds: f64,
    /// The part of the steps' time in which the lead was not at work in a stage.
    pub outside: f64,
    pub stages: Vec<InStage>,
    pub experts: Option<Experts>,
}

/// Where experts came from, for a model whose experts stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Experts {
    /// The part of the bytes needed that was there when it was needed, and that had been sent for
    /// by a forecast.
    pub hit_rate: f64,
    pub forecast_rate: f64,
    /// Bytes that were missed, that came from disk for any reason, and that came in vain.
    pub missed: u64,
    pub read: u64,
    pub in_vain: u64,
    /// Bytes per second from disk, over all of the time.
    pub bytes_per_second: f64,
    /// The part of the time in which there was nothing to compute.
    pub waited: f64,
}

impl Experts {
    fn of(reading: &Reading, seconds: f64) -> Option<Experts> {
        Some(Experts {
            hit_rate: reading.hit_rate()?,
            forecast_rate: reading.forecast_used as f64 / reading.needed() as f64,
            missed: reading.demanded + reading.forecast_used,
            read: reading.read,
            in_vain: reading.forecast_vain,
            bytes_per_second: reading.read as f64 / seconds,
            waited: reading.waited.as_secs_f64() / seconds,
        })
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Prefill { prompt: usize },
    Decode { context: usize, batch: usize },
}

/// A stage's part in a step.
#[derive(Clone, Debug, Serialize)]
pub struct InStage {
    pub name: &'static str,
    /// Parts of the steps' time: all of it, and the waiting for other shards in it.
    pub taken: f64,
    pub waited: f64,
}

#[derive(Clone, Copy)]
pub struct Decode {
    pub context: usize,
    pub batch: usize,
    pub tokens: usize,
}

impl Run {
    fn new(what: What, tokens: usize, seconds: f64, meter: &Meter) -> Run {
        let steps = meter.taken.as_secs_f64().max(1e-9);
        let part = |time: std::time::Duration| time.as_secs_f64() / steps;
        let stages = Stage::ALL.iter().map(|&stage| InStage {
            name: stage.name(),
            taken: part(meter.tally.taken[stage as usize]),
            waited: part(meter.tally.waited[stage as usize]),
        });
        let stages: Vec<InStage> = stages.filter(|stage| stage.taken > 0.0).collect();
        let at_work: f64 = stages.iter().map(|stage| stage.taken - stage.waited).sum();
        Run {
            what,
            tokens_per_second: tokens as f64 / seconds,
            bytes_per_second: meter.tally.moved as f64 / seconds,
            operations_per_second: meter.tally.operations as f64 / seconds,
            steps: meter.steps,
            seconds,
            outside: 1.0 - at_work,
            stages,
            experts: Experts::of(&meter.reading, seconds),
        }
    }
}

fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs.swap_remove(runs.len() / 2)
}

/// A session on arbitrary tokens, different for each `seed`.
fn session(engine: &mut Engine, len: usize, answer: usize, seed: usize) -> Outcome<Session> {
    let vocab = engine.model().config.vocab;
    let token = |i: usize| ((i * 7919 + seed * 104_729) % vocab) as u32;
    let settings = Settings {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(answer),
        ..Settings::default()
    };
    Ok(engine.open((0..len).map(token).collect(), settings)?)
}

/// A prompt of `prompt` tokens until the first token of its answer.
pub async fn prefill(engine: &mut Engine, prompt: usize, rounds: usize) -> Outcome<Run> {
    let mut runs = Vec::new();
    for round in 0..rounds {
        let mut session = session(engine, prompt, 1, round)?;
        let (before, start) = (engine.meter(), Instant::now());
        while session.end_reason().is_none() {
            engine.step(&mut [&mut session]).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        check(&session)?;
        let meter = engine.meter().since(&before);
        runs.push(Run::new(What::Prefill { prompt }, prompt, seconds, &meter));
    }
    Ok(median(runs))
}

/// Sessions that all have their prompts behind them, token by token.
pub async fn decode(engine: &mut Engine, asked: Decode, rounds: usize) -> Outcome<Run> {
    let Decode { context, batch, tokens } = asked;
    let mut runs = Vec::new();
    for _ in 0..rounds {
        let sessions = (0..batch).map(|seed| session(engine, context, tokens + 1, seed));
        let mut sessions = sessions.collect::<Outcome<Vec<_>>>()?;
        // One that is through with its prompt waits for the others.
        loop {
            let without_answer = sessions.iter_mut().filter(|s| s.answer().is_empty());
            let mut at_prompt: Vec<&mut Session> =
                without_answer.filter(|s| s.end_reason().is_none()).collect();
            if at_prompt.is_empty() {
                break;
            }
            engine.step(&mut at_prompt).await;
        }
        let mut all: Vec<&mut Session> = sessions.iter_mut().collect();
        let (before, start) = (engine.meter(), Instant::now());
        for _ in 0..tokens {
            engine.step(&mut all).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        sessions.iter().try_for_each(check)?;
        let meter = engine.meter().since(&before);
        runs.push(Run::new(What::Decode { context, batch }, batch * tokens, seconds, &meter));
    }
    Ok(median(runs))
}

/// An answer that ended early was not what is measured.
fn check(session: &Session) -> Outcome {
    match session.end_reason() {
        Some(End::Length) => Ok(()),
        other => Err(format!("a measured session ended too early ({other:?})").into()),
    }
}
