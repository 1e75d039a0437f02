//! The side that writes.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::SystemTime;

use parking_lot::Mutex;
use store::FunctionName;
use thiserror::Error;

use crate::CURRENT;
use crate::lines::Lines;

/// Bytes that may wait for the disk.
const WAITING: usize = 16 << 20;
/// Letters of an instance's name that a line shows.
const SHOWN: usize = 8;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// Bytes of a file at which the next one is begun.
    pub file_bytes: u64,
    /// Files of a function.
    pub files: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { file_bytes: 4 << 20, files: 3 }
    }
}

/// The logs can't be written at all.
#[derive(Debug, Error)]
pub enum StartLogError {
    /// Their folder can't be made.
    #[error("making the folder for logs {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Their thread can't be started.
    #[error("starting the thread that writes logs")]
    Thread(#[source] io::Error),
}

enum Piece {
    Output {
        function: FunctionName,
        instance: Arc<str>,
        bytes: Vec<u8>,
    },
    /// An instance has ended: what it left without an end is a line.
    Ended {
        function: FunctionName,
        instance: Arc<str>,
    },
    /// Somebody wants to know when all before it is written.
    Mark(Box<dyn FnOnce() + Send>),
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// Bytes that were left out since the last line that said so.
    left_out: HashMap<FunctionName, u64>,
}

/// Writes functions' logs. Dropped, it writes what waits and ends.
#[derive(Debug)]
pub struct FunctionLogs {
    /// None only while it is dropped.
    pieces: Option<Sender<Piece>>,
    waiting: Arc<Mutex<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

impl FunctionLogs {
    /// Logs below `home`, in `logs/`.
    ///
    /// # Errors
    /// [`StartLogError`].
    pub fn start(home: &Path, settings: LogSettings) -> Result<Self, StartLogError> {
        let folder = home.join("logs");
        make_folder(&folder).map_err(|source| StartLogError::Folder { path: folder.clone(), source })?;
        let (pieces, receiver) = mpsc::channel();
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let writer = Writer {
            folder,
            settings,
            waiting: waiting.clone(),
            lines: HashMap::new(),
            ready: HashMap::new(),
            marks: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("logs".to_owned()).spawn(move || writer.run(&receiver));
        let thread = Some(thread.map_err(StartLogError::Thread)?);
        Ok(Self { pieces: Some(pieces), waiting, thread })
    }

    /// Takes what an instance of a function wrote, not cut at line ends. Never waits.
    pub fn write(&self, function: &FunctionName, instance: &str, bytes: &[u8]) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.bytes + bytes.len() > WAITING {
                *waiting.left_out.entry(function.clone()).or_default() += bytes.len() as u64;
                return;
            }
            waiting.bytes += bytes.len();
        }
        self.send(Piece::Output {
            function: function.clone(),
            instance: instance.into(),
            bytes: bytes.to_vec(),
        });
    }

    /// Takes note that an instance has ended.
    pub fn ended(&self, function: &FunctionName, instance: &str) {
        self.send(Piece::Ended { function: function.clone(), instance: instance.into() });
    }

    /// Calls `then`, from the thread that writes, once everything taken so far is in its file (or could not be written, which is
    /// told of otherwise): it survives the end of this process then, not that of the machine. A line without an end is still to come.
    pub fn when_written(&self, then: impl FnOnce() + Send + 'static) {
        self.send(Piece::Mark(Box::new(then)));
    }

    fn send(&self, piece: Piece) {
        if let Some(pieces) = &self.pieces {
            // The thread lives as long as this does.
            let _ = pieces.send(piece);
        }
    }
}

impl Drop for FunctionLogs {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // It has written everything, or has panicked and said so.
            let _ = thread.join();
        }
    }
}

struct Writer {
    folder: PathBuf,
    settings: LogSettings,
    waiting: Arc<Mutex<Waiting>>,
    lines: HashMap<(FunctionName, Arc<str>), Lines>,
    /// Lines on their way to a function's file.
    ready: HashMap<FunctionName, Vec<u8>>,
    /// Who is told when they are there.
    marks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Writer {
    fn run(mut self, pieces: &Receiver<Piece>) {
        while let Ok(first) = pieces.recv() {
            let mut taken = 0;
            let mut piece = Some(first);
            // What came together is written together: a file is opened once for all of it.
            while let Some(next) = piece {
                taken += self.take(next);
                piece = if taken < WAITING / 4 { pieces.try_recv().ok() } else { None };
            }
            let left_out = {
                let mut waiting = self.waiting.lock();
                waiting.bytes = waiting.bytes.saturating_sub(taken);
                std::mem::take(&mut waiting.left_out)
            };
            for (function, bytes) in left_out {
                let line = format!("{bytes} bytes of this log were left out: the disk was too slow");
                append(self.ready.entry(function).or_default(), "-", line.as_bytes());
            }
            for (function, bytes) in self.ready.drain() {
                if let Err(error) = write(&self.folder.join(function.as_str()), self.settings, &bytes) {
                    eprintln!("faasnap: the log of function {function} can't be written: {error}");
                }
            }
            self.marks.drain(..).for_each(|mark| mark());
        }
    }

    /// Gives the bytes that waited.
    fn take(&mut self, piece: Piece) -> usize {
        match piece {
            Piece::Output { function, instance, bytes } => {
                let ready = self.ready.entry(function.clone()).or_default();
                let key = (function, instance);
                let lines = self.lines.entry(key.clone()).or_default();
                lines.push(&bytes, |line| append(ready, &key.1, line));
                if lines.is_empty() {
                    self.lines.remove(&key);
                }
                bytes.len()
            }
            Piece::Ended { function, instance } => {
                let key = (function, instance);
                if let Some(mut lines) = self.lines.remove(&key) {
                    let ready = self.ready.entry(key.0.clone()).or_default();
                    lines.finish(|line| append(ready, &key.1, line));
                }
                0
            }
            Piece::Mark(then) => {
                self.marks.push(then);
                0
            }
        }
    }
}

fn append(to: &mut Vec<u8>, instance: &str, line: &[u8]) {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let instance = instance.get(..SHOWN).unwrap_or(instance);
    to.extend_from_slice(format!("{time} {instance} ").as_bytes());
    to.extend_from_slice(line);
    to.push(b'\n');
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

fn write(folder: &Path, settings: LogSettings, bytes: &[u8]) -> io::Result<()> {
    make_folder(folder)?;
    let path = folder.join(CURRENT);
    let mut file = open(&path)?;
    if file.metadata()?.len() >= settings.file_bytes {
        rotate(folder, settings.files)?;
        file = open(&path)?;
    }
    file.write_all(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Numbers every file one higher; the one that is one too many goes.
fn rotate(folder: &Path, files: u32) -> io::Result<()> {
    for number in (1..files).rev() {
        let from = match number {
            1 => folder.join(CURRENT),
            _ => folder.join(format!("{}.log", number - 1)),
        };
        match fs::rename(from, folder.join(format!("{number}.log"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    if files <= 1 {
        fs::remove_file(folder.join(CURRENT))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogReader;

    fn name() -> FunctionName {
        "f".parse().unwrap()
    }

    #[test]
    fn lines_of_instances_do_not_mix_and_the_unfinished_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let logs = FunctionLogs::start(home.path(), LogSettings::default()).unwrap();
        logs.write(&name(), "aaaaaaaaaa", b"one ");
        logs.write(&name(), "bbbbbbbbbb", b"two\nthree");
        logs.write(&name(), "aaaaaaaaaa", b"line\n");
        logs.ended(&name(), "bbbbbbbbbb");
        drop(logs);
        let mut reader = LogReader::open(home.path(), &name(), 10).unwrap();
        let text = String::from_utf8(reader.read().unwrap()).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["bbbbbbbb two", "aaaaaaaa one line", "bbbbbbbb three"]);
    }

    #[test]
    fn what_was_taken_before_a_mark_is_there() {
        let home = tempfile::tempdir().unwrap();
        let logs = FunctionLogs::start(home.path(), LogSettings::default()).unwrap();
        for number in 0..100 {
            logs.write(&name(), "instance", format!("line {number}\n").as_bytes());
            let (sender, written) = mpsc::channel();
            logs.when_written(move || sender.send(()).unwrap());
            written.recv().unwrap();
            let text = fs::read_to_string(home.path().join("logs/f").join(CURRENT)).unwrap();
            assert!(text.ends_with(&format!(" line {number}\n")), "{text}");
        }
    }

    #[test]
    fn old_files_go_and_what_is_kept_is_bounded() {
        let home = tempfile::tempdir().unwrap();
        let settings = LogSettings { file_bytes: 1000, files: 3 };
        for number in 0..200 {
            let logs = FunctionLogs::start(home.path(), settings).unwrap();
            logs.write(&name(), "instance", format!("line {number} {}\n", "x".repeat(50)).as_bytes());
        }
        let folder = home.path().join("logs/f");
        let sizes: Vec<u64> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 1200), "{sizes:?}");
        assert!(fs::read_to_string(folder.join(CURRENT)).unwrap().contains("line 199"));
    }
}
