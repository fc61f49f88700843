//! Who leads, as the members themselves say several times a second.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use conclave_proto::etcdserverpb as pb;

use crate::client::Client;

/// Shorter than any election.
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(250);

/// What was found out.
#[derive(Debug, Default)]
pub struct Found {
    /// The place of the leader of the highest term that was seen.
    pub current: Option<usize>,
    /// Who led each term: its id and its place.
    pub terms: BTreeMap<u64, (u64, usize)>,
    /// A term with two leaders, in words.
    pub violation: Option<String>,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Leaders {
    found: Arc<Mutex<Found>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Leaders {
    /// Must be called where a runtime runs.
    #[must_use]
    pub fn look(urls: Vec<String>) -> Self {
        let found = Arc::<Mutex<Found>>::default();
        let tasks = urls.into_iter().enumerate();
        let tasks = tasks.map(|(n, url)| tokio::spawn(look(n, url, Arc::clone(&found)))).collect();
        Self { found, tasks }
    }

    /// The member that led last.
    #[must_use]
    pub fn current(&self) -> Option<usize> {
        self.found.lock().expect("nobody panics with it").current
    }

    /// How many terms had a leader, unless one had two.
    ///
    /// # Errors
    /// The term with two.
    pub fn terms(&self) -> Result<usize, String> {
        let found = self.found.lock().expect("nobody panics with it");
        found.violation.clone().map_or(Ok(found.terms.len()), Err)
    }
}

impl Drop for Leaders {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn look(n: usize, url: String, found: Arc<Mutex<Found>>) {
    let (mut looks, mut client, mut before) = (tokio::time::interval(LOOK), None, None);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let status = async {
            if client.is_none() {
                client = Some(Client::connect(&url).await.ok()?);
            }
            Some(client.as_mut()?.maintenance.status(pb::StatusRequest {}).await.ok()?.into_inner())
        };
        let Ok(Some(status)) = tokio::time::timeout(PATIENCE, status).await else {
            (client, before) = (None, None);
            continue;
        };
        let own = status.header.map_or(0, |header| header.member_id);
        let leads = (status.leader == own).then_some(status.raft_term);
        // Term and leader are read one after the other: only what is said twice is meant.
        if let Some(term) = leads
            && before == leads
        {
            note(&mut found.lock().expect("nobody panics with it"), term, own, n);
        }
        before = leads;
    }
}

fn note(found: &mut Found, term: u64, id: u64, n: usize) {
    let (first, _) = *found.terms.entry(term).or_insert((id, n));
    if first != id {
        found.violation = Some(format!("members {first:x} and {id:x} both led term {term}"));
    }
    found.current = found.terms.last_key_value().map(|(_, (_, n))| *n);
}
