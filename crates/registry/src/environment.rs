//! A function's own environment variables, under AWS Lambda's rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes that the variables may take, written as JSON: AWS Lambda's limit of 4 KB.
pub const ENVIRONMENT_BYTES: usize = 4096;

/// Names that Lambda sets itself (the developer guide's list of reserved environment variables).
const RESERVED: [&str; 19] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

/// Environment variables that a user gave a function: valid names, none reserved, at most [`ENVIRONMENT_BYTES`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, String>);

/// Why environment variables are refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvironmentProblem {
    /// A name that no variable may have.
    #[error(
        "{name:?} can't be an environment variable's name: use a letter and then at least one letter, digit or '_', as AWS Lambda does"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// A name that Lambda sets itself.
    #[error("{name} is set by Lambda itself and can't be given to a function: choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A value with a NUL byte.
    #[error("the value of {name} has a NUL byte, which no environment can hold")]
    Nul {
        /// The name.
        name: String,
    },
    /// All together are too large.
    #[error(
        "the environment variables take {bytes} bytes; 4096 are allowed, as in AWS Lambda: put large data into a file of the function's code"
    )]
    TooLarge {
        /// Bytes, written as JSON.
        bytes: usize,
    },
}

impl Environment {
    /// Checks names and sizes.
    ///
    /// # Errors
    /// [`EnvironmentProblem`], the first one found.
    pub fn new(variables: BTreeMap<String, String>) -> Result<Self, EnvironmentProblem> {
        for (name, value) in &variables {
            if RESERVED.contains(&name.as_str()) {
                return Err(EnvironmentProblem::Reserved { name: name.clone() });
            }
            let valid = name.len() >= 2
                && name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !valid {
                return Err(EnvironmentProblem::Name { name: name.chars().take(80).collect() });
            }
            if value.contains('\0') {
                return Err(EnvironmentProblem::Nul { name: name.clone() });
            }
        }
        let bytes = serde_json::to_vec(&variables).map_or(usize::MAX, |json| json.len());
        if !variables.is_empty() && bytes > ENVIRONMENT_BYTES {
            return Err(EnvironmentProblem::TooLarge { bytes });
        }
        Ok(Self(variables))
    }

    /// The variables, by name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = EnvironmentProblem;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, EnvironmentProblem> {
        Self::new(variables)
    }
}

impl From<Environment> for BTreeMap<String, String> {
    fn from(environment: Environment) -> Self {
        environment.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<Environment, EnvironmentProblem> {
        Environment::new([(name.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn ordinary_variables_are_kept() {
        let environment = check("TABLE_1", "x = y").unwrap();
        assert_eq!(environment.variables().get("TABLE_1").map(String::as_str), Some("x = y"));
    }

    #[test]
    fn what_lambda_refuses_is_refused() {
        for name in ["", "A", "1A", "_A", "A-B", "A=B", "ÄB"] {
            assert!(matches!(check(name, ""), Err(EnvironmentProblem::Name { .. })), "{name}");
        }
        for name in RESERVED {
            assert!(matches!(check(name, ""), Err(EnvironmentProblem::Reserved { .. })), "{name}");
        }
        assert!(matches!(check("AB", "a\0b"), Err(EnvironmentProblem::Nul { .. })));
    }

    #[test]
    fn four_kilobytes_are_the_limit() {
        // {"AB":"..."} takes nine bytes besides the value.
        assert!(check("AB", &"x".repeat(ENVIRONMENT_BYTES - 9)).is_ok());
        let refused = check("AB", &"x".repeat(ENVIRONMENT_BYTES - 8));
        assert_eq!(refused, Err(EnvironmentProblem::TooLarge { bytes: 4097 }));
    }
}
