//! Character devices of /dev.

use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::file::{Destination, FileObject, Origin, Stat};
use crate::fs::Place;
use crate::fs::place::SavedPlace;
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Device {
    /// /dev/null
    Null,
    /// /dev/zero
    Zero,
    /// /dev/full
    Full,
    /// /dev/random and /dev/urandom: the host's randomness at each read, so two instances of one snapshot differ.
    Random,
    /// /dev/urandom
    Urandom,
    /// /dev/tty: there is no controlling terminal.
    Tty,
}

impl Device {
    /// Device number, as Linux has it.
    pub fn number(self) -> u64 {
        let (major, minor) = match self {
            Self::Null => (1, 3),
            Self::Zero => (1, 5),
            Self::Full => (1, 7),
            Self::Random => (1, 8),
            Self::Urandom => (1, 9),
            Self::Tty => (5, 0),
        };
        libc::makedev(major, minor)
    }
}

/// An open device.
pub struct DeviceFile {
    device: Device,
    place: Place,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    device: Device,
    place: SavedPlace,
}

/// Bytes that one read gives at most: it can't be interrupted.
const MAX_READ: usize = 16 << 20;
const PIECE: usize = 64 << 10;

impl DeviceFile {
    /// Registry key.
    pub const KIND: &'static str = "device";

    /// # Errors
    /// ENXIO for a terminal that isn't there.
    pub(super) fn open(device: Device, place: Place) -> Result<Self, Errno> {
        if device == Device::Tty { Err(Errno::NXIO) } else { Ok(Self { device, place }) }
    }

    /// The file again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("open device", payload)?;
        Ok(Arc::new(Self { device: saved.device, place: Place::restore(&saved.place, restorer)? }))
    }

    /// Fills `into` with pieces made by `fill`.
    fn produce(
        into: &mut Destination<'_>,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        let wanted = into.remaining().min(MAX_READ);
        let mut piece = vec![0; wanted.min(PIECE)];
        let mut done = 0;
        while done < wanted {
            let count = piece.len().min(wanted - done);
            let Some(part) = piece.get_mut(..count) else { break };
            fill(part)?;
            match into.put(part) {
                Ok(put) => done += put,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Object for DeviceFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let saved = Saved { device: self.device, place: self.place.save(saver)? };
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for DeviceFile {
    fn stat(&self) -> Result<Stat, Errno> {
        self.place.inode.metadata()
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        match self.device {
            Device::Null | Device::Tty => Ok(0),
            Device::Zero | Device::Full => Self::produce(into, |_| Ok(())),
            Device::Random | Device::Urandom => Self::produce(into, |mut part| {
                while !part.is_empty() {
                    let count = getrandom(&mut *part, GetRandomFlags::empty())?;
                    part = part.split_at_mut(count).1;
                }
                Ok(())
            }),
        }
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        match self.device {
            Device::Full => Err(Errno::NOSPC),
            // What programs add to the entropy pool is thanked for and dropped.
            _ => Ok(from.remaining()),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn describe(&self) -> String {
        self.place.display()
    }
}
