//! How functions are named: names, partial ARNs, ARNs, qualifiers.

use crate::error::{ErrorKind, LambdaError};
use crate::validation::pattern_error;

/// The pattern of AWS's model that error texts quote.
const FUNCTION_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";
/// The same for qualifiers.
pub const QUALIFIER_PATTERN: &str = r"(|[a-zA-Z0-9$_-]+)";

/// Whose functions these are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The region that the node stands for.
    pub region: String,
    /// Twelve digits.
    pub number: String,
}

impl Account {
    /// The ARN of a function.
    pub fn function(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.number)
    }

    /// The ARN of a function's version or alias.
    pub fn qualified(&self, name: &str, qualifier: &str) -> String {
        format!("{}:{qualifier}", self.function(name))
    }

    /// The ARN of a layer.
    pub fn layer(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:layer:{name}", self.region, self.number)
    }

    /// Name and version of a layer version's ARN.
    pub fn parse_layer_version(&self, arn: &str) -> Option<(String, u64)> {
        let rest = arn.strip_prefix(&self.layer(""))?;
        let (name, version) = rest.split_once(':')?;
        Some((name.to_owned(), version.parse().ok()?))
    }
}

/// A function as a request names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionReference {
    /// Its name, well formed.
    pub name: String,
    /// Version or alias; `None` when none was given.
    pub qualifier: Option<String>,
}

impl FunctionReference {
    /// Reads a name, a partial ARN or an ARN, and joins it with the qualifier of the query.
    ///
    /// # Errors
    /// [`ErrorKind::Validation`] for what is no name, [`ErrorKind::InvalidParameterValue`] when there are two qualifiers
    /// that differ, [`ErrorKind::ResourceNotFound`] for another region or account.
    pub fn parse(text: &str, qualifier: Option<&str>, account: &Account) -> Result<Self, LambdaError> {
        let malformed = || pattern_error(text, "functionName", FUNCTION_PATTERN);
        if text.len() > 256 {
            return Err(malformed());
        }
        let mut rest = text;
        if let Some(partition) = text.strip_prefix("arn:") {
            let (_, after) = partition
                .split_once(":lambda:")
                .filter(|(partition, _)| is_partition(partition))
                .ok_or_else(malformed)?;
            let (region, after) = after.split_once(':').ok_or_else(malformed)?;
            if region != account.region {
                let own = &account.region;
                let message = format!("Functions from '{region}' are not reachable in this region ('{own}')");
                return Err(LambdaError::new(ErrorKind::ResourceNotFound, message));
            }
            rest = after;
        }
        let mut foreign = false;
        if let Some((number, after)) = rest.split_once(':')
            && number.len() == 12
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && after.starts_with("function:")
        {
            foreign = number != account.number;
            rest = after;
        }
        if let Some(after) = rest.strip_prefix("function:") {
            rest = after;
        } else if text.starts_with("arn:") {
            return Err(malformed());
        }
        let (name, own) = match rest.split_once(':') {
            Some((name, own)) => (name, Some(own)),
            None => (rest, None),
        };
        if !is_word(name) || own.is_some_and(|own| own != "$LATEST" && !is_word(own)) {
            return Err(malformed());
        }
        if name.len() > 64 {
            let message = format!(
                "1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: \
                 Member must have length less than or equal to 64"
            );
            return Err(LambdaError::new(ErrorKind::Validation, message));
        }
        if foreign {
            return Err(LambdaError::function_not_found(text));
        }
        let given = qualifier.filter(|qualifier| !qualifier.is_empty());
        if let Some(given) = given {
            let fits = given.len() <= 128
                && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"$_-".contains(&byte));
            if !fits {
                return Err(pattern_error(given, "qualifier", QUALIFIER_PATTERN));
            }
        }
        match (own, given) {
            (Some(own), Some(given)) if own != given => Err(LambdaError::invalid(
                "The derived qualifier from the function name does not match the specified qualifier.",
            )),
            _ => Ok(Self { name: name.to_owned(), qualifier: own.or(given).map(str::to_owned) }),
        }
    }
}

/// `aws`, `aws-cn` and so on.
fn is_partition(text: &str) -> bool {
    text.is_empty()
        || (text.starts_with("aws") && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> Account {
        Account { region: "us-east-1".to_owned(), number: "000000000000".to_owned() }
    }

    fn parse(text: &str, qualifier: Option<&str>) -> Result<(String, Option<String>), LambdaError> {
        FunctionReference::parse(text, qualifier, &account()).map(|found| (found.name, found.qualifier))
    }

    #[test]
    fn all_forms_of_a_name_are_read() {
        let named = |qualifier: Option<&str>| Ok(("f".to_owned(), qualifier.map(str::to_owned)));
        for text in
            ["f", "function:f", "000000000000:function:f", "arn:aws:lambda:us-east-1:000000000000:function:f"]
        {
            assert_eq!(parse(text, None), named(None), "{text}");
            assert_eq!(parse(&format!("{text}:live"), None), named(Some("live")), "{text}");
            assert_eq!(parse(&format!("{text}:$LATEST"), Some("$LATEST")), named(Some("$LATEST")));
            assert_eq!(parse(text, Some("7")), named(Some("7")));
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_aws_s_words() {
        let kind = |text: &str, qualifier| parse(text, qualifier).unwrap_err().kind;
        assert_eq!(kind("f:1", Some("2")), ErrorKind::InvalidParameterValue);
        assert_eq!(
            kind("arn:aws:lambda:eu-west-1:000000000000:function:f", None),
            ErrorKind::ResourceNotFound
        );
        assert_eq!(
            kind("arn:aws:lambda:us-east-1:111111111111:function:f", None),
            ErrorKind::ResourceNotFound
        );
        for text in [
            "",
            "a b",
            "a/b",
            "f:1:2",
            "f:",
            ":f",
            "arn:aws:s3:us-east-1:0:function:f",
            "arn:aws:lambda:us-east-1:000000000000:layer:f",
            "é",
            &"x".repeat(65),
            &"x".repeat(300),
        ] {
            assert_eq!(kind(text, None), ErrorKind::Validation, "{text}");
        }
        assert_eq!(kind("f", Some("a b")), ErrorKind::Validation);
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_well_formed(text in "[a-z0-9:$%/.A-Z_-]{0,80}") {
            if let Ok((name, _)) = parse(&text, None) {
                prop_assert!(is_word(&name) && name.len() <= 64);
            }
        }
    }
}
