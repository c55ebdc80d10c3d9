//! `strftime`, for the few templates that print the date, and for the log.

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
#[rustfmt::skip]
const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December"];

/// A moment in UTC, counted in seconds from 1970.
pub struct Moment {
    year: i64,
    month: usize,
    day: u32,
    weekday: usize,
    day_of_year: u32,
    seconds: u32,
}

impl Moment {
    pub fn new(unix_seconds: i64) -> Moment {
        let days = unix_seconds.div_euclid(86_400);
        // The Gregorian calendar repeats every 400 years, counted here from 1 March 2000.
        let shifted = days - 11_017;
        let era = shifted.div_euclid(146_097);
        let in_era = shifted.rem_euclid(146_097);
        // Within an era, leap days come at the end of each 4, not of each 100, but of all 400.
        let year_in_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
        let in_year = in_era - (365 * year_in_era + year_in_era / 4 - year_in_era / 100);
        let month_from_march = (5 * in_year + 2) / 153;
        let day = in_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12;
        let year = 2000 + era * 400 + year_in_era + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month < 2 { in_year - 305 } else { in_year + 60 + i64::from(leap) };
        Moment {
            year,
            month: month as usize,
            day: day as u32,
            weekday: (days + 3).rem_euclid(7) as usize,
            day_of_year: day_of_year as u32,
            seconds: unix_seconds.rem_euclid(86_400) as u32,
        }
    }

    /// Codes it does not know are left as they are.
    pub fn format(&self, format: &str) -> String {
        let (hour, minute, second) =
            (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut code = chars.next();
            // `%-d` is `%d` without its zero.
            let bare = code == Some('-');
            if bare {
                code = chars.next();
            }
            let mut padded = |number: u32, width: usize| {
                let width = if bare { 0 } else { width };
                out.push_str(&format!("{number:0width$}"));
            };
            match code {
                Some('d') => padded(self.day, 2),
                Some('m') => padded(self.month as u32 + 1, 2),
                Some('H') => padded(hour, 2),
                Some('I') => padded(half, 2),
                Some('M') => padded(minute, 2),
                Some('S') => padded(second, 2),
                Some('j') => padded(self.day_of_year, 3),
                Some('y') => padded(self.year.rem_euclid(100) as u32, 2),
                Some('Y') => out.push_str(&self.year.to_string()),
                Some('B') => out.push_str(MONTHS[self.month]),
                Some('b' | 'h') => out.push_str(&MONTHS[self.month][..3]),
                Some('A') => out.push_str(DAYS[self.weekday]),
                Some('a') => out.push_str(&DAYS[self.weekday][..3]),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('F') => out.push_str(&self.format("%Y-%m-%d")),
                Some('T') => out.push_str(&self.format("%H:%M:%S")),
                Some('Z') => out.push_str("UTC"),
                Some('%') => out.push('%'),
                Some(other) => {
                    out.push('%');
                    out.extend(bare.then_some('-'));
                    out.push(other);
                }
                None => out.push('%'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_match_the_calendar() {
        let format = "%Y-%m-%d %H:%M:%S %A %j %-d %b %y %I%p %% %q";
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 Thursday 001 1 Jan 70 12AM % %q"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060 29 Feb 00 12AM % %q"),
            (951_868_800, "2000-03-01 00:00:00 Wednesday 061 1 Mar 00 12AM % %q"),
            (1_735_689_599, "2024-12-31 23:59:59 Tuesday 366 31 Dec 24 11PM % %q"),
            (4_107_542_400, "2100-03-01 00:00:00 Monday 060 1 Mar 00 12AM % %q"),
            (-1, "1969-12-31 23:59:59 Wednesday 365 31 Dec 69 11PM % %q"),
        ] {
            assert_eq!(Moment::new(seconds).format(format), text);
        }
    }
}
