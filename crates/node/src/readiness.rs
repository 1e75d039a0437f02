//! Whether a node can take calls, and why it can't. Before it can, nothing listens.

use std::fs::File;
use std::path::Path;

use axum_core::body::Body;
use http::{Response, StatusCode};
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::json;

use crate::answer::chain;
use crate::node::Node;

/// Bytes that the home's file system must have left: what is acknowledged is written there first.
const DISK: u64 = 16 << 20;

/// 200, or 503 with what is in the way.
pub(crate) async fn answer(node: &Node) -> Response<Body> {
    let shared = node.clone();
    let looked = tokio::task::spawn_blocking(move || shared.obstacles()).await;
    let obstacles = looked.unwrap_or_else(|error| vec![format!("looking failed (a defect): {error}")]);
    let ready = obstacles.is_empty();
    let body = if ready { json!({"ready": true}) } else { json!({"ready": false, "reasons": obstacles}) };
    let mut response = Response::new(Body::from(body.to_string()));
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

impl Node {
    fn obstacles(&self) -> Vec<String> {
        let stopping = self.is_stopping().then(|| "the node is being shut down".to_owned());
        let registry = self.store.registry().data_version().err();
        let registry = registry.map(|error| format!("the registry can't be read: {}", chain(&error)));
        // Each worker has it opened anew.
        let kvm = File::options().read(true).write(true).open("/dev/kvm").err();
        let kvm = kvm.map(|error| format!("/dev/kvm can't be opened: {error}"));
        let all = [stopping, registry, disk_problem(self.store.path()), kvm];
        all.into_iter().flatten().collect()
    }
}

/// What keeps the home from being written.
fn disk_problem(home: &Path) -> Option<String> {
    match statvfs(home) {
        Err(error) => Some(format!("the home can't be looked at: {error}")),
        Ok(found) if found.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            Some("the home's file system is read-only".to_owned())
        }
        Ok(found) => {
            let left = found.f_bavail.saturating_mul(found.f_frsize);
            (left < DISK).then(|| {
                format!("the home's disk is full: {} KiB are left, {} are needed", left >> 10, DISK >> 10)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_gone_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(disk_problem(folder.path()), None);
        assert!(disk_problem(&folder.path().join("gone")).is_some_and(|text| text.contains("looked at")));
    }
}
