//! A driver against the block device with a shared disk.
#![no_main]

fuzz::device_target!(fuzz::Kind::ReadOnlyBlock);
