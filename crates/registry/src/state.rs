//! What a version is fit for, in AWS Lambda's terms.

use serde::{Deserialize, Serialize};

/// Whether it can be invoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum State {
    /// Being made.
    Pending,
    /// Yes.
    Active,
    /// It can't be made.
    Failed,
}

/// How the last update went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UpdateStatus {
    /// It is done.
    Successful,
    /// It is under way.
    InProgress,
    /// It failed; what was before goes on.
    Failed,
}

/// State and last update with their reasons.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether it can be invoked.
    pub state: State,
    /// Why it can't: text and code.
    pub reason: Option<(String, String)>,
    /// How the last update went; `None` while it is being created.
    pub update: Option<UpdateStatus>,
    /// Why the update is not successful: text and code.
    pub update_reason: Option<(String, String)>,
    /// Whether the snapshot of SnapStart is there.
    pub snapshot_on: bool,
}

impl Status {
    /// Being created.
    pub fn pending() -> Self {
        Self {
            state: State::Pending,
            reason: Some(creating()),
            update: None,
            update_reason: None,
            snapshot_on: false,
        }
    }

    /// Ready.
    pub fn active() -> Self {
        Self {
            state: State::Active,
            reason: None,
            update: Some(UpdateStatus::Successful),
            update_reason: None,
            snapshot_on: false,
        }
    }

    /// Ready as it was, with an update under way.
    pub fn updating() -> Self {
        Self { update: Some(UpdateStatus::InProgress), update_reason: Some(creating()), ..Self::active() }
    }

    /// Not to be made.
    pub fn failed(text: String, code: String) -> Self {
        Self {
            state: State::Failed,
            reason: Some((text.clone(), code.clone())),
            update: Some(UpdateStatus::Failed),
            update_reason: Some((text, code)),
            snapshot_on: false,
        }
    }

    /// Whether something is still being done about it.
    pub fn is_in_progress(&self) -> bool {
        self.state == State::Pending || self.update == Some(UpdateStatus::InProgress)
    }
}

/// AWS's text and code, which it uses for updates too.
fn creating() -> (String, String) {
    ("The function is being created.".to_owned(), "Creating".to_owned())
}
