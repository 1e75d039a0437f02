//! /proc: the guest's one process, and what programs ask about the machine.

mod cpuinfo;
mod maps;
mod process;
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

use super::table::Table;
use super::{Entry, Names, ProcessLink, Tree};
use crate::file::{Fd, OpenFile};
use crate::fs::{Caller, Link, ObjectInode};
use crate::task::{Process, Thread};

/// The tree of /proc.
pub struct Proc {
    process: ProcessLink,
    /// A fresh one in every instance, restored ones included.
    boot_id: String,
    /// What was written to /proc/self/oom_score_adj.
    oom_score_adj: AtomicI32,
}

/// Links of a process directory.
const LINKS: &[&str] = &["cwd", "exe", "root"];
/// Directories of a process directory.
const DIRECTORIES: &[&str] = &["fd", "fdinfo", "task", "net"];

fn number<T: std::str::FromStr>(name: &[u8]) -> Option<T> {
    // Only the canonical form: no sign, no leading zero.
    let text = std::str::from_utf8(name).ok()?;
    let canonical = text == "0" || !text.starts_with(['0', '+', '-']);
    text.parse().ok().filter(|_| canonical)
}

fn names(names: &[&str], entry: Entry) -> impl Iterator<Item = (Vec<u8>, Entry)> {
    names.iter().map(move |name| (name.as_bytes().to_vec(), entry))
}

/// What a path below /proc is about.
enum Subject<'a> {
    /// The machine.
    System,
    /// The process: the rest of the path.
    Process(Arc<Process>, &'a Names<'a>),
    /// One of its threads: the rest of the path.
    Thread(Arc<Process>, Arc<Thread>, &'a Names<'a>),
}

impl Proc {
    /// The tree for the process that `process` will lead to.
    pub fn new(process: ProcessLink) -> Self {
        Self { process, boot_id: system::new_uuid(), oom_score_adj: AtomicI32::new(0) }
    }

    fn subject<'a>(&self, path: &'a Names<'a>) -> Option<Subject<'a>> {
        let Some((first, rest)) = path.split_first() else { return Some(Subject::System) };
        let Some(pid) = number::<i32>(first) else { return Some(Subject::System) };
        let process = self.process.get().ok().filter(|process| process.has_pid(pid))?;
        match rest {
            [b"task", tid, rest @ ..] => {
                let thread = process.thread(number(tid)?)?;
                Some(Subject::Thread(process, thread, rest))
            }
            _ => Some(Subject::Process(process, rest)),
        }
    }

    fn open_file(process: &Process, fd: &[u8]) -> Option<Arc<OpenFile>> {
        process.files.get(number::<Fd>(fd)?).ok()
    }
}

/// What a process directory and a thread's have in common.
fn find_in_process(process: &Process, path: &Names<'_>) -> Option<Entry> {
    match path {
        [] => Some(Entry::Directory),
        [name] if LINKS.iter().any(|link| link.as_bytes() == *name) => Some(Entry::Link),
        [name] if DIRECTORIES.iter().any(|directory| directory.as_bytes() == *name) => Some(Entry::Directory),
        [b"environ" | b"auxv"] => Some(Entry::PrivateText),
        [b"oom_score_adj" | b"comm"] => Some(Entry::Setting),
        [b"fd", fd] => Proc::open_file(process, fd).map(|_| Entry::Link),
        [b"fdinfo", fd] => Proc::open_file(process, fd).map(|_| Entry::Text),
        [b"net", rest @ ..] => system::NET.find(rest),
        _ => process::TABLE.find(path),
    }
}

fn list_of_process(process: &Process, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
    let open = || process.files.open_descriptors().into_iter().map(|fd| fd.to_string().into_bytes());
    match path {
        [] => names(LINKS, Entry::Link)
            .chain(names(DIRECTORIES, Entry::Directory))
            .chain(names(&["environ", "auxv"], Entry::PrivateText))
            .chain(names(&["oom_score_adj", "comm"], Entry::Setting))
            .chain(process::TABLE.list(&[]))
            .collect(),
        [b"fd"] => open().map(|name| (name, Entry::Link)).collect(),
        [b"fdinfo"] => open().map(|name| (name, Entry::Text)).collect(),
        [b"net", rest @ ..] => system::NET.list(rest),
        _ => Vec::new(),
    }
}

impl Tree for Proc {
    fn type_name(&self) -> &'static str {
        "proc"
    }

    fn magic(&self) -> u64 {
        0x9fa0
    }

    fn owner(&self, path: &Names<'_>) -> (u32, u32) {
        match self.subject(path) {
            Some(Subject::Process(process, _) | Subject::Thread(process, ..)) => {
                (process.identity.uid, process.identity.gid)
            }
            _ => (0, 0),
        }
    }

    fn find(&self, path: &Names<'_>) -> Option<Entry> {
        match self.subject(path)? {
            Subject::System => match path {
                [b"self" | b"thread-self" | b"mounts" | b"net"] => Some(Entry::Link),
                [b"sys", b"kernel", b"random", b"boot_id"] => Some(Entry::Text),
                _ => system::TABLE.find(path),
            },
            Subject::Process(process, rest) => find_in_process(&process, rest),
            Subject::Thread(_, _, [b"comm"]) => Some(Entry::Setting),
            Subject::Thread(process, _, rest) => find_in_process(&process, rest),
        }
    }

    fn list(&self, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
        match self.subject(path) {
            None => Vec::new(),
            Some(Subject::System) => {
                let mut entries = system::TABLE.list(path);
                if path.is_empty() {
                    entries.extend(names(&["self", "thread-self", "mounts", "net"], Entry::Link));
                    let pid = self.process.get().map(|process| process.identity.pid);
                    entries.extend(pid.map(|pid| (pid.to_string().into_bytes(), Entry::Directory)));
                }
                if path == [&b"sys"[..], b"kernel", b"random"] {
                    entries.push((b"boot_id".to_vec(), Entry::Text));
                }
                entries
            }
            Some(Subject::Process(process, [b"task"])) => {
                let threads = process.threads();
                threads.iter().map(|thread| (thread.tid.to_string().into_bytes(), Entry::Directory)).collect()
            }
            Some(Subject::Process(process, rest)) => list_of_process(&process, rest),
            Some(Subject::Thread(process, _, rest)) => {
                let mut entries = list_of_process(&process, rest);
                entries.retain(|(name, _)| name != b"task");
                entries
            }
        }
    }

    fn text(&self, path: &Names<'_>) -> Result<Vec<u8>, Errno> {
        let process = self.process.get()?;
        match self.subject(path).ok_or(Errno::NOENT)? {
            Subject::System => match path {
                [b"sys", b"kernel", b"random", b"boot_id"] => Ok(format!("{}\n", self.boot_id).into_bytes()),
                _ => system::TABLE.text(path, &process).map(String::into_bytes).ok_or(Errno::NOENT),
            },
            Subject::Process(process, rest) => self.process_text(&process, None, rest),
            Subject::Thread(process, thread, rest) => self.process_text(&process, Some(&thread), rest),
        }
    }

    fn link(&self, path: &Names<'_>, caller: &Caller) -> Result<Link, Errno> {
        let process = self.process.get()?;
        let pid = process.identity.pid;
        match self.subject(path).ok_or(Errno::NOENT)? {
            Subject::System => match path {
                [b"self"] => Ok(Link::Path(pid.to_string().into_bytes())),
                [b"thread-self"] => Ok(Link::Path(format!("{pid}/task/{}", caller.tid).into_bytes())),
                [b"mounts"] => Ok(Link::Path(b"self/mounts".to_vec())),
                [b"net"] => Ok(Link::Path(b"self/net".to_vec())),
                _ => Err(Errno::NOENT),
            },
            Subject::Process(_, rest) | Subject::Thread(_, _, rest) => match rest {
                [b"cwd"] => Ok(Link::Magic(process.fs.directory())),
                [b"root"] => Ok(Link::Path(b"/".to_vec())),
                [b"exe"] => Ok(Link::Path(process.program.lock().path.clone())),
                [b"fd", fd] => {
                    let file = Self::open_file(&process, fd).ok_or(Errno::NOENT)?;
                    Ok(Link::Magic(match file.object.place() {
                        Some(place) => place.clone(),
                        None => process.vfs.nameless(Arc::new(ObjectInode::new(file))),
                    }))
                }
                _ => Err(Errno::NOENT),
            },
        }
    }

    fn set(&self, path: &Names<'_>, value: &[u8]) -> Result<(), Errno> {
        let main = |process: &Process| process.thread(process.identity.pid).ok_or(Errno::SRCH);
        let (thread, rest) = match self.subject(path).ok_or(Errno::NOENT)? {
            Subject::System => return Err(Errno::ACCESS),
            Subject::Process(process, rest) => (main(&process)?, rest),
            Subject::Thread(_, thread, rest) => (thread, rest),
        };
        match rest {
            [b"comm"] => *thread.name.lock() = value.get(..15).unwrap_or(value).to_vec(),
            [b"oom_score_adj"] => {
                let text = std::str::from_utf8(value).map_err(|_| Errno::INVAL)?;
                let score: i32 = text.parse().map_err(|_| Errno::INVAL)?;
                if !(-1000..=1000).contains(&score) {
                    return Err(Errno::INVAL);
                }
                // There is no other process that could be killed instead: the score is only remembered.
                self.oom_score_adj.store(score, Ordering::Relaxed);
            }
            _ => return Err(Errno::ACCESS),
        }
        Ok(())
    }
}

impl Proc {
    fn process_text(
        &self,
        process: &Arc<Process>,
        thread: Option<&Thread>,
        path: &Names<'_>,
    ) -> Result<Vec<u8>, Errno> {
        let text = match path {
            [b"cmdline"] => return Ok(process::joined(&process.program.lock().arguments)),
            [b"environ"] => return Ok(process::joined(&process.program.lock().environment)),
            [b"auxv"] => return Ok(process::auxiliary(process)),
            [b"comm"] => return Ok([process::name(process, thread), b"\n".to_vec()].concat()),
            [b"maps"] => return Ok(maps::maps(process)),
            [b"status"] => process::status(process, thread),
            [b"stat"] => process::stat(process, thread),
            [b"oom_score_adj"] => format!("{}\n", self.oom_score_adj.load(Ordering::Relaxed)),
            [b"fdinfo", fd] => process::fd_info(&*Self::open_file(process, fd).ok_or(Errno::NOENT)?),
            [b"net", rest @ ..] => system::NET.text(rest, process).ok_or(Errno::NOENT)?,
            _ => process::TABLE.text(path, process).ok_or(Errno::NOENT)?,
        };
        Ok(text.into_bytes())
    }
}

/// A table of texts about the process.
type ProcessTable = Table<Arc<Process>>;
