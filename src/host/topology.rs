//! Which processors this process may compute on, and which of them its shards should sit on.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::memory::{folders, group};

/// Processors by the kernel's numbers, ascending. Printed as the kernel does: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuList(Vec<usize>);

/// A cache, and the processors that share it (of the whole host, not only those allowed).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    pub bytes: u64,
    pub shared_by: CpuList,
}

/// One processor as the kernel counts them: with SMT, half of a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The kernel's number, by which a thread is pinned.
    pub id: usize,
    pub package: usize,
    /// The memory nearest to it.
    pub node: usize,
    /// Names its physical core: the lowest number of those that share it.
    pub core: usize,
    pub l1d: Option<Cache>,
    pub l2: Option<Cache>,
    pub l3: Option<Cache>,
}

/// Processor time that a control group allows, and the file that says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quota {
    pub cores: f64,
    pub file: PathBuf,
}

/// The part of the host that this process may compute on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topology {
    /// Never empty; ascending.
    cpus: Vec<Cpu>,
    quota: Option<Quota>,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SeatError {
    #[error("--cores 0: nothing can be computed on no core; ask for at least 1")]
    Zero,
    #[error(
        "--cores {asked}: this process may use {} ({allowed}); ask for at most {0}",
        allowed.len()
    )]
    TooMany { asked: usize, allowed: CpuList },
    #[error(
        "--cores {asked}: the control group allows {} cores ({}), and shards that wait for each \
         other would be stopped in the middle of a step; ask for at most {}, or raise the quota",
        quota.shown(), quota.file.display(), quota.whole()
    )]
    Quota { asked: usize, quota: Quota },
    #[error(
        "the control group allows {} of a core ({}), and a shard would be stopped in the middle \
         of every step: raise the quota to at least one core, or run outside of this group",
        quota.shown(), quota.file.display()
    )]
    NoWholeCore { quota: Quota },
}

impl Topology {
    /// What the calling thread may use: ask before any thread is pinned. What the host does not
    /// tell (a container may hide it) is taken to be simple: no SMT, one node, no quota.
    pub fn read() -> Topology {
        Topology::read_below(Path::new("/"), affinity())
    }

    /// The same of a host whose `/sys` and `/proc` are below `root`.
    fn read_below(root: &Path, mut allowed: Vec<usize>) -> Topology {
        let sys = root.join("sys/devices/system");
        if allowed.is_empty() {
            allowed = line(&sys.join("cpu/online")).map_or(vec![], |text| parse_list(&text).0);
        }
        if allowed.is_empty() {
            allowed = vec![0];
        }
        let nodes = nodes(&sys.join("node"));
        let node = |id| nodes.get(&id).copied().unwrap_or(0);
        let cpus = allowed.into_iter().map(|id| Cpu::read(&sys.join("cpu"), id, node(id)));
        Topology { cpus: cpus.collect(), quota: quota(root) }
    }

    /// The processors allowed, ascending.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    pub fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }

    /// Physical cores of which at least one processor is allowed.
    pub fn cores(&self) -> usize {
        self.cpus.iter().filter(|cpu| self.threads_before(cpu) == 0).count()
    }

    /// Allowed processors of the same core with a lower number.
    fn threads_before(&self, cpu: &Cpu) -> usize {
        self.cpus.iter().filter(|other| other.core == cpu.core && other.id < cpu.id).count()
    }

    /// The processors that `count` shards should be pinned to, by default one shard per physical
    /// core. A second processor of a core is taken when every core has one; the largest part of
    /// the host comes first, so that few shards sit near each other and their memory.
    pub fn seats(&self, count: Option<usize>) -> Result<Vec<Cpu>, SeatError> {
        let whole = self.quota.as_ref().map_or(usize::MAX, Quota::whole);
        let asked = count.unwrap_or(self.cores().min(whole).max(1));
        if asked == 0 {
            return Err(SeatError::Zero);
        }
        match &self.quota {
            Some(quota) if whole == 0 => {
                return Err(SeatError::NoWholeCore { quota: quota.clone() });
            }
            Some(quota) if asked > whole && whole < self.cpus.len() => {
                return Err(SeatError::Quota { asked, quota: quota.clone() });
            }
            _ if asked > self.cpus.len() => {
                let allowed = CpuList(self.cpus.iter().map(|cpu| cpu.id).collect());
                return Err(SeatError::TooMany { asked, allowed });
            }
            _ => {}
        }
        let mut seats = self.cpus.clone();
        let cores: Vec<&Cpu> =
            self.cpus.iter().filter(|cpu| self.threads_before(cpu) == 0).collect();
        let near = |test: &dyn Fn(&Cpu) -> bool| cores.iter().filter(|cpu| test(cpu)).count();
        seats.sort_by_cached_key(|cpu| {
            let package = near(&|other| other.package == cpu.package);
            let node = near(&|other| (other.package, other.node) == (cpu.package, cpu.node));
            let place = (Reverse(package), cpu.package, Reverse(node), cpu.node, cpu.core);
            (self.threads_before(cpu), place)
        });
        seats.truncate(asked);
        Ok(seats)
    }
}

impl Quota {
    /// Shards that can run without being stopped.
    fn whole(&self) -> usize {
        self.cores as usize
    }

    /// Never more than there is: 0.999 is no whole core.
    fn shown(&self) -> f64 {
        (self.cores * 100.0).floor() / 100.0
    }
}

impl Cpu {
    fn read(folder: &Path, id: usize, node: usize) -> Cpu {
        let folder = folder.join(format!("cpu{id}"));
        let topology = folder.join("topology");
        let package = line(&topology.join("physical_package_id")).and_then(|n| n.parse().ok());
        // The first name is the newer one.
        let siblings = line(&topology.join("core_cpus_list"))
            .or_else(|| line(&topology.join("thread_siblings_list")))
            .map_or(CpuList::default(), |text| parse_list(&text));
        let core = siblings.0.first().copied().filter(|_| siblings.0.contains(&id)).unwrap_or(id);
        // Where a hypervisor does not know the package, it says -1.
        let mut cpu =
            Cpu { id, package: package.unwrap_or(0), node, core, l1d: None, l2: None, l3: None };
        for index in 0.. {
            let folder = folder.join(format!("cache/index{index}"));
            let Some(level) = line(&folder.join("level")) else { break };
            let kind = line(&folder.join("type")).unwrap_or_default();
            let slot = match (&*level, &*kind) {
                ("1", "Data" | "Unified") => &mut cpu.l1d,
                ("2", "Data" | "Unified") => &mut cpu.l2,
                ("3", "Data" | "Unified") => &mut cpu.l3,
                _ => continue,
            };
            *slot = Cache::read(&folder, id);
        }
        cpu
    }
}

impl Cache {
    fn read(folder: &Path, id: usize) -> Option<Cache> {
        let bytes = parse_size(&line(&folder.join("size"))?)?;
        let shared_by = line(&folder.join("shared_cpu_list")).map(|text| parse_list(&text));
        let shared_by = shared_by.filter(|list| !list.is_empty()).unwrap_or(CpuList(vec![id]));
        Some(Cache { bytes, shared_by })
    }
}

impl CpuList {
    pub fn ids(&self) -> &[usize] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                // Two are not yet a run.
                write!(f, "{}{last}", if last == first + 1 { "," } else { "-" })?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// The processors that the calling thread may run on; a cpuset has narrowed them already. Empty
/// if the kernel does not tell.
fn affinity() -> Vec<usize> {
    const BITS: usize = u64::BITS as usize;
    // A kernel built for more processors than fit refuses; none is built for more than 65,536.
    let mut mask = vec![0u64; 1024 / BITS];
    while mask.len() <= (1 << 16) / BITS {
        // SAFETY: the kernel writes at most as many bytes as it is told that there are.
        let refused =
            unsafe { libc::sched_getaffinity(0, size_of_val(&mask[..]), mask.as_mut_ptr().cast()) };
        if refused == 0 {
            let is_set = |id: &usize| mask[id / BITS] >> (id % BITS) & 1 == 1;
            return (0..mask.len() * BITS).filter(is_set).collect();
        }
        mask = vec![0; mask.len() * 2];
    }
    Vec::new()
}

/// The memory node of each processor.
fn nodes(folder: &Path) -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        if let (Some(node), Some(cpus)) = (number, line(&entry.path().join("cpulist"))) {
            nodes.extend(parse_list(&cpus).0.into_iter().map(|id| (id, node)));
        }
    }
    nodes
}

/// The tightest quota between this process's control group and the root, of both hierarchies.
fn quota(root: &Path) -> Option<Quota> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut found: Vec<Quota> = Vec::new();
    // Systemd's hybrid hosts mount the unified hierarchy beside the old ones, but then the old
    // one has the processors.
    for folder in group(&groups, "").into_iter().flat_map(folders) {
        let file = root.join(format!("sys/fs/cgroup{folder}/cpu.max"));
        found.extend(line(&file).and_then(|text| Quota::parse(&text, file)));
    }
    for folder in group(&groups, "cpu").into_iter().flat_map(folders) {
        let folder = root.join(format!("sys/fs/cgroup/cpu{folder}"));
        let file = folder.join("cpu.cfs_quota_us");
        let period = line(&folder.join("cpu.cfs_period_us"));
        let both = line(&file).zip(period).map(|(quota, period)| format!("{quota} {period}"));
        found.extend(both.and_then(|text| Quota::parse(&text, file)));
    }
    found.into_iter().min_by(|a, b| a.cores.total_cmp(&b.cores))
}

impl Quota {
    /// `150000 100000`: microseconds of processor time in so many of the clock. `max` or -1 where
    /// there is no quota.
    fn parse(text: &str, file: PathBuf) -> Option<Quota> {
        let (time, period) = text.split_once(' ')?;
        let (time, period): (u64, u64) = (time.parse().ok()?, period.trim().parse().ok()?);
        (period > 0).then(|| Quota { cores: time as f64 / period as f64, file })
    }
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// `0-3,8`; what is not understood is left out.
fn parse_list(text: &str) -> CpuList {
    let mut ids = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse::<usize>()) {
            // No host has more, and a wrong file shall not fill the memory.
            ids.extend((first..=last).take(1 << 16));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    CpuList(ids)
}

/// `32K`, `1024K`, `32M`
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Two packages of one node each, with two cores of two processors; numbered as Intel's are:
    /// 0, 1 and 2, 3 are the cores' first processors, 4 to 7 their second.
    fn two_sockets(root: &Path) {
        for id in 0..8 {
            let (core, package) = (id % 4, id % 4 / 2);
            let cpu = format!("sys/devices/system/cpu/cpu{id}");
            write(root, &format!("{cpu}/topology/physical_package_id"), &package.to_string());
            let siblings = format!("{core},{}", core + 4);
            write(root, &format!("{cpu}/topology/core_cpus_list"), &siblings);
            let near = format!(
                "{}-{},{}-{}",
                package * 2,
                package * 2 + 1,
                4 + package * 2,
                5 + package * 2
            );
            let caches = [
                ("1", "Data", "32K", &siblings),
                ("1", "Instruction", "64K", &siblings),
                ("2", "Unified", "1024K", &siblings),
                ("3", "Unified", "32M", &near),
            ];
            for (index, (level, kind, size, shared)) in caches.into_iter().enumerate() {
                let cache = format!("{cpu}/cache/index{index}");
                write(root, &format!("{cache}/level"), level);
                write(root, &format!("{cache}/type"), kind);
                write(root, &format!("{cache}/size"), size);
                write(root, &format!("{cache}/shared_cpu_list"), shared);
            }
            write(root, &format!("sys/devices/system/node/node{package}/cpulist"), &near);
        }
        write(root, "sys/devices/system/node/online", "0-1");
    }

    fn ids(seats: Result<Vec<Cpu>, SeatError>) -> Vec<usize> {
        seats.unwrap().iter().map(|cpu| cpu.id).collect()
    }

    #[test]
    fn cores_come_before_their_second_processors_and_neighbours_first() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        let host = Topology::read_below(root.path(), (0..8).collect());
        assert_eq!((host.cores(), host.quota()), (4, None));
        let seven = &host.cpus()[7];
        assert_eq!((seven.package, seven.node, seven.core), (1, 1, 3));
        assert_eq!(seven.l1d.as_ref().unwrap().bytes, 32 << 10);
        assert_eq!(seven.l2.as_ref().unwrap().shared_by.ids(), [3, 7]);
        let l3 = seven.l3.as_ref().unwrap();
        assert_eq!((l3.bytes, l3.shared_by.to_string()), (32 << 20, "2,3,6,7".to_string()));

        assert_eq!(ids(host.seats(None)), [0, 1, 2, 3]);
        assert_eq!(ids(host.seats(Some(2))), [0, 1]);
        assert_eq!(ids(host.seats(Some(6))), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(host.seats(Some(8))), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(host.seats(Some(0)), Err(SeatError::Zero));
        assert_eq!(
            host.seats(Some(9)).unwrap_err().to_string(),
            "--cores 9: this process may use 8 (0-7); ask for at most 8"
        );
    }

    #[test]
    fn a_cpuset_leaves_what_it_leaves() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        // Both processors of core 3, one of core 1: the second package has as many cores.
        let host = Topology::read_below(root.path(), vec![1, 3, 5, 7]);
        assert_eq!(ids(host.seats(None)), [1, 3]);
        assert_eq!(ids(host.seats(Some(4))), [1, 3, 5, 7]);
        // The larger part of the host comes first, although its numbers are higher.
        let host = Topology::read_below(root.path(), vec![1, 2, 7]);
        assert_eq!(ids(host.seats(None)), [2, 7, 1]);
        // A core is a core, whichever of its processors is left.
        let host = Topology::read_below(root.path(), vec![5]);
        assert_eq!((host.cores(), ids(host.seats(None))), (1, vec![5]));
    }

    #[test]
    fn spinning_shards_are_not_put_under_half_a_core() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        write(root.path(), "proc/self/cgroup", "0::/a/b");
        write(root.path(), "sys/fs/cgroup/a/cpu.max", "50000 100000");
        write(root.path(), "sys/fs/cgroup/a/b/cpu.max", "max 100000");
        let host = Topology::read_below(root.path(), (0..8).collect());
        for asked in [None, Some(1), Some(9)] {
            let text = host.seats(asked).unwrap_err().to_string();
            assert!(text.contains("0.5 of a core (") && text.contains("/a/cpu.max)"), "{text}");
        }
    }

    #[test]
    fn a_quota_counts_in_whole_cores() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        write(root.path(), "proc/self/cgroup", "4:memory:/x\n1:cpu,cpuacct:/a\n0::/");
        write(root.path(), "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
        write(root.path(), "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
        write(root.path(), "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "155555");
        write(root.path(), "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000");
        let host = Topology::read_below(root.path(), (0..8).collect());
        assert_eq!(host.quota().unwrap().cores, 1.55555);
        assert_eq!(ids(host.seats(None)), [0]);
        assert_eq!(ids(host.seats(Some(1))), [0]);
        for asked in [2, 9] {
            let text = host.seats(Some(asked)).unwrap_err().to_string();
            assert!(text.contains("allows 1.55 cores (") && text.contains("at most 1,"), "{text}");
        }
        // A quota of all that there is does not count.
        write(root.path(), "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "800000");
        let host = Topology::read_below(root.path(), (0..8).collect());
        assert_eq!(ids(host.seats(None)), [0, 1, 2, 3]);
        let refused = host.seats(Some(9)).unwrap_err();
        assert!(matches!(refused, SeatError::TooMany { asked: 9, .. }), "{refused}");
    }

    #[test]
    fn a_host_that_tells_nothing_is_simple() {
        let root = tempfile::tempdir().unwrap();
        let host = Topology::read_below(root.path(), vec![0, 2]);
        let cpu = |id| Cpu { id, package: 0, node: 0, core: id, l1d: None, l2: None, l3: None };
        assert_eq!(host, Topology { cpus: vec![cpu(0), cpu(2)], quota: None });
        assert_eq!(host.seats(None).unwrap(), [cpu(0), cpu(2)]);
        let text = host.seats(Some(8)).unwrap_err().to_string();
        assert_eq!(text, "--cores 8: this process may use 2 (0,2); ask for at most 2");
        assert_eq!(Topology::read_below(root.path(), vec![]).cpus(), [cpu(0)]);
        write(root.path(), "sys/devices/system/cpu/cpu2/topology/physical_package_id", "-1");
        write(root.path(), "sys/devices/system/cpu/cpu2/topology/core_cpus_list", "nonsense");
        write(root.path(), "sys/devices/system/cpu/cpu2/cache/index0/level", "3");
        assert_eq!(Topology::read_below(root.path(), vec![2]).cpus(), [cpu(2)]);
    }

    #[test]
    fn this_host_has_a_seat() {
        let host = Topology::read();
        assert!(!host.cpus().is_empty() && host.cores() <= host.cpus().len());
        if host.quota().is_none() {
            assert_eq!(host.seats(None).unwrap().len(), host.cores());
        }
    }

    #[test]
    fn lists_and_sizes_are_read() {
        for text in ["", "0", "0,1", "0-2", "1,3,5", "0-3,8,10-12"] {
            assert_eq!(parse_list(text).to_string(), text);
        }
        assert_eq!(parse_list("3-1,x,2").ids(), [2]);
        assert_eq!(parse_list("0-99999999999").len(), 1 << 16);
        let sizes = ["32K", "1M", "7", "x", "9X", "99999999999999999G"].map(parse_size);
        assert_eq!(sizes, [Some(32 << 10), Some(1 << 20), Some(7), None, None, None]);
    }
}
