//! Quantities for people, each in the unit that fits it.

pub(crate) use engine::shown::{counted, counted_are};

/// A duration, given in seconds.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.001 => "< 1 ms".to_owned(),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 120.0 => format!("{seconds:.1} s"),
        _ if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{counted, duration};

    #[test]
    fn one_thing_is_no_plural() {
        let all = [0_u64, 1, 2].map(|number| counted(number, "run"));
        assert_eq!(all, ["0 runs", "1 run", "2 runs"]);
    }

    #[test]
    fn a_duration_has_the_unit_that_fits() {
        let cases = [
            (0.0, "< 1 ms"),
            (0.04, "40 ms"),
            (1.0, "1.0 s"),
            (119.0, "119.0 s"),
            (9207.0, "2.6 h"),
            (1800.0, "30 min"),
            (864_000.0, "10.0 days"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }
}
