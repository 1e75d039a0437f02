//! poll and select.

use std::os::raw::c_long;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::event::{milliseconds, read_mask};
use super::time::{read_duration, read_timeout};
use super::{Arguments, Cx, Restart, SysResult};
use crate::clock::Deadline;
use crate::file::{Fd, OpenFile, Readiness};
use crate::wait::WaitQueue;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_poll => {
            let deadline = cx.deadline(milliseconds(a[2] as i32));
            poll(cx, a[0], a[1], deadline, None)
        }
        libc::SYS_ppoll => ppoll(cx, a),
        libc::SYS_select => plain_select(cx, a),
        libc::SYS_pselect6 => pselect(cx, a),
        _ => return None,
    })
}

/// `struct pollfd`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PollFd {
    fd: Fd,
    events: u16,
    revents: u16,
}

fn ppoll(cx: &mut Cx<'_>, a: Arguments) -> SysResult {
    let deadline = cx.deadline(read_timeout(cx, a[2])?);
    let mask = read_mask(cx, (a[3], a[4]))?;
    let outcome = poll(cx, a[0], a[1], deadline, mask);
    write_remaining(cx, a[2], deadline, 1_000_000_000, &outcome);
    outcome
}

/// The files being polled and what each was last found ready for.
struct Watched {
    files: Vec<(Arc<OpenFile>, Readiness)>,
}

impl Watched {
    fn queues(&self) -> Vec<&WaitQueue> {
        self.files.iter().filter_map(|(file, _)| file.object.wait_queue()).collect()
    }

    /// Waits until at least one file is ready for something it was asked for; gives what each is ready for. `None` when
    /// the time is over.
    fn wait(
        &self,
        cx: &mut Cx<'_>,
        deadline: Option<Deadline>,
        mask: Option<u64>,
    ) -> Result<Option<Vec<Readiness>>, super::Stop> {
        let queues = self.queues();
        cx.with_signal_mask(mask, |cx| {
            cx.wait(&queues, deadline, Restart::Never, || {
                let ready: Vec<_> =
                    self.files.iter().map(|(file, wanted)| file.object.readiness() & *wanted).collect();
                if ready.iter().all(|ready| ready.is_empty()) { Err(Errno::AGAIN) } else { Ok(ready) }
            })
        })
    }
}

fn poll(cx: &mut Cx<'_>, to: u64, count: u64, deadline: Option<Deadline>, mask: Option<u64>) -> SysResult {
    if count > cx.process.limits.open_files() {
        return Err(Errno::INVAL.into());
    }
    let mut polled: Vec<PollFd> = cx.mm().read_values(to, count as usize)?;
    let mut watched = Watched { files: Vec::new() };
    let mut indices = Vec::new();
    let mut invalid = false;
    for (index, entry) in polled.iter_mut().enumerate() {
        entry.revents = 0;
        if entry.fd < 0 {
            continue;
        }
        match cx.file(entry.fd) {
            Ok(file) => {
                let wanted = Readiness::from_bits_truncate(u32::from(entry.events));
                watched.files.push((file, (wanted - Readiness::NVAL) | Readiness::ERR | Readiness::HUP));
                indices.push(index);
            }
            Err(_) => {
                entry.revents = Readiness::NVAL.bits() as u16;
                invalid = true;
            }
        }
    }
    // A bad descriptor is an event of its own: the others are only looked at.
    let deadline = if invalid { Some(Deadline(0)) } else { deadline };
    if let Some(ready) = watched.wait(cx, deadline, mask)? {
        for (index, ready) in indices.into_iter().zip(ready) {
            if let Some(entry) = polled.get_mut(index) {
                entry.revents = ready.bits() as u16;
            }
        }
    }
    // Only the answers are written: another thread may have changed its requests meanwhile.
    for (index, entry) in polled.iter().enumerate() {
        let field = to + (index * size_of::<PollFd>() + 6) as u64;
        cx.mm().write_value(field, &entry.revents)?;
    }
    Ok(polled.iter().filter(|entry| entry.revents != 0).count() as u64)
}

/// The three sets of select(2), as 64-bit words; a set that was not given is empty.
struct FdSets {
    addresses: [u64; 3],
    words: [Vec<u64>; 3],
}

/// What makes a descriptor appear in each of the three sets (POLLIN_SET, POLLOUT_SET, POLLEX_SET in Linux).
const MEANING: [Readiness; 3] = [
    Readiness::IN.union(Readiness::RDNORM).union(Readiness::HUP).union(Readiness::ERR),
    Readiness::OUT.union(Readiness::WRNORM).union(Readiness::ERR),
    Readiness::PRI,
];

impl FdSets {
    fn read(cx: &Cx<'_>, count: usize, addresses: [u64; 3]) -> Result<Self, Errno> {
        let mut words: [Vec<u64>; 3] = Default::default();
        for (words, address) in words.iter_mut().zip(addresses) {
            *words = vec![0; count.div_ceil(64)];
            if address != 0 {
                *words = cx.mm().read_values(address, words.len())?;
            }
            // Bits beyond the count are not asked for.
            if let Some(last) = words.last_mut().filter(|_| !count.is_multiple_of(64)) {
                *last &= (1 << (count % 64)) - 1;
            }
        }
        Ok(Self { addresses, words })
    }

    /// Descriptors in any of the sets, and what they are asked for.
    fn wanted(&self) -> Vec<(usize, Readiness)> {
        let length = self.words[0].len() * 64;
        let of = |fd: usize| {
            let sets = self.words.iter().zip(MEANING);
            sets.filter(|(words, _)| words[fd / 64] >> (fd % 64) & 1 != 0)
                .fold(Readiness::empty(), |wanted, (_, meaning)| wanted | meaning)
        };
        (0..length).map(|fd| (fd, of(fd))).filter(|(_, wanted)| !wanted.is_empty()).collect()
    }

    /// Keeps the bits of descriptors that are ready, writes the sets and counts the bits.
    fn answer(mut self, cx: &Cx<'_>, ready: &[(usize, Readiness)]) -> SysResult {
        let mut count = 0;
        for ((words, meaning), address) in self.words.iter_mut().zip(MEANING).zip(self.addresses) {
            let mut answer = vec![0_u64; words.len()];
            for (fd, _) in ready.iter().filter(|(_, ready)| ready.intersects(meaning)) {
                answer[fd / 64] |= words[fd / 64] & 1 << (fd % 64);
            }
            count += answer.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            if address != 0 {
                cx.mm().write(address, bytemuck::cast_slice(&answer))?;
            }
        }
        Ok(count)
    }
}

fn select(
    cx: &mut Cx<'_>,
    count: i32,
    sets: [u64; 3],
    deadline: Option<Deadline>,
    mask: Option<u64>,
) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
    // Linux looks no further than the table reaches.
    let sets = FdSets::read(cx, count.min(cx.process.limits.open_files() as usize), sets)?;
    let wanted = sets.wanted();
    let mut watched = Watched { files: Vec::new() };
    for (fd, wanted) in &wanted {
        watched.files.push((cx.file(*fd as Fd)?, *wanted));
    }
    let ready = watched.wait(cx, deadline, mask)?.unwrap_or_default();
    let ready: Vec<_> = wanted.iter().map(|(fd, _)| *fd).zip(ready).collect();
    sets.answer(cx, &ready)
}

fn plain_select(cx: &mut Cx<'_>, a: Arguments) -> SysResult {
    let timeout = if a[4] == 0 { None } else { Some(read_duration(cx, a[4], 1_000_000)?) };
    let deadline = cx.deadline(timeout);
    let outcome = select(cx, a[0] as i32, [a[1], a[2], a[3]], deadline, None);
    write_remaining(cx, a[4], deadline, 1_000_000, &outcome);
    outcome
}

fn pselect(cx: &mut Cx<'_>, a: Arguments) -> SysResult {
    let deadline = cx.deadline(read_timeout(cx, a[4])?);
    let mask = match a[5] {
        0 => None,
        address => {
            let [mask, size]: [u64; 2] = cx.mm().read_value(address)?;
            read_mask(cx, (mask, size))?
        }
    };
    let outcome = select(cx, a[0] as i32, [a[1], a[2], a[3]], deadline, mask);
    write_remaining(cx, a[4], deadline, 1_000_000_000, &outcome);
    outcome
}

/// Linux writes the time that is left over the timeout it was given. An interrupted call leaves it: when it is run again
/// its first deadline counts. A timeout that can't be written is left, too, as Linux does.
fn write_remaining(cx: &Cx<'_>, address: u64, deadline: Option<Deadline>, unit: u64, outcome: &SysResult) {
    if let (Some(deadline), Ok(_)) = (deadline, outcome) {
        let left = cx.process.clock.remaining(deadline);
        let fraction = u64::from(left.subsec_nanos()) / (1_000_000_000 / unit);
        let _ = cx.mm().write_value(address, &[left.as_secs(), fraction]);
    }
}
