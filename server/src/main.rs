//! The program `conclave`: one member of a cluster.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A reply of some hundred KiB is memory that glibc maps and unmaps each time, a page fault for each page of it.
/// RocksDB goes on with glibc's allocator: its blocks are bounded by the cache, and are freed by other threads.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    conclave_server::server::main()
}
