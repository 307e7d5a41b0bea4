//! The five fields of cron as calendar events of systemd. Source: crontab(5).

/// The words that stand for five fields.
const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The events, if the text has cron's form. Two of them where both a day of the month and one of the week are named: cron
/// then means either.
pub(super) fn translated(text: &str) -> Option<Result<Vec<String>, String>> {
    let lower = text.trim().to_ascii_lowercase();
    if lower.starts_with('@') {
        let found = MACROS.iter().find(|(name, _)| *name == lower);
        return Some(match found {
            Some((_, fields)) => of_fields(fields.split(' ').collect()),
            None => Err(format!("'{lower}' is no time")),
        });
    }
    let fields: Vec<&str> = lower.split_whitespace().collect();
    let is_field = |field: &&str| {
        field.starts_with(|c: char| c == '*' || c.is_ascii_digit())
            || MONTHS.iter().chain(&DAYS).any(|name| field.starts_with(name))
    };
    let has_form = fields.len() == 5 && fields.iter().all(is_field) && !lower.contains(':');
    has_form.then(|| of_fields(fields))
}

fn of_fields(fields: Vec<&str>) -> Result<Vec<String>, String> {
    let [minute, hour, day, month, weekday] = fields[..] else { return Err("cron has five fields".into()) };
    let minutes = values(minute, "minute", (0, 59), &[])?;
    let hours = values(hour, "hour", (0, 23), &[])?;
    let days = values(day, "day of the month", (1, 31), &[])?;
    let months = values(month, "month", (1, 12), &MONTHS)?;
    let mut weekdays = values(weekday, "day of the week", (0, 7), &DAYS)?;
    // 0 and 7 are Sunday.
    if weekdays.contains(&7) {
        weekdays.insert(0, 0);
    }
    weekdays.retain(|day| *day != 7);
    weekdays.dedup();
    let list = |values: &[u8], all: usize| {
        if values.len() == all {
            "*".to_owned()
        } else {
            values.iter().map(|value| format!("{value:02}")).collect::<Vec<_>>().join(",")
        }
    };
    let time = format!("{}:{}:00", list(&hours, 24), list(&minutes, 60));
    let names: Vec<String> = weekdays
        .iter()
        .filter_map(|day| DAYS.get(usize::from(*day)))
        .map(|name| format!("{}{}", name[..1].to_ascii_uppercase(), &name[1..]))
        .collect();
    let on_weekdays = if weekdays.len() == 7 { String::new() } else { format!("{} ", names.join(",")) };
    let event = |weekdays: &str, days: &str| format!("{weekdays}*-{}-{days} {time}", list(&months, 12));
    let days = list(&days, 31);
    // As cron has it, a field that begins with * is no choice of its own.
    if day.starts_with('*') || weekday.starts_with('*') {
        return Ok(vec![event(&on_weekdays, &days)]);
    }
    Ok(vec![event("", &days), event(&on_weekdays, "*")])
}

/// `*`, values, ranges `a-b`, steps `*/n` and `a-b/n`, names, separated by commas; in order.
fn values(text: &str, what: &str, (first, last): (u8, u8), names: &[&str]) -> Result<Vec<u8>, String> {
    let bad = || format!("'{text}' is no {what} of cron");
    let number = |word: &str| -> Result<u8, String> {
        if let Some(at) = names.iter().position(|name| *name == word) {
            return u8::try_from(at).map(|at| at + first).map_err(|_| bad());
        }
        let value: u8 = word.parse().map_err(|_| bad())?;
        if (first..=last).contains(&value) { Ok(value) } else { Err(bad()) }
    };
    let mut values = vec![];
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<usize>().ok().filter(|step| *step > 0).ok_or_else(bad)?))
            }
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (first, if names.len() == 7 { 6 } else { last }),
            Some((from, to)) => (number(from)?, number(to)?),
            None if step.is_some() => (number(range)?, last),
            None => (number(range)?, number(range)?),
        };
        if to < from {
            return Err(bad());
        }
        values.extend((from..=to).step_by(step.unwrap_or(1)));
    }
    values.sort_unstable();
    values.dedup();
    Ok(values)
}
