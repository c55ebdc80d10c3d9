//! From the MODEL a user names to an opened one.

use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;

use super::out::note;
use super::packs::find_or_make;
use super::{How, Outcome, beside};
use crate::engine::{self, Engine, PATIENCE, Stream};
use crate::model::{Model, Text, demo};
use crate::plan::{Ask, Facts, Plan};
use crate::shard::Lead;
use crate::weights::Source;
use crate::weights::stage::Room;

/// Opens the headers of a model: `demo`, a GGUF file or a Hugging Face folder.
pub fn source(name: &str) -> Outcome<Source> {
    // A file of that name can still be had, as ./demo.
    if name == "demo" {
        return Ok(demo::source()?);
    }
    if name.is_empty() {
        return Err("MODEL is empty: give a GGUF file, a Hugging Face folder, or demo".into());
    }
    Ok(Source::open(Path::new(name))?)
}

pub fn text(source: &Source) -> Outcome<Text> {
    Ok(Text::open(source)?)
}

/// Finds every weight. The bytes stay in the file until a step touches them.
pub fn model(source: &Source) -> Outcome<Rc<Model>> {
    Ok(Rc::new(Model::open(source)?))
}

/// What an engine is wanted for.
#[derive(Clone, Copy, Default)]
pub struct Wish {
    /// Positions of all sessions together.
    pub context: Option<usize>,
    /// Sessions in one step.
    pub sessions: usize,
    /// Whether the logits behind every prompt token are wanted.
    pub every_logit: bool,
    /// Without what earlier runs used, or earlier sessions computed.
    pub afresh: bool,
    /// Bytes of the memory that another model takes.
    pub beside: u64,
}

/// Reads under way at once on a drive that is not known.
const DEPTH: usize = 8;

/// An engine within the memory it was given: all weights in memory where they fit, else with
/// experts that stream from the model's pack, which is made where it is missing.
pub async fn engine(
    source: &Source,
    model: Rc<Model>,
    how: &How,
    wish: Wish,
    mut lead: Lead,
) -> Outcome<Engine> {
    let plan = plan(source, &model, how, wish, lead.shards())?;
    let mut options = engine::Options {
        kv: how.kv,
        isa: how.isa,
        prefill_chunk: plan.prefill_chunk,
        context: Some(plan.context),
        room: None,
        share_prefixes: !wish.afresh,
    };
    let pack = match plan.slabs {
        0 => None,
        _ => find_or_make(source, &model.parts.contents(), &how.packs, !plan.fits, &mut lead)?,
    };
    let Some(pack) = pack else {
        if !plan.fits {
            note!(
                "penstock: {:.0}% of the experts fit in memory, and without a pack the others are \
                 read and packed again for every use, slowly",
                100.0 * plan.share()
            );
            options.room = usize::try_from(plan.trunk + plan.slots_bytes()).ok();
        }
        let mut engine = Engine::seated(model, options, lead)?;
        record(&mut engine, source, how)?;
        return Ok(engine);
    };
    let drive = beside::drive(&pack);
    let known = drive.as_ref().and_then(|drive| drive.depth(pack.block()));
    let depth = how.depth.or(known.map(|cell| cell.depth)).unwrap_or(DEPTH);
    let stream = Stream {
        history: if wish.afresh { None } else { beside::history(&pack) },
        room: Room { slots: plan.slots, window: plan.window() },
        policy: how.policy,
        ahead: how.forecast,
        depth,
        patience: PATIENCE,
        pack,
    };
    let mut engine = Engine::streamed(model, options, lead, stream)?;
    engine.on_notice(|notice| note!("penstock: {notice}"));
    engine.ready().await?;
    record(&mut engine, source, how)?;
    Ok(engine)
}

fn record(engine: &mut Engine, source: &Source, how: &How) -> Outcome {
    match &how.record_trace {
        Some(path) => Ok(engine.record(path, &name(source))?),
        None => Ok(()),
    }
}

/// What the files call the model.
pub fn name(source: &Source) -> Cow<'_, str> {
    let path = source.path();
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// Where every byte would go.
pub fn plan(source: &Source, model: &Model, how: &How, wish: Wish, cores: usize) -> Outcome<Plan> {
    let mut facts = Facts::of(&name(source), model);
    let memory = how.memory.map(|memory| memory.bytes(facts.free)).transpose()?;
    facts.free = facts.free.map(|free| free.beside(wish.beside));
    let ask = Ask {
        memory: memory.map(|memory| memory.saturating_sub(wish.beside)),
        context: wish.context,
        prefill_chunk: how.prefill_chunk,
        sessions: wish.sessions.max(1),
        cores,
        every_logit: wish.every_logit,
        kv: how.kv,
    };
    match Plan::new(&ask, &facts) {
        Err(refusal) if wish.beside > 0 => {
            Err(refusal.beside("the model that drafts for it", wish.beside, memory).into())
        }
        plan => Ok(plan?),
    }
}

/// Ends what an engine did beside answering: what it saw is kept, and what it should have recorded
/// is there.
pub fn close(engine: &mut Engine, how: &How) -> Outcome {
    beside::keep_history(engine);
    let path = how.record_trace.as_deref().unwrap_or(Path::new("")).display();
    Ok(engine.recorded().map_err(|error| format!("{path}: the trace is not whole: {error}"))?)
}
