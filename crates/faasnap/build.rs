//! Packs the executable's relative relocations (DT_RELR) where this machine's C library knows them, from 2.36 on: a worker
//! reads all of them as it starts, and unpacked they are half a megabyte of each worker's memory.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // "glibc 2.36"; anything else, another C library too, keeps the default.
    let version = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let numbers = text.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let number = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if number.is_some_and(|number: (u32, u32)| number >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
