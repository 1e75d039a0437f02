//! The executables of integration tests: built, and found where cargo says they are.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{self, command};

/// What cargo says about one thing that it built.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the integration tests with these names and says where each is.
pub(super) fn build(tests: &[&str]) -> Result<Vec<PathBuf>> {
    // With the same flags as when all tests are built, so that nothing is built twice.
    let mut cargo =
        command("cargo", &["test", "--workspace", "--locked", "--no-run", "--message-format=json"]);
    cargo.args(tests.iter().flat_map(|test| ["--test", test]));
    let text = process::output(&mut cargo)?;
    tests
        .iter()
        .map(|test| find(&text, test).with_context(|| format!("cargo built no test {test}")))
        .collect()
}

fn find(text: &str, test: &str) -> Option<PathBuf> {
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages.into_iter().find_map(|message| {
        let right = message.target?.name == test && message.profile?.test;
        message.executable.filter(|_| right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_found_among_all_that_cargo_says() {
        let text = r#"{"reason":"compiler-artifact","target":{"name":"a"},"profile":{"test":false},"executable":"/t/a"}
{"reason":"compiler-artifact","target":{"name":"a"},"profile":{"test":true},"executable":"/t/deps/a-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(find(text, "a"), Some(PathBuf::from("/t/deps/a-1")));
        assert_eq!(find(text, "b"), None);
    }
}
