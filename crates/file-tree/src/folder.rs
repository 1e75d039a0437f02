//! Copying an ordinary folder into a tree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::entry_path::EntryPath;
use crate::error::TreeError;
use crate::writer::{FileEntry, TreeWriter};

/// Copies everything below `source`. Links are copied as links and never followed.
///
/// # Errors
/// [`TreeError`] when the folder can't be read or an entry breaks a rule of the tree.
pub fn copy_folder(source: &Path, tree: &mut TreeWriter) -> Result<(), TreeError> {
    merge_folders(&[source], tree)
}

/// Copies several folders over one another: of entries with the same path, that of the last folder counts.
///
/// # Errors
/// [`TreeError`] as for [`copy_folder`], also when one folder has a file or link where another has a folder with files.
pub fn merge_folders(sources: &[impl AsRef<Path>], tree: &mut TreeWriter) -> Result<(), TreeError> {
    // Sorted by path, so that a folder comes before what is in it.
    let mut winners = BTreeMap::new();
    for source in sources {
        list(source.as_ref(), &mut winners)?;
    }
    winners.into_iter().try_for_each(|(path, (from, kind))| copy_entry(path, &from, kind, tree))
}

fn list(source: &Path, winners: &mut BTreeMap<EntryPath, (PathBuf, fs::FileType)>) -> Result<(), TreeError> {
    for entry in WalkDir::new(source).min_depth(1) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(source).to_owned();
            TreeError::io("reading", path)(error.into())
        })?;
        let from = entry.path();
        let relative = from.strip_prefix(source).unwrap_or(from).as_os_str().as_bytes();
        let path = EntryPath::parse(relative).map_err(|problem| TreeError::Path {
            path: String::from_utf8_lossy(relative).into_owned(),
            problem,
        })?;
        winners.insert(path, (from.to_owned(), entry.file_type()));
    }
    Ok(())
}

fn copy_entry(
    path: EntryPath,
    from: &Path,
    kind: fs::FileType,
    tree: &mut TreeWriter,
) -> Result<(), TreeError> {
    if kind.is_dir() {
        tree.folder(&path)
    } else if kind.is_symlink() {
        let target = fs::read_link(from).map_err(TreeError::io("reading", from))?;
        tree.link(&path, target.as_os_str().as_bytes())
    } else if kind.is_file() {
        let mut file = File::open(from).map_err(TreeError::io("opening", from))?;
        let about = file.metadata().map_err(TreeError::io("reading", from))?;
        let executable = about.permissions().mode() & 0o111 != 0;
        tree.file(&path, FileEntry { executable, modified: Some(about.mtime()) }, &mut file)
    } else {
        Err(TreeError::Kind { path, kind: kind_in_words(kind) })
    }
}

fn kind_in_words(kind: fs::FileType) -> &'static str {
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_tree;
    use crate::limits::TreeLimits;

    #[test]
    fn a_copy_has_the_digest_of_its_source() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("source");
        fs::create_dir_all(source.join("pkg/empty")).unwrap();
        fs::write(source.join("pkg/mod.py"), "x = 1").unwrap();
        std::os::unix::fs::symlink("mod.py", source.join("pkg/link")).unwrap();
        let mut tree = TreeWriter::create(home.path().join("tree"), TreeLimits::CODE).unwrap();
        copy_folder(&source, &mut tree).unwrap();
        assert_eq!(digest_tree(&source).unwrap(), digest_tree(tree.root()).unwrap());
    }

    #[test]
    fn the_last_folder_wins() {
        let home = tempfile::tempdir().unwrap();
        let layers = ["one", "two"].map(|name| home.path().join(name));
        for (layer, files) in layers.iter().zip([["a/x", "a/y"], ["a/y", "b"]]) {
            for file in files {
                fs::create_dir_all(layer.join(file).parent().unwrap()).unwrap();
                fs::write(layer.join(file), layer.file_name().unwrap().as_bytes()).unwrap();
            }
        }
        let mut tree = TreeWriter::create(home.path().join("tree"), TreeLimits::CODE).unwrap();
        merge_folders(&layers, &mut tree).unwrap();
        let content = ["a/x", "a/y", "b"].map(|file| fs::read_to_string(tree.root().join(file)).unwrap());
        assert_eq!(content, ["one", "two", "two"]);
    }

    #[test]
    fn a_link_of_one_folder_never_leads_another_one_out() {
        let home = tempfile::tempdir().unwrap();
        let layers = ["one", "two"].map(|name| home.path().join(name));
        fs::create_dir_all(layers[0].join("real")).unwrap();
        std::os::unix::fs::symlink("real", layers[0].join("door")).unwrap();
        fs::create_dir_all(layers[1].join("door")).unwrap();
        fs::write(layers[1].join("door/file"), "x").unwrap();
        let mut tree = TreeWriter::create(home.path().join("tree"), TreeLimits::CODE).unwrap();
        merge_folders(&layers, &mut tree).unwrap();
        assert!(!tree.root().join("real/file").exists());
        assert!(tree.root().join("door/file").exists());
    }

    #[test]
    fn a_socket_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("source");
        fs::create_dir(&source).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("s")).unwrap();
        let mut tree = TreeWriter::create(home.path().join("tree"), TreeLimits::CODE).unwrap();
        let refused = copy_folder(&source, &mut tree);
        assert!(matches!(refused, Err(TreeError::Kind { kind: "socket", .. })), "{refused:?}");
    }
}
