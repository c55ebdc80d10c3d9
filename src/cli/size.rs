//! Sizes and rates as a user types them: `8GiB`, `4G`, `512MiB`, `80%`; `3.0GB/s`.

use crate::plan::Free;

/// How much memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    Bytes(u64),
    /// A part of what this process can have.
    Part(f64),
}

impl Size {
    pub fn bytes(self, free: Option<Free>) -> Result<u64, &'static str> {
        match (self, free) {
            (Size::Bytes(bytes), _) => Ok(bytes),
            (Size::Part(part), Some(free)) => Ok((free.most() as f64 * part) as u64),
            (Size::Part(_), None) => Err(
                "this host does not say how much memory is free: give --memory in bytes, as 8GiB",
            ),
        }
    }
}

/// For `--memory`.
pub fn size(text: &str) -> Result<Size, String> {
    let expected = || "expected a size, as 8GiB, 512MiB or 80%".to_string();
    let (number, unit) = split(text).ok_or_else(expected)?;
    if unit == "%" {
        return match number {
            n if n > 0.0 && n <= 100.0 => Ok(Size::Part(n / 100.0)),
            _ => Err("expected more than 0% and at most 100%".into()),
        };
    }
    let bytes = number * scale(unit).ok_or_else(expected)?;
    // Somebody who says 8 hardly means 8 bytes.
    if bytes < 1024.0 * 1024.0 {
        return Err(match unit {
            "" => format!("{text} bytes are too few to mean it: give a unit, as {text}GiB"),
            _ => "less than 1 MiB holds nothing".into(),
        });
    }
    if bytes >= (1u64 << 60) as f64 {
        return Err("no host has that much memory".into());
    }
    Ok(Size::Bytes(bytes as u64))
}

/// For `--disk`, in bytes per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let expected = || "expected bytes per second, as 3.0GB/s".to_string();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let rate = number * scale(unit.strip_suffix("/s").unwrap_or(unit)).ok_or_else(expected)?;
    match (1e3..1e15).contains(&rate) {
        true => Ok(rate),
        false => Err("expected between 1 KB/s and 1 PB/s, as 3.0GB/s".into()),
    }
}

/// A number that is 0 or more, and what is behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// `G` and `GiB` are binary, as memory is counted; `GB` is decimal, as disks are.
fn scale(unit: &str) -> Option<f64> {
    let unit = unit.to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib").or(unit.strip_suffix('b')) {
        _ if unit.is_empty() || unit == "b" => return Some(1.0),
        Some(prefix) if unit.ends_with("ib") => (prefix, 1024.0_f64),
        Some(prefix) => (prefix, 1000.0),
        None => (&unit[..], 1024.0),
    };
    let power = ["k", "m", "g", "t", "p"].iter().position(|known| *known == prefix)?;
    Some(base.powi(power as i32 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("512MiB", 512 << 20),
            ("512 MiB", 512 << 20),
            ("2.5GiB", 5 << 29),
            ("2GB", 2_000_000_000),
            ("2097152", 2 << 20),
            ("1T", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(Size::Bytes(bytes)), "{text}");
        }
        assert_eq!(size("80%"), Ok(Size::Part(0.8)));
        for text in [
            "",
            "GiB",
            "8GiBs",
            "-1G",
            "8 bananas",
            "1..5G",
            "0",
            "8",
            "0%",
            "101%",
            "1e9",
            "9999P",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(size("8").unwrap_err().contains("8GiB"));
    }

    #[test]
    fn rates_are_bytes_per_second() {
        for (text, bytes) in
            [("3.0GB/s", 3e9), ("2800MB/s", 2.8e9), ("3GB", 3e9), ("1GiB/s", 1073741824.0)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "fast", "0GB/s", "3GB/min"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_part_is_of_what_can_be_had() {
        let free = Free { limit: Some(8 << 30), available: 20 << 30, own: 0 };
        assert_eq!(Size::Part(0.5).bytes(Some(free)), Ok(4 << 30));
        assert!(Size::Part(0.5).bytes(None).is_err());
        assert_eq!(Size::Bytes(7).bytes(None), Ok(7));
    }
}
