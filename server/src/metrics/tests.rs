use super::{Calls, Kind, Text, process::Stat};
use crate::error::Code;

#[test]
fn text_format() {
    let mut text = Text::new();
    text.single("a_total", Kind::Counter, "All a.", 7);
    text.family("b", Kind::Gauge, "Some b.");
    text.sample(&[("x", "1"), ("y", "q\"\\\n")], 0.5);
    text.family("c_seconds", Kind::Histogram, "How long.");
    text.histogram(&[], &[0.001, 0.002], &[1, 2, 4], 0.25);
    text.histogram(&[("To", "a")], &[1.0], &[1, 0], 0.5);
    assert_eq!(
        text.finish(),
        "# HELP a_total All a.\n# TYPE a_total counter\na_total 7\n\
         # HELP b Some b.\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 0.5\n\
         # HELP c_seconds How long.\n# TYPE c_seconds histogram\n\
         c_seconds_bucket{le=\"0.001\"} 1\nc_seconds_bucket{le=\"0.002\"} 3\nc_seconds_bucket{le=\"+Inf\"} 7\n\
         c_seconds_sum 0.25\nc_seconds_count 7\n\
         c_seconds_bucket{To=\"a\",le=\"1\"} 1\nc_seconds_bucket{To=\"a\",le=\"+Inf\"} 1\n\
         c_seconds_sum{To=\"a\"} 0.5\nc_seconds_count{To=\"a\"} 1\n"
    );
}

#[test]
fn calls_are_counted_by_method_and_code() {
    let calls = Calls::new(2);
    calls.started(1);
    calls.started(1);
    calls.handled(1, Code::Ok);
    calls.handled(1, Code::Unauthenticated);
    assert_eq!((calls.read_started(0), calls.read_started(1)), (0, 2));
    let handled = calls.read_handled(1);
    assert_eq!((handled[0], handled[16], handled.iter().sum::<u64>()), (1, 1, 2));
    assert_eq!(calls.read_handled(0), [0; 17]);
}

#[test]
fn a_program_name_with_parentheses() {
    let mut stat = "12 (a ) b) R".to_owned();
    for field in 4..=30 {
        stat.push_str(&format!(" {field}"));
    }
    let expected = Stat { user_ticks: 14, system_ticks: 15, start_ticks: 22, virtual_bytes: 23, resident_pages: 24 };
    assert_eq!(Stat::parse(&stat), Some(expected));
    assert_eq!(Stat::parse("12 (a) R 1 2"), None);
}
