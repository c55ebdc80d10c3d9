//! Residency: what always holds, under seeded schedules; what its policies hit; and the command
//! that shows it.

#[path = "replay/command.rs"]
mod command;
#[path = "replay/rates.rs"]
mod rates;
#[path = "replay/routing.rs"]
mod routing;
#[path = "replay/schedules.rs"]
mod schedules;
