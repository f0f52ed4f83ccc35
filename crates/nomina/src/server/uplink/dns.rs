//! The resolver of a sandbox: passes queries on to the host's resolver and notes which addresses the answers give to names, since
//! rules name hosts ([`crate::egress::NameCache`]). Names that no rule could be about are not asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nomina_kernel::errno::{Errno, Result};
use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags, SocketType};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, QCLASS, RCODE};

use super::super::request::host;
use super::{After, Deliver, Flow, Shared, Who, host_socket};
use crate::egress::Verdict;

/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Queries that may wait at a time.
const MANY: usize = 256;
/// Longest message over a stream.
const LONGEST: usize = 65535;
/// Messages of a stream that may wait to be taken, in bytes.
const BACKLOG: usize = 4 * LONGEST;

/// Who is answered.
pub struct Asker {
    /// Takes the answer.
    pub deliver: Deliver,
    /// The server that was asked, from which the answer seems to come.
    pub from: SocketAddr,
}

/// A query that waits for its answer.
pub struct Query {
    socket: OwnedFd,
    message: Vec<u8>,
    question: Question,
    asker: Asker,
    deadline: Instant,
    /// How many servers have been asked.
    asked: usize,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    id: u16,
    name: String,
}

impl Question {
    /// Of a query with one question, as all programs send them.
    fn of(message: &[u8]) -> Option<Question> {
        let packet = Packet::parse(message).ok()?;
        let [question] = &packet.questions[..] else { return None };
        (question.qclass == QCLASS::CLASS(CLASS::IN))
            .then(|| Question { id: packet.id(), name: question.qname.to_string() })
    }

    /// The addresses that an answer gives to the name, by way of its aliases; `None` when it is no answer to this.
    fn answered(&self, message: &[u8]) -> Option<Vec<(IpAddr, Duration)>> {
        let packet = Packet::parse(message).ok()?;
        let asks_the_same = packet
            .questions
            .first()
            .is_some_and(|question| question.qname.to_string().eq_ignore_ascii_case(&self.name));
        if packet.id() != self.id || !asks_the_same {
            return None;
        }
        let mut aliases = vec![self.name.to_ascii_lowercase()];
        let mut found = Vec::new();
        for record in &packet.answers {
            if !aliases.contains(&record.name.to_string().to_ascii_lowercase()) {
                continue;
            }
            let ttl = Duration::from_secs(record.ttl.into());
            match &record.rdata {
                RData::CNAME(alias) => aliases.push(alias.0.to_string().to_ascii_lowercase()),
                RData::A(a) => found.push((IpAddr::V4(Ipv4Addr::from_bits(a.address)), ttl)),
                RData::AAAA(aaaa) => found.push((IpAddr::V6(Ipv6Addr::from_bits(aaaa.address)), ttl)),
                _ => {}
            }
        }
        Some(found)
    }
}

/// The answer `REFUSED` to a query.
fn refusal(query: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::parse(query).ok()?;
    let mut reply = packet.into_reply();
    *reply.rcode_mut() = RCODE::Refused;
    reply.answers.clear();
    reply.build_bytes_vec().ok()
}

/// Whether a name may be asked for; says so in the log when not.
fn permitted(shared: &Shared, name: &str, who: &Who) -> bool {
    let verdict = shared.policy.may_resolve(name);
    let allowed = matches!(verdict, Verdict::Allowed(_));
    if !allowed {
        shared.log.name(name, who, &verdict);
    }
    allowed
}

fn note(shared: &Shared, question: &Question, addresses: Vec<(IpAddr, Duration)>) {
    let mut names = shared.names.lock().unwrap();
    for (address, ttl) in addresses {
        names.note(&question.name, address, ttl, Instant::now());
    }
}

/// Asks what `message` asks.
pub(super) fn ask(shared: &Arc<Shared>, message: &[u8], who: &Who, asker: Asker) -> Result<()> {
    let question = Question::of(message).ok_or(Errno::EINVAL)?;
    if !permitted(shared, &question.name, who) {
        if let Some(reply) = refusal(message) {
            (asker.deliver)(asker.from, &reply);
        }
        return Ok(());
    }
    let waiting = shared.flows.lock().unwrap().values().filter(|flow| matches!(flow, Flow::Query(_))).count();
    if waiting >= MANY {
        return Err(Errno::ENFILE);
    }
    let query = Query {
        socket: upstream(shared, 0, message)?,
        message: message.to_vec(),
        question,
        asker,
        deadline: Instant::now() + PATIENCE,
        asked: 1,
    };
    shared.add(Flow::Query(query))
}

/// A socket from which server number `index` has been asked.
fn upstream(shared: &Shared, index: usize, message: &[u8]) -> Result<OwnedFd> {
    let server = shared.resolvers.get(index).ok_or(Errno::ETIMEDOUT)?;
    let socket = host_socket(server.ip(), SocketType::DGRAM)?;
    // Connected, so that nobody else can answer.
    rustix::net::connect(&socket, server).map_err(host)?;
    rustix::net::send(&socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(host)?;
    Ok(socket)
}

impl Query {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn serve(mut self, shared: &Arc<Shared>, id: u64, buffer: &mut [u8]) -> After {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    let answer = &buffer[..len];
                    let Some(addresses) = self.question.answered(answer) else { continue };
                    note(shared, &self.question, addresses);
                    (self.asker.deliver)(self.asker.from, answer);
                    return After::Ends;
                }
                Err(HostErrno::INTR) => {}
                Err(HostErrno::AGAIN) if Instant::now() < self.deadline => {
                    return After::Stays(Flow::Query(self));
                }
                // It does not answer, or is not there: the next one.
                Err(_) => break,
            }
        }
        while self.asked < shared.resolvers.len() {
            self.asked += 1;
            if let Ok(socket) = upstream(shared, self.asked - 1, &self.message)
                && shared.watch(id, socket.as_fd()).is_ok()
            {
                self.socket = socket;
                self.deadline = Instant::now() + PATIENCE;
                return After::Stays(Flow::Query(self));
            }
        }
        After::Ends
    }
}

/// Time until the next query has waited long enough; `None` when there is none.
pub(super) fn until_next(shared: &Shared) -> Option<Duration> {
    let flows = shared.flows.lock().unwrap();
    let deadlines = flows.values().filter_map(|flow| match flow {
        Flow::Query(query) => Some(query.deadline),
        _ => None,
    });
    deadlines.min().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// The queries that have waited long enough.
pub(super) fn due(shared: &Shared) -> Vec<u64> {
    let now = Instant::now();
    let flows = shared.flows.lock().unwrap();
    let is_due = |flow: &Flow| matches!(flow, Flow::Query(query) if query.deadline <= now);
    flows.iter().filter(|(_, flow)| is_due(flow)).map(|(id, _)| *id).collect()
}

/// A connection to the resolver, on which messages have their length before them.
pub struct Stream {
    /// Our end of the guest's socket, and the connection to the host's resolver.
    ends: [OwnedFd; 2],
    who: Who,
    /// What came from each, and what is to be sent to each.
    taken: [Vec<u8>; 2],
    pending: [Vec<u8>; 2],
    ended: [bool; 2],
    questions: Vec<Question>,
}

impl Stream {
    /// Between our end of a guest's socket and the host's resolver.
    ///
    /// # Errors
    /// Those of `socket(2)` and `connect(2)`.
    pub(super) fn new(shared: &Shared, ours: OwnedFd, who: Who) -> Result<Stream> {
        let server = shared.resolvers.first().ok_or(Errno::ENETUNREACH)?;
        let socket = host_socket(server.ip(), SocketType::STREAM)?;
        match rustix::net::connect(&socket, server) {
            Ok(()) | Err(HostErrno::INPROGRESS) => {}
            Err(error) => return Err(host(error)),
        }
        Ok(Stream {
            ends: [ours, socket],
            who,
            taken: Default::default(),
            pending: Default::default(),
            ended: [false; 2],
            questions: Vec::new(),
        })
    }

    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends[0].as_fd(), self.ends[1].as_fd()]
    }

    pub(super) fn serve(mut self, shared: &Arc<Shared>, buffer: &mut [u8]) -> After {
        for end in [0, 1] {
            while !self.ended[end] && self.pending[1 - end].len() < BACKLOG {
                match rustix::net::recv(&self.ends[end], &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => self.ended[end] = true,
                    Ok((len, _)) => {
                        self.taken[end].extend_from_slice(&buffer[..len]);
                        self.messages(shared, end);
                    }
                    Err(HostErrno::INTR) => {}
                    // Not connected yet, to which the host says so.
                    Err(HostErrno::AGAIN | HostErrno::NOTCONN) => break,
                    Err(_) => return After::Ends,
                }
            }
        }
        for end in [0, 1] {
            while !self.pending[end].is_empty() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&self.ends[end], &self.pending[end], flags) {
                    Ok(sent) => drop(self.pending[end].drain(..sent)),
                    Err(HostErrno::INTR) => {}
                    Err(HostErrno::AGAIN | HostErrno::NOTCONN) => break,
                    Err(_) => return After::Ends,
                }
            }
        }
        let guest_done = self.ended[0] && self.pending[1].is_empty() && self.questions.is_empty();
        if self.ended[1] || guest_done && self.pending[0].is_empty() {
            return After::Ends;
        }
        After::Stays(Flow::DnsStream(self))
    }

    /// Takes the whole messages that came from an end.
    fn messages(&mut self, shared: &Arc<Shared>, end: usize) {
        while let [high, low, rest @ ..] = &self.taken[end][..] {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(message) = rest.get(..len) else { return };
            let message = message.to_vec();
            self.taken[end].drain(..2 + len);
            if end == 1 {
                let asked = self.questions.iter().enumerate();
                let found =
                    asked.filter_map(|(at, question)| Some((at, question.answered(&message)?))).next();
                if let Some((at, addresses)) = found {
                    note(shared, &self.questions.remove(at), addresses);
                    self.push(0, &message);
                }
                continue;
            }
            match Question::of(&message) {
                Some(question) if permitted(shared, &question.name, &self.who) => {
                    if self.questions.len() < MANY {
                        self.questions.push(question);
                        self.push(1, &message);
                    }
                }
                Some(_) => {
                    if let Some(reply) = refusal(&message) {
                        self.push(0, &reply);
                    }
                }
                None => self.ended[1] = true,
            }
        }
    }

    fn push(&mut self, end: usize, message: &[u8]) {
        // A message that came with its length has one that fits.
        self.pending[end].extend((message.len() as u16).to_be_bytes());
        self.pending[end].extend_from_slice(message);
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::rdata::{A, CNAME};
    use simple_dns::{Name, QTYPE, ResourceRecord, TYPE};

    use super::*;

    fn query(name: &'static str) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let (qtype, qclass) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(simple_dns::Question::new(Name::new_unchecked(name), qtype, qclass, false));
        packet.build_bytes_vec().unwrap()
    }

    fn answer(records: &[(&'static str, RData<'static>)]) -> Vec<u8> {
        let message = query("www.example.com");
        let mut packet = Packet::parse(&message).unwrap().into_reply();
        for (name, rdata) in records {
            packet.answers.push(ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 60, rdata.clone()));
        }
        packet.build_bytes_vec().unwrap()
    }

    fn a(address: [u8; 4]) -> RData<'static> {
        RData::A(A { address: u32::from_be_bytes(address) })
    }

    #[test]
    fn an_answer_gives_the_name_the_addresses_of_its_aliases_and_of_nobody_else() {
        let question = Question::of(&query("www.example.com")).unwrap();
        assert_eq!(question, Question { id: 7, name: "www.example.com".into() });
        let alias = RData::CNAME(CNAME(Name::new_unchecked("cdn.example.net")));
        let message = answer(&[
            ("WWW.example.com", alias),
            ("cdn.example.net", a([192, 0, 2, 1])),
            ("other.example", a([192, 0, 2, 9])),
        ]);
        let found = question.answered(&message).unwrap();
        assert_eq!(found, [("192.0.2.1".parse().unwrap(), Duration::from_secs(60))]);
        assert_eq!(Question { id: 8, ..question.clone() }.answered(&message), None);
        assert_eq!(Question { name: "other.example".into(), ..question }.answered(&message), None);
    }

    #[test]
    fn a_refusal_answers_the_question() {
        let reply = refusal(&query("www.example.com")).unwrap();
        let packet = Packet::parse(&reply).unwrap();
        assert_eq!((packet.id(), packet.rcode(), packet.questions.len()), (7, RCODE::Refused, 1));
        assert_eq!(refusal(b"what"), None);
        assert_eq!(Question::of(b"\0\0what"), None);
    }
}
