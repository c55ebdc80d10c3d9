//! `penstock doctor`: what this host can do, and which of its settings cost speed.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::{Outcome, counted};
use crate::base::units::Bytes;
use crate::host::profile::{BLOCKS, Cell, DEPTHS, Profile, Sample};
use crate::host::roof::Roof;
use crate::host::topology::Topology;
use crate::host::tuning::{self, Device, IoUring, Memory};
use crate::math::{Isa, IsaChoice};

/// More than this is read around each weight of a model that is mapped.
const READ_AHEAD_KIB: u64 = 512;

/// No flash takes so long to find a block.
const SLOW_US: f64 = 2000.0;

/// Measure this host's memory and disk, and say which settings cost speed.
///
/// Reads a large file for about three seconds: PATH, or the largest file in it. Where there is
/// none of at least 1 GiB, one of 2 GiB is written, which has no name and is gone afterwards.
#[derive(clap::Args)]
pub struct Args {
    /// A model, or the folder that models are to lie in
    #[arg(default_value = ".")]
    path: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    topology: Topology,
    isa: &'static str,
    /// What the processor lacks for the best instruction set.
    lacks: Option<String>,
    governor: Option<String>,
    memory: Memory,
    roof: Option<Roof>,
    roof_refused: Option<String>,
    io_uring: IoUring,
    device: Device,
    /// The file that was read, or the folder in which one was written.
    measured: PathBuf,
    written: bool,
    disk: Option<Profile>,
    disk_refused: Option<String>,
    /// What costs speed, each with what to do.
    advice: Vec<String>,
}

pub fn run(args: Args) -> Outcome {
    if !args.path.exists() {
        let path = args.path.display();
        return Err(
            format!("{path}: there is no such file or folder whose drive to measure").into()
        );
    }
    let topology = Topology::read();
    let isa = IsaChoice::Auto.resolve()?;
    let lacks = IsaChoice::Amx.resolve().err().map(|error| error.to_string());
    // The disk first: what it is measured with is given back before the memory is.
    let sample = Sample::find(&args.path);
    let measured = sample.as_ref().map_or(&*args.path, Sample::path).to_owned();
    let written = sample.as_ref().is_ok_and(|sample| sample.written);
    let disk = sample.and_then(|sample| Profile::measure(&sample));
    let seats = topology.seats(None).unwrap_or_else(|_| topology.cpus()[..1].to_vec());
    let roof = Roof::measure(&seats);
    let mut report = Report {
        isa: isa.name(),
        lacks,
        governor: tuning::governor(),
        memory: Memory::read(),
        io_uring: IoUring::read(),
        device: Device::of(&args.path),
        measured,
        written,
        roof_refused: roof.as_ref().err().map(ToString::to_string),
        roof: roof.ok(),
        disk_refused: disk.as_ref().err().map(ToString::to_string),
        disk: disk.ok(),
        advice: Vec::new(),
        topology,
    };
    report.advice = advice(&report);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => print(&mut out, &report)?,
    }
    Ok(())
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<13} {value}");
    line("cores", cores(&report.topology))?;
    let lacks = report.lacks.as_ref().map_or(String::new(), |lacks| format!(" ({lacks})"));
    line("kernels", format!("{}{lacks}", report.isa))?;
    line("memory", memory(&report.memory))?;
    match (&report.roof, &report.roof_refused) {
        (Some(roof), _) => {
            let reads = roof.reads.iter().map(|read| {
                let threads = counted(read.threads, "thread");
                format!("{:.1} GB/s on {threads}", read.bytes_per_second / 1e9)
            });
            line("memory read", reads.collect::<Vec<_>>().join(", "))?;
        }
        (None, reason) => line("memory read", reason.clone().unwrap_or_default())?,
    }
    line("io_uring", io_uring(&report.io_uring))?;
    line("drive", drive(&report.device))?;
    let what = if report.written { "a file written in " } else { "" };
    line("measured", format!("{what}{}", report.measured.display()))?;
    match (&report.disk, &report.disk_refused) {
        (Some(disk), _) => {
            let sums = [
                format!(
                    "{:.2} GB/s in blocks of {}",
                    disk.bytes_per_second / 1e9,
                    size(disk.block)
                ),
                format!("{} at once", disk.depth),
                format!("{:.0}% of a core", 100.0 * disk.core),
            ];
            line("disk read", sums.join(", "))?;
            table(out, disk)?;
        }
        (None, reason) => line("disk read", reason.clone().unwrap_or_default())?,
    }
    if report.advice.is_empty() {
        return writeln!(out, "\nNo setting was found that costs speed.");
    }
    writeln!(out, "\nWhat costs speed here:")?;
    report.advice.iter().try_for_each(|advice| writeln!(out, "- {advice}"))
}

fn table(out: &mut impl Write, disk: &Profile) -> io::Result<()> {
    write!(out, "  {:<12}", "GB/s")?;
    for depth in DEPTHS {
        write!(out, "{:>7}", format!("× {depth}"))?;
    }
    writeln!(out, "   alone")?;
    for block in BLOCKS {
        write!(out, "  {:<11}", size(block))?;
        for Cell { bytes_per_second, .. } in disk.table.iter().filter(|cell| cell.block == block) {
            write!(out, "{:>7.2}", bytes_per_second / 1e9)?;
        }
        match disk.alone.iter().find(|alone| alone.block == block) {
            Some(alone) => {
                let (median, slow) = (alone.median_us, alone.p99_us);
                writeln!(out, "   {median:.0} µs (99%: {slow:.0})")?;
            }
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// `256 KiB`
fn size(bytes: usize) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn cores(topology: &Topology) -> String {
    let cpus = topology.cpus();
    let mut text = counted(topology.cores(), "core");
    if cpus.len() > topology.cores() {
        text += &format!(" of {}", counted(cpus.len(), "processor"));
    }
    let mut nodes: Vec<usize> = cpus.iter().map(|cpu| cpu.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() > 1 {
        text += &format!(" on {} memory nodes", nodes.len());
    }
    let caches = [
        ("L2", cpus.first().and_then(|cpu| cpu.l2.as_ref())),
        ("L3", cpus.first().and_then(|cpu| cpu.l3.as_ref())),
    ];
    for (name, cache) in caches {
        if let Some(cache) = cache {
            text += &format!(", {name} {}", Bytes(cache.bytes));
        }
    }
    if let Some(quota) = topology.quota() {
        text += &format!(", of which the control group allows {:.2}", quota.cores);
    }
    text
}

fn memory(memory: &Memory) -> String {
    let huge = match memory.explicit_huge_pages {
        0 => format!("transparent huge pages {}", chosen(&memory.transparent_huge_pages)),
        bytes => format!("{} of huge pages set aside", Bytes(bytes)),
    };
    let lockable = match memory.lockable {
        None => "all may be locked".into(),
        Some(bytes) => format!("{} may be locked", Bytes(bytes)),
    };
    let free = Bytes(memory.available);
    format!("{free} free of {}, {huge}, {lockable}", Bytes(memory.total))
}

/// `madvise` of `always [madvise] never`.
fn chosen(switch: &str) -> &str {
    let inside = switch.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or("unknown", |(word, _)| word)
}

fn io_uring(found: &IoUring) -> String {
    match &found.grants {
        None => found.refused.clone().unwrap_or_default(),
        Some(grants) => {
            let memory = if grants.memory { "memory registered" } else { "memory not registered" };
            let deferred = if grants.deferred { ", completions deferred" } else { "" };
            format!("Linux {}, {memory}{deferred}", found.kernel)
        }
    }
}

fn drive(device: &Device) -> String {
    let name = match (&*device.name, &*device.model) {
        ("", _) => "no block device".into(),
        (name, "") => name.to_owned(),
        (name, model) => format!("{name} ({model})"),
    };
    let ahead = device.read_ahead_kib.map(|kib| format!(", read-ahead {kib} KiB"));
    format!("{name}, {}{}", device.file_system, ahead.unwrap_or_default())
}

/// One sentence for each thing that costs speed: what it is, what it costs, what to do.
fn advice(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(quota) = report.topology.quota() {
        advice.push(format!(
            "The control group allows {:.2} cores ({}), so fewer shards are seated than there are \
             cores: raise the quota.",
            quota.cores,
            quota.file.display()
        ));
    }
    if report.isa == Isa::Scalar.name() {
        advice.push(
            "This processor or virtual machine has no AVX2, so everything is computed slowly: pass \
             the host's processor through to the guest (cpu model `host`)."
                .into(),
        );
    }
    if report.governor.as_deref() == Some("powersave") {
        advice.push(
            "Processors are kept at their lowest speed (governor powersave): `cpupower \
             frequency-set -g performance`."
                .into(),
        );
    }
    let Memory { transparent_huge_pages: huge, explicit_huge_pages, lockable, swap, .. } =
        &report.memory;
    if chosen(huge) == "never" && *explicit_huge_pages == 0 {
        advice.push(
            "Huge pages are off, so reading weights costs a look-up in the page tables for every \
             4 KiB: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`."
                .into(),
        );
    }
    if let Some(lockable) = lockable {
        let swapped = if *swap > 0 { ", and they may be swapped out" } else { "" };
        advice.push(format!(
            "Only {} may be locked, so reads into weights' memory cost about twice the processor \
             time{swapped}: LimitMEMLOCK=infinity in the systemd unit, or `ulimit -l unlimited`.",
            Bytes(*lockable)
        ));
    }
    match (&report.io_uring.grants, &report.io_uring.refused) {
        (None, Some(reason)) => {
            advice.push(format!("Nothing can be read past the cache: {reason}."))
        }
        (Some(grants), _) if !grants.deferred => advice.push(
            "This kernel interrupts what is computed for every read (Linux 6.1 and newer need \
             not): update it."
                .into(),
        ),
        _ => {}
    }
    let Device { name, read_ahead_kib, rotational, file_system, .. } = &report.device;
    if let Some(kib) = read_ahead_kib.filter(|kib| *kib > READ_AHEAD_KIB) {
        advice.push(format!(
            "A model that is mapped and larger than memory is read {kib} KiB around each weight: \
             `echo 128 > /sys/block/{name}/queue/read_ahead_kb` (a packed model is not concerned)."
        ));
    }
    // Virtual disks say so too.
    let alone = report.disk.as_ref().and_then(|disk| disk.alone.first());
    if *rotational && alone.is_none_or(|alone| alone.median_us > SLOW_US) {
        advice.push(format!(
            "{name} says that it is a disk that turns, which finds a block in milliseconds: put \
             models on flash."
        ));
    }
    if let Some(disk) = &report.disk
        && !disk.direct
    {
        advice.push(format!(
            "{file_system} does not read past the page cache, so weights would be in memory twice, \
             and what was measured may be memory: put models on ext4 or xfs."
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            topology: Topology::read(),
            isa: "avx512",
            lacks: None,
            governor: None,
            memory: Memory {
                total: 16 << 30,
                available: 8 << 30,
                swap: 0,
                transparent_huge_pages: "always [madvise] never".into(),
                explicit_huge_pages: 0,
                lockable: None,
            },
            roof: None,
            roof_refused: Some("busy".into()),
            io_uring: IoUring { kernel: "6.18".into(), grants: None, refused: None },
            device: Device::default(),
            measured: "/models".into(),
            written: true,
            disk: None,
            disk_refused: Some("none".into()),
            advice: Vec::new(),
        }
    }

    #[test]
    fn each_setting_that_costs_speed_has_its_sentence() {
        let mut report = report();
        let quiet = advice(&report).len();
        report.memory.transparent_huge_pages = "always madvise [never]".into();
        report.memory.lockable = Some(8 << 20);
        report.governor = Some("powersave".into());
        report.isa = "scalar";
        report.io_uring.refused = Some("it is forbidden".into());
        report.device = Device {
            name: "sda".into(),
            read_ahead_kib: Some(8192),
            rotational: true,
            ..Device::default()
        };
        let all = advice(&report);
        assert_eq!(all.len() - quiet, 7, "{all:#?}");
        assert!(all.iter().all(|one| one.ends_with('.') && one.contains(": ")), "{all:#?}");
        assert!(all.iter().any(|one| one.contains("/sys/block/sda/queue/read_ahead_kb")));
    }

    #[test]
    fn a_report_fits_on_a_screen() {
        let mut report = report();
        let cells = |block| DEPTHS.map(|depth| Cell { block, depth, bytes_per_second: 3e9 });
        report.disk = Some(Profile {
            bytes_per_second: 3e9,
            block: 256 << 10,
            depth: 2,
            core: 0.12,
            table: BLOCKS.into_iter().flat_map(cells).collect(),
            alone: Vec::new(),
            direct: true,
            registered: true,
            not_registered: None,
        });
        let mut out = Vec::new();
        print(&mut out, &report).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().count() < 24, "{text}");
        assert!(
            text.contains("3.00 GB/s in blocks of 256 KiB, 2 at once, 12% of a core"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        assert_eq!((chosen("always [madvise] never"), chosen("")), ("madvise", "unknown"));
    }
}
