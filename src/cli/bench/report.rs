//! What `penstock bench` prints for people.

use std::io::{self, Write};

use super::measure::{Run, What};
use super::{Limits, OnCores, Report, Streams};
use crate::base::units::Bytes;

pub fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} of weights, {}, {}",
        report.model,
        Bytes(report.weights),
        report.isa,
        report.pages
    )?;
    if let Some(lacks) = &report.lacks {
        writeln!(out, "{lacks}")?;
    }
    if let Some(resident) = report.resident {
        let expected = report.weights + report.keys_and_values;
        writeln!(
            out,
            "{} resident: {:.0}% of the weights and {} of pages in {}",
            Bytes(resident),
            100.0 * resident as f64 / expected as f64,
            Bytes(report.keys_and_values),
            report.kv
        )?;
    }
    if let Some(limits) = &report.limits {
        print_limits(out, limits)?;
    }
    for OnCores { cores, runs } in &report.measured {
        let s = if *cores == 1 { "" } else { "s" };
        writeln!(
            out,
            "\n{:<24}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
            format!("{cores} core{s}"),
            "tok/s",
            "GB/s",
            "of read",
            "Gop/s",
            "of peak",
            "outside"
        )?;
        for run in runs {
            print_run(out, run, *cores, report.limits.as_ref())?;
        }
    }
    print_experts(out, report)?;
    print_scaling(out, &report.measured)?;
    print_stages(out, &report.measured)
}

fn print_limits(out: &mut impl Write, limits: &Limits) -> io::Result<()> {
    writeln!(out, "\nthis host's limits, measured now")?;
    write!(out, "{}", limits.memory)?;
    for (what, peak) in [("int8", limits.int8_peak), ("float32", limits.float32_peak)] {
        if let Some(peak) = peak {
            let what = format!("{what} arithmetic, 1 core");
            writeln!(out, "{what:<30}{:>8.0} Gop/s", peak / 1e9)?;
        }
    }
    Ok(())
}

fn name(what: What) -> String {
    match what {
        What::Prefill { prompt } => format!("prefill {prompt}"),
        What::Decode { context, batch: 1 } => format!("decode at {context}"),
        What::Decode { context, batch } => format!("decode at {context}, {batch} at once"),
    }
}

fn percent(part: f64, whole: Option<f64>) -> String {
    whole.map_or("-".into(), |whole| format!("{:.0}%", 100.0 * part / whole))
}

fn print_run(
    out: &mut impl Write,
    run: &Run,
    cores: usize,
    limits: Option<&Limits>,
) -> io::Result<()> {
    let read = limits.and_then(|limits| limits.memory.read(cores));
    let peak = limits.and_then(|limits| limits.int8_peak).map(|peak| peak * cores as f64);
    writeln!(
        out,
        "{:<24}{:>9.1}{:>9.1}{:>9}{:>9.0}{:>9}{:>9.1}%",
        name(run.what),
        run.tokens_per_second,
        run.bytes_per_second / 1e9,
        percent(run.bytes_per_second, read),
        run.operations_per_second / 1e9,
        percent(run.operations_per_second, peak),
        100.0 * run.outside
    )
}

/// Where experts came from, and how near the disk was to what it can do.
fn print_experts(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Some(Streams { slots, slabs, slab_bytes, disk }) = report.streams else { return Ok(()) };
    let each = Bytes(slab_bytes as u64);
    write!(out, "\n{slots} of {slabs} experts have room, {each} each")?;
    match disk {
        Some(disk) => writeln!(out, "; the disk gives {:.2} GB/s", disk / 1e9)?,
        None => writeln!(out)?,
    }
    for OnCores { cores, runs } in &report.measured {
        let s = if *cores == 1 { "" } else { "s" };
        writeln!(
            out,
            "{:<24}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
            format!("{cores} core{s}"),
            "in time",
            "forecast",
            "in vain",
            "GB/s",
            "of disk",
            "waited"
        )?;
        for run in runs {
            let Some(experts) = &run.experts else { continue };
            writeln!(
                out,
                "{:<24}{:>8.1}%{:>8.1}%{:>8.1}%{:>9.2}{:>9}{:>9.1}%",
                name(run.what),
                100.0 * experts.hit_rate,
                100.0 * experts.forecast_rate,
                100.0 * experts.in_vain as f64 / (experts.read as f64).max(1.0),
                experts.bytes_per_second / 1e9,
                percent(experts.bytes_per_second, disk),
                100.0 * experts.waited,
            )?;
        }
    }
    Ok(())
}

/// What the widest run gains over the first.
fn print_scaling(out: &mut impl Write, measured: &[OnCores]) -> io::Result<()> {
    let [first, .., last] = measured else { return Ok(()) };
    writeln!(out, "\nfrom {} to {} cores", first.cores, last.cores)?;
    for (few, many) in first.runs.iter().zip(&last.runs) {
        let times = many.tokens_per_second / few.tokens_per_second;
        writeln!(out, "{:<24}{times:>8.2} x", name(few.what))?;
    }
    Ok(())
}

/// Where the time of a step went, on all cores.
fn print_stages(out: &mut impl Write, measured: &[OnCores]) -> io::Result<()> {
    let Some(OnCores { cores, runs }) = measured.last() else { return Ok(()) };
    for run in runs {
        writeln!(
            out,
            "\n{} on {cores}: {:.2} ms a step; waiting for other shards in brackets",
            name(run.what),
            1e3 * run.seconds / run.steps.max(1) as f64
        )?;
        for stage in &run.stages {
            writeln!(
                out,
                "  {:<22}{:>8.1}%  ({:.1}%)",
                stage.name,
                100.0 * stage.taken,
                100.0 * stage.waited
            )?;
        }
    }
    Ok(())
}
