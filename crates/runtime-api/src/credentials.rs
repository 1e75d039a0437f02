//! Credentials for functions that are snapshotted.
//!
//! Credentials in environment variables would be frozen into the snapshot. SDKs fetch these from the loopback endpoint
//! named by `AWS_CONTAINER_CREDENTIALS_FULL_URI` instead, so each restored instance has its own.

use serde::{Deserialize, Serialize};

/// What an AWS SDK's container credential provider reads. Never part of a saved state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The session token.
    pub token: String,
    /// When they expire, as RFC 3339 text such as `2026-01-02T03:04:05Z`.
    pub expiration: String,
}

/// Secrets don't belong in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .finish_non_exhaustive()
    }
}
