//! The initial file system: the guest's first program, and the modules that it loads.

use initramfs::{Archive, ArchiveError, Module};

/// The guest's first program, static.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// The kernel modules that a guest needs when they are not built into its kernel, as Linux names them.
pub const MODULES: [&str; 6] =
    ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "virtio_rng", "erofs", "overlay"];

/// Those that not every guest needs, and what guests lack whose kernel has them neither as modules nor built in.
pub const OPTIONAL_MODULES: [(&str, &str); 3] = [
    ("virtio_balloon", "its guests keep memory that they have no use for"),
    ("virtio_net", "its guests have no network"),
    ("ext4", "it can run programs, but no functions, whose /tmp is such a file system"),
];

/// Those that only a guest with a network loads: the card, and what that depends on.
const NETWORK_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// The archive that a kernel unpacks before it starts its first program. `modules` are loaded in this order; those of the network
/// card only with a `network`.
///
/// # Errors
/// [`ArchiveError`] when a module is too large.
pub fn initial_files(modules: &[Module], network: bool) -> Result<Vec<u8>, ArchiveError> {
    let mut archive = Archive::new();
    archive.directory("dev")?;
    // What the first program says before it has mounted anything.
    archive.character_device("dev/console", 5, 1)?;
    archive.directory("modules")?;
    let wanted = |module: &&Module| network || !NETWORK_MODULES.contains(&module.name.as_str());
    for (number, module) in modules.iter().filter(wanted).enumerate() {
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o400, &module.content)?;
    }
    archive.file("init", 0o755, INIT)?;
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_is_static_and_the_archive_always_the_same() {
        let program = goblin::elf::Elf::parse(INIT).unwrap();
        assert_eq!((program.interpreter, program.libraries.len()), (None, 0));
        let module = Module { name: "virtio".to_owned(), content: vec![1; 100] };
        let archive = initial_files(std::slice::from_ref(&module), false).unwrap();
        let card = Module { name: "virtio_net".to_owned(), content: vec![2; 100] };
        let both = [module, card];
        assert_eq!(archive, initial_files(&both, false).unwrap());
        assert_ne!(archive, initial_files(&both, true).unwrap());
        assert!(archive.windows(19).any(|window| window == b"modules/00-virtio.k"));
    }
}
