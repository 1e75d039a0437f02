//! A driver against the socket device.
#![no_main]

fuzz::device_target!(fuzz::Kind::Vsock);
