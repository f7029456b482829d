//! A TCP proxy that can cut the wire: bytes of a direction that is cut wait where they are, as packets do that are sent
//! again and again, and go on when it is healed, unless the connection was killed in the meantime.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What a cut holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What whoever dialled says.
    ToServer,
    /// What the server says.
    ToClient,
    Both,
}

#[derive(Debug, Default)]
struct Wire {
    to_server_cut: bool,
    to_client_cut: bool,
    stopped: bool,
    /// Both ends of each connection that stands.
    connections: Vec<[TcpStream; 2]>,
    /// Connections with a lower number were killed.
    alive_from: usize,
    accepted: usize,
}

#[derive(Debug)]
struct Shared {
    wire: Mutex<Wire>,
    changed: Condvar,
}

impl Shared {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect("no holder panics")
    }
}

/// Stands between those who dial `address` and the server it was started for.
#[derive(Debug)]
pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            wire: Mutex::default(),
            changed: Condvar::new(),
        });
        let (server, accepting) = (server.to_owned(), shared.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.wire().stopped {
                    return;
                }
                // While the server is down its port refuses, and so does this connection by ending at once.
                if let Ok(upstream) = TcpStream::connect(&server) {
                    join(&accepting, client, upstream);
                }
            }
        });
        Self { address, shared }
    }

    /// Holds back what is said in that direction, on connections that stand and on new ones.
    pub fn cut(&self, cut: Cut) {
        let mut wire = self.shared.wire();
        wire.to_server_cut |= cut != Cut::ToClient;
        wire.to_client_cut |= cut != Cut::ToServer;
    }

    /// Lets everything that was held back go on.
    pub fn heal(&self) {
        let mut wire = self.shared.wire();
        wire.to_server_cut = false;
        wire.to_client_cut = false;
        self.shared.changed.notify_all();
    }

    /// Ends every connection for both sides; what was held back is lost.
    pub fn kill_connections(&self) {
        let mut wire = self.shared.wire();
        wire.alive_from = wire.accepted;
        for stream in wire.connections.drain(..).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.wire().stopped = true;
        self.kill_connections();
        // Wakes the thread that accepts, so that it sees that it is over.
        let _ = TcpStream::connect(&self.address);
    }
}

fn join(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let copy = |stream: &TcpStream| stream.try_clone().unwrap();
    let number = {
        let mut wire = shared.wire();
        wire.connections.push([copy(&client), copy(&server)]);
        wire.accepted += 1;
        wire.accepted - 1
    };
    let to_server = (copy(&client), copy(&server), Cut::ToServer);
    for (from, to, direction) in [to_server, (server, client, Cut::ToClient)] {
        let shared = shared.clone();
        std::thread::spawn(move || pump(&shared, number, direction, from, to));
    }
}

fn pump(shared: &Shared, number: usize, direction: Cut, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // The end of a connection is news like any other: it does not get past a cut either.
        let count = from.read(&mut buffer).unwrap_or(0);
        let mut wire = shared.wire();
        while number >= wire.alive_from
            && match direction {
                Cut::ToServer => wire.to_server_cut,
                Cut::ToClient | Cut::Both => wire.to_client_cut,
            }
        {
            wire = shared.changed.wait(wire).expect("no holder panics");
        }
        let killed = number < wire.alive_from;
        drop(wire);
        if killed {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;

    fn pair() -> (Proxy, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string());
        let client = TcpStream::connect(&proxy.address).unwrap();
        let (server, _) = server.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        (proxy, client, server)
    }

    fn hear(end: &mut TcpStream) -> Vec<u8> {
        let mut buffer = [0; 100];
        let count = end.read(&mut buffer).unwrap();
        buffer[..count].to_vec()
    }

    fn hears_nothing(end: &mut TcpStream) {
        end.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let error = end.read(&mut [0; 1]).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    }

    #[test]
    fn what_is_said_into_a_cut_arrives_when_it_is_healed() {
        let (proxy, mut client, mut server) = pair();
        client.write_all(b"one").unwrap();
        assert_eq!(hear(&mut server), b"one");
        proxy.cut(Cut::ToServer);
        client.write_all(b"two").unwrap();
        hears_nothing(&mut server);
        server.write_all(b"back").unwrap();
        assert_eq!(hear(&mut client), b"back", "the other direction is whole");
        proxy.heal();
        assert_eq!(hear(&mut server), b"two");
    }

    #[test]
    fn an_end_is_not_heard_through_a_cut() {
        let (proxy, client, mut server) = pair();
        proxy.cut(Cut::Both);
        drop(client);
        hears_nothing(&mut server);
        proxy.heal();
        assert_eq!(hear(&mut server), b"", "now it is");
    }

    #[test]
    fn what_was_held_back_dies_with_its_connection() {
        let (proxy, mut client, mut server) = pair();
        proxy.cut(Cut::Both);
        client.write_all(b"lost").unwrap();
        hears_nothing(&mut server);
        proxy.kill_connections();
        proxy.heal();
        assert_eq!(
            hear(&mut server),
            b"",
            "the connection ends, and nothing came of it"
        );
    }
}
