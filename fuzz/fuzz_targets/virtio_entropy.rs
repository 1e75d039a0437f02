//! A driver against the entropy device.
#![no_main]

fuzz::device_target!(fuzz::Kind::Entropy);
