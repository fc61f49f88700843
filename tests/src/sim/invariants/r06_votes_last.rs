//! R6: term and vote never go back across a restart, and a member votes once in a term. The same for what a member said
//! that it holds: within a term its log only grows, so what it acknowledged is there when it starts again.

use std::collections::BTreeMap;

use conclave_server::{
    node::MessageKind,
    types::{LogIndex, MemberId, Term},
};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct VotesLast {
    votes: BTreeMap<(MemberId, Term), MemberId>,
    /// The newest term of a promise.
    terms: BTreeMap<MemberId, Term>,
    /// Of the newest term: how far entries were acknowledged.
    acknowledged: BTreeMap<MemberId, (Term, LogIndex)>,
}

impl VotesLast {
    fn promise(&mut self, member: MemberId, term: Term) {
        let newest = self.terms.entry(member).or_default();
        *newest = term.max(*newest);
    }

    fn vote(&mut self, member: MemberId, term: Term, to: MemberId) -> Verdict {
        self.promise(member, term);
        let known = *self.votes.entry((member, term)).or_insert(to);
        must(known == to, || format!("m{member} voted for m{known} and for m{to} in term {term}"))
    }
}

impl Invariant for VotesLast {
    fn see(&mut self, seen: &Seen, _: &Truth) -> Verdict {
        match seen {
            Seen::Sent(message) if !message.reject => match message.kind {
                MessageKind::RequestVote => self.vote(message.from, message.term, message.from),
                MessageKind::RequestVoteResponse => self.vote(message.from, message.term, message.to),
                MessageKind::AppendResponse => {
                    self.promise(message.from, message.term);
                    let newest = self.acknowledged.entry(message.from).or_default();
                    *newest = (*newest).max((message.term, message.index));
                    Ok(())
                }
                _ => Ok(()),
            },
            Seen::Started(started) => {
                let member = started.member;
                let promised = self.terms.get(&member).copied().unwrap_or_default();
                must(started.term >= promised, || {
                    format!("m{member} starts in term {}, after a promise in term {promised}", started.term)
                })?;
                if let (Some(vote), Some(known)) = (started.vote, self.votes.get(&(member, started.term))) {
                    must(vote == *known, || {
                        format!("m{member} remembers a vote for m{vote}, but gave it to m{known}")
                    })?;
                }
                must(started.vote.is_some() || !self.votes.contains_key(&(member, started.term)), || {
                    format!("m{member} forgot its vote in term {}", started.term)
                })?;
                let (term, index) = self.acknowledged.get(&member).copied().unwrap_or_default();
                let last = started.log.last().map_or(started.base.0, |slot| slot.index);
                must(last >= index || started.term > term, || {
                    format!("m{member} starts with a log up to {last}, but acknowledged {index} in term {term}")
                })
            }
            _ => Ok(()),
        }
    }
}
