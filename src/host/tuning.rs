//! Settings of the host that cost speed: what it tells of them. What to do about them is said by
//! the command that shows them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ring::{Grants, Ring};

/// How memory is given to processes here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All that the host has.
    pub total: u64,
    /// What this process can take, its control group's limit considered.
    pub available: u64,
    pub swap: u64,
    /// The switch as the kernel shows it: `always [madvise] never`.
    pub transparent_huge_pages: String,
    /// Bytes of huge pages that were set aside.
    pub explicit_huge_pages: u64,
    /// Bytes that may be locked; `None` for all.
    pub lockable: Option<u64>,
}

impl Memory {
    pub fn read() -> Memory {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let switch = "/sys/kernel/mm/transparent_hugepage/enabled";
        Memory {
            total: meminfo(&text, "MemTotal:").unwrap_or(0) * 1024,
            available: super::memory::available(),
            swap: meminfo(&text, "SwapTotal:").unwrap_or(0) * 1024,
            transparent_huge_pages: line(Path::new(switch)).unwrap_or_default(),
            explicit_huge_pages: meminfo(&text, "HugePages_Total:").unwrap_or(0)
                * meminfo(&text, "Hugepagesize:").unwrap_or(0)
                * 1024,
            lockable: lockable(),
        }
    }
}

fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the user's limit says, unless the process may ignore it.
fn lockable() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let may = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let may = may.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    const IPC_LOCK: u64 = 1 << 14;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills what it is given.
    let refused = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    let limited = refused == 0 && may & IPC_LOCK == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    limited.then_some(limit.rlim_cur)
}

/// The device under a file system, as far as the kernel tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// `nvme0n1`, `vda`; empty if it is none that blocks are read from.
    pub name: String,
    pub model: String,
    /// `ext4`, `xfs`, `tmpfs`.
    pub file_system: String,
    pub read_ahead_kib: Option<u64>,
    /// A disk that turns.
    pub rotational: bool,
}

impl Device {
    /// That which a file or folder lies on.
    pub fn of(path: &Path) -> Device {
        let number = fs::metadata(path).map_or(0, |found| found.dev());
        let (major, minor) = (libc::major(number), libc::minor(number));
        Device::read_below(Path::new("/"), major, minor)
    }

    /// The same of a host whose `/sys` and `/proc` are below `root`.
    fn read_below(root: &Path, major: u32, minor: u32) -> Device {
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        let mut device = Device::default();
        let mut blocks = root.join(format!("sys/dev/block/{major}:{minor}"));
        if let Some((file_system, source)) = mount(&mounts, &format!("{major}:{minor}")) {
            device.file_system = file_system.into();
            // btrfs and the like have numbers of their own.
            if let (false, Some(name)) = (blocks.exists(), source.strip_prefix("/dev/")) {
                blocks = root.join(format!("sys/class/block/{name}"));
            }
        }
        let Ok(mut folder) = fs::canonicalize(&blocks) else { return device };
        // A partition's queue is its disk's.
        if folder.join("partition").exists() {
            folder = folder.parent().map(PathBuf::from).unwrap_or(folder);
        }
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        device.name = name.unwrap_or_default();
        device.model = line(&folder.join("device/model")).unwrap_or_default();
        let number = |file: &str| line(&folder.join(file))?.parse::<u64>().ok();
        device.read_ahead_kib = number("queue/read_ahead_kb");
        device.rotational = number("queue/rotational") == Some(1);
        device
    }
}

/// File system and source of the mount with this number, from `/proc/self/mountinfo`.
fn mount<'a>(text: &'a str, number: &str) -> Option<(&'a str, &'a str)> {
    text.lines().find_map(|line| {
        let (first, second) = line.split_once(" - ")?;
        let mut kind = second.split(' ');
        (first.split(' ').nth(2)? == number).then_some((kind.next()?, kind.next()?))
    })
}

/// Whether reads of our own are possible here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IoUring {
    pub kernel: String,
    /// What the kernel grants; if nothing, why.
    pub grants: Option<Grants>,
    pub refused: Option<String>,
}

impl IoUring {
    /// Tries it.
    pub fn read() -> IoUring {
        let kernel = line(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let arena = super::arena::Arena::reserve(64 << 10);
        let arenas = arena.map_or_else(|_| Vec::new(), |arena| vec![arena]);
        match Ring::<()>::open(&[], &arenas, 4) {
            Ok(ring) => IoUring { kernel, grants: Some(ring.grants().clone()), refused: None },
            Err(error) => IoUring { kernel, grants: None, refused: Some(error.to_string()) },
        }
    }
}

/// How processors choose their speed, if that is told: `powersave`, `performance`.
pub fn governor() -> Option<String> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cpufreq");
    // These drivers' powersave is the usual setting, and fast.
    let driver = line(&folder.join("scaling_driver")).unwrap_or_default();
    let own = ["intel_pstate", "amd-pstate-epp"].contains(&&*driver);
    line(&folder.join("scaling_governor")).filter(|_| !own)
}

/// The first line of a file, trimmed.
fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_partition_belongs_to_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let disk = "sys/devices/pci0/nvme0n1";
        write(root.path(), &format!("{disk}/queue/read_ahead_kb"), "8192\n");
        write(root.path(), &format!("{disk}/queue/rotational"), "0\n");
        write(root.path(), &format!("{disk}/device/model"), "Fast One  \n");
        write(root.path(), &format!("{disk}/nvme0n1p2/partition"), "2\n");
        let partition = root.path().join(disk).join("nvme0n1p2");
        for link in ["sys/dev/block/259:2", "sys/class/block/nvme0n1p2"] {
            let link = root.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(&partition, link).unwrap();
        }
        let mounts = "1 0 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
            2 1 0:33 / /data rw - btrfs /dev/nvme0n1p2 rw\n\
            3 1 0:34 / /tmp rw - tmpfs tmpfs rw\n";
        write(root.path(), "proc/self/mountinfo", mounts);
        let found = Device::read_below(root.path(), 259, 2);
        let expected = Device {
            name: "nvme0n1".into(),
            model: "Fast One".into(),
            file_system: "ext4".into(),
            read_ahead_kib: Some(8192),
            rotational: false,
        };
        assert_eq!(found, expected);
        let other = Device { file_system: "btrfs".into(), ..expected };
        assert_eq!(Device::read_below(root.path(), 0, 33), other);
        let memory = Device { file_system: "tmpfs".into(), ..Device::default() };
        assert_eq!(Device::read_below(root.path(), 0, 34), memory);
        assert_eq!(Device::read_below(root.path(), 7, 7), Device::default());
    }

    #[test]
    fn this_host_tells_of_itself() {
        let memory = Memory::read();
        assert!(memory.total > 0 && memory.available > 0);
        let ring = IoUring::read();
        assert_eq!(ring.grants.is_none(), ring.refused.is_some());
        assert!(!Device::of(Path::new("/proc")).file_system.is_empty());
    }
}
