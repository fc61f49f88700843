//! The watch thread: steps the hub when something arrived, and now and then for its progress notices.

use std::{sync::Arc, time::Duration};

use super::shared::Shared;
use crate::watch::{Hub, HubOptions};

/// The longest sleep: terms in headers and progress intervals are looked at at least so often.
const MAX_WAIT: Duration = Duration::from_secs(1);

pub(super) fn run(shared: &Shared, options: HubOptions) {
    let published = Arc::clone(&shared.published);
    let view = move || published.load_full();
    let mut hub = Hub::new(options, &view());
    let mut more = false;
    loop {
        let wait = if more {
            Duration::ZERO
        } else {
            let due = hub.next_tick_ms().map(|due| Duration::from_millis(due.saturating_sub(shared.now_ms())));
            due.unwrap_or(MAX_WAIT).min(MAX_WAIT)
        };
        if !shared.inbox.wait(wait) {
            return;
        }
        hub.set_term(shared.term());
        more = hub.step(&shared.inbox, &view, shared.now_ms());
    }
}
