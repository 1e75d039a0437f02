//! Debian control data: paragraphs of fields, and relations between packages (deb-control(5)).

use std::collections::HashMap;

use super::DebianPackage;

/// What is needed of a package's control paragraph.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Control {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Depends and Pre-Depends: for each, the alternatives in order.
    pub depends: Vec<Vec<String>>,
    /// SHA-256 of the package's file in hexadecimal; empty when no archive has the file.
    pub sha256: String,
}

/// Packages by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive(HashMap<String, Control>);

impl Archive {
    /// Reads paragraphs as `apt-cache dumpavail` writes them. Packages for other machines, and those that are installed
    /// but can't be downloaded, are left out; of several paragraphs with one name the first counts.
    pub(crate) fn parse(text: &str) -> Self {
        let mut packages = HashMap::new();
        for paragraph in text.split("\n\n") {
            let control = Control::parse(paragraph);
            let usable =
                matches!(control.architecture.as_str(), "amd64" | "all") && control.sha256.len() == 64;
            if usable && !control.name.is_empty() {
                packages.entry(control.name.clone()).or_insert(control);
            }
        }
        Self(packages)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Control> {
        self.0.get(name)
    }
}

impl Control {
    fn parse(paragraph: &str) -> Self {
        let mut control = Self::default();
        // Continuation lines start with a blank and belong to fields that are not needed here.
        for line in paragraph.lines().filter(|line| !line.starts_with([' ', '\t'])) {
            let Some((field, value)) = line.split_once(':') else { continue };
            let text = || value.trim().to_owned();
            match field {
                "Package" => control.name = text(),
                "Version" => control.version = text(),
                "Architecture" => control.architecture = text(),
                "SHA256" => control.sha256 = text().to_ascii_lowercase(),
                "Depends" | "Pre-Depends" => control.depends.extend(relations(value)),
                _ => {}
            }
        }
        control
    }

    /// The exact package, under the file name that `apt-get download` gives it: a version's epoch comes before a colon,
    /// which apt writes as `%3a`.
    pub(crate) fn package(&self) -> DebianPackage {
        let version = self.version.replace(':', "%3a");
        DebianPackage {
            name: self.name.clone(),
            version: self.version.clone(),
            file: format!("{}_{version}_{}.deb", self.name, self.architecture),
            sha256: self.sha256.clone(),
        }
    }
}

/// `a (>= 1) | b, c:any` becomes `[[a, b], [c]]`. Versions are not looked at: one archive fits together.
fn relations(value: &str) -> impl Iterator<Item = Vec<String>> {
    value.split(',').filter_map(|relation| {
        let alternatives: Vec<String> = relation
            .split('|')
            .filter_map(|alternative| alternative.split_whitespace().next())
            .map(|name| name.split([':', '(']).next().unwrap_or(name).to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        (!alternatives.is_empty()).then_some(alternatives)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn paragraphs_are_read() {
        let text = format!(
            "Package: bash\nVersion: 1:5.2\nArchitecture: amd64\nPre-Depends: libc6 (>= 2.36), libtinfo6 (>= 6)\n\
             Description-en: shell\n Depends: nothing\nDepends: base-files (>= 2.1.12), awk | mawk:any|gawk\n\
             SHA256: {0}\n\nPackage: bash\nVersion: 5.1\nArchitecture: amd64\nSHA256: {0}\n",
            digest()
        );
        let archive = Archive::parse(&text);
        let bash = archive.get("bash").unwrap();
        assert_eq!(bash.version, "1:5.2");
        let depends: Vec<_> = bash.depends.iter().map(|alternatives| alternatives.join("|")).collect();
        assert_eq!(depends, ["libc6", "libtinfo6", "base-files", "awk|mawk|gawk"]);
        assert_eq!(bash.package().file, "bash_1%3a5.2_amd64.deb");
    }

    #[test]
    fn what_can_not_be_downloaded_or_run_is_left_out() {
        let text = format!(
            "Package: installed-only\nArchitecture: amd64\n\nPackage: foreign\nArchitecture: i386\nSHA256: {}\n",
            digest()
        );
        let archive = Archive::parse(&text);
        assert_eq!((archive.get("installed-only"), archive.get("foreign")), (None, None));
    }

    proptest! {
        #[test]
        fn anything_parses_without_harm(text in "(Package|Depends|: |\n|\n\n|,|\\||\\(|a){0,40}") {
            let control = Control::parse(&text);
            prop_assert!(control.depends.iter().flatten().all(|name| !name.is_empty()));
        }
    }
}
