//! Log lines as zap writes them, because log pipelines made for etcd read them.

use std::{
    fmt,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format},
    registry::LookupSpan,
};

use crate::config::LogConfig;

/// Makes `config` the log of this process. Lines before it are lost.
pub(super) fn start(config: LogConfig) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(config.level)
        .event_format(Zap { json: config.json })
        .with_writer(move || -> Box<dyn Write> {
            if config.to_stdout { Box::new(io::stdout()) } else { Box::new(io::stderr()) }
        })
        .finish();
    // A log that was set before (in a test) stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Zap {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: format::Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            level: level(*metadata.level()),
            time: rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            caller: caller(metadata.file(), metadata.line()),
            fields,
        };
        writeln!(writer, "{}", if self.json { line.json() } else { line.console() })
    }
}

struct Line {
    level: &'static str,
    time: String,
    caller: String,
    fields: Fields,
}

impl Line {
    fn json(self) -> String {
        // Written by hand so that the fields stand in zap's order.
        let quoted = |text: &str| Value::from(text).to_string();
        let mut line = format!(
            "{{\"level\":\"{}\",\"ts\":\"{}\",\"caller\":{},\"msg\":{}",
            self.level,
            self.time,
            quoted(&self.caller),
            quoted(&self.fields.message)
        );
        for (name, value) in &self.fields.rest {
            line.push_str(&format!(",{}:{value}", quoted(name)));
        }
        line.push('}');
        line
    }

    fn console(self) -> String {
        let mut line = format!("{}\t{}\t{}\t{}", self.time, self.level, self.caller, self.fields.message);
        if !self.fields.rest.is_empty() {
            line.push('\t');
            line.push_str(&Value::Object(self.fields.rest).to_string());
        }
        line
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        // tracing names fields with underscores where zap's lines have dashes.
        self.rest.insert(field.name().replace('_', "-"), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message = value.to_owned() } else { self.set(field, value.into()) }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.set(field, text.into()) }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// The file's folder and name and the line, as zap shortens them.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown");
    let short = file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..]);
    format!("{short}:{}", line.unwrap_or(0))
}

/// A time since 1970 as `2026-01-31T12:34:56.123456Z`.
fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date of a day since 1970-01-01: in years that begin in March a leap day is the last day, and 400 of
/// them have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const SHIFT: u64 = 719_468;
    let days = days + SHIFT;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let day = |days| civil(days);
        assert_eq!(day(0), (1970, 1, 1));
        assert_eq!(day(59), (1970, 3, 1));
        assert_eq!(day(11_016), (2000, 2, 29));
        assert_eq!(day(11_017), (2000, 3, 1));
        assert_eq!(day(47_540), (2100, 2, 28));
        assert_eq!(day(47_541), (2100, 3, 1));
        assert_eq!(rfc3339(Duration::new(951_827_696, 123_456_000)), "2000-02-29T12:34:56.123456Z");
    }

    #[test]
    fn callers() {
        assert_eq!(caller(Some("server/src/node/drive.rs"), Some(7)), "node/drive.rs:7");
        assert_eq!(caller(Some("drive.rs"), None), "drive.rs:0");
    }

    #[test]
    fn lines() {
        let line = || Line {
            level: "info",
            time: "T".to_owned(),
            caller: "a/b.rs:1".to_owned(),
            fields: Fields {
                message: "say \"hi\"".to_owned(),
                rest: Map::from_iter([("n".to_owned(), Value::from(1)), ("s".to_owned(), Value::from("x\n"))]),
            },
        };
        let json: Value = serde_json::from_str(&line().json()).expect("JSON");
        assert_eq!(json["msg"], "say \"hi\"");
        assert_eq!(
            line().json(),
            r#"{"level":"info","ts":"T","caller":"a/b.rs:1","msg":"say \"hi\"","n":1,"s":"x\n"}"#
        );
        assert_eq!(line().console(), "T\tinfo\ta/b.rs:1\tsay \"hi\"\t{\"n\":1,\"s\":\"x\\n\"}");
    }
}
