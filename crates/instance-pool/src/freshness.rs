//! Credentials that an instance began with, and when it is time for another instance.

use std::time::{Duration, SystemTime};

use function_worker::{CredentialsFile, expiration};

use crate::start::blocking;

/// How long before its credentials expire an instance ends: what AWS's clients take for about to expire, and more.
const AHEAD: Duration = Duration::from_secs(15 * 60);
/// Time between two looks whether there are others.
const LOOK: Duration = Duration::from_secs(20);

/// Waits until credentials that expire at `expires` are about to, and `file` holds others that are good for longer. For ever where there
/// are none: what is about to expire is better than nothing.
pub(crate) async fn outlived(file: Option<&CredentialsFile>, expires: Option<SystemTime>) {
    let Some((file, expires)) = file.zip(expires) else { return std::future::pending().await };
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left.saturating_sub(AHEAD)).await;
    loop {
        let file = file.clone();
        let later = move || file.read().is_ok_and(|found| expiration(&found).is_some_and(|at| at > expires));
        if matches!(blocking(later).await, Ok(true)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
