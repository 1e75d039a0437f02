//! What happens at a system call that is not allowed: the process says which one it was, and ends.

use std::io;

/// The status that a process ends with: as a shell shows a death by SIGSYS.
const STATUS: libc::c_int = 128 + libc::SIGSYS;

/// SIGSYS's handler. It runs in place of the call; only async-signal-safe calls are made.
extern "C" fn on_refused(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `siginfo_t` of asm-generic/siginfo.h: the number of the call follows three ints, padding and an address.
    // SAFETY: the kernel gives a SA_SIGINFO handler a valid structure of 128 bytes.
    let number = unsafe { info.cast::<libc::c_int>().add(6).read() };
    let mut text = *b"the jail allows no system call     \n";
    let mut rest = number.unsigned_abs();
    for place in text.iter_mut().rev().skip(1).take(4) {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    // SAFETY: writes bytes of this stack; ends the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(STATUS)
    }
}

/// Installs the handler.
pub(super) fn install() -> io::Result<()> {
    // SAFETY: zeroed is a valid sigaction; the handler has SA_SIGINFO's signature and is async-signal-safe.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_refused as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
