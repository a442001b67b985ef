//! How ranks meet: rank 0 listens at the master's address, the others come with their numbers, and all of them get its id
//! once the last one is there.
//!
//! A rank says `swiftrnk`, its version of swift, its rank and the number of ranks; it is answered by a 0 and the id, or by
//! a 1 and why not. Who says anything else is not a rank and is left alone.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use swift_kernels::cuda::{CudaError, nccl::ID_BYTES};

use super::{Ranks, RanksError};

const MAGIC: &[u8; 8] = b"swiftrnk";
/// Of the version in a greeting, padded with zeros.
const VERSION_BYTES: usize = 32;
const GREETING: usize = MAGIC.len() + VERSION_BYTES + 8;
/// How long a connection may take to say who it is.
const GREETING_TIME: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// The bytes that rank 0 makes, on every rank.
pub(super) fn share(
    ranks: &Ranks,
    timeout: Duration,
    make: impl FnOnce() -> Result<[u8; ID_BYTES], CudaError>,
) -> Result<[u8; ID_BYTES], RanksError> {
    let deadline = Instant::now() + timeout;
    if ranks.rank > 0 {
        return ask(ranks, timeout, deadline);
    }
    let id = make()?;
    serve(&listen(ranks)?, ranks, &id, timeout, deadline)?;
    Ok(id)
}

fn place(ranks: &Ranks) -> String {
    format!("{}:{}", ranks.master_addr, ranks.master_port)
}

fn meeting(message: impl Into<String>, hint: impl Into<String>) -> RanksError {
    RanksError::Meeting { message: message.into(), hint: hint.into() }
}

fn resolve(ranks: &Ranks) -> std::io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = (ranks.master_addr.as_str(), ranks.master_port).to_socket_addrs()?.collect();
    if found.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(found) }
}

/// Listens on all interfaces, or on the machine's own if all ranks are on it.
fn listen(ranks: &Ranks) -> Result<TcpListener, RanksError> {
    let hint = "MASTER_ADDR must be the host of rank 0 and MASTER_PORT free on it, the same for all ranks";
    let failed = |e: std::io::Error| meeting(format!("rank 0 cannot listen at {}: {e}", place(ranks)), hint);
    let address = match resolve(ranks).map_err(failed)?[0].ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    TcpListener::bind((address, ranks.master_port)).map_err(failed)
}

/// What a connection says of itself.
struct Greeting {
    version: String,
    rank: usize,
    world_size: usize,
}

impl Greeting {
    fn of(ranks: &Ranks) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), rank: ranks.rank, world_size: ranks.world_size }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.bytes().chain(std::iter::repeat(0)).take(VERSION_BYTES));
        bytes.extend((self.rank as u32).to_le_bytes());
        bytes.extend((self.world_size as u32).to_le_bytes());
        bytes
    }

    /// `None` for who is no rank.
    fn read(stream: &mut TcpStream) -> Option<Self> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(GREETING_TIME)).ok()?;
        let mut bytes = [0; GREETING];
        stream.read_exact(&mut bytes).ok()?;
        let (magic, rest) = bytes.split_at(MAGIC.len());
        let (version, numbers) = rest.split_at(VERSION_BYTES);
        let number = |at: usize| Some(u32::from_le_bytes(numbers.get(at..at + 4)?.try_into().ok()?) as usize);
        let version = String::from_utf8_lossy(version).trim_end_matches('\0').to_owned();
        (magic == MAGIC).then_some(Self { version, rank: number(0)?, world_size: number(4)? })
    }

    /// Why this rank cannot train with those of rank 0.
    fn contradiction(&self, own: &Self) -> Option<String> {
        let Self { version, rank, world_size } = self;
        if *version != own.version {
            return Some(format!("rank {rank} is swift {version}, rank 0 is swift {}", own.version));
        }
        if *world_size != own.world_size {
            return Some(format!("rank {rank} is one of {world_size} ranks, rank 0 one of {}", own.world_size));
        }
        (*rank == 0 || *rank >= own.world_size)
            .then(|| format!("a second rank {rank} came to rank 0 of {}", own.world_size))
    }
}

/// Waits for all other ranks, then gives them the id.
fn serve(
    listener: &TcpListener,
    ranks: &Ranks,
    id: &[u8; ID_BYTES],
    timeout: Duration,
    deadline: Instant,
) -> Result<(), RanksError> {
    let own = Greeting::of(ranks);
    let mut came: Vec<Option<TcpStream>> = (0..ranks.world_size).map(|_| None).collect();
    let failed = |e: std::io::Error| {
        meeting(format!("rank 0 cannot meet the others at {}: {e}", place(ranks)), "is the network up?")
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let problem = loop {
        if came[1..].iter().all(Option::is_some) {
            break None;
        }
        if Instant::now() >= deadline {
            let missing: Vec<usize> = (1..ranks.world_size).filter(|&rank| came[rank].is_none()).collect();
            let message = format!(
                "{} of {} did not come to {} within {} s",
                listed(&missing),
                ranks.world_size,
                place(ranks),
                timeout.as_secs()
            );
            break Some(meeting(
                message,
                "look at what those ranks say; can their machines reach the address? --ddp_timeout sets how long to wait",
            ));
        }
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(e) => break Some(failed(e)),
        };
        let Some(greeting) = Greeting::read(&mut stream) else { continue };
        let twice = came.get(greeting.rank).is_some_and(Option::is_some);
        let twice = twice.then(|| format!("rank {} came twice", greeting.rank));
        if let Some(why) = greeting.contradiction(&own).or(twice) {
            answer(&mut stream, Err(&why));
            break Some(meeting(why, "does another job use the same MASTER_PORT? Else start all ranks alike"));
        }
        came[greeting.rank] = Some(stream);
    };
    for stream in came.iter_mut().flatten() {
        match &problem {
            None => answer(stream, Ok(id)),
            Some(problem) => answer(stream, Err(&problem.to_string())),
        }
    }
    problem.map_or(Ok(()), Err)
}

/// `rank 3`, `ranks 3, 4, 5`, and not more than ten of them.
fn listed(ranks: &[usize]) -> String {
    let shown: Vec<String> = ranks.iter().take(10).map(usize::to_string).collect();
    let more =
        if ranks.len() > shown.len() { format!(" and {} more", ranks.len() - shown.len()) } else { String::new() };
    format!("{} {}{more}", if ranks.len() == 1 { "rank" } else { "ranks" }, shown.join(", "))
}

/// A rank that is gone by now is missed by NCCL.
fn answer(stream: &mut TcpStream, answer: Result<&[u8; ID_BYTES], &str>) {
    let mut bytes = vec![u8::from(answer.is_err())];
    match answer {
        Ok(id) => bytes.extend(id),
        Err(why) => {
            bytes.extend((why.len() as u32).to_le_bytes());
            bytes.extend(why.bytes());
        }
    }
    let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
}

/// Asks rank 0, again and again while it is not there.
fn ask(ranks: &Ranks, timeout: Duration, deadline: Instant) -> Result<[u8; ID_BYTES], RanksError> {
    loop {
        let why = match attempt(ranks, deadline) {
            Ok(Ok(id)) => return Ok(id),
            Ok(Err(why)) => {
                return Err(meeting(format!("rank 0 at {} says: {why}", place(ranks)), "start all ranks alike"));
            }
            Err(error) => error,
        };
        if Instant::now() + PAUSE >= deadline {
            let message = format!(
                "rank {} did not get an answer of rank 0 at {} within {} s: {why}",
                ranks.rank,
                place(ranks),
                timeout.as_secs()
            );
            let hint = "look at what rank 0 says; MASTER_ADDR must be its host, and reachable from this machine";
            return Err(meeting(message, hint));
        }
        std::thread::sleep(10 * PAUSE);
    }
}

/// One try: the id, rank 0's refusal, or that nobody (or somebody else) is there.
fn attempt(ranks: &Ranks, deadline: Instant) -> std::io::Result<Result<[u8; ID_BYTES], String>> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(PAUSE);
    let mut result = Err(ErrorKind::NotFound.into());
    for address in resolve(ranks)? {
        result = TcpStream::connect_timeout(&address, left());
        if result.is_ok() {
            break;
        }
    }
    let mut stream: TcpStream = result?;
    stream.write_all(&Greeting::of(ranks).bytes())?;
    // Rank 0 may be at its own deadline, and then says who is missing: that is worth a little more time.
    stream.set_read_timeout(Some(left() + GREETING_TIME))?;
    let mut status = [0];
    stream.read_exact(&mut status)?;
    match status[0] {
        0 => {
            let mut id = [0; ID_BYTES];
            stream.read_exact(&mut id)?;
            Ok(Ok(id))
        }
        1 => {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut why = Vec::new();
            stream.take(u64::from(u32::from_le_bytes(length)).min(4096)).read_to_end(&mut why)?;
            Ok(Err(String::from_utf8_lossy(&why).into_owned()))
        }
        _ => Err(std::io::Error::new(ErrorKind::InvalidData, "another program answers there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn ranks(rank: usize, world_size: usize, master_port: u16) -> Ranks {
        Ranks { rank, world_size, local_rank: rank, master_addr: "127.0.0.1".into(), master_port, timeout: None }
    }

    fn id() -> [u8; ID_BYTES] {
        std::array::from_fn(|i| i as u8 ^ 0x5a)
    }

    /// Results of ranks that start at once.
    fn meet(all: &[Ranks], seconds: f64) -> Vec<Result<[u8; ID_BYTES], RanksError>> {
        std::thread::scope(|scope| {
            let run = |ranks| scope.spawn(move || share(ranks, Duration::from_secs_f64(seconds), || Ok(id())));
            let workers: Vec<_> = all.iter().map(run).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_ranks_get_the_id_of_rank_0() {
        let port = free_port();
        // Others on the network knock too: they must not disturb.
        let stranger = std::thread::spawn(move || {
            for text in ["", "GET / HTTP/1.1\r\n\r\n this is more than a greeting's length, but no greeting"] {
                let until = Instant::now() + Duration::from_secs(5);
                while Instant::now() < until {
                    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                        let _ = stream.write_all(text.as_bytes());
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        });
        for got in meet(&[ranks(3, 4, port), ranks(1, 4, port), ranks(0, 4, port), ranks(2, 4, port)], 60.0) {
            assert_eq!(got.unwrap(), id());
        }
        // Rank 0 has left the port by now, so that a connection of the stranger fails rather than waits.
        stranger.join().unwrap();
    }

    #[test]
    fn missing_ranks_are_named_to_everybody() {
        let port = free_port();
        let results = meet(&[ranks(0, 4, port), ranks(2, 4, port)], 1.0);
        let named = format!("ranks 1, 3 of 4 did not come to 127.0.0.1:{port} within 1 s");
        for result in results {
            let error = result.unwrap_err();
            assert!(error.to_string().contains(&named), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_missing_rank_0_is_named() {
        let port = free_port();
        let error = meet(&[ranks(1, 2, port)], 0.3).remove(0).unwrap_err();
        let start = format!("rank 1 did not get an answer of rank 0 at 127.0.0.1:{port}");
        assert!(error.to_string().starts_with(&start), "{error}");
    }

    #[test]
    fn contradictions_end_the_meeting_at_once() {
        for (others, message) in [
            (vec![(1, 3)], "rank 1 is one of 3 ranks, rank 0 one of 2"),
            (vec![(5, 2)], "a second rank 5 came to rank 0 of 2"),
        ] {
            let port = free_port();
            let all: Vec<Ranks> = std::iter::once((0, 2)).chain(others).map(|(r, w)| ranks(r, w, port)).collect();
            let started = Instant::now();
            for result in meet(&all, 60.0) {
                let error = result.unwrap_err();
                assert!(error.to_string().contains(message), "{error}");
            }
            assert!(started.elapsed() < Duration::from_secs(30));
        }
    }

    #[test]
    fn another_version_is_refused() {
        let own = Greeting { version: "1.2.3".into(), rank: 0, world_size: 2 };
        let other = Greeting { version: "1.2.4".into(), rank: 1, world_size: 2 };
        let why = other.contradiction(&own).unwrap();
        assert_eq!(why, "rank 1 is swift 1.2.4, rank 0 is swift 1.2.3");
        assert!(Greeting { version: "1.2.3".into(), ..other }.contradiction(&own).is_none());
    }

    #[test]
    fn a_taken_port_is_an_error_of_rank_0() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = share(&ranks(0, 2, port), Duration::from_secs(1), || Ok(id())).unwrap_err();
        assert!(error.to_string().starts_with(&format!("rank 0 cannot listen at 127.0.0.1:{port}")), "{error}");
    }

    #[test]
    fn missing_ranks_read_as_a_list() {
        assert_eq!(listed(&[3]), "rank 3");
        assert_eq!(listed(&(1..14).collect::<Vec<_>>()), "ranks 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more");
    }
}
