//! Peak memory of this process.

/// Peak resident memory in bytes; `None` where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse(&status)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(super::parse("Name:\tswift\nVmHWM:\t    1024 kB\nVmRSS:\t 1 kB\n"), Some(1 << 20));
        assert_eq!(super::parse("Name:\tswift\n"), None);
    }
}
