//! What a user may ask of sampling, and the bounds of it.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is no limit.
    pub top_k: usize,
    /// 1 is no limit.
    pub top_p: f32,
    /// 0 is no limit.
    pub min_p: f32,
    /// 1 is none.
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at. Without a number, all of them, prompt
    /// included, as in Hugging Face; llama.cpp's habit is 64.
    pub penalty_window: Option<usize>,
    /// Added to the logits of these tokens. Minus infinity forbids a token.
    pub logit_bias: BTreeMap<u32, f32>,
    pub seed: u64,
    /// How many of the likeliest tokens to report at each step, beside the chosen one.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            logit_bias: BTreeMap::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// Most log-probabilities reported at each step, as in the API that clients know.
pub const MAX_LOGPROBS: usize = 20;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {bounds}")]
pub struct ParamError {
    pub name: &'static str,
    pub value: String,
    pub bounds: &'static str,
}

impl SamplingParams {
    pub fn check(&self) -> Result<(), ParamError> {
        let within = |name, value: f32, holds: bool, bounds| match holds {
            true => Ok(()),
            false => Err(ParamError { name, value: value.to_string(), bounds }),
        };
        let t = self.temperature;
        within("temperature", t, (0.0..=100.0).contains(&t), "between 0 and 100")?;
        let p = self.top_p;
        within("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        let m = self.min_p;
        within("min_p", m, (0.0..=1.0).contains(&m), "between 0 and 1")?;
        let r = self.repetition_penalty;
        within("repetition_penalty", r, r > 0.0 && r <= 100.0, "above 0 and at most 100")?;
        for (name, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            within(name, value, value.abs() <= 100.0, "between -100 and 100")?;
        }
        for &bias in self.logit_bias.values() {
            let holds = bias.abs() <= 1e6 || bias == f32::NEG_INFINITY;
            within("logit_bias", bias, holds, "between -1000000 and 1000000, or -inf")?;
        }
        match self.logprobs {
            Some(n) if n > MAX_LOGPROBS => {
                Err(ParamError { name: "logprobs", value: n.to_string(), bounds: "at most 20" })
            }
            _ => Ok(()),
        }
    }
}
