//! Whose signatures are accepted: a file in the format of AWS's shared credentials file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Access keys with their secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    secrets: HashMap<String, String>,
}

/// Secrets don't belong in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("keys", &self.secrets.len()).finish_non_exhaustive()
    }
}

/// Why credentials can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file can't be read or written.
    #[error("{operation} the credentials {path:?} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It has no pair of keys.
    #[error("{path:?} has no aws_access_key_id with an aws_secret_access_key: write both below a [profile]")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Credentials {
    /// Reads every profile of a shared credentials file.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let text = fs::read_to_string(path).map_err(|source| CredentialsError::Io {
            operation: "reading",
            path: path.to_owned(),
            source,
        })?;
        let secrets = parse(&text);
        if secrets.is_empty() {
            return Err(CredentialsError::Empty { path: path.to_owned() });
        }
        Ok(Self { secrets })
    }

    /// The same; makes the file with a new pair when it is not there. Nobody but its owner may read it.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn read_or_make(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::Io { operation: "writing", path: path.to_owned(), source };
        match File::options().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
            Ok(mut file) => {
                let random = || uuid::Uuid::new_v4().simple().to_string();
                let key = format!("AKIA{}", random().get(..16).unwrap_or_default().to_ascii_uppercase());
                let text = format!(
                    "[default]\naws_access_key_id = {key}\naws_secret_access_key = {}{}\n",
                    random(),
                    random()
                );
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            }
        }
        Self::read(path)
    }

    /// The secret of an access key.
    pub(crate) fn secret(&self, key: &str) -> Option<String> {
        self.secrets.get(key).cloned()
    }
}

/// Pairs by key; what is neither a key nor a secret is passed over, as AWS's own tools do.
fn parse(text: &str) -> HashMap<String, String> {
    let mut secrets = HashMap::new();
    let (mut key, mut secret) = (None, None);
    for line in text.lines().chain(["["]) {
        let line = line.trim();
        if line.starts_with('[') {
            if let (Some(key), Some(secret)) = (key.take(), secret.take()) {
                secrets.insert(key, secret);
            }
            continue;
        }
        if let Some((name, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => key = value,
                "aws_secret_access_key" => secret = value,
                _ => {}
            }
        }
    }
    secrets
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_profile_with_both_is_known() {
        let text = "# x\n[default]\naws_access_key_id = A\naws_secret_access_key=s=1\nregion = r\n[half]\naws_access_key_id=B\n[other]\naws_secret_access_key = t\naws_access_key_id = C";
        let expected = [("A", "s=1"), ("C", "t")].map(|(key, secret)| (key.to_owned(), secret.to_owned()));
        assert_eq!(parse(text), expected.into());
    }

    #[test]
    fn a_made_file_is_private_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let made = Credentials::read_or_make(&path).unwrap();
        assert_eq!(Credentials::read_or_make(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "[default]\n").unwrap();
        assert!(matches!(Credentials::read(&path), Err(CredentialsError::Empty { .. })));
    }
}
