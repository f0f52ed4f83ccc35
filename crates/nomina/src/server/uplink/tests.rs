//! Flows between pairs of sockets that stand for a guest's, and servers on this machine's loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn uplink(allow: &[&str], resolvers: Vec<SocketAddr>) -> (Uplink, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&dir.path().join("log")).unwrap();
    let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
    (Uplink::start(EgressPolicy { allow, deny: Vec::new() }, log, resolvers).unwrap(), dir)
}

/// Our end of a connection that nobody looks into when it is reset.
fn plain(ours: UnixStream) -> Ours {
    Ours { end: ours.into(), reset: Box::new(drop) }
}

fn who() -> Who {
    Who { comm: "curl\n".into(), pid: 12 }
}

fn logged(dir: &tempfile::TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
    // Without the time.
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Connects; the guest's end of the connection.
fn connected(uplink: &Uplink, to: SocketAddr) -> UnixStream {
    let (guest, ours) = UnixStream::pair().unwrap();
    let (told, tells) = mpsc::channel();
    let done = Box::new(move |result: Result<()>| {
        told.send(result).unwrap();
        Some(plain(ours))
    });
    uplink.permit(Protocol::Tcp, to, &who()).unwrap();
    uplink.connect(to, None, done);
    tells.recv_timeout(PATIENCE).unwrap().unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    guest
}

#[test]
fn a_connection_is_copied_both_ways_and_closed_by_halves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let (uplink, _dir) = uplink(&["127.0.0.1"], Vec::new());
    let mut guest = connected(&uplink, to);
    let (mut server, _) = listener.accept().unwrap();
    // More than both buffers hold, so that the copying must wait.
    let sender = std::thread::spawn(move || {
        let block: Vec<u8> = (0..=255).cycle().take(8 << 20).collect();
        guest.write_all(&block).unwrap();
        guest.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        guest.read_to_string(&mut answer).unwrap();
        answer
    });
    std::thread::sleep(Duration::from_millis(50));
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 8 << 20);
    assert!(got.iter().zip((0..=255u8).cycle()).all(|(&byte, expected)| byte == expected));
    server.write_all(b"thanks").unwrap();
    drop(server);
    assert_eq!(sender.join().unwrap(), "thanks");
}

#[test]
fn a_destination_that_no_rule_allows_is_refused_and_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (uplink, dir) = uplink(&[], Vec::new());
    let permit = |to: &str| {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        uplink.permit(Protocol::Tcp, to, &who())
    };
    assert_eq!(permit("127.0.0.1"), Err(Errno::EACCES));
    assert_eq!(permit("[::ffff:127.0.0.1]"), Err(Errno::EACCES));
    let reason = "by curl\\n[12]: this machine itself; --allow its address to reach it";
    let line = format!("refused tcp 127.0.0.1:{port} {reason}");
    assert_eq!(logged(&dir), [line.clone(), line]);
}

#[test]
fn a_connection_that_fails_says_why() {
    let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (uplink, _dir) = uplink(&["127.0.0.0/8"], Vec::new());
    let (told, tells) = mpsc::channel();
    let done = move |result| {
        told.send(result).unwrap();
        None
    };
    uplink.connect(to, None, Box::new(done));
    assert_eq!(tells.recv_timeout(PATIENCE).unwrap(), Err(Errno::ECONNREFUSED));
}

#[test]
fn who_sends_to_a_published_port_is_answered_from_it() {
    let (uplink, dir) = uplink(&[], Vec::new());
    let (told, tells) = mpsc::channel();
    let arrive = Box::new(move |from, data: &[u8]| told.send((from, data.to_vec())).unwrap());
    let port = uplink.receive(&"0:53/udp".parse().unwrap(), arrive).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"question", ("127.0.0.1", port)).unwrap();
    let (from, data) = tells.recv_timeout(PATIENCE).unwrap();
    assert_eq!((from, &data[..]), (client.local_addr().unwrap(), &b"question"[..]));
    assert_eq!(uplink.answer(54, from, b"x"), None, "another port answers");
    assert_eq!(uplink.answer(53, "127.0.0.1:9".parse().unwrap(), b"x"), None, "a stranger is answered");
    assert_eq!(uplink.answer(53, from, b"answer"), Some(Ok(())));
    let mut buffer = [0; 16];
    let (len, sender) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], sender.port()), (&b"answer"[..], port));
    assert!(logged(&dir).is_empty());
}

#[test]
fn only_who_was_sent_a_datagram_may_answer() {
    let (server, stranger) =
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let to = server.local_addr().unwrap();
    let (uplink, dir) = uplink(&["127.0.0.1"], Vec::new());
    let (told, tells) = mpsc::channel();
    let flow = uplink
        .open_datagrams(Arc::new(move |from, data: &[u8]| told.send((from, data.to_vec())).unwrap()), 0)
        .unwrap();
    for _ in 0..2 {
        flow.send(to, b"ping", &who()).unwrap();
        let mut buffer = [0; 16];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"ping");
        stranger.send_to(b"spoof", from).unwrap();
        server.send_to(b"pong", from).unwrap();
        assert_eq!(tells.recv_timeout(PATIENCE).unwrap(), (to, b"pong".to_vec()));
    }
    assert_eq!(logged(&dir).len(), 1, "a destination is logged once for a socket");
    drop(flow);
    assert!(uplink.0.datagrams.lock().unwrap().is_empty());
}

#[test]
fn a_published_port_leads_in() {
    let (uplink, _dir) = uplink(&[], Vec::new());
    let (told, tells) = mpsc::channel();
    let incoming = Box::new(move |from: SocketAddr, _| {
        let (guest, ours) = UnixStream::pair().unwrap();
        told.send((from, guest)).unwrap();
        Some(plain(ours))
    });
    let port = uplink.listen(&"0:80".parse().unwrap(), incoming).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (from, mut guest) = tells.recv_timeout(PATIENCE).unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    client.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    guest.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    drop(guest);
    assert_eq!(client.read(&mut got).unwrap(), 0);
}

#[test]
fn resolving_a_name_is_what_allows_its_address() {
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolvers = vec![silent.local_addr().unwrap(), resolver.local_addr().unwrap()];
    let (uplink, dir) = uplink(&["www.example.com", "127.0.0.1"], resolvers);
    let (told, tells) = mpsc::channel();
    let deliver: Deliver = Arc::new(move |_, data: &[u8]| told.send(data.to_vec()).unwrap());
    let query = |name: &str| {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    };
    let from = "10.0.2.3:53".parse().unwrap();
    uplink.dns_query(&query("secret.evil.example"), &who(), deliver.clone(), from).unwrap();
    assert_eq!(tells.recv_timeout(PATIENCE).unwrap()[3] & 0xf, 5, "not REFUSED");
    uplink.dns_query(&query("www.example.com"), &who(), deliver, from).unwrap();
    let mut buffer = [0; 512];
    let (len, asker) = resolver.recv_from(&mut buffer).unwrap();
    let mut answer = buffer[..len].to_vec();
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    resolver.send_to(&answer, asker).unwrap();
    assert_eq!(tells.recv_timeout(PATIENCE).unwrap(), answer);
    uplink.permit(Protocol::Tcp, to, &who()).unwrap();
    assert_eq!(
        logged(&dir),
        [
            "refused name secret.evil.example by curl\\n[12]: no --allow matches".to_owned(),
            format!("allowed tcp {to} (www.example.com) by curl\\n[12]: --allow 127.0.0.1"),
        ]
    );
}
