//! Memory: mmap and its kin.

use std::os::raw::c_long;

use guest_memory::Advice;
use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_POPULATE, MAP_TYPE};
use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::file::{AccessMode, Fd};
use crate::mm::{Access, Backing, MapRequest, Placement};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_mmap => mmap(cx, a[0], a[1], a[2], a[3] as i32, a[4] as Fd, a[5]),
        libc::SYS_munmap => cx.mm().unmap(a[0], a[1]).map(|()| 0).map_err(Into::into),
        libc::SYS_mprotect => mprotect(cx, a[0], a[1], a[2]),
        libc::SYS_pkey_mprotect if a[3] as i32 == -1 => mprotect(cx, a[0], a[1], a[2]),
        libc::SYS_mremap => mremap(cx, a),
        libc::SYS_madvise => madvise(cx, a[0], a[1], a[2] as i32),
        libc::SYS_brk => Ok(cx.mm().set_heap_end(a[0])),
        libc::SYS_msync => msync(cx, a[0], a[1], a[2] as i32),
        libc::SYS_mincore => mincore(cx, a[0], a[1], a[2]),
        // Nothing is ever swapped on the guest's account, so locking has nothing to do but check.
        libc::SYS_mlock | libc::SYS_mlock2 | libc::SYS_munlock => {
            if cx.mm().is_mapped(a[0] & !0xfff, (a[0] & 0xfff).saturating_add(a[1])) {
                Ok(0)
            } else {
                Err(Errno::NOMEM.into())
            }
        }
        libc::SYS_mlockall | libc::SYS_munlockall => Ok(0),
        _ => return None,
    })
}

fn access_of(bits: u64) -> Result<Access, Errno> {
    // PROT_GROWSDOWN and PROT_GROWSUP are not offered: no area grows.
    if bits & !(0x7 | 0x8) != 0 {
        return Err(Errno::INVAL);
    }
    Ok(Access::from_bits_truncate(bits as u32))
}

fn mmap(
    cx: &Cx<'_>,
    address: u64,
    length: u64,
    protection: u64,
    flags: i32,
    fd: Fd,
    offset: u64,
) -> SysResult {
    let access = access_of(protection)?;
    let shared = match flags & MAP_TYPE {
        libc::MAP_PRIVATE => false,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::INVAL.into()),
    };
    if offset & 0xfff != 0 {
        return Err(Errno::INVAL.into());
    }
    let backing = if flags & MAP_ANONYMOUS != 0 {
        Backing::Anonymous
    } else {
        let file = cx.file(fd)?;
        if !file.access.reads() || file.access == AccessMode::Path {
            return Err(Errno::ACCESS.into());
        }
        let mappable = file.object.clone().mappable().ok_or(Errno::NODEV)?;
        if shared && access.contains(Access::WRITE) && !(file.access.writes() && mappable.writable()) {
            return Err(Errno::ACCESS.into());
        }
        if offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::OVERFLOW.into());
        }
        Backing::File { file: mappable, offset, shared }
    };
    let placement = if flags & MAP_FIXED_NOREPLACE == MAP_FIXED_NOREPLACE {
        Placement::FixedIfFree(address)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else if flags & libc::MAP_STACK != 0 {
        Placement::Stack(address)
    } else {
        Placement::Hint(address)
    };
    let start = cx.mm().map(MapRequest { placement, length, access, backing, name: "" })?;
    if flags & MAP_POPULATE != 0 && !access.is_empty() {
        // As in Linux, mmap succeeds whether or not populating does.
        let advice = if access.contains(Access::WRITE) && !shared {
            Advice::PopulateWrite
        } else {
            Advice::PopulateRead
        };
        let _ = cx.mm().populate(start, length, advice);
    }
    Ok(start)
}

fn mprotect(cx: &Cx<'_>, start: u64, length: u64, protection: u64) -> SysResult {
    cx.mm().protect(start, length, access_of(protection)?)?;
    Ok(0)
}

fn mremap(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [old, old_length, new_length, flags, new, _] = a;
    let known = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    if flags & !known != 0 {
        return Err(Errno::INVAL.into());
    }
    let fixed = (flags & libc::MREMAP_FIXED as u64 != 0).then_some(new);
    Ok(cx.mm().remap(old, old_length, new_length, flags & libc::MREMAP_MAYMOVE as u64 != 0, fixed)?)
}

fn madvise(cx: &Cx<'_>, start: u64, length: u64, advice: i32) -> SysResult {
    let mm = cx.mm();
    match advice {
        libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_DONTNEED_LOCKED => mm.discard(start, length)?,
        libc::MADV_REMOVE => return Err(Errno::INVAL.into()),
        libc::MADV_WIPEONFORK => mm.set_wipe_on_fork(start, length, true)?,
        libc::MADV_KEEPONFORK => mm.set_wipe_on_fork(start, length, false)?,
        libc::MADV_POPULATE_READ => mm.populate(start, length, Advice::PopulateRead)?,
        libc::MADV_POPULATE_WRITE => mm.populate(start, length, Advice::PopulateWrite)?,
        libc::MADV_WILLNEED => mm.hint(start, length, Advice::WillNeed),
        // The remaining hints change only speed, and the worker knows better how its host maps guest memory.
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_DONTFORK
        | libc::MADV_DOFORK
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_COLLAPSE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT => {
            if start & 0xfff != 0 {
                return Err(Errno::INVAL.into());
            }
        }
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

fn msync(cx: &Cx<'_>, start: u64, length: u64, flags: i32) -> SysResult {
    let known = libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC;
    if flags & !known != 0 || start & 0xfff != 0 || flags & libc::MS_ASYNC != 0 && flags & libc::MS_SYNC != 0
    {
        return Err(Errno::INVAL.into());
    }
    // Shared file mappings are the host's page cache itself: there is nothing to write back to the guest's own view.
    if length == 0 || cx.mm().is_mapped(start, length) { Ok(0) } else { Err(Errno::NOMEM.into()) }
}

fn mincore(cx: &Cx<'_>, start: u64, length: u64, vector: u64) -> SysResult {
    if start & 0xfff != 0 {
        return Err(Errno::INVAL.into());
    }
    if !cx.mm().is_mapped(start, length) {
        return Err(Errno::NOMEM.into());
    }
    // Residency is the host's affair: telling it would be a side channel between instances. All is said to be there.
    let pages = length.div_ceil(pages::PAGE_SIZE);
    for chunk in (0..pages).step_by(4096) {
        let count = (pages - chunk).min(4096) as usize;
        cx.mm().write(vector.wrapping_add(chunk), &vec![1; count])?;
    }
    Ok(0)
}
