//! Scripts: raft's steps in a notation that can be read.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Command, Context};

use super::group::Group;
use crate::node::{Input, mailbox::Ticket};

struct Runner(Group);

/// A `name=number` argument.
fn number(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
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
            "settle" => group.settle(),
            name => return Err(format!("no such command: {name}").into()),
        };
        Ok(out)
    }
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
fn reads() {
    run("reads");
}
