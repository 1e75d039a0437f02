//! Builds the guest's vDSO (vdso/vdso.rs) into a shared object that the crate includes.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=vdso");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = out.join("vdso.o");
    run(Command::new(env::var("RUSTC")?)
        .args(["--edition=2024", "--crate-name=vdso", "--crate-type=lib", "--emit=obj", "-Copt-level=2"])
        .args(["-Cpanic=abort", "-Crelocation-model=pic", "-Ccodegen-units=1"])
        .arg("-o")
        .arg(&object)
        .arg("vdso/vdso.rs"))?;
    // The C compiler drives the linker, as it does for Rust itself.
    run(Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
        .args([
            "-shared",
            "-nostdlib",
            "-Wl,-soname=linux-vdso.so.1",
            "-Wl,--hash-style=both",
            "-Wl,-Bsymbolic",
        ])
        .args(["-Wl,-z,max-page-size=4096", "-Wl,--no-eh-frame-hdr", "-Wl,--build-id=none", "-Wl,-z,norelro"])
        .args(["-Wl,--strip-all", "-Wl,-T,vdso/vdso.lds"])
        .arg("-o")
        .arg(out.join("vdso.so"))
        .arg(&object))?;
    Ok(())
}
