//! From one descriptor to another: sendfile, copy_file_range. splice and tee are not offered: programs fall back to
//! reading and writing when they hear EINVAL.

use std::os::raw::c_long;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Arguments, Cx, Stop, SysResult};
use crate::file::{Destination, Fd, FileObject, OpenFile, Origin, StatusFlags};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_sendfile => sendfile(cx, a[0] as Fd, a[1] as Fd, a[2], a[3]),
        libc::SYS_copy_file_range => copy_file_range(cx, a),
        libc::SYS_splice | libc::SYS_tee => unspliced(cx, a[0] as Fd),
        _ => return None,
    })
}

fn unspliced(cx: &Cx<'_>, fd: Fd) -> SysResult {
    cx.usable_file(fd)?;
    Err(Errno::INVAL.into())
}

/// Bytes moved at once through the worker's own memory.
const PIECE: usize = 128 << 10;
/// Bytes one call moves at most (MAX_RW_COUNT).
const MAX_TRANSFER: u64 = 0x7fff_f000;

/// Reads the next piece of a regular file: at `position`, `wanted` bytes at most.
fn read_piece(file: &OpenFile, position: u64, wanted: u64) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(wanted).unwrap_or(PIECE).min(PIECE);
    let mut piece = vec![0; length];
    let count = file.object.read(Some(position), &mut Destination::Own(&mut piece))?;
    piece.truncate(count);
    Ok(piece)
}

fn sendfile(cx: &Cx<'_>, out: Fd, input: Fd, offset: u64, count: u64) -> SysResult {
    let (source, target) = (cx.usable_file(input)?, cx.usable_file(out)?);
    if !source.access.reads() || !target.access.writes() {
        return Err(Errno::BADF.into());
    }
    if !source.object.seekable() || target.flags().contains(StatusFlags::APPEND) {
        return Err(Errno::INVAL.into());
    }
    let start = if offset == 0 { *source.position() } else { cx.mm().read_value(offset)? };
    if start > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    let count = count.min(MAX_TRANSFER);
    let mut done = 0;
    let mut outcome = Ok(());
    while done < count {
        let sent = read_piece(&source, start + done, count - done).map_err(Stop::from).and_then(|piece| {
            if piece.is_empty() {
                return Ok(0);
            }
            cx.write_file(&target, &mut Origin::Own(&piece), None, false, |file, from| file.write(from))
        });
        match sent {
            Ok(0) => break,
            Ok(sent) => done += sent,
            Err(stop) => {
                outcome = Err(stop);
                break;
            }
        }
        if !target.object.writes_fully() || target.nonblocking() || cx.thread.wants_attention() {
            // One piece was taken at least; the program calls again for the rest.
            if target.object.wait_queue().is_some() {
                break;
            }
        }
    }
    // What was moved counts, even if moving more failed.
    if done == 0 {
        outcome?;
    }
    if offset == 0 {
        *source.position() = start + done;
    } else {
        cx.mm().write_value(offset, &(start + done))?;
    }
    Ok(done)
}

fn copy_file_range(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [input, in_offset, out, out_offset, count, flags] = a;
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let (source, target) = (cx.usable_file(input as Fd)?, cx.usable_file(out as Fd)?);
    if !source.access.reads() || !target.access.writes() || target.flags().contains(StatusFlags::APPEND) {
        return Err(Errno::BADF.into());
    }
    for file in [&source, &target] {
        check_regular(&file.object)?;
    }
    let from = if in_offset == 0 { *source.position() } else { cx.mm().read_value(in_offset)? };
    let to = if out_offset == 0 { *target.position() } else { cx.mm().read_value(out_offset)? };
    let count = count.min(MAX_TRANSFER);
    if from > i64::MAX as u64 - count || to > i64::MAX as u64 - count {
        return Err(Errno::OVERFLOW.into());
    }
    if same_file(&source, &target)? && from < to.saturating_add(count) && to < from.saturating_add(count) {
        return Err(Errno::INVAL.into());
    }
    super::file::check_size_limit(cx, to, count as usize)?;
    let mut done = 0;
    while done < count && !(done > 0 && cx.thread.wants_attention()) {
        let moved = read_piece(&source, from + done, count - done)
            .and_then(|piece| target.object.write(Some(to + done), &mut Origin::Own(&piece)));
        match moved {
            Ok(0) => break,
            Ok(moved) => done += moved as u64,
            Err(error) if done == 0 => return Err(error.into()),
            Err(_) => break,
        }
    }
    for (file, address, start) in [(&source, in_offset, from), (&target, out_offset, to)] {
        if address == 0 {
            *file.position() = start + done;
        } else {
            cx.mm().write_value(address, &(start + done))?;
        }
    }
    Ok(done)
}

/// # Errors
/// EISDIR for directories, EINVAL for what is no regular file.
fn check_regular(object: &Arc<dyn FileObject>) -> Result<(), Errno> {
    match object.stat()?.mode & 0o170_000 {
        0o100_000 => Ok(()),
        0o040_000 => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

fn same_file(one: &OpenFile, other: &OpenFile) -> Result<bool, Errno> {
    let (one, other) = (one.object.stat()?, other.object.stat()?);
    Ok((one.dev, one.ino) == (other.dev, other.ino))
}
