//! Certificate authorities, as the installation script of Debian's ca-certificates would set them up.

use std::fs;
use std::path::Path;

use file_tree::{FileEntry, TreeWriter};

use crate::error::BuildError;
use crate::skeleton::path;

const SOURCE: &str = "usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Joins the certificates of the package into the bundle that every TLS library on Debian looks for, and puts it where
/// OpenSSL's own default is.
pub(crate) fn install(tree: &mut TreeWriter) -> Result<(), BuildError> {
    let folder = tree.root().join(SOURCE);
    let bundle = join(&folder).map_err(BuildError::io("reading", &folder))?;
    let wrong = |error| BuildError::unpack("certificates")(error);
    tree.file(&path(BUNDLE)?, FileEntry::default(), &mut bundle.as_slice()).map_err(wrong)?;
    for (link, target) in [
        ("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
        ("usr/lib/ssl/certs", "/etc/ssl/certs"),
    ] {
        let at = path(link)?;
        if !tree.contains(&at) {
            tree.link(&at, target.as_bytes()).map_err(wrong)?;
        }
    }
    Ok(())
}

fn join(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut bundle = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "crt")) {
        bundle.extend(fs::read(file)?);
        // A certificate file may lack its last newline.
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use file_tree::TreeLimits;

    use super::*;

    #[test]
    fn certificates_are_joined_in_order() {
        let home = tempfile::tempdir().unwrap();
        let mut tree = TreeWriter::create(home.path().join("root"), TreeLimits::ROOT).unwrap();
        for (name, content) in [("b.crt", "BBB"), ("a.crt", "AAA\n"), ("README", "no")] {
            let at = path(&format!("{SOURCE}/{name}")).unwrap();
            tree.file(&at, FileEntry::default(), &mut content.as_bytes()).unwrap();
        }
        install(&mut tree).unwrap();
        assert_eq!(fs::read_to_string(tree.root().join(BUNDLE)).unwrap(), "AAA\nBBB\n");
    }
}
