//! Compiles the guest's first program: static, small, with the standard library only, so that it needs no other tool than the
//! compiler that builds everything else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Asked when it runs: a build folder that was copied holds a build script compiled in another place.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let source = package.join("../guest-init/src");
    println!("cargo::rerun-if-changed={}", source.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let library = out.join("libguest_init.rlib");
    compile(&source.join("lib.rs"), "guest_init", &library, &["--crate-type", "rlib"]);
    let external = format!("guest_init={}", library.display());
    compile(
        &source.join("main.rs"),
        "init",
        &out.join("init"),
        &["--extern", &external, "-C", "strip=symbols"],
    );
}

fn compile(source: &Path, name: &str, output: &Path, more: &[&str]) {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--target", "x86_64-unknown-linux-gnu", "--crate-name", name]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "target-feature=+crt-static"]);
    // The same bytes wherever it is compiled.
    let folder = source.parent().unwrap_or(Path::new("."));
    rustc.arg(format!("--remap-path-prefix={}=guest-init", folder.display()));
    let status = rustc.args(more).arg("-o").arg(output).arg(source).status();
    match status {
        Ok(status) if status.success() => {}
        other => {
            println!(
                "cargo::error=compiling the guest's first program failed: {other:?}; it needs gcc and libc6-dev"
            );
        }
    }
}
