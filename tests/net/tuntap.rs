//! As tuntap.c, with nothing but the standard library.

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::Command;

const TUNSETIFF: c_ulong = 0x4004_54ca;
const IFF_TUN: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const ME: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OWN: [u8; 4] = [10, 9, 0, 1];
const MINE: [u8; 4] = [10, 9, 0, 2];

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

struct Device {
    file: File,
    tap: bool,
    theirs: [u8; 6],
}

fn open() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap()
}

fn set_iff(file: &File, ifreq: &mut [u8; 40]) -> c_int {
    // SAFETY: a `struct ifreq`, which lives through the call.
    unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, ifreq.as_mut_ptr()) }
}

fn sum(bytes: &[u8], start: u32) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    let mut sum = bytes.chunks(2).map(word).sum::<u32>() + start;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn message(error: Error) -> String {
    let text = error.to_string();
    text.split(" (os").next().unwrap().to_owned()
}

impl Device {
    fn send_ip(&mut self, protocol: u8, payload: &[u8]) {
        let mut ip = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
        ip.extend([MINE, OWN].concat());
        let checksum = sum(&ip, 0);
        ip[10..12].copy_from_slice(&checksum);
        let mut frame = Vec::new();
        if self.tap {
            frame.extend([self.theirs, ME].concat());
            frame.extend([8, 0]);
        }
        frame.extend(ip);
        frame.extend(payload);
        match self.file.write(&frame) {
            Ok(len) if len == frame.len() => println!("write whole"),
            Ok(_) => println!("write in part"),
            Err(error) => println!("write {}", message(error)),
        }
    }

    /// The next packet of a protocol, from its network header on; 0: a frame with ARP.
    fn receive(&mut self, protocol: u8) -> Vec<u8> {
        loop {
            let mut frame = vec![0; 2048];
            let len = self.file.read(&mut frame).unwrap();
            frame.truncate(len);
            if len < 28 {
                continue;
            }
            let network = if self.tap { &frame[14..] } else { &frame[..] };
            if self.tap && frame[12..14] == [8, 6] && protocol == 0 && network[7] == 2 {
                return frame;
            }
            if (!self.tap || frame[12..14] == [8, 0]) && network[0] == 0x45 && network[9] == protocol {
                return network.to_vec();
            }
        }
    }

    fn syn(&mut self, port: u16) {
        let mut segment = [0; 20];
        segment[..2].copy_from_slice(&4000u16.to_be_bytes());
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        (segment[7], segment[12], segment[13]) = (100, 0x50, 2);
        segment[14..16].copy_from_slice(&1000u16.to_be_bytes());
        let pseudo = [&MINE[..], &OWN, &[0, 6, 0, 20]].concat();
        let checksum = sum(&[&pseudo[..], &segment].concat(), 0);
        segment[16..18].copy_from_slice(&checksum);
        self.send_ip(6, &segment);
        let ip = self.receive(6);
        let tcp = &ip[20..];
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        println!("port {port}: from {} flags 0x{:02x} acknowledges {}", half(0), tcp[13], half(10));
    }
}

fn main() {
    let tap = std::env::args().nth(1).as_deref() == Some("tap");
    let mut device = Device { file: open(), tap, theirs: [0; 6] };
    let mut ifreq = [0u8; 40];
    ifreq[..3].copy_from_slice(b"t%d");
    let flags = IFF_NO_PI | if tap { IFF_TAP } else { IFF_TUN };
    ifreq[16..18].copy_from_slice(&flags.to_ne_bytes());
    let result = set_iff(&device.file, &mut ifreq);
    println!("TUNSETIFF {result} {}", String::from_utf8_lossy(&ifreq[..2]));
    let busy = if set_iff(&open(), &mut ifreq) == 0 { "no".into() } else { message(Error::last_os_error()) };
    println!("busy {busy}");
    let setup = "ip link set lo up; ip addr add 10.9.0.1/24 dev t0; ip link set t0 up";
    assert!(Command::new("sh").args(["-c", setup]).status().unwrap().success());
    let _listener = TcpListener::bind("0.0.0.0:7000").unwrap();
    if tap {
        let mut arp = vec![255; 6];
        arp.extend(ME);
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend(ME);
        arp.extend(MINE);
        arp.extend([0; 6]);
        arp.extend(OWN);
        println!("write {}", device.file.write(&arp).unwrap());
        let frame = device.receive(0);
        device.theirs.copy_from_slice(&frame[6..12]);
        let same = if frame[22..28] == device.theirs { "yes" } else { "no" };
        let [a, b, c, d] = frame[28..32] else { unreachable!() };
        println!("ARP {a}.{b}.{c}.{d} is at its sender: {same}");
    }
    let mut echo = [8, 0, 0, 0, 0, 9, 0, 1, b'p', b'i', b'n', b'g'];
    let checksum = sum(&echo, 0);
    echo[2..4].copy_from_slice(&checksum);
    device.send_ip(1, &echo);
    let ip = device.receive(1);
    println!("ICMP type {} id {} {} ttl {}", ip[20], ip[25], String::from_utf8_lossy(&ip[28..32]), ip[8]);
    device.syn(7000);
    device.syn(7001);
}
