//! Messages between host and guest, each a kind, a length and that many bytes.
//!
//! The guest opens one connection to [`PORT`] of the host. The host says [`Kind::Start`] once; from then on both say what
//! happens, until the guest says [`Kind::Ended`].
//!
//! Around a snapshot there is no connection: told to rest, the guest freezes its program, listens at [`PORT`] of its own and
//! closes the connection. Whoever wants it to go on, in this machine or in one that was restored, connects to that port and
//! says [`Kind::Resume`].

use std::io::{self, Read, Write};

/// The port, on either side. Below 1024, so that only the guest's root can listen there.
pub const PORT: u32 = 1;

/// The longest message.
pub const LONGEST: usize = 1 << 20;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// To the guest: an encoded [`Start`].
    Start = 1,
    /// To the guest: bytes of the program's standard input; none at its end.
    Input = 2,
    /// To the host: bytes of its standard output.
    Output = 3,
    /// To the host: bytes of its standard error.
    Error = 4,
    /// To the host: the program has ended; an encoded [`Ended`].
    Ended = 5,
    /// To the host: it could not be started; why, as text.
    Failed = 6,
    /// To the guest: end the program with this signal (one byte).
    Signal = 7,
    /// To the guest: freeze the program, close the connection and wait for another, with [`Kind::Resume`] on it. In between a
    /// snapshot may be taken, and each machine that is restored from it goes on from there.
    Rest = 8,
    /// To the guest: an encoded [`Resume`]; the program goes on.
    Resume = 9,
    /// To the host: something in the guest has connected to [`Start::served_port`]; the connection's number.
    Opened = 10,
    /// To either: the connection's number, then bytes that were sent on it.
    Bytes = 11,
    /// To the host: the guest's side of this connection sends no more; it may still read.
    Finished = 12,
    /// To either: this connection is closed.
    Closed = 13,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{
            Bytes, Closed, Ended, Error, Failed, Finished, Input, Opened, Output, Rest, Resume, Signal, Start,
        };
        [Start, Input, Output, Error, Ended, Failed, Signal, Rest, Resume, Opened, Bytes, Finished, Closed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The body of a message about a connection.
pub fn about(connection: u64, bytes: &[u8]) -> Vec<u8> {
    [&connection.to_le_bytes()[..], bytes].concat()
}

/// Takes such a body apart; `None` when it is none.
pub fn connection(body: &[u8]) -> Option<(u64, &[u8])> {
    let (number, bytes) = body.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), bytes))
}

/// Writes a message.
///
/// # Errors
/// Those of the stream; a body longer than [`LONGEST`] is [`io::ErrorKind::InvalidInput`].
pub fn write(stream: &mut impl Write, kind: Kind, body: &[u8]) -> io::Result<()> {
    if body.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut message = vec![kind as u8];
    message.extend_from_slice(&(body.len() as u32).to_le_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message)
}

/// Reads a message; `None` at the stream's end.
///
/// # Errors
/// Those of the stream; an unknown kind or a longer body than [`LONGEST`] is [`io::ErrorKind::InvalidData`].
pub fn read(stream: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match stream.read(head.get_mut(got..).unwrap_or_default()) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    let Some(kind) = Kind::from_byte(kind).filter(|_| length <= LONGEST) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((kind, body)))
}

/// What the guest is to do.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Start {
    /// The time of day, nanoseconds since 1970.
    pub time: u64,
    /// Fresh random bytes for the kernel's generator.
    pub entropy: Vec<u8>,
    /// Name of the machine.
    pub hostname: Vec<u8>,
    /// As whom the program runs.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its working directory.
    pub directory: Vec<u8>,
    /// The program and its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value` each.
    pub environment: Vec<Vec<u8>>,
    /// Where the second disk and those that follow are mounted, read-only; the first one is the root.
    pub mounts: Vec<Vec<u8>>,
    /// What its network card is set up with; without it there is only the loopback interface.
    pub network: Option<Network>,
    /// What is in /etc/resolv.conf; nothing: what the root file system has there.
    pub resolver: Vec<u8>,
    /// Whether the last disk, behind those, is the guest's own and is mounted at /tmp. Otherwise /tmp is memory.
    pub tmp_disk: bool,
    /// Bytes that the program and its descendants may use together; 0: all that there are.
    pub memory_limit: u64,
    /// Bytes that /tmp may hold when it is memory; 0: half of memory.
    pub tmp_limit: u64,
    /// Processes and threads that there may be; 0: any number.
    pub task_limit: u64,
    /// Descriptors that a process may have open; 0: as the kernel has it.
    pub descriptor_limit: u64,
    /// A port of 127.0.0.1 whose connections are passed on to the host; 0: none.
    pub served_port: u16,
}

/// How a guest reaches others: IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Its address.
    pub address: [u8; 4],
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// Where everything goes that is not in the network.
    pub gateway: [u8; 4],
}

impl Network {
    fn encode(network: Option<Self>) -> Vec<u8> {
        let body =
            network.map(|Self { address, prefix, gateway }| [&address[..], &[prefix], &gateway].concat());
        [&[u8::from(body.is_some())][..], &body.unwrap_or_default()].concat()
    }

    fn decode(left: &mut &[u8]) -> Option<Option<Self>> {
        if !flag(*take(left)?)? {
            return Some(None);
        }
        let (address, [prefix], gateway) = (*take(left)?, *take(left)?, *take(left)?);
        (prefix <= 32).then_some(Some(Self { address, prefix, gateway }))
    }
}

impl Start {
    /// As the body of a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.time.to_le_bytes());
        bytes.extend_from_slice(&self.user.to_le_bytes());
        bytes.extend_from_slice(&self.group.to_le_bytes());
        for field in [&self.entropy, &self.hostname, &self.directory, &self.resolver] {
            put(&mut bytes, field);
        }
        for limit in self.limits() {
            bytes.extend_from_slice(&limit.to_le_bytes());
        }
        bytes.extend_from_slice(&self.served_port.to_le_bytes());
        bytes.push(self.tmp_disk.into());
        bytes.extend(Network::encode(self.network));
        for list in [&self.arguments, &self.environment, &self.mounts] {
            bytes.extend_from_slice(&(list.len() as u32).to_le_bytes());
            for field in list {
                put(&mut bytes, field);
            }
        }
        bytes
    }

    fn limits(&self) -> [u64; 4] {
        [self.memory_limit, self.tmp_limit, self.task_limit, self.descriptor_limit]
    }

    /// Reads the body of a message; `None` when it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = bytes;
        // In the order in which they are written here.
        let start = Self {
            time: u64::from_le_bytes(*take(&mut left)?),
            user: u32::from_le_bytes(*take(&mut left)?),
            group: u32::from_le_bytes(*take(&mut left)?),
            entropy: field(&mut left)?,
            hostname: field(&mut left)?,
            directory: field(&mut left)?,
            resolver: field(&mut left)?,
            memory_limit: u64::from_le_bytes(*take(&mut left)?),
            tmp_limit: u64::from_le_bytes(*take(&mut left)?),
            task_limit: u64::from_le_bytes(*take(&mut left)?),
            descriptor_limit: u64::from_le_bytes(*take(&mut left)?),
            served_port: u16::from_le_bytes(*take(&mut left)?),
            tmp_disk: flag(*take(&mut left)?)?,
            network: Network::decode(&mut left)?,
            arguments: list(&mut left)?,
            environment: list(&mut left)?,
            mounts: list(&mut left)?,
        };
        left.is_empty().then_some(start)
    }
}

/// What a guest has to learn before it goes on.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Resume {
    /// The time of day, nanoseconds since 1970.
    pub time: u64,
    /// Fresh random bytes for the kernel's generator.
    pub entropy: Vec<u8>,
}

impl Resume {
    /// As the body of a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.time.to_le_bytes().to_vec();
        put(&mut bytes, &self.entropy);
        bytes
    }

    /// Reads the body of a message; `None` when it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = bytes;
        let resume = Self { time: u64::from_le_bytes(*take(&mut left)?), entropy: field(&mut left)? };
        left.is_empty().then_some(resume)
    }
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With this status.
    Status(u8),
    /// By this signal.
    Signal(u8),
    /// By the kernel: it used more memory than [`Start::memory_limit`].
    OutOfMemory,
}

impl Ended {
    /// As the body of a message.
    pub fn encode(self) -> [u8; 2] {
        match self {
            Self::Status(status) => [0, status],
            Self::Signal(signal) => [1, signal],
            Self::OutOfMemory => [2, 0],
        }
    }

    /// Reads the body of a message; `None` when it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0, status] => Some(Self::Status(*status)),
            [1, signal] => Some(Self::Signal(*signal)),
            [2, 0] => Some(Self::OutOfMemory),
            _ => None,
        }
    }
}

fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}

fn take<'a, const N: usize>(left: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(first)
}

fn flag([byte]: [u8; 1]) -> Option<bool> {
    [false, true].into_iter().find(|flag| u8::from(*flag) == byte)
}

fn field(left: &mut &[u8]) -> Option<Vec<u8>> {
    let length = u32::from_le_bytes(*take(left)?) as usize;
    let (first, rest) = left.split_at_checked(length)?;
    *left = rest;
    Some(first.to_vec())
}

fn list(left: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let count = u32::from_le_bytes(*take(left)?) as usize;
    // Each takes at least the four bytes of its length.
    (count <= left.len() / 4).then_some(())?;
    (0..count).map(|_| field(left)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let start = Start {
            time: 1,
            entropy: vec![2; 32],
            hostname: b"h".to_vec(),
            user: 3,
            group: 4,
            directory: b"/".to_vec(),
            arguments: vec![b"a".to_vec(), Vec::new()],
            environment: vec![b"A=b".to_vec()],
            mounts: vec![b"/m".to_vec()],
            tmp_disk: true,
            network: Some(Network { address: [10, 0, 0, 2], prefix: 24, gateway: [10, 0, 0, 1] }),
            resolver: b"nameserver 10.0.0.1\n".to_vec(),
            memory_limit: 8,
            tmp_limit: 9,
            task_limit: 10,
            descriptor_limit: 11,
            served_port: 12,
        };
        let mut stream = Vec::new();
        write(&mut stream, Kind::Start, &start.encode()).unwrap();
        write(&mut stream, Kind::Ended, &Ended::Signal(9).encode()).unwrap();
        let mut stream = stream.as_slice();
        let (kind, body) = read(&mut stream).unwrap().unwrap();
        assert_eq!((kind, Start::decode(&body)), (Kind::Start, Some(start)));
        let (kind, body) = read(&mut stream).unwrap().unwrap();
        assert_eq!((kind, Ended::decode(&body)), (Kind::Ended, Some(Ended::Signal(9))));
        assert_eq!(read(&mut stream).unwrap(), None);
        let resume = Resume { time: 5, entropy: vec![6; 7] };
        assert_eq!(Resume::decode(&resume.encode()), Some(resume));
        assert_eq!(connection(&about(13, b"bytes")), Some((13, &b"bytes"[..])));
        assert_eq!(connection(b"short"), None);
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_allocated_for_it() {
        for bytes in [&[3, 255, 255, 255, 255][..], &[99, 0, 0, 0, 0], &[3, 1, 0]] {
            assert!(read(&mut &bytes[..]).is_err());
        }
        let mut body = Start::default().encode();
        let at = body.len() - 8;
        body[at..at + 4].fill(0xff);
        assert_eq!(Start::decode(&body), None);
        assert_eq!(Ended::decode(&[3, 0]), None);
    }
}
