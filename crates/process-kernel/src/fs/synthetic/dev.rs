//! /dev: the devices that every program expects, and links into /proc/self/fd.

use rustix::io::Errno;

use super::{Device, Entry, Names, Tree};
use crate::fs::{Caller, Link};

/// The tree of /dev.
pub struct Dev;

const DEVICES: &[(&str, Device)] = &[
    ("null", Device::Null),
    ("zero", Device::Zero),
    ("full", Device::Full),
    ("random", Device::Random),
    ("urandom", Device::Urandom),
    ("tty", Device::Tty),
];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

impl Tree for Dev {
    fn type_name(&self) -> &'static str {
        "devtmpfs"
    }

    fn magic(&self) -> u64 {
        0x0102_1994
    }

    fn find(&self, path: &Names<'_>) -> Option<Entry> {
        match path {
            [] => Some(Entry::Directory),
            [name] => self.list(&[]).into_iter().find(|(known, _)| known == name).map(|(_, entry)| entry),
            _ => None,
        }
    }

    fn list(&self, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
        if !path.is_empty() {
            return Vec::new();
        }
        let devices = DEVICES.iter().map(|(name, device)| (name.as_bytes().to_vec(), Entry::Device(*device)));
        let links = LINKS.iter().map(|(name, _)| (name.as_bytes().to_vec(), Entry::Link));
        devices.chain(links).collect()
    }

    fn link(&self, path: &Names<'_>, _: &Caller) -> Result<Link, Errno> {
        let [name] = path else { return Err(Errno::NOENT) };
        let link = LINKS.iter().find(|(known, _)| known.as_bytes() == *name).ok_or(Errno::NOENT)?;
        Ok(Link::Path(link.1.as_bytes().to_vec()))
    }
}
