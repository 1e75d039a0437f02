//! The files and folders that make a root look like AWS Lambda's execution environment.

use file_tree::{EntryPath, FileEntry, TreeError, TreeWriter};

use crate::debian::MERGED;
use crate::error::BuildError;
use crate::recipe::{OwnFile, Recipe};

/// Mount points and homes. /tmp is a folder of each instance's own; /dev, /proc and /sys are not made of files.
const FOLDERS: [&str; 13] = [
    "dev",
    "etc",
    "home/sbx_user1051",
    "opt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/local/bin",
    "var/runtime",
    "var/task",
    "var/tmp",
];

const fn text(path: &'static str, content: &'static str) -> OwnFile {
    OwnFile { path, content, executable: false }
}

/// Users, groups and name resolution. The function's user is that of AWS, with its numbers. There is no name server until
/// the function has a network.
const FILES: [OwnFile; 6] = [
    text(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/home/sbx_user1051:/sbin/nologin\n",
    ),
    text("etc/group", "root:x:0:\nsbx_user1051:x:990:\n"),
    text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    text("etc/hostname", "localhost\n"),
    text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    text("etc/resolv.conf", ""),
];

/// Makes the folders and the links of the merged `/usr`, before anything is unpacked.
pub(crate) fn prepare(tree: &mut TreeWriter) -> Result<(), BuildError> {
    for folder in MERGED {
        tree.folder(&path(&format!("usr/{folder}"))?).map_err(wrong)?;
        tree.link(&path(folder)?, format!("usr/{folder}").as_bytes()).map_err(wrong)?;
    }
    for folder in FOLDERS {
        tree.folder(&path(folder)?).map_err(wrong)?;
    }
    Ok(())
}

/// Adds our files and links, after everything is unpacked. What a package brought already stays.
pub(crate) fn complete(recipe: &Recipe, tree: &mut TreeWriter) -> Result<(), BuildError> {
    for file in FILES.iter().chain(recipe.files) {
        let at = path(file.path)?;
        if !tree.contains(&at) {
            let entry = FileEntry { executable: file.executable, modified: None };
            tree.file(&at, entry, &mut file.content.as_bytes()).map_err(wrong)?;
        }
    }
    for (link, target) in recipe.links {
        let at = path(link)?;
        if !tree.contains(&at) {
            tree.link(&at, target.as_bytes()).map_err(wrong)?;
        }
    }
    Ok(())
}

pub(crate) fn path(text: &str) -> Result<EntryPath, BuildError> {
    EntryPath::parse(text.as_bytes())
        .map_err(|problem| wrong(TreeError::Path { path: text.to_owned(), problem }))
}

fn wrong(source: TreeError) -> BuildError {
    BuildError::Unpack { what: "our own files".to_owned(), source }
}
