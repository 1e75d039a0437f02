//! A driver against the balloon, which takes free memory away.
#![no_main]

fuzz::device_target!(fuzz::Kind::Balloon);
