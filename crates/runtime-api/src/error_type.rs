//! The type of an error that a runtime reports.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error type as AWS lets it into its own records, for instance `Runtime.ImportModuleError`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorType(String);

impl ErrorType {
    /// The response was larger than [`MAX_PAYLOAD`](crate::MAX_PAYLOAD).
    pub const RESPONSE_SIZE_TOO_LARGE: &str = "Function.ResponseSizeTooLarge";

    /// Reads the value of `Lambda-Runtime-Function-Error-Type`. AWS's daemon keeps what has `Runtime.` or `Function.` and a
    /// capitalised word in it; everything else, and no header at all, is unknown.
    pub fn from_header(value: Option<&str>) -> Self {
        let value = value.unwrap_or_default();
        let acceptable = |prefix: &str| {
            value.match_indices(prefix).any(|(at, found)| {
                let mut rest = value.get(at + found.len()..).unwrap_or_default().bytes();
                rest.next().is_some_and(|byte| byte.is_ascii_uppercase())
                    && rest.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            })
        };
        if acceptable("Runtime.") || acceptable("Function.") {
            Self(value.to_owned())
        } else if value.starts_with("Function.") {
            Self::named("Function.Unknown")
        } else {
            Self::named("Runtime.Unknown")
        }
    }

    /// An error type of our own choice.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ErrorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_daemon_keeps() {
        for (header, expected) in [
            (None, "Runtime.Unknown"),
            (Some("unhandled"), "Runtime.Unknown"),
            (Some("Runtime.ImportModuleError"), "Runtime.ImportModuleError"),
            (Some("Function.MyError"), "Function.MyError"),
            (Some("my Function.Error"), "my Function.Error"),
            (Some("Function.lower"), "Function.Unknown"),
            (Some("Runtime.X"), "Runtime.Unknown"),
            (Some("Runtime.X Runtime.Yes"), "Runtime.X Runtime.Yes"),
        ] {
            assert_eq!(ErrorType::from_header(header).as_str(), expected, "{header:?}");
        }
    }
}
