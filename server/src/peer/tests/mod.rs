//! Who is let in, what a frame may be, and two ends on real sockets.

mod archives;
mod frames;
mod hello;
mod sockets;
