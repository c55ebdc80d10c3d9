//! The smaller model that `serve --draft` names: whether it fits the other one, and in how much
//! memory.

use std::rc::Rc;

use super::{How, Outcome, open};
use crate::base::units::Bytes;
use crate::engine::scheduler::DRAFT_ROWS;
use crate::engine::{Drafter, Engine, Options};
use crate::math::KvFormat;
use crate::model::{Model, Text};
use crate::plan::{Ask, Facts, Plan};
use crate::weights::Source;

/// Positions for what it reads along, unless the context that was asked for is smaller.
const CONTEXT: usize = 8192;
/// Tokens that it reads in one step.
const CHUNK: usize = 256;

/// A model that is to guess for another one.
pub struct Draft {
    source: Source,
    model: Rc<Model>,
    plan: Plan,
}

impl Draft {
    /// Opens the headers of `small`, and plans for all of it in memory. What it would guess for is
    /// `model`, whose tokens are those of `text`.
    pub fn open(
        small: &str,
        text: &Text,
        model: &Model,
        context: Option<usize>,
        cores: usize,
        kv: KvFormat,
    ) -> Outcome<Draft> {
        let source = open::source(small)?;
        let name = open::name(&source).into_owned();
        let own = open::model(&source)?;
        if let Some(difference) = difference(&open::text(&source)?, text, &own, model) {
            return Err(format!(
                "--draft {name}: {difference}; a model can only guess for one with the same \
                 vocabulary"
            )
            .into());
        }
        let facts = Facts::of(&name, &own);
        let trained = own.config.context.min(model.config.context);
        let ask = Ask {
            context: Some(context.unwrap_or(CONTEXT).min(trained.saturating_mul(DRAFT_ROWS))),
            prefill_chunk: Some(CHUNK),
            sessions: DRAFT_ROWS,
            cores,
            kv,
            ..Ask::default()
        };
        let memory = Some(Plan::enough(&ask, &facts));
        let plan = Plan::new(&Ask { memory, ..ask }, &facts);
        let plan = plan.map_err(|refusal| format!("--draft {name}: {refusal}"))?;
        Ok(Draft { source, model: own, plan })
    }

    /// What it takes of the memory.
    pub fn bytes(&self) -> u64 {
        self.plan.total()
    }

    /// For the screen at the start.
    pub fn line(&self) -> String {
        format!(
            "by {}: {}, {} positions",
            open::name(&self.source),
            Bytes(self.bytes()),
            self.plan.context
        )
    }

    /// Brings it into memory.
    pub async fn drafter(self, how: &How, big: &mut Engine) -> Outcome<Drafter> {
        let options = Options {
            kv: self.plan.kv,
            isa: how.isa,
            prefill_chunk: self.plan.prefill_chunk,
            room: usize::try_from(self.plan.trunk + self.plan.slots_bytes()).ok(),
            context: Some(self.plan.context),
            ..Options::default()
        };
        let mut drafter = Drafter::new(Engine::new(self.model, options)?);
        drafter.warm_up(big).await?;
        Ok(drafter)
    }
}

/// Where two vocabularies part.
fn difference(small: &Text, text: &Text, own: &Model, model: &Model) -> Option<String> {
    let (own, vocab) = (own.config.vocab, model.config.vocab);
    if own != vocab {
        return Some(format!("it has {own} tokens and the model {vocab}"));
    }
    let (small, big) = (&small.tokenizer, &text.tokenizer);
    let (own, known) = (small.vocab_size(), big.vocab_size());
    if own != known {
        return Some(format!("its tokenizer has {own} tokens and the model's {known}"));
    }
    let other = |&id: &u32| small.token_bytes(id) != big.token_bytes(id);
    let id = (0..known as u32).find(other)?;
    let (own, known) = (small.token_text(id), big.token_text(id));
    Some(format!("token {id} is {own:?} there and {known:?} in the model"))
}
