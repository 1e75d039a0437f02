//! Kernels for linux guests, each with the modules that such a guest loads.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::StoreError;
use crate::functions::WhenPresent;
use crate::home::{Listing, Store, names, now};
use crate::lease::Lease;
use crate::manifest;
use crate::runtimes::Package;
use crate::staging::{Staging, discard, make_folder, sweep};
use registry::KernelName;

const STAGED: &str = "kernel";
const KIND: &str = "kernel";
const IMAGE: &str = "image";

/// Where a kernel came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KernelOrigin {
    /// From a Debian package.
    Debian {
        /// The package.
        package: Package,
    },
    /// From files.
    Imported {
        /// The image's path when it was imported.
        from: PathBuf,
    },
}

/// A kernel module's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelModule {
    /// Its name, as /proc/modules shows it.
    pub name: String,
    /// The file.
    pub content: Vec<u8>,
}

/// A kernel to be stored.
#[derive(Clone, Debug)]
pub struct NewKernel<'a> {
    /// Where it came from.
    pub origin: KernelOrigin,
    /// The bzImage or ELF file.
    pub image: &'a [u8],
    /// Its modules, in the order in which they load.
    pub modules: &'a [KernelModule],
    /// Its command line.
    pub command_line: String,
}

/// A stored kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// Its name.
    pub name: KernelName,
    /// Where it came from.
    pub origin: KernelOrigin,
    /// Its command line.
    pub command_line: String,
    /// The modules' names, in the order in which they load.
    pub modules: Vec<String>,
    /// Bytes of image and modules together.
    pub bytes: u64,
    /// SHA-256 of image and modules, in hexadecimal.
    pub sha256: String,
    /// When it was stored, in seconds since 1970.
    pub created: u64,
}

/// A kernel that is in use: read and checked.
#[derive(Debug)]
pub struct OpenKernel {
    /// Its record.
    pub record: Kernel,
    /// The image.
    pub image: Vec<u8>,
    /// The modules, in the order in which they load.
    pub modules: Vec<KernelModule>,
}

impl Store {
    /// Stores a kernel.
    ///
    /// # Errors
    /// [`StoreError::KernelExists`] under [`WhenPresent::Refuse`], or the file system refuses.
    pub fn add_kernel(
        &self,
        name: &KernelName,
        kernel: &NewKernel<'_>,
        when: WhenPresent,
    ) -> Result<Kernel, StoreError> {
        let staging = Staging::new(self)?;
        let folder = staging.path().join(STAGED);
        make_folder(&folder)?;
        write(&folder.join(IMAGE), kernel.image)?;
        for (number, module) in kernel.modules.iter().enumerate() {
            write(&module_path(&folder, number), &module.content)?;
        }
        let contents = kernel.modules.iter().map(|module| module.content.len() as u64);
        let record = Kernel {
            name: name.clone(),
            origin: kernel.origin.clone(),
            command_line: kernel.command_line.clone(),
            modules: kernel.modules.iter().map(|module| module.name.clone()).collect(),
            bytes: kernel.image.len() as u64 + contents.sum::<u64>(),
            sha256: digest(kernel.image, kernel.modules),
            created: now(),
        };
        manifest::write(&folder.join("manifest.json"), KIND, &record)?;
        make_folder(&self.kernels_folder())?;
        let target = self.kernels_folder().join(name.as_str());
        let _lock = self.lock()?;
        match (target.exists(), when) {
            (true, WhenPresent::Refuse) => return Err(StoreError::KernelExists(name.clone())),
            (true, WhenPresent::Replace) => staging.publish_over(self, STAGED, &target)?,
            (false, _) => staging.publish_new(STAGED, &target)?,
        }
        sweep(self);
        Ok(record)
    }

    /// The record of a kernel.
    ///
    /// # Errors
    /// [`StoreError::NoKernel`], or its record is damaged.
    pub fn kernel(&self, name: &KernelName) -> Result<Kernel, StoreError> {
        let folder = self.kernels_folder().join(name.as_str());
        let _lease = Lease::take(&folder)?.ok_or_else(|| StoreError::NoKernel(name.clone()))?;
        manifest::read(&folder.join("manifest.json"), KIND)
    }

    /// Reads a kernel and its modules and compares them with the recorded digest.
    ///
    /// # Errors
    /// [`StoreError::NoKernel`], [`StoreError::Damaged`].
    pub fn open_kernel(&self, name: &KernelName) -> Result<OpenKernel, StoreError> {
        let folder = self.kernels_folder().join(name.as_str());
        let _lease = Lease::take(&folder)?.ok_or_else(|| StoreError::NoKernel(name.clone()))?;
        let record: Kernel = manifest::read(&folder.join("manifest.json"), KIND)?;
        let read = |path: PathBuf| fs::read(&path).map_err(StoreError::io("reading", &path));
        let image = read(folder.join(IMAGE))?;
        let mut modules = Vec::new();
        for (number, name) in record.modules.iter().enumerate() {
            modules.push(KernelModule { name: name.clone(), content: read(module_path(&folder, number))? });
        }
        if digest(&image, &modules) != record.sha256 {
            let problem = "image or modules have not the recorded checksum".to_owned();
            return Err(StoreError::Damaged { path: folder, problem });
        }
        Ok(OpenKernel { record, image, modules })
    }

    /// Every kernel, by name; a damaged one as its error.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be read.
    pub fn list_kernels(&self) -> Result<Listing<KernelName, Kernel>, StoreError> {
        if !self.kernels_folder().exists() {
            return Ok(Vec::new());
        }
        let found = names(&self.kernels_folder(), |name| name.parse().ok())?;
        Ok(found.into_iter().map(|name: KernelName| (name.clone(), self.kernel(&name))).collect())
    }

    /// Removes a kernel. Guests that run on it are not disturbed: they have it in their memory.
    ///
    /// # Errors
    /// [`StoreError::NoKernel`].
    pub fn remove_kernel(&self, name: &KernelName) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let folder = self.kernels_folder().join(name.as_str());
        if !folder.exists() {
            return Err(StoreError::NoKernel(name.clone()));
        }
        discard(self, &folder)?;
        sweep(self);
        Ok(())
    }
}

fn module_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("module-{number:02}"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let save = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    save().map_err(StoreError::io("writing", path))
}

/// Over lengths, too, so that no byte can move from one file to the next unnoticed.
fn digest(image: &[u8], modules: &[KernelModule]) -> String {
    let mut hash = Sha256::new();
    let contents = modules.iter().flat_map(|module| [module.name.as_bytes(), &module.content]);
    for part in std::iter::once(image).chain(contents) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> (tempfile::TempDir, Store, KernelName) {
        let outer = tempfile::tempdir().unwrap();
        let store = Store::open(&outer.path().join("home")).unwrap();
        let name: KernelName = "default".parse().unwrap();
        assert!(matches!(store.kernel(&name), Err(StoreError::NoKernel(_))));
        assert_eq!(store.list_kernels().unwrap().len(), 0);
        let modules = [KernelModule { name: "virtio".to_owned(), content: vec![2; 10] }];
        let kernel = NewKernel {
            origin: KernelOrigin::Imported { from: "/k".into() },
            image: &[1; 20],
            modules: &modules,
            command_line: "quiet".to_owned(),
        };
        store.add_kernel(&name, &kernel, WhenPresent::Refuse).unwrap();
        let again = store.add_kernel(&name, &kernel, WhenPresent::Refuse);
        assert!(matches!(again, Err(StoreError::KernelExists(_))));
        store.add_kernel(&name, &kernel, WhenPresent::Replace).unwrap();
        (outer, store, name)
    }

    #[test]
    fn a_kernel_comes_back_as_it_was_stored() {
        let (_outer, store, name) = stored();
        let open = store.open_kernel(&name).unwrap();
        assert_eq!((open.image, open.modules[0].content.clone()), (vec![1; 20], vec![2; 10]));
        assert_eq!((open.record.bytes, open.record.command_line.as_str()), (30, "quiet"));
        assert_eq!(store.list_kernels().unwrap().len(), 1);
        store.remove_kernel(&name).unwrap();
        assert!(store.open_kernel(&name).is_err());
    }

    #[test]
    fn a_damaged_kernel_is_not_booted() {
        let (_outer, store, name) = stored();
        let path = store.kernels_folder().join("default/image");
        fs::write(&path, [1; 19]).unwrap();
        assert!(matches!(store.open_kernel(&name), Err(StoreError::Damaged { .. })));
    }
}
