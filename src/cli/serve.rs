//! `penstock serve`: answers many clients at once, until it is asked to stop.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use futures_lite::future::or;

use super::draft::Draft;
use super::open::Wish;
use super::out::note;
use super::packs::folder_beside;
use super::signals::Stop;
use super::size::{Size, size};
use super::{Compute, Outcome, counted, open, positive};
use crate::base::units::Bytes;
use crate::engine::Engine;
use crate::engine::desk::Desk;
use crate::engine::scheduler;
use crate::engine::service::Service;
use crate::engine::telemetry::Timeline;
use crate::host::bell::Bell;
use crate::host::sink::Sink;
use crate::host::topology::Topology;
use crate::model::Text;
use crate::plan::Plan;
use crate::serve::announce::{Announcement, Callback};
use crate::serve::family::OfText;
use crate::serve::house::{House, ModelCard};
use crate::serve::http::{Handler, Limits, Tally};
use crate::serve::log::{Level, Log, Style};
use crate::serve::metrics::{Serving, Snapshot, render};
use crate::serve::peer::Allowed;
use crate::serve::reply::{Call, Reply};
use crate::serve::socket::{self, Owner, Place, SocketFile};
use crate::serve::till::Till;
use crate::serve::{self, Drained, Entrance, Shutdown, routes};
use crate::shard::{self, Lead, Queues, Seats, Task};
use crate::weights::Source;

/// Serve a model to many clients over a Unix socket, and over TCP where asked.
///
/// The first SIGTERM or Ctrl-C lets no more requests in and finishes those there are; the second
/// stops at once. Under systemd it takes sockets over, says when it is ready, and answers the
/// watchdog.
#[derive(clap::Args, Clone)]
#[command(after_help = "\
Examples:
  penstock serve demo
  curl --unix-socket $XDG_RUNTIME_DIR/penstock.sock http://localhost/v1/models
  penstock serve MODEL --memory 24GiB --listen 127.0.0.1:8080
  penstock serve MODEL --draft SMALL
  penstock serve MODEL --cores 1 --sequential --worker-id 3 --callback-url http://127.0.0.1:9000/up")]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// A smaller model with the same vocabulary, which guesses the next tokens; those that MODEL
    /// chooses too come sooner. The answers stay the same
    #[arg(long, value_name = "SMALL")]
    draft: Option<String>,

    #[command(flatten)]
    places: Places,

    #[command(flatten)]
    scheduling: Scheduling,

    #[command(flatten)]
    spilling: Spilling,

    #[command(flatten)]
    telling: Telling,

    #[command(flatten)]
    compute: Compute,
}

/// What it tells its owner.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "What it tells its owner")]
struct Telling {
    /// Lines of the log, on standard error: text or json
    #[arg(long, value_name = "STYLE", default_value = "text")]
    log: Style,

    /// What is worth a line: error, warn, info (with one for every request) or debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,

    /// Write a timeline of shards, stages, reads and requests, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
}

/// Where clients come in.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Where clients come in")]
struct Places {
    /// Unix socket to listen at [default: $XDG_RUNTIME_DIR/penstock.sock, else
    /// /run/penstock/penstock.sock; none where systemd hands sockets over]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Listen at a TCP address too, as 127.0.0.1:8080; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Vec<SocketAddr>,

    /// Who may connect, as the mode of the socket file
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode)]
    socket_mode: u32,

    /// Whose the socket file is
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    socket_owner: Option<Owner>,

    /// Let only this user connect, by number or name; may be given several times
    #[arg(long, value_name = "USER", value_parser = user, conflicts_with = "listen")]
    allow_uid: Vec<u32>,

    /// Let only members of this group connect; with --allow-uid, those too
    #[arg(long, value_name = "GROUP", value_parser = group, conflicts_with = "listen")]
    allow_gid: Vec<u32>,

    /// Connections at once; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = positive)]
    max_connections: usize,

    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = body)]
    max_body: usize,

    /// How long running requests may take to finish after the first signal
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    drain_timeout: Duration,

    /// POST to this address when ready and before leaving: http://HOST:PORT/PATH (a name is
    /// looked up once, at start) or unix:///PATH/OF/SOCKET
    #[arg(long, value_name = "URL", value_parser = Callback::parse)]
    callback_url: Option<Callback>,

    /// What this worker is called in what is posted
    #[arg(long, value_name = "ID")]
    worker_id: Option<String>,
}

/// Who computes when. None of it changes a bit of any answer.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Who computes when (the answers stay the same)")]
struct Scheduling {
    /// Requests that compute together at most
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    parallel: usize,

    /// Requests that wait at most; more are refused with a time to come again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    queue: usize,

    /// Longest that an answer under way may be held up by others' prompts
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time)]
    stall: Duration,

    /// One request at a time, in the order they come
    #[arg(long, conflicts_with = "parallel")]
    sequential: bool,

    /// Positions to make room for, of all requests together [default: what the plan finds room
    /// for]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,
}

/// Where keys and values go when memory has no room for them.
#[derive(clap::Args, Clone)]
#[command(
    next_help_heading = "Where pages go that memory has no room for (the answers stay the same)"
)]
struct Spilling {
    /// Bytes of disk for keys and values of conversations that are idle and of requests that gave
    /// way, so that they come back without being computed again; none unless it is given
    #[arg(long, value_name = "SIZE", value_parser = disk)]
    spill: Option<u64>,

    /// Folder for them; the file has no name, so that nothing is left of it [default: --cache-dir,
    /// else where the model's pack is or would be]
    #[arg(long, value_name = "DIR", requires = "spill")]
    spill_dir: Option<PathBuf>,
}

/// How long the log may take to be written when the server has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waiting so long weighs as much as one priority.
const AGE: Duration = Duration::from_secs(10);
/// How long a request that asks to be batched waits for company.
const FORM: Duration = Duration::from_millis(50);

impl Scheduling {
    fn limits(&self, plan: &Plan, trained: usize) -> scheduler::Limits {
        scheduler::Limits {
            running: self.sessions(),
            waiting: self.queue,
            chunk: plan.prefill_chunk,
            // Beyond what it was trained for a model rambles, unless that was asked for.
            context: self.context.unwrap_or(trained),
            stall: self.stall,
            form: FORM,
            age: AGE,
            sequential: self.sequential,
        }
    }

    /// Requests in one step.
    fn sessions(&self) -> usize {
        if self.sequential { 1 } else { self.parallel }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    named
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "expected an address and a port, as 127.0.0.1:8080 or [::1]:8080".to_string())
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected octal digits, as 0660".into()),
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    Owner::parse(text).map_err(|error| error.to_string())
}

fn user(text: &str) -> Result<u32, String> {
    socket::number(text, "/etc/passwd", "user").map_err(|error| error.to_string())
}

fn group(text: &str) -> Result<u32, String> {
    socket::number(text, "/etc/group", "group").map_err(|error| error.to_string())
}

fn body(text: &str) -> Result<usize, String> {
    match size(text)? {
        Size::Bytes(bytes) if bytes <= 4 << 30 => Ok(bytes as usize),
        Size::Bytes(_) | Size::Part(_) => Err("expected at most 4GiB, as 32MiB".into()),
    }
}

fn disk(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(Size::Bytes(bytes)) => Ok(bytes),
        Ok(Size::Part(_)) | Err(_) => Err("expected bytes of disk, as 64GiB".into()),
    }
}

/// `200ms`, `30s`, `2m`.
fn time(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let scale = match &text[end..] {
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        _ => None,
    };
    let seconds = text[..end].parse::<f64>().ok().zip(scale).map(|(n, scale)| n * scale);
    match seconds {
        Some(seconds) if (1e-3..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("expected a time from 1ms to a day, as 200ms, 30s or 2m".into()),
    }
}

impl Places {
    fn options(&self, model: &str, log: &Log) -> Outcome<serve::Options> {
        let Places { socket, listen, .. } = self;
        let file = |path| {
            let file = SocketFile { path, mode: self.socket_mode, owner: self.socket_owner };
            // Better known now than when the model is in memory.
            file.check().map(|()| Place::File(file))
        };
        let handed_over = std::env::var_os("LISTEN_FDS").is_some();
        let (mut places, mut fallback) = (Vec::new(), None);
        match socket {
            Some(path) => places.push(file(path.clone())?),
            None if handed_over => {}
            None => fallback = Some(file(socket::usual_place()?)?),
        }
        places.extend(listen.iter().map(|&address| Place::Port(address)));
        let allowed = Allowed {
            users: BTreeSet::from_iter(self.allow_uid.iter().copied()),
            groups: BTreeSet::from_iter(self.allow_gid.iter().copied()),
        };
        for address in listen.iter().filter(|address| !address.ip().is_loopback()) {
            note!("penstock: whoever reaches {address} may use it; nothing there asks who it is");
        }
        let limits = Limits {
            connections: self.max_connections,
            body: self.max_body,
            bodies: Limits::default().bodies.max(self.max_body),
            ..Limits::default()
        };
        let announcement = self.callback_url.clone().map(|callback| {
            let (worker, model) = (self.worker_id.clone(), model.to_string());
            Announcement { callback, worker, model }
        });
        let log = log.clone();
        let notice: serve::Notice = Rc::new(move |words| log.say(Level::Info, words.to_owned()));
        Ok(serve::Options { places, fallback, allowed, limits, announcement, notice })
    }
}

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
        Some(small) => Some(Draft::open(small, &text, &model, wanted, lead.shards())?),
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
    screen(&args, &name, &plan, shown, &entrance)?;

    let card = card(&source, &engine);
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

/// One screen: what is served, with what, and where.
fn screen(
    args: &Args,
    name: &str,
    plan: &Plan,
    drafts: Option<String>,
    entrance: &Entrance,
) -> Outcome {
    let isa = args.compute.how.isa.resolve()?;
    let Scheduling { queue, stall, sequential, .. } = args.scheduling;
    note!("penstock {} serves {name}", env!("CARGO_PKG_VERSION"));
    let row = |name: &str, what: String| note!("{name:<10} {what}");
    row("cores", format!("{}, {isa}", counted(plan.cores, "core")));
    row(
        "memory",
        format!(
            "{} of {}: trunk {}, pages {}, scratch {}",
            Bytes(plan.total()),
            Bytes(plan.budget),
            Bytes(plan.trunk),
            Bytes(plan.pages_bytes),
            Bytes(plan.scratch)
        ),
    );
    if let Some(room) = args.spilling.spill {
        row("disk", format!("{} for pages that memory has no room for", Bytes(room)));
    }
    if plan.slabs > 0 {
        let rest = match plan.fits {
            true => "everything fits".to_string(),
            false => format!("{:.0}% in memory, the others stream", 100.0 * plan.share()),
        };
        let (slots, slabs) = (plan.slots.min(plan.slabs), plan.slabs);
        row("experts", format!("{slots} of {slabs}, {} each: {rest}", Bytes(plan.slot_bytes)));
    }
    if let Some(drafts) = drafts {
        row("drafts", drafts);
    }
    let together = match sequential {
        true => "one at a time".to_string(),
        false => format!("{} at once, stalls of {stall:?} at most", plan.sessions),
    };
    row("requests", format!("{together}; {queue} wait; {} positions", plan.context));
    let limits = entrance.limits();
    row(
        "clients",
        format!(
            "{}, bodies of {}",
            counted(limits.connections, "connection"),
            Bytes(limits.body as u64)
        ),
    );
    for (i, name) in entrance.names().enumerate() {
        row(if i == 0 { "listens" } else { "" }, name.to_string());
    }
    match entrance.names().next() {
        Some(url) if url.starts_with("http:") => row("try", format!("curl {url}/health")),
        Some(path) => row("try", format!("curl --unix-socket {path} http://localhost/health")),
        None => {}
    }
    Ok(())
}

/// The model as clients know it.
fn card(source: &Source, engine: &Engine) -> ModelCard {
    let name = open::name(source).into_owned();
    let made = std::fs::metadata(source.path()).and_then(|file| file.modified()).ok();
    let made = made.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let id = name.strip_suffix(".gguf").unwrap_or(&name).to_owned();
    let config = &engine.model().config;
    let version = env!("CARGO_PKG_VERSION");
    let fingerprint = format!("penstock-{version}-{id}-{}", made.map_or(0, |time| time.as_secs()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [("200ms", 200), ("30s", 30_000), ("2m", 120_000), ("1.5s", 1500)] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "30", "0s", "s", "-1s", "1e3s", "1h", "2 days", "1..5s", "99999m"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal_and_addresses_have_ports() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("600"), Ok(0o600));
        assert!(mode("0888").is_err() && mode("01777").is_err() && mode("rw").is_err());
        assert_eq!(address("localhost:80"), Ok("127.0.0.1:80".parse().unwrap()));
        assert!(address("127.0.0.1").is_err() && address("example.com:80").is_err());
    }
}
