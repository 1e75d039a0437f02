//! Archives in requests.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lambda_api::{ErrorKind, LambdaError};
use store::CodeSource;

/// Bytes of an archive that is sent in a request.
const ZIPPED: usize = 52_428_800;

/// Where a request's code is to come from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodeArguments<'a> {
    pub zip_file: Option<&'a str>,
    pub bucket: Option<&'a str>,
    pub image: Option<&'a str>,
}

impl CodeArguments<'_> {
    /// The archive; `None` when no code was given.
    pub fn source(self) -> Result<Option<CodeSource>, LambdaError> {
        if self.image.is_some() {
            return Err(LambdaError::invalid(
                "Container images are not offered by this node: give a zip and leave PackageType and ImageUri out.",
            ));
        }
        if self.bucket.is_some() {
            return Err(LambdaError::invalid(
                "Error occurred while GetObject. This node has no object store: send the archive itself as ZipFile.",
            ));
        }
        let Some(text) = self.zip_file else { return Ok(None) };
        // Decoded it is three quarters as long; the few bytes of rounding don't matter.
        if text.len() / 4 * 3 > ZIPPED + 3 {
            return Err(LambdaError::invalid(format!("Zipped size must be smaller than {ZIPPED} bytes")));
        }
        let bytes = STANDARD.decode(text).map_err(|error| {
            LambdaError::new(ErrorKind::Serialization, format!("ZipFile is no base64: {error}"))
        })?;
        if bytes.is_empty() {
            return Err(LambdaError::invalid("Uploaded file must be a non-empty zip"));
        }
        Ok(Some(CodeSource::Bytes(Arc::new(bytes))))
    }
}
