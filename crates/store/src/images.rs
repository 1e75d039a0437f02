//! Images: trees and root file systems as file systems that a linux guest can mount. Each is made from its tree and named by
//! its digest, so what is here can always be made again.

use std::fs::File;
use std::path::{Path, PathBuf};

use file_tree::TreeDigest;

use crate::error::StoreError;
use crate::functions::OpenFunction;
use crate::home::{Store, names};
use crate::kernels::OpenKernel;
use crate::runtimes::OpenRuntime;
use crate::staging::{Staging, discard, make_folder};
use registry::{Guest, KernelName};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

const STAGED: &str = "image";

/// What a function in a linux guest needs beside its files.
#[derive(Debug)]
pub struct LinuxFiles {
    /// The image of its runtime, for reading.
    pub root: File,
    /// The image of its code.
    pub code: File,
    /// The image of its layers merged.
    pub layers: Option<File>,
    /// The kernel that it boots; one that is restored needs none.
    pub kernel: KernelSource,
    store: Store,
}

impl LinuxFiles {
    /// See [`Store::scratch`].
    ///
    /// # Errors
    /// As there.
    pub fn scratch(&self) -> Result<File, StoreError> {
        self.store.scratch()
    }
}

impl Store {
    /// An empty file for an instance's own disk. It has no name, so nothing of it is left when nobody has it open any more.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be written.
    pub fn scratch(&self) -> Result<File, StoreError> {
        let folder = self.staging();
        let failed = StoreError::io("making a file without a name in", &folder);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(&folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(file.into()),
            // Some file systems have no such files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let staging = Staging::new(self)?;
                let path = staging.path().join(STAGED);
                let file = File::options().read(true).write(true).create_new(true).open(&path);
                // It lives on when its folder is deleted.
                file.map_err(StoreError::io("creating", &path))
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

/// Where a kernel is, to be read when it is needed.
#[derive(Clone, Debug)]
pub struct KernelSource {
    kernel: KernelName,
    store: Store,
}

impl KernelSource {
    /// Reads and checks it.
    ///
    /// # Errors
    /// As [`Store::open_kernel`].
    pub fn read(&self) -> Result<OpenKernel, StoreError> {
        self.store.open_kernel(&self.kernel)
    }
}

impl Store {
    /// The image of a runtime's root file system, made when it is not there yet.
    ///
    /// # Errors
    /// [`StoreError::Image`] when the tree can't be in an image, [`StoreError::Io`].
    pub fn runtime_image(&self, runtime: &OpenRuntime) -> Result<File, StoreError> {
        self.image(runtime.record.root.digest, &runtime.path)
    }

    /// The images of a function whose guest is a linux guest; `None` for others.
    ///
    /// # Errors
    /// As [`Self::runtime_image`].
    pub fn linux_files(&self, function: &OpenFunction) -> Result<Option<LinuxFiles>, StoreError> {
        let Guest::Linux { kernel } = &function.function.config.guest else { return Ok(None) };
        let tree = |tree: &crate::trees::OpenTree| self.image(tree.summary.digest, &tree.path);
        Ok(Some(LinuxFiles {
            root: self.runtime_image(&function.runtime)?,
            code: tree(&function.code)?,
            layers: function.layers.as_ref().map(tree).transpose()?,
            kernel: KernelSource { kernel: kernel.clone(), store: self.clone() },
            store: self.clone(),
        }))
    }

    /// Opens the image of the tree at `path`, which has this digest.
    fn image(&self, digest: TreeDigest, path: &Path) -> Result<File, StoreError> {
        let place = self.images_folder().join(digest.to_string());
        if !place.exists() {
            self.make_image(digest, path, &place)?;
        }
        File::open(&place).map_err(StoreError::io("opening", &place))
    }

    fn make_image(&self, digest: TreeDigest, path: &Path, place: &Path) -> Result<(), StoreError> {
        let staging = Staging::new(self)?;
        let staged = staging.path().join(STAGED);
        let mut file = File::create_new(&staged).map_err(StoreError::io("creating", &staged))?;
        erofs_image::write_image(path, &mut file, &staged, identifier(digest)).map_err(StoreError::Image)?;
        file.sync_all().map_err(StoreError::io("writing", &staged))?;
        make_folder(&self.images_folder())?;
        let _lock = self.lock()?;
        // Somebody else may have made the same meanwhile.
        if place.exists() { Ok(()) } else { staging.publish_new(STAGED, place) }
    }

    /// Discards the images of which there is neither a tree nor a runtime. The caller holds the home's lock.
    pub(crate) fn collect_images(&self) -> Result<(), StoreError> {
        let folder = self.images_folder();
        if !folder.exists() {
            return Ok(());
        }
        let runtimes: Vec<TreeDigest> = self
            .list_runtimes()?
            .into_iter()
            .filter_map(|(_, runtime)| Some(runtime.ok()?.root.digest))
            .collect();
        for digest in names(&folder, |name| name.parse::<TreeDigest>().ok())? {
            if !runtimes.contains(&digest) && !self.trees().join(digest.to_string()).exists() {
                discard(self, &folder.join(digest.to_string()))?;
            }
        }
        Ok(())
    }

    /// Made with the first image: a home from before there were any has none.
    fn images_folder(&self) -> PathBuf {
        self.path().join("images")
    }
}

/// An image's identifier: the first half of its tree's digest.
fn identifier(digest: TreeDigest) -> [u8; 16] {
    let digits = digest.to_string();
    let mut identifier = [0; 16];
    for (byte, at) in identifier.iter_mut().zip((0..).step_by(2)) {
        let pair = digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = pair.unwrap_or(0);
    }
    identifier
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_scratch_file_is_empty_and_has_no_name() {
        let outer = tempfile::tempdir().unwrap();
        let store = Store::open(&outer.path().join("home")).unwrap();
        let kernel = KernelSource { kernel: "debian".parse().unwrap(), store: store.clone() };
        let image = || tempfile::tempfile().unwrap();
        let files = LinuxFiles { root: image(), code: image(), layers: None, kernel, store: store.clone() };
        let scratch = files.scratch().unwrap();
        scratch.set_len(1 << 30).unwrap();
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
    }

    #[test]
    fn an_image_is_made_once_and_goes_with_its_tree() {
        let outer = tempfile::tempdir().unwrap();
        let store = Store::open(&outer.path().join("home")).unwrap();
        let tree = outer.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let digest = file_tree::digest_tree(&tree).unwrap().digest;
        let place = store.images_folder().join(digest.to_string());
        assert!(!place.exists());
        let first = store.image(digest, &tree).unwrap().metadata().unwrap().len();
        let image = fs::read(&place).unwrap();
        assert_eq!((first, image.len() as u64 % 4096), (image.len() as u64, 0));
        // The tree is not looked at again: the digest says what is in it.
        fs::write(tree.join("file"), "changed").unwrap();
        store.image(digest, &tree).unwrap();
        assert_eq!(fs::read(&place).unwrap(), image);
        assert_ne!(identifier(digest), [0; 16]);
        store.tidy().unwrap();
        assert!(!place.exists(), "its tree is not in the home");
    }
}
