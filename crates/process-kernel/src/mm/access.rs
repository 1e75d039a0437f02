//! Reading and writing guest memory on behalf of system calls.
//!
//! Each argument is fetched once. A bad pointer is EFAULT. Areas are checked here, and the host kernel checks again while
//! it copies: another guest thread may unmap in between.

use bytemuck::{AnyBitPattern, NoUninit, Zeroable};
use guest_memory::HostSpan;
use pages::{GuestPhysical, PAGE_SIZE};
use rustix::io::Errno;

use super::fault::FaultAccess;
use super::late::page_around;
use super::vma::Access;
use super::{AddressSpace, Mm, layout};
use crate::file::{Destination, Origin};

/// Longest string taken from a guest (PATH_MAX is 4096; argument strings may have 128 KiB).
pub const MAX_STRING: usize = 128 << 10;

/// Bytes one read or write call moves at most (MAX_RW_COUNT).
const MAX_TRANSFER: usize = 0x7fff_f000;

impl Mm {
    /// The host's view of up to `length` bytes from `address`: pieces in order, stopping early at the first byte that the
    /// program itself could not access.
    fn spans(&self, address: u64, length: usize, access: FaultAccess) -> Result<Vec<HostSpan>, Errno> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let end = address.checked_add(length as u64).filter(|end| *end <= layout::USER_END);
        let end = end.ok_or(Errno::FAULT)?;
        self.arrive(address..end)?;
        {
            let space = self.space.read();
            if let Some(spans) = self.collect(&space, address, end, access)? {
                return Ok(spans);
            }
        }
        let mut space = self.space.write();
        let first = address & !(PAGE_SIZE - 1);
        let last = pages::page_align_up(end).ok_or(Errno::FAULT)?;
        self.assign(&mut space, first..last)?;
        self.collect(&space, address, end, access)?.ok_or(Errno::FAULT)
    }

    /// `None` when some accessible page has no guest-physical page yet.
    fn collect(
        &self,
        space: &AddressSpace,
        address: u64,
        end: u64,
        access: FaultAccess,
    ) -> Result<Option<Vec<HostSpan>>, Errno> {
        let mut accessible = address;
        for area in space.areas.overlapping(address..end) {
            let permitted = match access {
                FaultAccess::Read => !area.access.is_empty(),
                FaultAccess::Write => area.access.contains(Access::WRITE),
            };
            if area.start > accessible || !permitted {
                break;
            }
            accessible = area.end;
        }
        let accessible = accessible.min(end);
        if accessible == address {
            return Err(Errno::FAULT);
        }
        let mut spans: Vec<HostSpan> = Vec::new();
        let mut next = address;
        for piece in self.pieces(space, address & !(PAGE_SIZE - 1)..accessible)? {
            if piece.range.start > next {
                return Ok(None);
            }
            let skipped = next - piece.range.start;
            let piece_end = piece.range.end.min(accessible);
            let physical = GuestPhysical(piece.first.address().0 + skipped);
            let span = self.memory.span(physical, (piece_end - next) as usize).map_err(|_| Errno::FAULT)?;
            match spans.last_mut() {
                Some(last) if last.address + last.length as u64 == span.address => last.length += span.length,
                _ => spans.push(span),
            }
            next = piece_end;
        }
        if next < accessible { Ok(None) } else { Ok(Some(spans)) }
    }

    pub(crate) fn read_span(&self, host_address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let physical = GuestPhysical(host_address - self.memory.host_address(GuestPhysical(0)));
        self.memory.read(physical, into).map_err(|_| Errno::FAULT)
    }

    pub(crate) fn write_span(&self, host_address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let physical = GuestPhysical(host_address - self.memory.host_address(GuestPhysical(0)));
        self.memory.write(physical, bytes).map_err(|_| Errno::FAULT)
    }

    /// Copies `into.len()` bytes from `address`.
    ///
    /// # Errors
    /// EFAULT when any of them can't be read.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        for span in self.spans(address, into.len(), FaultAccess::Read)? {
            self.read_span(span.address, &mut into[done..done + span.length])?;
            done += span.length;
        }
        if done == into.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Copies `bytes` to `address`.
    ///
    /// # Errors
    /// EFAULT when any of them can't be written; some may have been.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        for span in self.spans(address, bytes.len(), FaultAccess::Write)? {
            self.write_span(span.address, &bytes[done..done + span.length])?;
            done += span.length;
        }
        if done == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_value<T: AnyBitPattern + NoUninit + Zeroable>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::zeroed();
        self.read(address, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_value<T: NoUninit>(&self, address: u64, value: &T) -> Result<(), Errno> {
        self.write(address, bytemuck::bytes_of(value))
    }

    /// Reads `count` values that lie one after the other.
    ///
    /// # Errors
    /// EFAULT; EINVAL when there are more than 1 Mi of them.
    pub fn read_values<T: AnyBitPattern + NoUninit>(
        &self,
        address: u64,
        count: usize,
    ) -> Result<Vec<T>, Errno> {
        if count > 1 << 20 {
            return Err(Errno::INVAL);
        }
        let mut values = vec![T::zeroed(); count];
        self.read(address, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Reads a NUL-terminated string of at most `limit` bytes, the NUL included.
    ///
    /// # Errors
    /// EFAULT, or ENAMETOOLONG when no NUL comes within the limit.
    pub fn read_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        let mut next = address;
        while bytes.len() < limit {
            // To the page's end at most: what lies behind a string need not be mapped.
            let in_page = (PAGE_SIZE - next % PAGE_SIZE) as usize;
            let count = in_page.min(limit - bytes.len()).min(256);
            let start = bytes.len();
            bytes.resize(start + count, 0);
            self.read(next, &mut bytes[start..])?;
            if let Some(length) = bytes[start..].iter().position(|byte| *byte == 0) {
                bytes.truncate(start + length);
                return Ok(bytes);
            }
            next = next.checked_add(count as u64).ok_or(Errno::FAULT)?;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Guest memory that a read(2) fills.
    ///
    /// # Errors
    /// EFAULT when not even the first byte is writable.
    pub fn destination(&self, address: u64, length: usize) -> Result<Destination<'_>, Errno> {
        let spans = self.spans(address, length.min(MAX_TRANSFER), FaultAccess::Write)?;
        Ok(Destination::Guest { memory: self, spans })
    }

    /// Guest memory that a write(2) takes bytes from.
    ///
    /// # Errors
    /// EFAULT when not even the first byte is readable.
    pub fn origin(&self, address: u64, length: usize) -> Result<Origin<'_>, Errno> {
        let spans = self.spans(address, length.min(MAX_TRANSFER), FaultAccess::Read)?;
        Ok(Origin::Guest { memory: self, spans })
    }

    /// The pieces of a guest's `struct iovec` array (readv, sendmsg).
    fn vector(&self, address: u64, count: usize, access: FaultAccess) -> Result<Vec<HostSpan>, Errno> {
        if count > 1024 {
            return Err(Errno::INVAL);
        }
        let pairs: Vec<[u64; 2]> = self.read_values(address, count)?;
        let mut spans = Vec::new();
        let mut left = MAX_TRANSFER;
        for [base, length] in pairs {
            if length > i64::MAX as u64 {
                return Err(Errno::INVAL);
            }
            let wanted = usize::try_from(length).map_or(left, |length| length.min(left));
            match self.spans(base, wanted, access) {
                Ok(piece) => {
                    let got: usize = piece.iter().map(|span| span.length).sum();
                    spans.extend(piece);
                    left -= got;
                    if got < wanted {
                        break;
                    }
                }
                Err(_) if !spans.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(spans)
    }

    /// As [`Mm::destination`], for the iovec array at `address`.
    ///
    /// # Errors
    /// EFAULT, EINVAL.
    pub fn destination_vector(&self, address: u64, count: usize) -> Result<Destination<'_>, Errno> {
        Ok(Destination::Guest { memory: self, spans: self.vector(address, count, FaultAccess::Write)? })
    }

    /// As [`Mm::origin`], for the iovec array at `address`.
    ///
    /// # Errors
    /// EFAULT, EINVAL.
    pub fn origin_vector(&self, address: u64, count: usize) -> Result<Origin<'_>, Errno> {
        Ok(Origin::Guest { memory: self, spans: self.vector(address, count, FaultAccess::Read)? })
    }
}

impl Mm {
    /// Atomically replaces the aligned word at `address` by what `change` makes of it; `None` leaves it. Returns the old
    /// value. Only private anonymous memory qualifies: nothing but a system call of the guest itself, which the lock keeps
    /// out, could take it away meanwhile.
    ///
    /// # Errors
    /// EINVAL when not aligned, EFAULT for anything but writable anonymous memory.
    pub fn update_word(
        &self,
        address: u64,
        mut change: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::INVAL);
        }
        self.arrive(page_around(address))?;
        let mut space = self.space.write();
        let suitable = space.areas.find(address).is_some_and(|area| {
            area.access.contains(Access::WRITE) && matches!(area.backing, super::Backing::Anonymous)
        });
        if !suitable {
            return Err(Errno::FAULT);
        }
        self.assign(&mut space, page_around(address))?;
        let piece = self.pieces(&space, page_around(address))?.into_iter().next().ok_or(Errno::FAULT)?;
        let physical = piece.first.address() + (address & (PAGE_SIZE - 1));
        let word = self.memory.host_address(physical);
        Ok(crate::host::update_word(word, &mut change))
    }
}
