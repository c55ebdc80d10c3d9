//! `penstock serve`: answers many clients at once, until it is asked to stop.
//!
//! Brings together what serves: the engine, the desk before it, the protocols and their sockets,
//! the log. `options` reads the command line, `screen` is what is shown at the start.

mod options;
mod screen;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use futures_lite::future::or;

use super::draft::Draft;
use super::open::Wish;
use super::packs::folder_beside;
use super::signals::Stop;
use super::{Outcome, counted, open};
use crate::engine::Engine;
use crate::engine::desk::Desk;
use crate::engine::service::Service;
use crate::engine::telemetry::Timeline;
use crate::host::bell::Bell;
use crate::host::sink::Sink;
use crate::host::topology::Topology;
use crate::math::KvFormat;
use crate::model::Text;
use crate::serve::family::OfText;
use crate::serve::house::{House, ModelCard};
use crate::serve::http::{Handler, Tally};
use crate::serve::log::{Level, Log};
use crate::serve::metrics::{Serving, Snapshot, render};
use crate::serve::reply::{Call, Reply};
use crate::serve::till::Till;
use crate::serve::{Drained, Entrance, Shutdown, routes};
use crate::shard::{self, Lead, Queues, Seats, Task};
use crate::weights::Source;

pub use options::Args;

/// How long the log may take to be written when the server has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub fn run(args: Args) -> Outcome {
    let cores = Topology::read().seats(args.compute.cores)?;
    let seats = Seats::on(cores.iter().map(|cpu| cpu.id));
    shard::run(&seats, |lead, queues| live(args, lead, queues))?
}

async fn live(args: Args, mut lead: Lead, queues: Queues) -> Outcome {
    let source = open::source(&args.model)?;
    let name = open::name(&source).into_owned();
    let log = Log::new(args.telling.log_level, args.telling.log);
    let options = args.places.options(&name, &log)?;
    let text = open::text(&source)?;
    // Made now, or the first answer with a grammar would hold up all others. Without it such
    // requests are refused with the reason.
    let _ = text.vocabulary();
    let model = open::model(&source)?;
    let how = &args.compute.how;
    let wanted = args.scheduling.context;
    let draft = match &args.draft {
        Some(small) => Some(Draft::open(small, &text, &model, wanted, lead.shards(), how.kv)?),
        None => None,
    };
    let wish = Wish {
        context: wanted,
        sessions: args.scheduling.sessions(),
        beside: draft.as_ref().map_or(0, Draft::bytes),
        ..Wish::default()
    };
    let timeline = match &args.telling.trace_out {
        Some(path) => {
            let tracks = lead.trace(Timeline::ROOM);
            let failed = |error| format!("{}: cannot be written: {error}", path.display());
            Some(Timeline::create(path, tracks).map_err(failed)?)
        }
        None => None,
    };
    let plan = open::plan(&source, &model, how, wish, lead.shards())?;
    let mut engine = open::engine(&source, model, how, wish, lead).await?;
    let shown = draft.as_ref().map(Draft::line);
    let drafter = match draft {
        Some(draft) => Some(draft.drafter(how, &mut engine).await?),
        None => None,
    };

    let bell = Bell::new()?;
    let ear = bell.ear()?;
    // Held to the end and never taken, so that a second signal finds the first.
    let _stop = Stop::ringing(&bell)?;
    let entrance = Entrance::open(options)?;

    let card = card(&source, &engine, how.kv);
    let trained = engine.model().config.context;
    let (mut service, desk) = Service::new(engine, args.scheduling.limits(&plan, trained));
    desk.budget(plan.budget + wish.beside);
    if let Some(drafter) = drafter {
        service.draft_with(drafter);
    }
    let (heard, told) = (log.clone(), desk.clone());
    service.engine().on_notice(move |notice| {
        told.noticed(&notice);
        heard.say(Level::Warn, notice.to_string());
    });
    if let Some(room) = args.spilling.spill {
        let folder = match &args.spilling.spill_dir {
            Some(folder) => folder.clone(),
            None => folder_beside(&source, &how.packs)?,
        };
        let heard = log.clone();
        let listener = move |words| heard.say(Level::Warn, words);
        let opened = service.spill(&folder, room, &queues, listener);
        opened.map_err(|error| format!("--spill: {error}; give less, or another --spill-dir"))?;
    }
    // Shown when nothing can be refused any more.
    screen::show(&args, &name, &plan, shown, &entrance)?;
    let traced = Rc::new(Cell::new(false));
    let timeline = timeline.map(|(timeline, tracer)| {
        desk.trace(tracer);
        in_background(timeline.run(Rc::clone(&traced)), &queues)
    });
    let writer = in_background(log.clone().write(Sink::stderr()?), &queues);

    let house = house(card, text, &desk, &log, entrance.tally());
    let within = args.places.drain_timeout;
    let asked = async {
        ear.listen().await;
        let words = "finishing what runs, for {} at most; another signal stops at once";
        log.say(Level::Info, words.replace("{}", &format!("{within:?}")));
    };
    let (begin, idle) = (|| desk.drain(), desk.idle());
    let shutdown = Shutdown { asked, begin, idle, within };
    let serving = entrance.serve(Answers(house), queues, shutdown);
    let drained = or(serving, async {
        service.run().await;
        unreachable!("it serves until it is dropped")
    });
    let drained = drained.await;

    // What the desk still holds is told that it is over by being dropped with it.
    let closed = open::close(service.engine(), how);
    traced.set(true);
    log.close();
    // A pipe that nobody reads is not waited for.
    or(writer, shard::sleep(LAST_WORDS)).await;
    if let (Some(timeline), Some(path)) = (timeline, &args.telling.trace_out) {
        timeline.await.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    closed?;
    match drained {
        Drained::Clean => Ok(()),
        Drained::Cut(calls) => Err(format!(
            "{} did not end within --drain-timeout {within:?} and were cut off",
            counted(calls, "request")
        )
        .into()),
    }
}

/// Something that goes on beside the serving.
fn in_background<T: 'static>(work: impl Future<Output = T> + 'static, queues: &Queues) -> Task<T> {
    queues.spawn(queues.housekeeping, work)
}

/// The model as clients know it.
fn card(source: &Source, engine: &Engine, kv: KvFormat) -> ModelCard {
    let name = open::name(source).into_owned();
    let made = std::fs::metadata(source.path()).and_then(|file| file.modified()).ok();
    let made = made.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let id = name.strip_suffix(".gguf").unwrap_or(&name).to_owned();
    let config = &engine.model().config;
    let version = env!("CARGO_PKG_VERSION");
    // What else the answers depend on.
    let kept = match kv {
        KvFormat::F32 => String::new(),
        other => format!("-{other}"),
    };
    let made_at = made.map_or(0, |time| time.as_secs());
    let fingerprint = format!("penstock-{version}-{id}-{made_at}{kept}");
    ModelCard {
        aliases: vec![name, source.path().display().to_string()],
        created: made.map_or(0, |time| time.as_secs()),
        context: engine.context(),
        vocab: config.vocab,
        fingerprint,
        id,
    }
}

/// Puts the protocols before the desk.
fn house(card: ModelCard, text: Text, desk: &Desk, log: &Log, tally: Rc<Tally>) -> Rc<House> {
    let text = Rc::new(text);
    let till = Till { desk: desk.clone(), log: log.clone() };
    let (desk, log, id) = (desk.clone(), log.clone(), card.id.clone());
    let metrics = move || {
        let serving = Serving {
            open: tally.open.get() as u64,
            accepted: tally.accepted.get(),
            refused: tally.refused.get(),
            log_dropped: log.dropped(),
        };
        let text = |telemetry: &_| render(&Snapshot { model: &id, telemetry, serving });
        desk.telemetry(text)
    };
    let family = Box::new(OfText::new(Rc::clone(&text)));
    let house = House::new(Box::new(till), text, family, card, Box::new(metrics));
    house.ready.set(true);
    Rc::new(house)
}

struct Answers(Rc<House>);

impl Handler for Answers {
    async fn answer(&self, call: Call) -> Reply {
        routes::answer(&self.0, call).await
    }
}
