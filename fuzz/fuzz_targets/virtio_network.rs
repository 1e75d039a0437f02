//! A driver against the network card.
#![no_main]

fuzz::device_target!(fuzz::Kind::Network);
