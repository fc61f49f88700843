//! A bad network in front of one member: it delays what goes through, cuts connections in the middle of a frame, flips
//! bits, or swallows everything without a word.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What the network does, and how often it did. All of it may be changed while connections are open.
#[derive(Debug, Default)]
pub struct Faults {
    /// Longest delay of a piece, in milliseconds.
    pub delay_ms: AtomicU64,
    /// One piece in so many is cut, and the connection with it; 0: none.
    pub cut_one_in: AtomicU64,
    /// One piece in so many has a bit flipped; 0: none.
    pub flip_one_in: AtomicU64,
    /// Nothing gets through, and nobody is told.
    pub black_hole: AtomicBool,
    pub cuts: AtomicU64,
    pub flips: AtomicU64,
}

impl Faults {
    /// The network is good again.
    pub fn heal(&self) {
        self.delay_ms.store(0, SeqCst);
        self.cut_one_in.store(0, SeqCst);
        self.flip_one_in.store(0, SeqCst);
        self.black_hole.store(false, SeqCst);
    }
}

/// Listens on a port of its own and passes everything on.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    pub faults: Arc<Faults>,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Proxy {
    /// # Errors
    /// If there is no port left.
    pub fn start(seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let faults = Arc::new(Faults::default());
        let target = Arc::new(Mutex::new(None::<SocketAddr>));
        let (shared, to) = (Arc::clone(&faults), Arc::clone(&target));
        // Lives as long as the process of the test: nobody dials it when its member is gone.
        thread::spawn(move || {
            let mut seeds = ChaCha8Rng::seed_from_u64(seed);
            for from in listener.incoming().map_while(Result::ok) {
                let to = *to.lock().expect("nobody panics with it");
                // Without anybody behind it the connection ends at once, as at a port where nobody listens.
                let Some(to) = to.and_then(|to| TcpStream::connect(to).ok()) else { continue };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let _ = to.set_nodelay(true);
                    let (faults, seed) = (Arc::clone(&shared), seeds.random());
                    thread::spawn(move || {
                        let _ = pass(&from, &to, &faults, seed);
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Ok(Self { address, faults, target })
    }

    /// Where to pass on what comes.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock().expect("nobody panics with it") = Some(target);
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, faults: &Faults, seed: u64) -> std::io::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if faults.black_hole.load(SeqCst) {
            continue;
        }
        let most = faults.delay_ms.load(SeqCst);
        if most > 0 {
            let until = Instant::now() + Duration::from_millis(rng.random_range(0..=most));
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                thread::park_timeout(left);
            }
        }
        let mut strikes = |one_in: &AtomicU64| {
            let one_in = one_in.load(SeqCst);
            one_in > 0 && rng.random_range(0..one_in) == 0
        };
        let (cut, flip) = (strikes(&faults.cut_one_in), strikes(&faults.flip_one_in));
        if flip {
            faults.flips.fetch_add(1, SeqCst);
            buffer[rng.random_range(0..read)] ^= 1 << rng.random_range(0..8);
        }
        if cut {
            faults.cuts.fetch_add(1, SeqCst);
            to.write_all(&buffer[..rng.random_range(0..read)])?;
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
    }
}
