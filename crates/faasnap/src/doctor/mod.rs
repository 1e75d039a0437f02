//! What this machine has, what that means for functions, and how to mend it.
//!
//! Every finding is a probe of the running machine where one is possible without being root; what can only be judged by
//! the kernel's version says so.

mod host;
mod jail;
mod kernel;
mod kvm;
mod network;
mod tools;

use std::path::Path;

use serde::Serialize;

/// How a finding is to be judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// Functions run; something is slower or unavailable.
    Limited,
    /// Functions can't run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    /// What kind of thing it is.
    pub(crate) group: &'static str,
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How to judge it.
    pub(crate) state: State,
    /// What is there.
    pub(crate) found: String,
    /// What follows from it, when it isn't as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meaning: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn good(group: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self { group, name, state: State::Good, found: found.into(), meaning: None, mend: None }
    }

    fn limited(group: &'static str, name: &'static str, found: impl Into<String>, meaning: &str) -> Self {
        Self { state: State::Limited, meaning: Some(meaning.to_owned()), ..Self::good(group, name, found) }
    }

    fn missing(group: &'static str, name: &'static str, found: impl Into<String>, meaning: &str) -> Self {
        Self { state: State::Missing, meaning: Some(meaning.to_owned()), ..Self::good(group, name, found) }
    }

    fn mend(mut self, how: impl Into<String>) -> Self {
        self.mend = Some(how.into());
        self
    }
}

/// Looks at everything.
pub(crate) fn examine(home: &Path) -> Vec<Finding> {
    let mut findings = kvm::examine();
    findings.extend(kernel::examine());
    findings.extend(host::examine(home));
    findings.extend(tools::examine());
    findings.extend(network::examine());
    findings.extend(jail::examine(home));
    findings
}

/// A small file of /proc or /sys without its last newline.
fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
