//! Code and layers: trees named by their digest.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use file_tree::TreeSummary;
use file_tree::{
    TreeDigest, TreeError, TreeLimits, TreeWriter, copy_folder, digest_tree, merge_folders, unpack_zip,
};
use registry::{LayerUse, SettingProblem};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::functions::NewLayer;
use crate::home::{Store, now};
use crate::lease::Lease;
use crate::manifest;
use crate::staging::{Staging, make_folder};

const MANIFEST: &str = "manifest.json";
const TREE: &str = "tree";
/// A zip starts with a local file header, or with the end record when it is empty (APPNOTE.TXT 4.3).
const ZIP_MAGICS: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];

/// Where code or a layer comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CodeSource {
    /// The content of a folder.
    Folder(PathBuf),
    /// A zip archive.
    Zip(PathBuf),
    /// A zip archive in memory, as it came over the network.
    Bytes(Arc<Vec<u8>>),
}

#[derive(Serialize, Deserialize)]
struct TreeRecord {
    tree: TreeSummary,
    created: u64,
}

/// A tree that is in use.
#[derive(Debug)]
pub struct OpenTree {
    /// The folder with the files, opened with O_PATH: it stays the right one whatever happens to its name.
    pub directory: OwnedFd,
    /// Its path now, for messages.
    pub path: PathBuf,
    /// Digest and size.
    pub summary: TreeSummary,
    /// Keeps the files on disk.
    pub lease: Lease,
}

impl CodeSource {
    /// Looks at what `path` is.
    ///
    /// # Errors
    /// [`StoreError::Io`] when there is nothing readable, or neither a folder nor a zip.
    pub fn detect(path: &Path) -> Result<Self, StoreError> {
        let look = || {
            if path.is_dir() {
                return Ok(Self::Folder(path.to_owned()));
            }
            let mut magic = Vec::new();
            File::open(path)?.take(4).read_to_end(&mut magic)?;
            let wrong = "it is neither a folder nor a zip archive";
            if ZIP_MAGICS.iter().any(|known| *known == magic[..]) {
                Ok(Self::Zip(path.to_owned()))
            } else {
                Err(std::io::Error::other(wrong))
            }
        };
        look().map_err(StoreError::io("reading code from", path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Zip(path) => path,
            Self::Bytes(_) => Path::new("the uploaded archive"),
        }
    }

    fn unpack(&self, tree: &mut TreeWriter) -> Result<(), TreeError> {
        match self {
            Self::Folder(path) => copy_folder(path, tree),
            Self::Bytes(bytes) => unpack_zip(Cursor::new(bytes.as_slice()), tree),
            Self::Zip(path) => {
                let zip = File::open(path).map_err(|source| TreeError::Io {
                    operation: "opening",
                    path: path.clone(),
                    source,
                })?;
                unpack_zip(zip, tree)
            }
        }
    }
}

/// Trees in the making: a function's code, or its layers with what they are merged to.
pub(crate) struct StagedTrees {
    /// The layers, in order.
    pub uses: Vec<LayerUse>,
    /// What an instance sees: the code, or the layers merged.
    seen: TreeSummary,
    /// Names in the staging folder, with what they are.
    staged: Vec<(String, TreeSummary)>,
}

impl StagedTrees {
    /// Unpacks code below `staging`.
    pub(crate) fn code(staging: &Staging, source: &CodeSource) -> Result<Self, StoreError> {
        let name = "code".to_owned();
        let seen = unpack(staging, &name, source)?;
        Ok(Self { uses: Vec::new(), seen, staged: vec![(name, seen)] })
    }

    /// Unpacks those layers that are files and merges all; with `code` they must stay below the limit.
    pub(crate) fn layers(
        store: &Store,
        staging: &Staging,
        layers: &[NewLayer],
        code: TreeSummary,
    ) -> Result<Self, StoreError> {
        let mut made = Self { uses: Vec::new(), seen: code, staged: Vec::new() };
        let mut folders = Vec::new();
        // Stored layers stay where they are while they are merged.
        let mut open = Vec::new();
        for layer in layers {
            match layer {
                NewLayer::Stored(layer) => {
                    let tree = store.open_tree(layer.tree.digest)?;
                    folders.push(tree.path.clone());
                    open.push(tree);
                    made.uses.push(layer.clone());
                }
                NewLayer::Files(source) => {
                    let name = format!("layer-{}", made.staged.len());
                    let tree = unpack(staging, &name, source)?;
                    folders.push(staging.path().join(&name).join(TREE));
                    made.staged.push((name, tree));
                    made.uses.push(LayerUse { arn: None, package_bytes: tree.bytes, tree });
                }
            }
        }
        let bytes = code.bytes + made.uses.iter().map(|layer| layer.tree.bytes).sum::<u64>();
        if bytes > TreeLimits::CODE.bytes {
            return Err(SettingProblem::Unpacked { bytes }.into());
        }
        match made.uses.as_slice() {
            [] => {}
            [single] => made.seen = single.tree,
            _ => {
                let name = "merged".to_owned();
                let write = |tree: &mut TreeWriter| merge_folders(&folders, tree);
                made.seen = stage(staging, &name, write, StoreError::tree(staging.path().join(&name)))?;
                made.staged.push((name, made.seen));
            }
        }
        Ok(made)
    }

    /// The code.
    pub(crate) fn summary(&self) -> TreeSummary {
        self.seen
    }

    /// The layers merged; `None` without layers.
    pub(crate) fn merged(&self) -> Option<TreeSummary> {
        (!self.uses.is_empty()).then_some(self.seen)
    }

    /// Moves the trees to their places; one that is there already stays. The caller holds the home's lock.
    pub(crate) fn publish(&self, store: &Store, staging: &Staging) -> Result<(), StoreError> {
        for (name, summary) in &self.staged {
            let target = store.trees().join(summary.digest.to_string());
            if !target.exists() {
                staging.publish_new(name, &target)?;
            }
        }
        Ok(())
    }
}

fn unpack(staging: &Staging, name: &str, source: &CodeSource) -> Result<TreeSummary, StoreError> {
    let explain = |error| StoreError::Code { path: source.path().to_owned(), source: error };
    stage(staging, name, |tree| source.unpack(tree), explain)
}

fn stage(
    staging: &Staging,
    name: &str,
    write: impl FnOnce(&mut TreeWriter) -> Result<(), TreeError>,
    explain: impl FnOnce(TreeError) -> StoreError,
) -> Result<TreeSummary, StoreError> {
    let folder = staging.path().join(name);
    make_folder(&folder)?;
    let make = || {
        let mut tree = TreeWriter::create(folder.join(TREE), TreeLimits::CODE)?;
        write(&mut tree)?;
        tree.sync()?;
        digest_tree(tree.root())
    };
    let tree = make().map_err(explain)?;
    manifest::write(&folder.join(MANIFEST), "tree", &TreeRecord { tree, created: now() })?;
    Ok(tree)
}

impl Store {
    /// Opens a tree for use.
    pub(crate) fn open_tree(&self, digest: TreeDigest) -> Result<OpenTree, StoreError> {
        let folder = self.trees().join(digest.to_string());
        let missing = || StoreError::Damaged { path: folder.clone(), problem: "it is missing".to_owned() };
        let lease = Lease::take(&folder)?.ok_or_else(missing)?;
        let (record, directory) = open_leased::<TreeRecord>(&lease, &folder, TREE, "tree")?;
        if record.tree.digest != digest {
            let problem = "it holds the record of another tree".to_owned();
            return Err(StoreError::Damaged { path: folder.join(MANIFEST), problem });
        }
        Ok(OpenTree { directory, path: folder.join(TREE), summary: record.tree, lease })
    }
}

/// Reads the manifest of a leased thing and opens its folder of files.
pub(crate) fn open_leased<T: serde::de::DeserializeOwned>(
    lease: &Lease,
    folder: &Path,
    content: &str,
    kind: &str,
) -> Result<(T, OwnedFd), StoreError> {
    let path = folder.join(MANIFEST);
    let file = lease.open(MANIFEST, OFlags::RDONLY).map_err(StoreError::io("opening", &path))?;
    let record = manifest::read_from(File::from(file), &path, kind)?;
    let directory = lease
        .open(content, OFlags::PATH | OFlags::DIRECTORY)
        .map_err(StoreError::io("opening", folder.join(content)))?;
    Ok((record, directory))
}

/// Reads every file below `path` and compares the digest with the recorded one.
pub(crate) fn verify(path: &Path, recorded: TreeDigest) -> Result<(), StoreError> {
    let found = digest_tree(path).map_err(StoreError::tree(path))?.digest;
    if found == recorded {
        Ok(())
    } else {
        Err(StoreError::Changed { path: path.to_owned(), recorded, found })
    }
}
