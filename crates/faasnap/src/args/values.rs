//! Values with rules of their own: parsed here, so that a mistake shows where it was typed.

use std::collections::BTreeMap;

use store::{
    Environment, EnvironmentProblem, Handler, MemoryMegabytes, SettingProblem, TimeoutSeconds, TmpMegabytes,
};

/// A number of MB for a function.
pub(crate) fn memory(text: &str) -> Result<MemoryMegabytes, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is no number of MB: write 256, say"))?;
    MemoryMegabytes::try_from(number).map_err(|problem: SettingProblem| problem.to_string())
}

/// A number of MB for /tmp.
pub(crate) fn tmp(text: &str) -> Result<TmpMegabytes, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is no number of MB: write 1024, say"))?;
    TmpMegabytes::try_from(number).map_err(|problem: SettingProblem| problem.to_string())
}

/// A number of seconds for an invocation.
pub(crate) fn timeout(text: &str) -> Result<TimeoutSeconds, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is no number of seconds: write 30, say"))?;
    TimeoutSeconds::try_from(number).map_err(|problem: SettingProblem| problem.to_string())
}

/// What the runtime calls.
pub(crate) fn handler(text: &str) -> Result<Handler, String> {
    Handler::try_from(text.to_owned()).map_err(|problem| problem.to_string())
}

/// One `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} has no '=': write NAME=VALUE"))
}

/// All variables together, under Lambda's rules. Of two with one name the last counts.
pub(crate) fn environment(variables: Vec<(String, String)>) -> Result<Environment, EnvironmentProblem> {
    Environment::new(variables.into_iter().collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_say_what_to_write() {
        assert!(memory("lots").unwrap_err().contains("write 256"));
        assert!(memory("64").unwrap_err().contains("128 to 10240"));
        assert!(tmp("511").unwrap_err().contains("512 to 10240"));
        assert!(timeout("1h").unwrap_err().contains("seconds"));
        assert!(variable("NAME").unwrap_err().contains("NAME=VALUE"));
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
    }
}
