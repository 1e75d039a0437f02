//! The bytes of a read or write: guest memory or this process's own.

use guest_memory::HostSpan;
use rustix::io::Errno;

/// Where a read puts its bytes.
///
/// Guest memory is never borrowed: bytes go in by [`Destination::put`] (checked copies) or by a host system call on
/// [`Destination::spans`], which answers EFAULT for a bad page.
pub enum Destination<'a> {
    /// Guest memory, as pieces of the host mapping, in order.
    Guest {
        /// The memory.
        memory: &'a crate::mm::Mm,
        /// Remaining pieces.
        spans: Vec<HostSpan>,
    },
    /// A buffer of this process.
    Own(&'a mut [u8]),
}

/// Where a write takes its bytes from.
pub enum Origin<'a> {
    /// Guest memory, as pieces of the host mapping, in order.
    Guest {
        /// The memory.
        memory: &'a crate::mm::Mm,
        /// Remaining pieces.
        spans: Vec<HostSpan>,
    },
    /// A buffer of this process.
    Own(&'a [u8]),
}

fn total(spans: &[HostSpan]) -> usize {
    spans.iter().map(|span| span.length).sum()
}

/// Drops the first `count` bytes of `spans`.
fn advance(spans: &mut Vec<HostSpan>, mut count: usize) {
    let mut used = 0;
    for span in spans.iter_mut() {
        if count < span.length {
            span.address += count as u64;
            span.length -= count;
            break;
        }
        count -= span.length;
        used += 1;
    }
    spans.drain(..used);
}

impl Destination<'_> {
    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        match self {
            Self::Guest { spans, .. } => total(spans),
            Self::Own(buffer) => buffer.len(),
        }
    }

    /// Copies as much of `bytes` as fits and moves on.
    ///
    /// # Errors
    /// EFAULT when not a single byte could be copied.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Own(buffer) => {
                let count = bytes.len().min(buffer.len());
                let (head, tail) = std::mem::take(buffer).split_at_mut(count);
                head.copy_from_slice(&bytes[..count]);
                *buffer = tail;
                Ok(count)
            }
            Self::Guest { memory, spans } => {
                let mut done = 0;
                while done < bytes.len()
                    && let Some(span) = spans.first().copied()
                {
                    let count = span.length.min(bytes.len() - done);
                    if memory.write_span(span.address, &bytes[done..done + count]).is_err() {
                        return if done == 0 { Err(Errno::FAULT) } else { Ok(done) };
                    }
                    advance(spans, count);
                    done += count;
                }
                Ok(done)
            }
        }
    }

    /// Runs a host system call over the remaining pieces and moves on by what it transferred.
    ///
    /// # Errors
    /// The system call's own.
    pub fn with_iovecs(
        &mut self,
        call: impl FnOnce(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        match self {
            Self::Own(buffer) => {
                let count =
                    call(&[libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }])?;
                let (_, tail) = std::mem::take(buffer).split_at_mut(count);
                *buffer = tail;
                Ok(count)
            }
            Self::Guest { spans, .. } => {
                let vector: Vec<_> = spans.iter().take(1024).map(|span| span.as_iovec()).collect();
                let count = call(&vector)?;
                advance(spans, count);
                Ok(count)
            }
        }
    }
}

impl Origin<'_> {
    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        match self {
            Self::Guest { spans, .. } => total(spans),
            Self::Own(buffer) => buffer.len(),
        }
    }

    /// Takes up to `limit` bytes and moves on.
    ///
    /// # Errors
    /// EFAULT when not a single byte could be copied.
    pub fn take(&mut self, limit: usize) -> Result<Vec<u8>, Errno> {
        match self {
            Self::Own(buffer) => {
                let (head, tail) = buffer.split_at(limit.min(buffer.len()));
                *buffer = tail;
                Ok(head.to_vec())
            }
            Self::Guest { memory, spans } => {
                let mut bytes = vec![0; limit.min(total(spans))];
                let mut done = 0;
                while done < bytes.len()
                    && let Some(span) = spans.first().copied()
                {
                    let count = span.length.min(bytes.len() - done);
                    if memory.read_span(span.address, &mut bytes[done..done + count]).is_err() {
                        if done == 0 {
                            return Err(Errno::FAULT);
                        }
                        break;
                    }
                    advance(spans, count);
                    done += count;
                }
                bytes.truncate(done);
                Ok(bytes)
            }
        }
    }

    /// The first 8 bytes as a number, without moving on.
    ///
    /// # Errors
    /// EFAULT, or EINVAL when there are fewer.
    pub fn peek_u64(&self) -> Result<u64, Errno> {
        let mut copy = match self {
            Self::Own(buffer) => Origin::Own(buffer),
            Self::Guest { memory, spans } => Origin::Guest { memory, spans: spans.clone() },
        };
        copy.take(8)?.try_into().map(u64::from_ne_bytes).map_err(|_| Errno::INVAL)
    }

    /// Runs a host system call over the remaining pieces and moves on by what it transferred.
    ///
    /// # Errors
    /// The system call's own.
    pub fn with_iovecs(
        &mut self,
        call: impl FnOnce(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        match self {
            Self::Own(buffer) => {
                let count = call(&[libc::iovec {
                    iov_base: buffer.as_ptr().cast_mut().cast(),
                    iov_len: buffer.len(),
                }])?;
                *buffer = &buffer[count.min(buffer.len())..];
                Ok(count)
            }
            Self::Guest { spans, .. } => {
                let vector: Vec<_> = spans.iter().take(1024).map(|span| span.as_iovec()).collect();
                let count = call(&vector)?;
                advance(spans, count);
                Ok(count)
            }
        }
    }
}
