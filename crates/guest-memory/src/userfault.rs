//! userfaultfd: missing pages of guest memory provided by this process (Documentation/admin-guide/mm/userfaultfd.rst).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use pages::{PAGE_SIZE, PageIndex, PageRange};

use crate::host_mapping::{GuestMemory, MapError};

// Of linux/userfaultfd.h; libc has no names for them.
const API_VERSION: u64 = 0xaa;
const NEW: libc::c_ulong = 0xaa00;
const API: libc::c_ulong = 0xc018_aa3f;
const REGISTER: libc::c_ulong = 0xc020_aa00;
const WAKE: libc::c_ulong = 0x8010_aa02;
const COPY: libc::c_ulong = 0xc028_aa03;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

#[repr(C)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RegisterCall {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeCall {
    start: u64,
    length: u64,
}

#[repr(C)]
struct CopyCall {
    destination: u64,
    source: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// One message read from the descriptor.
#[repr(C)]
#[derive(Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

const _: () =
    assert!(size_of::<Message>() == 32 && size_of::<CopyCall>() == 40 && size_of::<RegisterCall>() == 32);

/// What became of pages that were offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Installed {
    /// They are in place.
    Yes,
    /// The range was unmapped or replaced meanwhile: nobody waits for the pages any more.
    Gone,
}

/// The device as [`Userfault::provide`] was given it.
static PROVIDED: OnceLock<OwnedFd> = OnceLock::new();

/// A userfaultfd. Faults of KVM are faults in kernel mode, which only a privileged one serves: as root, or through
/// /dev/userfaultfd.
#[derive(Debug)]
pub struct Userfault {
    descriptor: OwnedFd,
}

impl Userfault {
    /// Makes [`Self::open`] use a /dev/userfaultfd that somebody else opened: for a process that is about to be jailed. The
    /// first one given stays.
    pub fn provide(device: OwnedFd) {
        let _ = PROVIDED.set(device);
    }

    /// Opens one: by the device that was provided, by /dev/userfaultfd where this process may, else by the system call, which needs root.
    ///
    /// # Errors
    /// `PermissionDenied` without privilege, `Unsupported` where the kernel has none.
    pub fn open() -> io::Result<Self> {
        let device = match PROVIDED.get() {
            Some(device) => device.try_clone(),
            None => File::options().read(true).write(true).open("/dev/userfaultfd").map(OwnedFd::from),
        };
        let descriptor = match device {
            Ok(device) => {
                // SAFETY: this request takes flags by value and returns a new descriptor.
                unsafe { libc::ioctl(device.as_raw_fd(), NEW as _, libc::O_CLOEXEC | libc::O_NONBLOCK) }
            }
            // SAFETY: the call takes flags and returns a new descriptor.
            Err(_) => unsafe {
                libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) as libc::c_int
            },
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
        Self::from_descriptor(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Takes over a descriptor that a privileged process has opened (non-blocking) and passed on.
    ///
    /// # Errors
    /// When it is no fresh userfaultfd.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let mut call = ApiCall { api: API_VERSION, features: 0, ioctls: 0 };
        let userfault = Self { descriptor };
        // SAFETY: `call` has the layout that the request documents.
        unsafe { userfault.request(API, &mut call) }?;
        Ok(userfault)
    }

    /// # Safety
    /// `call` must be the structure that `request` reads and writes.
    unsafe fn request<T>(&self, request: libc::c_ulong, call: &mut T) -> io::Result<()> {
        // SAFETY: by this function's own contract; the structure lives across the call.
        let result =
            unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request as _, std::ptr::from_mut(call)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Hands faults on missing pages of `range` to this descriptor. The range must be anonymous memory. Pages that come
    /// after must be installed; an early touch waits.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside or not anonymous.
    pub fn register(&self, memory: &GuestMemory, range: PageRange) -> Result<(), MapError> {
        memory.check(range)?;
        let (address, length) = memory.pointer(range);
        let mut call = RegisterCall {
            start: address as u64,
            length: length as u64,
            mode: REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: the structure is this request's; registering changes no memory content.
        let registered = unsafe { self.request(REGISTER, &mut call) };
        registered.map_err(|source| MapError::Host { operation: "registering for userfaults", range, source })
    }

    /// The next page of `memory` that somebody waits for, or `None` when nobody waits now.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub fn next_fault(&self, memory: &GuestMemory) -> io::Result<Option<PageIndex>> {
        loop {
            let mut message = Message::default();
            let into = std::ptr::from_mut(&mut message).cast();
            // SAFETY: the kernel writes at most the size of a message into it; every bit pattern is a valid one.
            let got = unsafe { libc::read(self.descriptor.as_raw_fd(), into, size_of::<Message>()) };
            if got < 0 {
                match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                }
            } else if message.event == EVENT_PAGEFAULT {
                return Ok(Some(memory.page_at_host(message.address)));
            }
        }
    }

    /// Installs `bytes`, whole pages, at page `first` of `memory`, and wakes who waits for them. Pages that are there
    /// already stay as they are.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside or the kernel refuses.
    pub fn install(
        &self,
        memory: &GuestMemory,
        first: PageIndex,
        bytes: &[u8],
    ) -> Result<Installed, MapError> {
        let range = PageRange::new(first, pages::PageCount(bytes.len() as u64 / PAGE_SIZE));
        self.install_from(memory, range, bytes.as_ptr() as u64)
    }

    /// As [`Userfault::install`], with the content of `source` of the reservation `staging`.
    ///
    /// # Errors
    /// As [`Userfault::install`].
    pub fn install_staged(
        &self,
        memory: &GuestMemory,
        range: PageRange,
        staging: &GuestMemory,
        source: PageIndex,
    ) -> Result<Installed, MapError> {
        staging.check(PageRange::new(source, range.count))?;
        self.install_from(memory, range, staging.host_address(source.address()))
    }

    fn install_from(
        &self,
        memory: &GuestMemory,
        range: PageRange,
        source: u64,
    ) -> Result<Installed, MapError> {
        memory.check(range)?;
        let (address, length) = memory.pointer(range);
        let failed = |source| MapError::Host { operation: "installing", range, source };
        let mut done = 0;
        while done < length as u64 {
            let mut call = CopyCall {
                destination: address as u64 + done,
                source: source + done,
                length: length as u64 - done,
                mode: 0,
                copied: 0,
            };
            // SAFETY: the destination lies inside the reservation, the kernel reads the source with its own checks, and only
            // missing pages are filled: nothing that anyone could hold a reference to changes.
            match unsafe { self.request(COPY, &mut call) } {
                Ok(()) => return Ok(Installed::Yes),
                Err(error) => match error.raw_os_error() {
                    // Interrupted after a part, or before it.
                    Some(libc::EAGAIN) => done += call.copied.max(0) as u64,
                    // This page is there: go on behind it. Somebody may still wait for it.
                    Some(libc::EEXIST) => {
                        let mut page = RangeCall { start: address as u64 + done, length: PAGE_SIZE };
                        // SAFETY: the structure is this request's; waking changes no memory.
                        unsafe { self.request(WAKE, &mut page) }.map_err(failed)?;
                        done += PAGE_SIZE;
                    }
                    Some(libc::ENOENT | libc::ESRCH) => return Ok(Installed::Gone),
                    _ => return Err(failed(error)),
                },
            }
        }
        Ok(Installed::Yes)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use pages::{GuestPhysical, PageCount};

    use super::*;
    use crate::{Protection, Source};

    #[test]
    fn an_early_touch_waits_for_its_page() {
        let userfault = match Userfault::open() {
            Ok(userfault) => userfault,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("NOT TESTED: no privilege for userfaultfd ({error})");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let memory = Arc::new(GuestMemory::reserve(PageCount(8)).unwrap());
        let range = PageRange::new(PageIndex(0), PageCount(8));
        memory.map(range, Source::Anonymous, Protection::ReadWrite).unwrap();
        userfault.register(&memory, range).unwrap();
        assert_eq!(userfault.next_fault(&memory).unwrap(), None);
        let toucher = Arc::clone(&memory);
        let touched = thread::spawn(move || {
            let mut bytes = [0; 2];
            toucher.read(GuestPhysical(3 * 4096 - 1), &mut bytes).map(|()| bytes)
        });
        for _ in 0..2 {
            let page = loop {
                if let Some(page) = userfault.next_fault(&memory).unwrap() {
                    break page;
                }
                thread::yield_now();
            };
            let content = vec![page.0 as u8; 4096];
            assert_eq!(userfault.install(&memory, page, &content).unwrap(), Installed::Yes);
        }
        assert_eq!(touched.join().unwrap().unwrap(), [2, 3]);
        // Pages 2 and 3 are there already and stay as they are.
        assert_eq!(userfault.install(&memory, PageIndex(1), &[9; 5 * 4096]).unwrap(), Installed::Yes);
        let mut bytes = [0; 2];
        memory.read(GuestPhysical(3 * 4096 - 1), &mut bytes).unwrap();
        assert_eq!(bytes, [2, 3]);
        memory.read(GuestPhysical(4 * 4096), &mut bytes).unwrap();
        assert_eq!(bytes, [9, 9]);
        memory.release(range).unwrap();
        assert_eq!(userfault.install(&memory, PageIndex(6), &[1; 4096]).unwrap(), Installed::Gone);
    }
}
