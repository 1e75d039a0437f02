//! Names that users choose, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameProblem {
    /// A function's name.
    #[error(
        "{name:?} can't be a function's name: use 1 to 64 of the characters a-z, A-Z, 0-9, '-' and '_', as AWS Lambda does"
    )]
    Function {
        /// What was given.
        name: String,
    },
    /// A runtime's name.
    #[error(
        "{name:?} can't be a runtime's name: use 1 to 64 of the characters a-z, 0-9, '.', '-' and '_', a letter or digit first"
    )]
    Runtime {
        /// What was given.
        name: String,
    },
    /// A kernel's name.
    #[error(
        "{name:?} can't be a kernel's name: use 1 to 64 of the characters a-z, 0-9, '.', '-' and '_', a letter or digit first"
    )]
    Kernel {
        /// What was given.
        name: String,
    },
    /// A layer's name.
    #[error(
        "{name:?} can't be a layer's name: use 1 to 140 of the characters a-z, A-Z, 0-9, '-' and '_', as AWS Lambda does"
    )]
    Layer {
        /// What was given.
        name: String,
    },
    /// A version.
    #[error("{name:?} is no version: write $LATEST or a number")]
    Version {
        /// What was given.
        name: String,
    },
    /// A snapshot's identifier.
    #[error(
        "{name:?} is no snapshot identifier: they look like 3f9a1c20-2 and `faasnap snapshot list` shows them"
    )]
    Snapshot {
        /// What was given.
        name: String,
    },
}

/// Cuts what a user typed to a length that an error message can bear.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

macro_rules! name {
    ($(#[$about:meta])* $name:ident, $problem:ident, $valid:expr) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text. It is a valid file name: no separator, not `.` or `..`.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameProblem;

            fn from_str(name: &str) -> Result<Self, NameProblem> {
                let valid: fn(&str) -> bool = $valid;
                if valid(name) { Ok(Self(name.to_owned())) } else { Err(NameProblem::$problem { name: shown(name) }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameProblem;

            fn try_from(name: String) -> Result<Self, NameProblem> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A function's name: 1 to 64 of `[a-zA-Z0-9-_]`, the rule of AWS Lambda's CreateFunction.
    FunctionName,
    Function,
    |name| (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
);

/// The rule for names of things that are only ours.
fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte))
}

name!(
    /// A runtime's name, such as `python3.11` or `provided.al2023`.
    RuntimeName,
    Runtime,
    is_plain
);

name!(
    /// A kernel's name, such as `default`.
    KernelName,
    Kernel,
    is_plain
);

name!(
    /// A layer's name: 1 to 140 of `[a-zA-Z0-9-_]`, the rule of AWS Lambda's PublishLayerVersion.
    LayerName,
    Layer,
    |name| (1..=140).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
);

name!(
    /// A snapshot of one function: eight hexadecimal digits of the function's revision, `-`, and a number that grows.
    SnapshotId,
    Snapshot,
    |name| name.split_once('-').is_some_and(|(revision, number)| {
        revision.len() == 8
            && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && number.len() <= 9
            && number.starts_with(|first: char| ('1'..='9').contains(&first))
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
);

impl SnapshotId {
    /// The identifier of the snapshot `number` of a revision.
    ///
    /// # Errors
    /// [`NameProblem::Snapshot`] when `revision` is not eight hexadecimal digits or `number` is 0.
    pub fn new(revision: &str, number: u32) -> Result<Self, NameProblem> {
        format!("{revision}-{number}").parse()
    }

    /// The first digits of the revision that the snapshot was made of.
    pub fn revision(&self) -> &str {
        self.0.split_once('-').map_or("", |(revision, _)| revision)
    }

    /// Later snapshots of a function have larger numbers.
    pub fn number(&self) -> u32 {
        self.0.split_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }
}

/// A version of a function: `$LATEST`, which can be changed, or a published one, which can't.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Version {
    /// `$LATEST`.
    Latest,
    /// A published version, from 1 on.
    Number(u64),
}

impl Version {
    /// The number that stands for it in the registry: 0 for `$LATEST`.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Latest => 0,
            Self::Number(number) => number,
        }
    }
}

impl FromStr for Version {
    type Err = NameProblem;

    fn from_str(text: &str) -> Result<Self, NameProblem> {
        let number = || match text.as_bytes() {
            // No version has 18 digits, and SQLite's integers have room for them.
            [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit) => {
                text.parse().ok()
            }
            _ => None,
        };
        match text {
            "$LATEST" => Ok(Self::Latest),
            _ => number().map(Self::Number).ok_or_else(|| NameProblem::Version { name: shown(text) }),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = NameProblem;

    fn try_from(text: String) -> Result<Self, NameProblem> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => formatter.pad("$LATEST"),
            Self::Number(number) => fmt::Display::fmt(number, formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["hello", "a", "A-b_9", &"x".repeat(64)] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "héllo", "a.b", "a\n", &"x".repeat(65)] {
            let problem = bad.parse::<FunctionName>().unwrap_err().to_string();
            assert!(problem.contains("can't be a function's name"), "{problem}");
        }
        for good in ["python3.11", "provided.al2023", "3x"] {
            assert!(good.parse::<RuntimeName>().is_ok(), "{good}");
        }
        for bad in ["", ".hidden", "..", "Python", "a/b", "-x"] {
            assert!(bad.parse::<RuntimeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn snapshot_identifiers_carry_revision_and_number() {
        let id = SnapshotId::new("0123abcd", 12).unwrap();
        assert_eq!((id.revision(), id.number()), ("0123abcd", 12));
        for bad in
            ["0123abcd", "0123abcd-", "0123abcd-0", "0123abcd-01", "0123ABCD-1", "0123abcd-1/..", "x-1"]
        {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_latest_or_numbers() {
        assert_eq!("$LATEST".parse(), Ok(Version::Latest));
        assert_eq!("12".parse(), Ok(Version::Number(12)));
        assert_eq!(Version::Number(12).to_string(), "12");
        for bad in ["", "0", "01", "-1", "latest", "1a", "9999999999999999999"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_plain_path_component(text in "\\PC{0,70}") {
            let accepted = [
                text.parse::<FunctionName>().map(String::from),
                text.parse::<RuntimeName>().map(String::from),
                text.parse::<KernelName>().map(String::from),
                text.parse::<SnapshotId>().map(String::from),
            ];
            for name in accepted.into_iter().flatten() {
                let components: Vec<_> = std::path::Path::new(&name).components().collect();
                prop_assert!(matches!(components.as_slice(), [std::path::Component::Normal(_)]));
            }
        }
    }
}
