//! Credentials for functions: a file that somebody keeps fresh, read whenever an instance starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use thiserror::Error;
use worker_protocol::Credentials;

/// A file with credentials in the form that AWS's tools print and take (`credential_process` of their configuration; what
/// `aws configure export-credentials --format process` prints).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialsFile(PathBuf);

/// A file of credentials that can't be used.
#[derive(Debug, Error)]
pub enum CredentialsFileError {
    /// It can't be read.
    #[error("reading the functions' credentials {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{} holds no credentials: write JSON with Version 1, AccessKeyId, SecretAccessKey, SessionToken and Expiration",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; says nothing of its values.
        #[source]
        source: serde_json::Error,
    },
    /// Nobody can tell when they expire.
    #[error(
        "the Expiration {expiration:?} in {} is no time: write it in UTC, as 2026-01-02T03:04:05Z",
        path.display()
    )]
    Expiration {
        /// The file.
        path: PathBuf,
        /// What it says.
        expiration: String,
    },
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// RFC 3339; a client asks again before.
    expiration: String,
}

impl CredentialsFile {
    /// The file at `path`, which must be there and hold credentials.
    ///
    /// # Errors
    /// [`CredentialsFileError`].
    pub fn open(path: &Path) -> Result<Self, CredentialsFileError> {
        let file = Self(path.to_owned());
        file.read()?;
        Ok(file)
    }

    /// What it holds now.
    ///
    /// # Errors
    /// [`CredentialsFileError`].
    pub fn read(&self) -> Result<Credentials, CredentialsFileError> {
        let path = || self.0.clone();
        let bytes =
            fs::read(&self.0).map_err(|source| CredentialsFileError::Read { path: path(), source })?;
        let printed = serde_json::from_slice(&bytes)
            .map_err(|source| CredentialsFileError::Content { path: path(), source })?;
        let Printed { access_key_id, secret_access_key, session_token, expiration } = printed;
        if time(&expiration).is_none() {
            return Err(CredentialsFileError::Expiration { path: path(), expiration });
        }
        Ok(Credentials { access_key_id, secret_access_key, token: session_token, expiration })
    }
}

/// When credentials expire; `None` when they were not read from a [`CredentialsFile`] and say no time.
pub fn expiration(credentials: &Credentials) -> Option<SystemTime> {
    time(&credentials.expiration)
}

/// A time as AWS's tools print it: RFC 3339, in UTC, which they write `Z` or `+00:00`.
fn time(text: &str) -> Option<SystemTime> {
    let utc = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z'))?;
    humantime::parse_rfc3339(&format!("{utc}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_awss_tools_print_is_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        assert!(matches!(CredentialsFile::open(&path), Err(CredentialsFileError::Read { .. })));
        let write = |key: &str| {
            let text = format!(
                r#"{{"Version":1,"AccessKeyId":"{key}","SecretAccessKey":"s","SessionToken":"t","Expiration":"2030-01-01T00:00:00Z"}}"#
            );
            fs::write(&path, text).unwrap();
        };
        write("one");
        let file = CredentialsFile::open(&path).unwrap();
        write("two");
        assert_eq!(file.read().unwrap().access_key_id, "two");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(time("2030-01-01T00:00:00+00:00"), expiration(&file.read().unwrap()));
        fs::write(&path, text.replace("T00:00:00Z", "")).unwrap();
        assert!(matches!(file.read(), Err(CredentialsFileError::Expiration { .. })));
        fs::write(&path, r#"{"AccessKeyId":"secret"}"#).unwrap();
        let error = file.read().unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("SecretAccessKey") && !source.contains("\"secret\""), "{source}");
    }
}
