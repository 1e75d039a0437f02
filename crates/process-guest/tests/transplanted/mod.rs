//! Guests that are saved in one virtual machine and made again in another.
// Each file of tests uses a part of it.
#![allow(dead_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest_memory::{Protection, Source};
use pages::{Block, PAGE_SIZE, PageCount};
use process_guest::{ProcessConfig, ProcessGuest, Revival, SavedGuest};
use process_kernel::file::{AccessMode, OpenFile, StatusFlags};
use process_kernel::fs::{MountEntry, MountSource, MountTable, open_by_path};
use process_kernel::ipc::{Ipc, LogSink, LogStream};
use process_kernel::mm::{ImageSource, MemoryImage};
use process_kernel::task::{ExecRequest, ExitStatus, Identity, Process};

pub fn mounts() -> MountTable {
    let mount = |at: &str, source, writable| MountEntry { at: at.to_owned(), source, writable };
    let host = MountSource::HostDirectory { path: "/".into(), hidden: vec![], cross_devices: true };
    let tmpfs = MountSource::Tmpfs { bytes: 64 << 20, inodes: 10_000, mode: 0o1777 };
    MountTable(vec![
        mount("/", host, false),
        mount("/tmp", tmpfs, true),
        mount("/proc", MountSource::Proc, false),
        mount("/dev", MountSource::Dev, true),
    ])
}

pub fn collect_log(ipc: &Ipc) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let sink = log.clone();
    ipc.log.set_receiver(move |_, bytes| sink.lock().unwrap().push_str(&String::from_utf8_lossy(bytes)));
    log
}

pub fn start(guest: &ProcessGuest, arguments: &[&str]) -> (Arc<Process>, Arc<Mutex<String>>) {
    let config = ProcessConfig {
        mounts: mounts(),
        identity: Identity { uid: 0, gid: 0, ..Identity::default() },
        memory_limit: 1 << 30,
    };
    let process = guest.process(&config, &open_by_path).unwrap();
    let log = collect_log(&process.ipc);
    for stream in [LogStream::Output, LogStream::Output, LogStream::Error] {
        let sink = LogSink::new(&process.ipc, stream);
        let file = OpenFile::new(sink, AccessMode::ReadWrite, StatusFlags::empty());
        process.files.insert(file, 0, 1024, false).unwrap();
    }
    let request = ExecRequest {
        path: arguments[0].into(),
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin:/bin".to_vec()],
    };
    guest.start(&process, &request).unwrap();
    (process, log)
}

pub fn wait_for(log: &Mutex<String>, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !log.lock().unwrap().contains(text) {
        assert!(Instant::now() < deadline, "no {text:?} in {:?}", log.lock().unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A saved guest and what its memory is copied from.
pub struct Halfway {
    old: ProcessGuest,
    process: Arc<Process>,
    saved: Option<SavedGuest>,
    image: MemoryImage,
}

/// Pauses a guest and saves it.
pub fn halfway(old: ProcessGuest, process: Arc<Process>) -> Halfway {
    process.pause(Duration::from_secs(10)).unwrap();
    let (saved, image) = old.save(&process).unwrap();
    Halfway { old, process, saved: Some(saved), image }
}

impl Halfway {
    /// What was saved, until it is revived.
    pub fn saved(&self) -> &SavedGuest {
        self.saved.as_ref().unwrap()
    }

    /// The first half of making it again in `new`.
    pub fn revive(&mut self, new: &ProcessGuest) -> Revival {
        new.make_ready(1, PageCount(self.image.page_count.0)).unwrap();
        new.revive(self.saved.take().unwrap(), &mounts(), &open_by_path).unwrap()
    }

    /// Brings all of memory in but the blocks `late`.
    pub fn bring_all_but(&self, new: &ProcessGuest, files: &[OwnedFd], late: &[Block]) {
        let all = (0..self.image.page_count.0.div_ceil(Block::PAGES.0)).map(Block);
        self.bring(new, files, &all.filter(|block| !late.contains(block)).collect::<Vec<_>>());
    }

    /// Brings blocks in, as the restore crate does by mapping.
    pub fn bring(&self, new: &ProcessGuest, files: &[OwnedFd], blocks: &[Block]) {
        let (from, to) = (self.old.memory(), new.memory());
        for block in blocks {
            let inside = |range: pages::PageRange| range.intersection(block.pages());
            for region in self.image.regions.iter().filter(|region| !inside(region.range).is_empty()) {
                let range = inside(region.range);
                let source = match region.source {
                    ImageSource::Memory => Source::Anonymous,
                    ImageSource::File { file, offset, .. } => Source::PrivateFile {
                        file: files[file as usize].as_fd(),
                        offset: offset + (range.start.0 - region.range.start.0) * PAGE_SIZE,
                    },
                };
                to.map(range, source, Protection::ReadWrite).unwrap();
            }
            let mut page = vec![0; PAGE_SIZE as usize];
            for index in self.image.candidates.iter().flat_map(|run| inside(*run).iter()) {
                if from.read(index.address(), &mut page).is_ok() {
                    to.write(index.address(), &page).unwrap();
                }
            }
            for region in &self.image.regions {
                to.protect(inside(region.range), region.protection).unwrap();
            }
        }
    }
}

impl Drop for Halfway {
    fn drop(&mut self) {
        self.process.exit(ExitStatus::Code(0));
        self.process.wait_ended(Some(Duration::from_secs(10)));
    }
}
