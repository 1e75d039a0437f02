//! Kernel modules: which others each needs, and so in which order they load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use thiserror::Error;
use walkdir::WalkDir;

/// Modules that can't be used.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// The folder or a module can't be read.
    #[error("reading {} failed", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A module is not where it should be.
    #[error("there is no kernel module {name} below {}", folder.display())]
    Missing {
        /// The module.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A compressed module: this crate does not unpack them.
    #[error("{} is compressed; unpack the modules first, for example with `unxz` or `zstd -d`", path.display())]
    Compressed {
        /// The module.
        path: PathBuf,
    },
    /// Not a module.
    #[error("{} is no kernel module: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A kernel module's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Its name with underscores, as /proc/modules shows it.
    pub name: String,
    /// The file as it is, for finit_module(2).
    pub content: Vec<u8>,
}

/// The modules `wanted` and those that they need, found anywhere below `folder`, each after all that it needs.
///
/// # Errors
/// [`ModuleError`].
pub fn load_order(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let mut loader = Loader { folder, files: index(folder)?, started: BTreeSet::new(), ordered: Vec::new() };
    for name in wanted {
        loader.add(&canonical(name))?;
    }
    Ok(loader.ordered)
}

struct Loader<'a> {
    folder: &'a Path,
    files: BTreeMap<String, PathBuf>,
    /// What is in the result or on the way there; a circle ends here.
    started: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Loader<'_> {
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if !self.started.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else {
            return Err(ModuleError::Missing { name: name.to_owned(), folder: self.folder.to_owned() });
        };
        if path.extension().is_none_or(|extension| extension != "ko") {
            return Err(ModuleError::Compressed { path });
        }
        let content = fs::read(&path).map_err(|source| ModuleError::Read { path: path.clone(), source })?;
        let depends =
            depends(&content).map_err(|reason| ModuleError::Malformed { path: path.clone(), reason })?;
        for needed in depends {
            self.add(&needed)?;
        }
        self.ordered.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// The kernel takes `-` and `_` for the same in a module's name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn index(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ModuleError> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|error| ModuleError::Read {
            path: error.path().unwrap_or(folder).to_owned(),
            source: error.into(),
        })?;
        let name = entry.file_name().to_string_lossy();
        if let Some((stem, "ko" | "ko.xz" | "ko.zst" | "ko.gz")) = name.split_once('.') {
            files.insert(canonical(stem), entry.into_path());
        }
    }
    Ok(files)
}

/// The names in the `depends` field of a module's `.modinfo` section.
fn depends(content: &[u8]) -> Result<Vec<String>, String> {
    let elf = Elf::parse(content).map_err(|error| error.to_string())?;
    let section = elf
        .section_headers
        .iter()
        .find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(".modinfo"))
        .and_then(|header| header.file_range())
        .and_then(|range| content.get(range))
        .ok_or("it has no .modinfo section")?;
    let field = section
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"depends="))
        .ok_or("its .modinfo section has no `depends`")?;
    let names = String::from_utf8_lossy(field);
    Ok(names.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal ELF object with a `.modinfo` section.
    fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0u8; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let info_at = file.len() as u64;
        file.extend_from_slice(info.as_bytes());
        let names_at = file.len() as u64;
        file.extend_from_slice(names);
        file.resize(file.len().next_multiple_of(8), 0);
        let headers_at = file.len() as u64;
        let header = |name: u32, kind: u32, offset: u64, size: usize| {
            let mut header = Vec::new();
            header.extend_from_slice(&name.to_le_bytes());
            header.extend_from_slice(&kind.to_le_bytes());
            // Flags, address, offset, size, link and info (one word each 4 bytes), alignment, entry size.
            for field in [0, 0, offset, size as u64, 0, 1, 0] {
                header.extend_from_slice(&field.to_le_bytes());
            }
            header
        };
        file.extend(header(0, 0, 0, 0));
        file.extend(header(1, 1, info_at, info.len()));
        file.extend(header(10, 3, names_at, names.len()));
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &1u16.to_le_bytes());
        put(18, &62u16.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(40, &headers_at.to_le_bytes());
        put(52, &64u16.to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &3u16.to_le_bytes());
        put(62, &2u16.to_le_bytes());
        file
    }

    fn folder(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, depends) in modules {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module(depends)).unwrap();
        }
        folder
    }

    #[test]
    fn each_module_comes_after_all_that_it_needs() {
        let folder = folder(&[
            ("drivers/virtio-blk.ko", "virtio,virtio_ring"),
            ("virtio/virtio.ko", "virtio_ring"),
            ("virtio/virtio_ring.ko", ""),
            ("other.ko", ""),
        ]);
        let order = load_order(folder.path(), &["virtio_blk", "virtio"]).unwrap();
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_blk"]);
    }

    #[test]
    fn what_is_missing_compressed_or_no_module_is_named() {
        let folder = folder(&[("a.ko", "b"), ("c.ko.xz", "")]);
        fs::write(folder.path().join("d.ko"), "text").unwrap();
        let error = |name: &str| load_order(folder.path(), &[name]).unwrap_err().to_string();
        assert!(error("a").contains("no kernel module b below"), "{}", error("a"));
        assert!(error("c").contains("compressed"), "{}", error("c"));
        assert!(error("d").contains("is no kernel module"), "{}", error("d"));
    }

    #[test]
    fn a_circle_ends() {
        let folder = folder(&[("a.ko", "b"), ("b.ko", "a")]);
        assert_eq!(load_order(folder.path(), &["a"]).unwrap().len(), 2);
    }
}
