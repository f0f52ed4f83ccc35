//! What sockets on the loopback device cost. A system without one has no rows.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::calls::time;

const HERE: &str = "127.0.0.1:0";
/// Bytes of one write for throughput.
const BLOCK: usize = 64 * 1024;

/// Prints the rows.
///
/// # Errors
/// There is no loopback device.
pub fn measure(n: &dyn Fn(u32) -> u32) -> io::Result<()> {
    let listener = TcpListener::bind(HERE)?;
    let address = listener.local_addr()?;
    time("tcp connect, accept, close", n(300), || {
        let client = TcpStream::connect(address);
        let server = listener.accept();
        drop((client, server));
    });
    let (mut client, server) = (TcpStream::connect(address)?, listener.accept()?.0);
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let echo = thread::spawn(move || answer(server));
    let mut byte = [1];
    time("tcp ping-pong", n(2_000), || {
        let sent = client.write_all(&byte).and_then(|()| client.read_exact(&mut byte));
        assert!(sent.is_ok(), "{sent:?}");
    });
    drop(client);
    let _ = echo.join();

    let (mut client, mut server) = (TcpStream::connect(address)?, listener.accept()?.0);
    let sink = thread::spawn(move || {
        let mut buffer = vec![0; BLOCK];
        while server.read(&mut buffer).is_ok_and(|got| got > 0) {}
    });
    let block = vec![1; BLOCK];
    time("tcp, 64 KiB one way", n(3_000), || {
        let sent = client.write_all(&block);
        assert!(sent.is_ok(), "{sent:?}");
    });
    drop(client);
    let _ = sink.join();

    let (one, two) = (UdpSocket::bind(HERE)?, UdpSocket::bind(HERE)?);
    let to = two.local_addr()?;
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((got, from)) = two.recv_from(&mut buffer) {
            if got == 0 || two.send_to(&buffer[..got], from).is_err() {
                break;
            }
        }
    });
    let mut buffer = [0; 64];
    time("udp ping-pong", n(1_000), || {
        let sent = one.send_to(b"x", to).and_then(|_| one.recv_from(&mut buffer));
        assert!(sent.is_ok(), "{sent:?}");
    });
    one.send_to(&[], to)?;
    let _ = echo.join();
    Ok(())
}

fn answer(mut server: TcpStream) {
    let mut byte = [0];
    while server.read_exact(&mut byte).and_then(|()| server.write_all(&byte)).is_ok() {}
}
