//! Which packages a recipe needs: the closure over dependencies, with some left out.

use std::collections::{BTreeMap, VecDeque};

use super::control::{Archive, Control};
use crate::error::BuildError;

/// Follows Depends and Pre-Depends from `wanted`. Names in `leave_out` are neither taken nor followed: a package's
/// installation scripts, which are never run here, are often the only ones that need them.
///
/// Of alternatives one that is taken already counts, else the first that the archive has. The result is sorted by name.
pub(crate) fn resolve<'a>(
    wanted: &[&str],
    leave_out: &[&str],
    archive: &'a Archive,
) -> Result<Vec<&'a Control>, BuildError> {
    let mut taken: BTreeMap<&str, &Control> = BTreeMap::new();
    // Alternatives, and who needs one of them.
    let mut open: VecDeque<(Vec<String>, Option<&str>)> =
        wanted.iter().map(|name| (vec![(*name).to_owned()], None)).collect();
    while let Some((alternatives, needed_by)) = open.pop_front() {
        let settled = |name: &String| leave_out.contains(&name.as_str()) || taken.contains_key(name.as_str());
        if alternatives.iter().any(settled) {
            continue;
        }
        let Some(control) = alternatives.iter().find_map(|name| archive.get(name)) else {
            let needed_by = needed_by.map(str::to_owned);
            return Err(BuildError::NoPackage { name: alternatives.join(" or "), needed_by });
        };
        taken.insert(&control.name, control);
        open.extend(control.depends.iter().map(|relation| (relation.clone(), Some(control.name.as_str()))));
    }
    Ok(taken.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive from lines such as `a: b, c|d`.
    fn archive(lines: &str) -> Archive {
        let digest = "ab".repeat(32);
        let text: String = lines
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(name, depends)| {
                format!("Package: {name}\nArchitecture: all\nSHA256: {digest}\nDepends:{depends}\n\n")
            })
            .collect();
        Archive::parse(&text)
    }

    fn names(wanted: &[&str], leave_out: &[&str], lines: &str) -> Vec<String> {
        let archive = archive(lines);
        let packages = resolve(wanted, leave_out, &archive).unwrap();
        packages.iter().map(|control| control.name.clone()).collect()
    }

    #[test]
    fn dependencies_are_followed_also_in_circles() {
        assert_eq!(names(&["a"], &[], "a: b, c\nb: a\nc: d\nd: \ne: "), ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_is_left_out_is_not_followed() {
        assert_eq!(names(&["a"], &["b"], "a: b, c|b\nb: d\nc: \nd: "), ["a"]);
    }

    #[test]
    fn alternatives_prefer_what_is_taken_and_then_what_exists() {
        assert_eq!(names(&["a", "c"], &[], "a: b|c, x|d\nb: \nc: \nd: "), ["a", "c", "d"]);
    }

    #[test]
    fn a_missing_package_names_who_needs_it() {
        let missing = resolve(&["a"], &[], &archive("a: b\nb: x | y")).unwrap_err().to_string();
        assert!(missing.contains("no package x or y, which b needs"), "{missing}");
    }
}
