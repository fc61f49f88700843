//! Scripts tell the semantics in prose; a naive model judges random commands; crashes are placed between any two writes.

mod guards;
mod install;
mod language;
mod model;
mod pieces;
mod scripts;
mod values;
mod world;
