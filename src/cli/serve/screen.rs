//! What a server shows when it starts: one screen.

use super::super::out::note;
use super::super::{Outcome, counted};
use super::options::{Args, Scheduling};
use crate::base::units::Bytes;
use crate::plan::Plan;
use crate::serve::Entrance;

/// What is served, with what, and where.
pub fn show(
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
            "{} of {}: trunk {}, pages {} in {}, scratch {}",
            Bytes(plan.total()),
            Bytes(plan.budget),
            Bytes(plan.trunk),
            Bytes(plan.pages_bytes),
            plan.kv,
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
