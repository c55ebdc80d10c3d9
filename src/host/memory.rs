//! How much memory this process may still take.

use std::fs;

/// Bytes that can be taken without swapping or being killed: what the kernel calls available, or
/// what is left of the control group's limit where that is less. `u64::MAX` if neither is told.
pub fn available() -> u64 {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_available(&text));
    [host, left_in_v2(), left_in_v1()].into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// `MemAvailable:   24000000 kB`
fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Path of this process in a control-group hierarchy: the unified one (`""`) or v1's memory one.
fn group(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let ours = match controller {
            "" => names.is_empty(),
            _ => names.split(',').any(|name| name == controller),
        };
        ours.then(|| path.to_string())
    })
}

fn left_in_v2() -> Option<u64> {
    let files = ["memory.max", "memory.current", "inactive_file"];
    least_on_the_way("/sys/fs/cgroup", &group("")?, files)
}

fn left_in_v1() -> Option<u64> {
    let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
    least_on_the_way("/sys/fs/cgroup/memory", &group("memory")?, files)
}

/// A parent's limit binds its children, so all folders up to the root count. In a container the
/// root is often the process's own group, whatever path it is told.
fn least_on_the_way(root: &str, path: &str, files: [&str; 3]) -> Option<u64> {
    let mut path = path.trim_end_matches('/');
    let mut least = None;
    loop {
        if let Some(left) = left(&format!("{root}{path}"), files) {
            least = Some(least.map_or(left, |l: u64| l.min(left)));
        }
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => return least,
        }
    }
}

/// Limit less use; pages of files that nobody uses count as free, since the kernel drops them.
fn left(folder: &str, [limit, used, droppable]: [&str; 3]) -> Option<u64> {
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
    fn this_host_has_some_memory_left() {
        assert!(available() > 1 << 20);
    }
}
