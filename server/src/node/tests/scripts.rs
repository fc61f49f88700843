//! Scripts: raft's steps in a notation that can be read.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Command, Context};

use super::group::Group;
use crate::{
    node::{Input, mailbox::Ticket},
    types::{LogIndex, MemberId},
};

struct Runner(Group);

/// A `name=number` argument.
fn number(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
}

fn needed(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<u64, Box<dyn Error>> {
    Ok(number(args, name)?.ok_or_else(|| format!("{name}?"))?)
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let group = &mut self.0;
        let id = number(&mut args, "n")?.unwrap_or(1);
        let out = match command.name.as_str() {
            "group" => {
                *group = Group::new(args.next_pos().ok_or("how many?")?.parse()?, 1);
                String::new()
            }
            "start" => group.start(id),
            "crash" => {
                group.stop(id);
                String::new()
            }
            // What was applied so far would survive a crash.
            "flush" => {
                let member = group.member(id);
                member.flushed = member.applied.len();
                String::new()
            }
            "propose" => {
                let mut data = Vec::new();
                while let Some(text) = args.next_pos() {
                    data.push(text);
                }
                group.propose(id, &data)
            }
            "read" => {
                let mut tickets = Vec::new();
                while let Some(ticket) = args.next_pos() {
                    tickets.push(Ticket(ticket.parse()?));
                }
                group.drive(id, vec![Input::Read(tickets)])
            }
            "persist" => {
                let batches = number(&mut args, "batches")?.map_or(usize::MAX, |count| count as usize);
                group.persist(id, batches)
            }
            "apply" => group.apply(id, usize::MAX),
            _ => return world(group, id, command.name.as_str(), args),
        };
        Ok(out)
    }
}

/// Time, the network, and what leaders are told.
fn world(group: &mut Group, id: u64, name: &str, mut args: ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
    let out = match name {
        "tick" => group.tick(id, args.next_pos().map_or(Ok(1), str::parse)?),
        "later" => {
            group.now_ms += args.next_pos().ok_or("how many ms?")?.parse::<u64>()?;
            group.drive(id, vec![])
        }
        "deliver" => {
            if group.network.is_empty() {
                "nothing is under way\n".into()
            } else {
                group.deliver(0)
            }
        }
        "drop" => {
            group.network.clear();
            String::new()
        }
        // Everything under way is there twice.
        "repeat" => {
            group.network.extend(group.network.clone());
            String::new()
        }
        // What is under way from one member to another stays there until it is let go.
        "keep" => {
            let link = (needed(&mut args, "from")?, needed(&mut args, "to")?);
            let kept = group.network.extract_if(.., |message| (message.from.0, message.to.0) == link);
            group.kept.extend(kept);
            String::new()
        }
        "let-go" => {
            group.network.append(&mut group.kept);
            String::new()
        }
        // A link that loses everything, in one direction.
        "cut" => {
            group.cut.insert((needed(&mut args, "from")?, needed(&mut args, "to")?));
            String::new()
        }
        "heal" => {
            group.cut.clear();
            String::new()
        }
        "transfer" => group.drive(id, vec![Input::TransferLeader(MemberId(needed(&mut args, "to")?))]),
        "forget" => group.forget(id, needed(&mut args, "last")?),
        "abdicate" => group.drive(id, vec![Input::Abdicate]),
        "offers" => {
            let (member, last) = (MemberId(needed(&mut args, "from")?), LogIndex(needed(&mut args, "last")?));
            group.drive(id, vec![Input::PeerOffers { member, last }])
        }
        // Time goes by for everybody, and nothing is lost but what a cut link loses. Says who leads then.
        "wait" => group.wait(args.next_pos().ok_or("how many ms?")?.parse()?),
        // The reads that were confirmed since it was asked for last.
        "confirmed" => group.reads_confirmed(),
        // The keys that each member has applied.
        "applied" => group.keys(),
        "settle" => group.settle(),
        name => return Err(format!("no such command: {name}").into()),
    };
    Ok(out)
}

fn run(name: &str) {
    let path = format!("{}/src/node/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Runner(Group::new(1, 1)), path).unwrap();
}

#[test]
fn sole_voter() {
    run("sole_voter");
}

#[test]
fn restart() {
    run("restart");
}

#[test]
fn three_voters() {
    run("three_voters");
}

#[test]
fn forwarding() {
    run("forwarding");
}

#[test]
fn leadership() {
    run("leadership");
}

#[test]
fn lost_tail() {
    run("lost_tail");
}

#[test]
fn reads() {
    run("reads");
}
