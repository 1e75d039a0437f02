//! A driver against the block device with a disk of the guest's own.
#![no_main]

fuzz::device_target!(fuzz::Kind::Block);
