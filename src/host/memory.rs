//! How much memory this process has taken, and how much it may still take.

use std::fs;

/// Bytes that can be taken without swapping or being killed: what the kernel calls available, or
/// what is left of the control group's limit where that is less. `u64::MAX` if neither is told.
pub fn available() -> u64 {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_available(&text));
    [host, left_in_v2(), left_in_v1()].into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The most that this process's control group, or one above it, may have in memory; `None` if none
/// has a limit.
pub fn limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let v2 = group(&groups, "").map(|path| ("", path, "memory.max"));
    let v1 = group(&groups, "memory").map(|path| ("/memory", path, "memory.limit_in_bytes"));
    let limits = [v2, v1].into_iter().flatten().flat_map(|(mount, path, file)| {
        folders(path).map(move |folder| format!("/sys/fs/cgroup{mount}{folder}/{file}"))
    });
    limits.filter_map(|file| parse_limit(&fs::read_to_string(file).ok()?)).min()
}

/// `max`, or in v1 the largest multiple of a page there is, is none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&limit| limit < 1 << 62)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemAvailable:")
}

/// `MemAvailable:   24000000 kB`
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What this process has in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub total: u64,
    /// The part that is mapped files, which the kernel may drop and read again.
    pub files: u64,
}

/// What this process has in memory now; the kernel counts in batches, so a few pages may lack.
pub fn resident() -> Option<Resident> {
    parse_resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Explicit huge pages are not in the kernel's total.
fn parse_resident(status: &str) -> Option<Resident> {
    let huge = kibibytes(status, "HugetlbPages:").unwrap_or(0);
    let total = kibibytes(status, "VmRSS:")?.saturating_add(huge);
    Some(Resident { total, files: kibibytes(status, "RssFile:")? })
}

/// Bytes of explicit huge pages of 2 MiB that nobody has or has been promised, and that the
/// control group lets this process have: it is killed if it touches more.
pub(super) fn huge_pages_left() -> u64 {
    let pool = |file: &str| -> Option<u64> {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let Some((free, promised)) = pool("free_hugepages").zip(pool("resv_hugepages")) else {
        return 0;
    };
    let pool = free.saturating_sub(promised).saturating_mul(2 << 20);
    let v2 = least_on_the_way("", "", ["hugetlb.2MB.max", "hugetlb.2MB.current", NONE]);
    let files = ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.usage_in_bytes", NONE];
    let v1 = least_on_the_way("hugetlb", "/hugetlb", files);
    [Some(pool), v2, v1].into_iter().flatten().min().unwrap_or(0)
}

/// Path of this process in a control-group hierarchy, the unified one (`""`) or that of a v1
/// controller, as `/proc/self/cgroup` tells it.
pub(super) fn group<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let ours = match controller {
            "" => names.is_empty(),
            _ => names.split(',').any(|name| name == controller),
        };
        ours.then_some(path)
    })
}

/// A control group's folder and those above it up to the root (`""`). A parent's limit binds its
/// children, so all of them count. In a container the root is often the process's own group,
/// whatever path it is told.
pub(super) fn folders(path: &str) -> impl Iterator<Item = &str> {
    let first = path.trim_end_matches('/');
    std::iter::successors(Some(first), |path| path.rsplit_once('/').map(|(parent, _)| parent))
}

/// The files of a group that tell a limit and what is used of it, and the line of `memory.stat`
/// that tells which part of the use does not count (`NONE`: all of it counts).
type Files = [&'static str; 3];

const NONE: &str = "-";

fn left_in_v2() -> Option<u64> {
    least_on_the_way("", "", ["memory.max", "memory.current", "inactive_file"])
}

fn left_in_v1() -> Option<u64> {
    let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
    least_on_the_way("memory", "/memory", files)
}

fn least_on_the_way(controller: &str, mount: &str, files: Files) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let folders = folders(group(&groups, controller)?);
    folders.filter_map(|folder| left(&format!("/sys/fs/cgroup{mount}{folder}"), files)).min()
}

/// Limit less use; pages of files that nobody uses count as free, since the kernel drops them.
fn left(folder: &str, [limit, used, droppable]: Files) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(format!("{folder}/{file}")).ok()?.trim().parse().ok()
    };
    let limit = number(limit)?;
    let stat = fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
    let droppable = stat
        .lines()
        .find_map(|line| line.strip_prefix(droppable)?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(number(used)?.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:  10 kB\nMemFree: 3 kB\nMemAvailable:    7 kB\n";
        assert_eq!(parse_available(text), Some(7 * 1024));
        assert_eq!(parse_available("MemTotal: 10 kB"), None);
    }

    #[test]
    fn files_are_a_part_of_what_is_resident() {
        let status = "VmRSS:\t  100 kB\nRssAnon:\t 60 kB\nRssFile:\t 40 kB\nHugetlbPages: 2048 kB";
        let expected = Resident { total: 2148 * 1024, files: 40 * 1024 };
        assert_eq!(parse_resident(status), Some(expected));
        assert_eq!(parse_resident("VmRSS: 100 kB"), None);
        let now = resident().unwrap();
        assert!(now.total > now.files && now.files > 0, "{now:?}");
    }

    #[test]
    fn a_group_is_found_with_all_above_it() {
        let groups = "4:memory:/a/b\n1:cpu,cpuacct:/c:d\n0::/";
        assert_eq!(group(groups, "memory"), Some("/a/b"));
        assert_eq!(group(groups, "cpu"), Some("/c:d"));
        assert_eq!((group(groups, ""), group(groups, "io")), (Some("/"), None));
        assert_eq!(folders("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
        assert_eq!(folders("/").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(parse_limit("8589934592\n"), Some(8 << 30));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert!(limit().is_none_or(|limit| limit > 1 << 20));
    }

    #[test]
    fn this_host_has_some_memory_left() {
        assert!(available() > 1 << 20);
    }
}
