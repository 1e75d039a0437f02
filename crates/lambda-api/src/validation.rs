//! Errors of values, in AWS's words.

use crate::error::{ErrorKind, LambdaError};

/// `Value 'x' at 'm' failed to satisfy constraint: Member must satisfy regular expression pattern: ...`.
pub fn pattern_error(value: &str, member: &str, pattern: &str) -> LambdaError {
    constraint(value, member, &format!("Member must satisfy regular expression pattern: {pattern}"))
}

/// The same for a number that is out of range.
pub fn range_error(value: i64, member: &str, lowest: i64, highest: i64) -> LambdaError {
    if value < lowest {
        constraint(
            &value.to_string(),
            member,
            &format!("Member must have value greater than or equal to {lowest}"),
        )
    } else {
        constraint(
            &value.to_string(),
            member,
            &format!("Member must have value less than or equal to {highest}"),
        )
    }
}

/// The same for a word that is none of those that are allowed.
pub fn enum_error(value: &str, member: &str, allowed: &[&str]) -> LambdaError {
    constraint(value, member, &format!("Member must satisfy enum value set: [{}]", allowed.join(", ")))
}

/// The same for a text that is too long.
pub fn length_error(value: &str, member: &str, longest: usize) -> LambdaError {
    constraint(value, member, &format!("Member must have length less than or equal to {longest}"))
}

/// The same for a member that is missing.
pub fn missing(member: &str) -> LambdaError {
    let message = format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must not be null"
    );
    LambdaError::new(ErrorKind::Validation, message)
}

fn constraint(value: &str, member: &str, constraint: &str) -> LambdaError {
    let shown: String = value.chars().take(256).collect();
    let message = format!(
        "1 validation error detected: Value '{shown}' at '{member}' failed to satisfy constraint: {constraint}"
    );
    LambdaError::new(ErrorKind::Validation, message)
}

/// The number, when it is within its bounds.
///
/// # Errors
/// [`ErrorKind::Validation`].
pub fn in_range(value: i64, member: &str, lowest: i64, highest: i64) -> Result<i64, LambdaError> {
    if (lowest..=highest).contains(&value) {
        Ok(value)
    } else {
        Err(range_error(value, member, lowest, highest))
    }
}
