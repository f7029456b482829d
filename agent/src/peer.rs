//! Who is at the other end of a connection from this machine: its user, as the kernel knows it.

use std::net::{IpAddr, SocketAddr};

/// The user who made the socket at `peer`, a connection of this machine's to itself; `None` if it is not, or is gone.
pub(crate) fn user_of(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // The table of the family the connecting socket has; one of version 6 may speak to an address of version 4.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| entry(line, peer, own))
    })
}

fn entry(line: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // sl, local address, remote address, state, queues, timer, retransmits, user
    let mut fields = line.split_whitespace();
    let (local, remote) = (address(fields.nth(1)?)?, address(fields.next()?)?);
    let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    if plain(local) != plain(peer) || plain(remote) != plain(own) {
        return None;
    }
    fields.nth(4)?.parse().ok()
}

/// An address in hexadecimal, each four bytes of it in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in host.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let host = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(SocketAddr::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_our_own_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let (_server, peer) = listener.accept().unwrap();
        let us = nix::unistd::geteuid().as_raw();
        assert_eq!(user_of(peer, own), Some(us));
        drop(client);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(user_of(elsewhere, own), None);
    }

    #[test]
    fn both_families_are_read() {
        let line = "   3: 0100007F:1F90 0100007F:A0B2 01 00000000:00000000 00:00000000 00000000  1234        0 1 1";
        let at = |text: &str| text.parse().unwrap();
        let user = entry(line, at("127.0.0.1:8080"), at("127.0.0.1:41138"));
        assert_eq!(user, Some(1234));
        let line = "   3: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:A0B2 01 00000000:00000000 00:00000000 00000000  5 0 1";
        let user = entry(line, at("127.0.0.1:8080"), at("[::ffff:127.0.0.1]:41138"));
        assert_eq!(user, Some(5));
    }
}
