//! What a network of one's own costs: namespaces on a bridge, a TUN device, a web server. Natively only root has the first two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::calls::time;

/// Bytes of one write for throughput.
const BLOCK: usize = 64 * 1024;
/// Where the two ends of the bridge are.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
const PORT: u16 = 7000;
/// The host behind the TUN device, and our address there.
const TUN: [[u8; 4]; 2] = [[10, 78, 0, 1], [10, 78, 0, 2]];
/// Packets that are sent before any is read.
const BURST: u32 = 32;
const HEADERS: usize = 28;

/// Prints the rows; of what there is not, none.
pub fn measure(n: &dyn Fn(u32) -> u32) {
    let (few, many) = (n(300), n(2_000));
    // Threads: who is in a new network namespace does not come back.
    let apart = |what: fn(u32, u32) -> io::Result<()>| {
        thread::spawn(move || what(few, many).map_err(|error| eprintln!("networks: {error}"))).join()
    };
    let _ = apart(bridge);
    let _ = apart(tun);
    let _ = web(n(10));
}

/// A new network namespace for this thread.
fn unshare() -> io::Result<()> {
    // SAFETY: takes an integer.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => ip("link set lo up"),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ip(words: &str) -> io::Result<()> {
    let status = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {words}: {status}"))) }
}

/// Two namespaces whose cables lead to a bridge in a third.
fn bridge(few: u32, many: u32) -> io::Result<()> {
    unshare()?;
    ip("link add br0 type bridge")?;
    ip("link set br0 up")?;
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for (number, address) in ENDS.into_iter().enumerate() {
        let (told, tells) = mpsc::channel();
        let (start, waits) = mpsc::channel::<()>();
        let end = thread::spawn(move || -> io::Result<()> {
            unshare()?;
            // SAFETY: takes no arguments.
            let _ = told.send(unsafe { libc::gettid() });
            waits.recv().map_err(io::Error::other)?;
            ip(&format!("addr add {address}/24 dev eth0"))?;
            ip("link set eth0 up")?;
            if number == 0 { serve() } else { ask(few, many) }
        });
        let tid = tells.recv().map_err(io::Error::other)?;
        ip(&format!("link add port{number} type veth peer name eth0 netns {tid}"))?;
        ip(&format!("link set port{number} master br0 up"))?;
        starts.push(start);
        ends.push(end);
    }
    for start in &starts {
        let _ = start.send(());
    }
    let asked = ends.pop().map(thread::JoinHandle::join);
    drop(starts);
    match asked {
        Some(Ok(result)) => result,
        _ => Err(io::Error::other("an end of the bridge has failed")),
    }
}

/// Answers streams that begin with 1 by echoing, takes what others bring, and echoes datagrams.
fn serve() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddrV4::new(ENDS[0], PORT))?;
    let datagrams = UdpSocket::bind(SocketAddrV4::new(ENDS[0], PORT))?;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((got, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..got], from);
        }
    });
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut buffer = vec![0; BLOCK];
            let _ = stream.set_nodelay(true);
            while let Ok(got) = stream.read(&mut buffer) {
                if got == 0 || buffer[0] == 1 && stream.write_all(&buffer[..got]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

fn ask(few: u32, many: u32) -> io::Result<()> {
    let to = SocketAddrV4::new(ENDS[0], PORT);
    // The other end may be a moment behind.
    let connect = || {
        (0..100)
            .find_map(|_| TcpStream::connect(to).map_err(|_| thread::sleep(Duration::from_millis(20))).ok())
    };
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let mut stream = connect().ok_or_else(refused)?;
    stream.set_nodelay(true)?;
    let mut byte = [1];
    time("bridge: tcp ping-pong", many, || {
        let _ = stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte));
    });
    let mut stream = connect().ok_or_else(refused)?;
    let block = vec![0; BLOCK];
    time("bridge: tcp, 64 KiB one way", many, || drop(stream.write_all(&block)));
    time("bridge: tcp connect, close", few, || drop(TcpStream::connect(to)));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    time("bridge: udp ping-pong", few, || {
        let _ = socket.send_to(b"x", to).and_then(|_| socket.recv(&mut byte));
    });
    Ok(())
}

/// A TUN device of this thread's namespace; we are the program at its other end.
fn tun(few: u32, many: u32) -> io::Result<()> {
    /// `TUNSETIFF`
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    unshare()?;
    let mut tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // struct ifreq: the name, then the flags.
    let mut request = [0u8; 40];
    request[..4].copy_from_slice(b"tun0");
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is a whole struct ifreq.
    if unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [ours, theirs] = TUN.map(Ipv4Addr::from);
    ip(&format!("addr add {ours}/24 dev tun0"))?;
    ip("link set tun0 up")?;
    let socket = UdpSocket::bind((ours, PORT))?;
    let mut buffer = [0; 2048];
    // What the kernel says of itself comes first.
    let next = |tun: &mut File, buffer: &mut [u8]| loop {
        match tun.read(buffer) {
            Ok(got) if got >= HEADERS && buffer[0] == 0x45 => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    time("tun: echo request and reply", many, || {
        let _ = tun.write(&packet(1, &ECHO)).and_then(|_| next(&mut tun, &mut buffer));
    });
    let to = SocketAddrV4::new(theirs, PORT);
    time("tun: 32 packets out", few, || {
        (0..BURST).for_each(|_| drop(socket.send_to(b"x", to)));
        (0..BURST).for_each(|_| drop(next(&mut tun, &mut buffer)));
    });
    let [high, low] = PORT.to_be_bytes();
    // Without a checksum: UDP may do so.
    let datagram = packet(17, &[high, low, high, low, 0, 9, 0, 0, b'x']);
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    time("tun: 32 packets in", few, || {
        (0..BURST).for_each(|_| drop(tun.write(&datagram)));
        (0..BURST).for_each(|_| drop(socket.recv(&mut buffer)));
    });
    Ok(())
}

/// An echo request with its checksum.
const ECHO: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];

/// A packet of IPv4 from behind the device to us.
fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, (20 + payload.len()) as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(TUN[1]);
    packet.extend(TUN[0]);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    packet.extend(payload);
    packet
}

/// nginx under wrk, both where we are: time per request.
fn web(seconds: u32) -> io::Result<()> {
    let dir = std::env::temp_dir().join(format!("nomina-bench-web.{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let at = dir.display();
    // A port that is free now.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
        .join(" ");
    // SAFETY: takes no arguments.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;" } else { "" };
    fs::write(
        dir.join("conf"),
        format!(
            "daemon off; {user} pid {at}/pid; error_log {at}/log; events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; root {at}; }} }}\n"
        ),
    )?;
    fs::write(dir.join("f"), "hello\n")?;
    let mut nginx =
        Command::new("/usr/sbin/nginx").arg("-c").arg(dir.join("conf")).stderr(Stdio::null()).spawn()?;
    let up = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(20));
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
    let duration = format!("-d{}s", seconds.clamp(1, 3));
    let url = format!("http://127.0.0.1:{port}/f");
    let output = Command::new("wrk").args(["-t1", "-c20", &duration, &url]).output();
    // Its end is asked for by its own program, which closes what its workers have.
    // SAFETY: takes integers.
    unsafe { libc::kill(nginx.id() as i32, libc::SIGTERM) };
    let _ = nginx.wait();
    let _ = fs::remove_dir_all(&dir);
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())?;
    let rate =
        text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    if let Some(rate) = rate.filter(|rate| up && *rate > 0.0) {
        println!("wrk on nginx, 20 connections, each request\t{:.1}", 1e9 / rate);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_a_valid_checksum() {
        let packet = packet(1, &ECHO);
        let sum = |bytes: &[u8]| {
            let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            (sum & 0xffff) + (sum >> 16)
        };
        assert_eq!((sum(&packet[..20]), sum(&packet[20..])), (0xffff, 0xffff));
    }
}
