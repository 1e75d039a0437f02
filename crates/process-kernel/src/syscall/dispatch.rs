//! From a system-call number to its handler.

use libc::c_long;
use rustix::io::Errno;

use super::names::NAMES;
use super::{Arguments, Cx, SysResult};

/// Serves the system calls of one family.
type Family = fn(&mut Cx<'_>, c_long, Arguments) -> Option<SysResult>;

/// Families, asked in turn; each answers `None` for numbers that are not its own.
const FAMILIES: &[Family] = &[
    super::memory::dispatch,
    super::thread::dispatch,
    super::signal::dispatch,
    super::time::dispatch,
    super::identity::dispatch,
    super::file::dispatch,
    super::open::dispatch,
    super::metadata::dispatch,
    super::directory::dispatch,
    super::descriptor::dispatch,
    super::lock::dispatch,
    super::attributes::dispatch,
    super::transfer::dispatch,
    super::pipe::dispatch,
    super::event::dispatch,
    super::poll::dispatch,
    super::timer::dispatch,
    super::timer_fd::dispatch,
    super::socket::dispatch,
    super::message::dispatch,
    super::socket_option::dispatch,
];

/// Serves one system call. What no family knows is counted by name and answers ENOSYS.
///
/// # Errors
/// [`super::Stop`], as each handler documents.
pub fn dispatch(cx: &mut Cx<'_>, number: u64, arguments: Arguments) -> SysResult {
    let number = number as c_long;
    for family in FAMILIES {
        if let Some(result) = family(cx, number, arguments) {
            return result;
        }
    }
    cx.process.unsupported.count(number as u64);
    Err(Errno::NOSYS.into())
}

/// The name of a system call, for messages; what no kernel has is named by its number.
pub fn name(number: u64) -> String {
    match NAMES.binary_search_by_key(&number, |(number, _)| u64::from(*number)) {
        Ok(index) => NAMES[index].1.to_owned(),
        Err(_) => format!("number {number}"),
    }
}
