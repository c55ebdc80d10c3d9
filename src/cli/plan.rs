//! `penstock plan`: where every byte of a memory budget would go, and how fast that would be.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::size::{Size, rate, size};
use super::{KV, Outcome, chunk, counted, open, positive};
use crate::base::units::Bytes;
use crate::host::memory;
use crate::host::roof::Roof;
use crate::host::topology::{Cpu, Topology};
use crate::math::peak::{Arithmetic, peak_ops};
use crate::math::{Isa, IsaChoice, Kernels, KvFormat};
use crate::model::Model;
use crate::plan::speed::{Hits, Knee, Step};
use crate::plan::{Ask, Enough, Facts, Plan, Rates, Refusal};

/// Show where every byte of a memory budget goes, and how fast that may be expected to be.
///
/// Reads headers only. Speeds follow from the host's limits, which are measured in a second or
/// two, and from what part of them this engine reached elsewhere: they are estimates.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// Memory for everything, as 8GiB or 80% [default: the control group's limit, or what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<Size>,

    /// Cores to compute on [default: all this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,

    /// Tokens to have room for, of all sessions together [default: what fits beside experts]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,

    /// Sessions that are in one step at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    sessions: usize,

    /// Prompt tokens that are computed in one step [default: what a sweep of the disk is worth]
    #[arg(long, value_name = "N", value_parser = chunk)]
    prefill_chunk: Option<usize>,

    /// What keys and values are kept in: f32, or int8, which takes about a quarter of the memory
    /// and gives slightly different answers
    #[arg(long, default_value = "f32", value_name = "FORMAT", help_heading = KV)]
    kv: KvFormat,

    /// Bytes per second that the disk gives, as 3.0GB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    disk: Option<f64>,

    /// Instruction set: scalar, avx2, avx512, amx, or auto for the best this host has
    #[arg(long, default_value = "auto", value_name = "ISA")]
    isa: IsaChoice,

    /// Leave the host's limits unmeasured: no speeds
    #[arg(long)]
    no_limits: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    let isa = Kernels::new(args.isa)?.isa();
    let cpus = Topology::read().seats(args.cores)?;
    let source = open::source(&args.model)?;
    let model = Model::open(&source)?;
    let name =
        source.path().file_name().map_or(args.model.clone(), |name| name.to_string_lossy().into());
    let mut facts = Facts::of(&name, &model);
    facts.rates = rates(&args, &cpus, isa, &model)?;
    let ask = Ask {
        memory: args.memory.map(|memory| memory.bytes(facts.free)).transpose()?,
        context: args.context,
        prefill_chunk: args.prefill_chunk,
        sessions: args.sessions,
        cores: cpus.len(),
        every_logit: false,
        kv: args.kv,
    };
    let (plan, remark) = match Plan::new(&ask, &facts) {
        // What another host would do with that much is worth knowing all the same.
        Err(refusal @ Refusal::Host { .. }) => {
            let anywhere = Facts { free: None, ..facts.clone() };
            (Plan::new(&ask, &anywhere)?, Some(refusal.to_string()))
        }
        plan => (plan?, None),
    };
    let report = Report::new(plan, ask, &facts, Hits::Uniform, remark);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report.json()?)?,
        false => report.print(&mut out)?,
    }
    Ok(())
}

/// The host's limits, so far as they are asked for.
fn rates(args: &Args, cpus: &[Cpu], isa: Isa, model: &Model) -> Outcome<Rates> {
    if args.no_limits {
        return Ok(Rates { disk: args.disk, ..Rates::default() });
    }
    let whole = model.parts.output.weight.format().activation_block().is_some();
    let kind = if whole { Arithmetic::Int8 } else { Arithmetic::Float32 };
    Ok(Rates {
        disk: args.disk,
        memory: Roof::measure(cpus)?.read(cpus.len()),
        arithmetic: peak_ops(isa, kind),
    })
}

/// A budget, and what it would bring.
#[derive(Serialize)]
struct Row {
    budget: u64,
    share: f64,
    decode: Option<f64>,
    prefill: Option<f64>,
}

struct Report<'a> {
    plan: Plan,
    ask: Ask,
    facts: &'a Facts,
    hits: Hits,
    decode: Vec<Step>,
    prefill: Step,
    knee: Option<Knee>,
    rows: Vec<Row>,
    remark: Option<String>,
}

impl Report<'_> {
    fn new(plan: Plan, ask: Ask, facts: &Facts, hits: Hits, remark: Option<String>) -> Report<'_> {
        let mut together = vec![1, 8, ask.sessions];
        together.sort_unstable();
        together.dedup();
        let decode = together.iter().map(|&n| Step::decode(&plan, facts, &hits, n)).collect();
        let prefill = Step::prefill(&plan, facts, &hits);
        let knee = (plan.slabs > 0).then(|| Knee::find(&ask, facts, &hits));
        let rows = rows(&plan, &ask, facts, &hits, knee);
        Report { plan, ask, facts, hits, decode, prefill, knee, rows, remark }
    }

    fn json(&self) -> Outcome<serde_json::Value> {
        let step = |step: &Step| {
            json!({
                "tokens": step.tokens,
                "tokens_per_second": step.tokens_per_second(),
                "limit": step.limit(),
                "missed": step.missed,
                "disk": step.disk,
                "memory": step.memory,
                "arithmetic": step.arithmetic,
            })
        };
        let Report { plan, facts, .. } = self;
        Ok(json!({
            "model": facts.name,
            "plan": plan,
            "total": plan.total(),
            "share": plan.share(),
            "hit_rate": self.hits.at(plan),
            "least": Plan::least(&self.ask, facts),
            "decode": self.decode.iter().map(step).collect::<Vec<_>>(),
            "prefill": step(&self.prefill),
            "knee": self.knee,
            "budgets": self.rows,
            "limits": {
                "disk": facts.rates.disk,
                "memory": facts.rates.memory,
                "arithmetic": facts.rates.arithmetic,
            },
            "free": facts.free.map(|free| free.most()),
            "resident": memory::resident().map(|resident| resident.total),
            "remark": self.remark,
        }))
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Report { plan, facts, .. } = self;
        writeln!(out, "{} on {}", fit(&facts.name, 60), counted(plan.cores, "core"))?;
        let part = |out: &mut dyn Write, name: &str, bytes: u64, what: &str| {
            writeln!(out, "{name:<10} {:>10}  {what}", Bytes(bytes).to_string())
        };
        part(out, "budget", plan.budget, &self.of_budget())?;
        part(out, "  trunk", plan.trunk, "every token needs it")?;
        let pages = format!("keys and values of {}, {}", counted(plan.context, "token"), plan.kv);
        part(out, "  pages", plan.pages_bytes, &pages)?;
        let steps = format!("steps of {}", counted(plan.prefill_chunk, "prompt token"));
        part(out, "  scratch", plan.scratch, &steps)?;
        part(out, "  program", plan.program, "code, tokenizer, tables")?;
        if plan.slabs > 0 {
            let each = format!("of {} experts, {} each", plan.slabs, Bytes(plan.slot_bytes));
            let slots = match plan.fits {
                true => format!("{} {each}: everything fits", plan.slots),
                false => format!("{} {each}; {} in transit", plan.slots, plan.transit),
            };
            part(out, "  slots", plan.slots_bytes(), &slots)?;
            let hit = 100.0 * self.hits.at(plan);
            let assumed = match self.hits {
                Hits::Uniform => "if all experts are as likely; favourites hit more",
                Hits::Replayed(_) => "as the trace says",
            };
            writeln!(out, "{:<10} {hit:>9.1}%  {assumed}", "hits")?;
        }
        writeln!(out)?;
        self.print_speeds(out)?;
        if let Some(remark) = &self.remark {
            writeln!(out, "Not on this host: {remark}")?;
        }
        Ok(())
    }

    fn of_budget(&self) -> String {
        match (self.ask.memory, self.facts.free) {
            (Some(_), _) => "as asked".into(),
            (None, Some(free)) if free.limit == Some(free.most()) => {
                format!("of the control group's limit of {}", Bytes(free.most()))
            }
            (None, Some(free)) => format!("of {} that are free", Bytes(free.most())),
            (None, None) => "nobody says how much there is".into(),
        }
    }

    fn print_speeds(&self, out: &mut impl Write) -> io::Result<()> {
        let rates = &self.facts.rates;
        if self.prefill.tokens_per_second().is_some() {
            writeln!(
                out,
                "{:<14} {:>8}  {:<12} {:>10} {:>10} {:>11}",
                "expected", "tok/s", "limited by", "disk", "memory", "arithmetic"
            )?;
            for step in &self.decode {
                let name = match step.tokens {
                    1 => "decode".into(),
                    n => format!("{n} at once"),
                };
                self.print_step(out, &name, step)?;
            }
            self.print_step(out, &format!("prefill {}", self.plan.prefill_chunk), &self.prefill)?;
            writeln!(out)?;
        }
        if !self.rows.is_empty() {
            write!(out, "{:<14}", "budget")?;
            self.rows
                .iter()
                .try_for_each(|r| write!(out, "{:>12}", Bytes(r.budget).to_string()))?;
            write!(out, "\n{:<14}", "experts kept")?;
            self.rows.iter().try_for_each(|r| write!(out, "{:>11.1}%", 100.0 * r.share))?;
            let speeds = |out: &mut dyn Write, name: &str, of: fn(&Row) -> Option<f64>| {
                if self.rows.iter().all(|row| of(row).is_none()) {
                    return Ok(());
                }
                write!(out, "\n{name:<14}")?;
                self.rows.iter().try_for_each(|r| write!(out, "{:>12}", speed(of(r))))
            };
            speeds(out, "decode tok/s", |row| row.decode)?;
            speeds(out, "prefill tok/s", |row| row.prefill)?;
            writeln!(out)?;
        }
        if let Some(knee) = self.knee {
            let why = match knee.fits {
                true => "everything fits",
                false => "the disk keeps up",
            };
            writeln!(
                out,
                "{:<14}{} is where more stops mattering: {why}",
                "knee",
                Enough(knee.budget)
            )?;
        }
        let known = |rate: Option<f64>, unit: &str, what: &str| match rate {
            Some(rate) => format!("{what} {:.1} {unit}", rate / 1e9),
            None => format!("{what} not measured"),
        };
        if *rates == Rates::default() {
            return writeln!(out, "{:<14}not measured: no speeds", "limits");
        }
        let disk = match rates.disk {
            Some(rate) => format!("disk {:.1} GB/s", rate / 1e9),
            None => "no --disk given".into(),
        };
        writeln!(
            out,
            "{:<14}{}, {}, {disk}",
            "limits",
            known(rates.memory, "GB/s", "memory"),
            known(rates.arithmetic, "Gop/s a core", "arithmetic"),
        )
    }

    fn print_step(&self, out: &mut impl Write, name: &str, step: &Step) -> io::Result<()> {
        let limit = step.limit().map_or("-".into(), |term| term.to_string());
        let time = |seconds: Option<f64>| match seconds {
            Some(seconds) if seconds < 10.0 => format!("{:.1} ms", 1e3 * seconds),
            Some(seconds) => format!("{seconds:.1} s"),
            None => "-".into(),
        };
        writeln!(
            out,
            "{name:<14} {:>8}  {limit:<12} {:>10} {:>10} {:>11}",
            speed(step.tokens_per_second()),
            time(step.disk),
            time(step.memory),
            time(step.arithmetic)
        )
    }
}

fn speed(tokens_per_second: Option<f64>) -> String {
    match tokens_per_second {
        Some(speed) if speed < 100.0 => format!("{speed:.1}"),
        Some(speed) => format!("{speed:.0}"),
        None => "-".into(),
    }
}

/// The end of a name that is too long for a line.
fn fit(name: &str, most: usize) -> String {
    match name.chars().count() {
        count if count > most => name
            .chars()
            .skip(count - most + 1)
            .fold("…".to_string(), |end, c| end + &c.to_string()),
        _ => name.into(),
    }
}

/// From the smallest budget that is accepted to the one with which everything fits.
fn rows(plan: &Plan, ask: &Ask, facts: &Facts, hits: &Hits, knee: Option<Knee>) -> Vec<Row> {
    let Some(knee) = knee else { return Vec::new() };
    let (least, most) = (Plan::least(ask, facts), Plan::enough(ask, facts).max(knee.budget));
    let mut budgets = vec![least, least + (most - least) / 3, least + (most - least) / 3 * 2, most];
    budgets.push(plan.budget.clamp(least, most));
    budgets.sort_unstable();
    budgets.dedup();
    let facts = Facts { free: None, ..facts.clone() };
    let row = |budget: u64| {
        let plan = Plan::new(&Ask { memory: Some(budget), ..*ask }, &facts).ok()?;
        Some(Row {
            budget,
            share: plan.share(),
            decode: Step::decode(&plan, &facts, hits, 1).tokens_per_second(),
            prefill: Step::prefill(&plan, &facts, hits).tokens_per_second(),
        })
    };
    budgets.into_iter().filter_map(row).collect()
}
