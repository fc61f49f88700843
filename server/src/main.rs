//! The program `conclave`: one member of a cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    conclave_server::server::main()
}
