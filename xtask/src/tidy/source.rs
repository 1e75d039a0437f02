//! One source file, as rustfmt leaves it.

use std::path::Path;

/// A file's text with the product part told from the tests.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The folder below `crates/`, or `xtask`.
    pub(super) fn crate_name(&self) -> &'a str {
        let mut parts = self.path.iter().filter_map(|part| part.to_str());
        match parts.next() {
            Some("crates") => parts.next().unwrap_or_default(),
            Some(other) => other,
            None => "",
        }
    }

    /// `src/lib.rs` or `src/main.rs`.
    pub(super) fn is_crate_root(&self) -> bool {
        self.path.ends_with("src/lib.rs") || self.path.ends_with("src/main.rs")
    }

    /// Whether the whole file is tests.
    pub(super) fn is_test(&self) -> bool {
        let name = self.path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        name == "tests" || self.path.iter().any(|part| part == "tests" || part == "benches")
    }

    /// The lines before the file's `mod tests`, which rustfmt leaves at the end by habit of this project.
    pub(super) fn product_lines(&self) -> Vec<&'a str> {
        if self.is_test() {
            return Vec::new();
        }
        self.text.lines().take_while(|line| *line != "#[cfg(test)]").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_and_tests_are_told_apart() {
        let text = "//! Head.\nfn a() {}\n\n#[cfg(test)]\nmod tests {}\n";
        let source = Source::new(Path::new("crates/store/src/home.rs"), text);
        assert_eq!((source.crate_name(), source.product_lines().len()), ("store", 3));
        assert!(!source.is_crate_root() && !source.is_test());
        let tests = Source::new(Path::new("crates/store/tests/home.rs"), text);
        assert!(tests.is_test() && tests.product_lines().is_empty());
        assert!(Source::new(Path::new("xtask/src/main.rs"), text).is_crate_root());
    }
}
