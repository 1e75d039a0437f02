//! The recipes: what goes into which runtime.

use crate::error::BuildError;

/// Debian packages whose only use is for installation scripts, which are never run, or that every dependency chain
/// ends in without needing them at run time.
const NEVER: [&str; 10] = [
    "debconf",
    "debconf-2.0",
    "debianutils",
    "dpkg",
    "openssl",
    "perl-base",
    "awk",
    "python3",
    "libgcc1",
    "install-info",
];

/// How to make a runtime.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// Its name, which is that of the AWS runtime it stands for.
    pub name: &'static str,
    /// Its name with the release of Debian that its packages are of, which means the same.
    pub full_name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Debian packages that are wanted.
    pub(crate) debian: &'static [&'static str],
    /// More of them, that the user wants.
    pub(crate) more_debian: Vec<String>,
    /// Their dependencies that are left out.
    pub(crate) leave_out: &'static [&'static str],
    /// Its Python, when it has one.
    pub(crate) python: Option<PythonRecipe>,
    /// Files of our own: path and content.
    pub(crate) files: &'static [OwnFile],
    /// Symbolic links of our own: path and target.
    pub(crate) links: &'static [(&'static str, &'static str)],
    /// Environment variables that every function in it gets.
    pub(crate) environment: &'static [(&'static str, &'static str)],
}

/// A file that a recipe adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OwnFile {
    pub path: &'static str,
    pub content: &'static str,
    pub executable: bool,
}

/// A recipe's Python.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PythonRecipe {
    /// The interpreter's name, such as `python3.11`.
    pub interpreter: &'static str,
    /// Requirements installed into /var/runtime, beside the runtime client.
    pub client: &'static [&'static str],
    /// Requirements of the user, installed where `import` finds them after a function's own.
    pub packages: Vec<String>,
}

/// PATH and LD_LIBRARY_PATH as on AWS, less the folders of AWS's own interpreter.
const PATH: (&str, &str) = ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin");
const LIBRARIES: (&str, &str) =
    ("LD_LIBRARY_PATH", "/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib");

static RECIPES: [Recipe; 3] = [
    Recipe {
        name: "python3.11",
        full_name: "debian12-python3.11",
        about: "Debian's CPython 3.11 with awslambdaric",
        debian: &[
            "base-files",
            "ca-certificates",
            "dash",
            "libgcc-s1",
            "libpython3.11-stdlib",
            "libstdc++6",
            "python3.11-minimal",
            "tzdata",
        ],
        more_debian: Vec::new(),
        leave_out: &NEVER,
        python: Some(PythonRecipe {
            interpreter: "python3.11",
            client: &["awslambdaric==4.2.2", "snapshot_restore_py==1.0.0"],
            packages: Vec::new(),
        }),
        files: &[
            OwnFile {
                path: "var/runtime/bootstrap",
                content: include_str!("files/python3.11-bootstrap"),
                executable: true,
            },
            OwnFile {
                path: "var/runtime/faasnap_runtime.py",
                content: include_str!("files/faasnap_runtime.py"),
                executable: false,
            },
        ],
        links: &[("usr/bin/sh", "dash"), ("usr/bin/python3", "python3.11")],
        environment: &[PATH, LIBRARIES, ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11")],
    },
    Recipe {
        name: "provided.al2023",
        full_name: "debian12-provided.al2023",
        about: "C library, certificates and a shell, for functions that bring their own bootstrap",
        debian: &["base-files", "bash", "ca-certificates", "libgcc-s1", "libstdc++6", "tzdata", "zlib1g"],
        more_debian: Vec::new(),
        leave_out: &NEVER,
        python: None,
        files: &[],
        // On Amazon Linux 2023 /bin/sh is bash, too.
        links: &[("usr/bin/sh", "bash")],
        environment: &[PATH, LIBRARIES],
    },
    Recipe {
        name: "nodejs",
        full_name: "debian12-nodejs",
        about: "Node.js as apt offers it, with a small runtime client of our own",
        debian: &["base-files", "ca-certificates", "dash", "libgcc-s1", "libstdc++6", "nodejs", "tzdata"],
        more_debian: Vec::new(),
        leave_out: &NEVER,
        python: None,
        files: &[
            OwnFile {
                path: "var/runtime/bootstrap",
                content: include_str!("files/nodejs-bootstrap"),
                executable: true,
            },
            OwnFile {
                path: "var/runtime/client.mjs",
                content: include_str!("files/nodejs-client.mjs"),
                executable: false,
            },
        ],
        links: &[("usr/bin/sh", "dash")],
        environment: &[PATH, LIBRARIES, ("NODE_PATH", "/opt/nodejs/node_modules:/var/runtime/node_modules")],
    },
];

/// All recipes.
pub fn recipes() -> impl Iterator<Item = &'static Recipe> {
    RECIPES.iter()
}

impl Recipe {
    /// The recipe with that name, or with that full name.
    pub fn by_name(name: &str) -> Option<Self> {
        recipes().find(|recipe| recipe.name == name || recipe.full_name == name).cloned()
    }

    /// The same recipe with more Debian packages.
    ///
    /// # Errors
    /// [`BuildError::DebianName`] for what can't be a package's name, since apt would take an option.
    pub fn with_debian(mut self, packages: &[String]) -> Result<Self, BuildError> {
        for package in packages {
            // deb-control(5): lower-case letters, digits, plus, minus and full stop, a letter or digit first.
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
            let first = package.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            if !first || !package.bytes().all(plain) {
                return Err(BuildError::DebianName(package.clone()));
            }
        }
        self.more_debian = packages.to_vec();
        self.more_debian.sort();
        Ok(self)
    }

    /// Every Debian package that is wanted.
    pub(crate) fn wanted(&self) -> Vec<&str> {
        self.debian.iter().copied().chain(self.more_debian.iter().map(String::as_str)).collect()
    }

    /// The same recipe with more Python packages, as pip names them.
    ///
    /// # Errors
    /// [`BuildError::NoPython`] when it has no Python; [`BuildError::Requirement`] for anything but a name with an optional
    /// version, since pip would take a path, an address or an option.
    pub fn with_packages(mut self, packages: &[String]) -> Result<Self, BuildError> {
        if packages.is_empty() {
            return Ok(self);
        }
        let Some(python) = &mut self.python else { return Err(BuildError::NoPython { recipe: self.name }) };
        for package in packages {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-[]=<>!~,*+".contains(letter);
            if !package.starts_with(|first: char| first.is_ascii_alphanumeric())
                || !package.chars().all(plain)
            {
                return Err(BuildError::Requirement(package.clone()));
            }
        }
        python.packages = packages.to_vec();
        python.packages.sort();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_found_by_name() {
        for Recipe { name, full_name, about, .. } in recipes() {
            assert_eq!(*full_name, format!("debian12-{name}"));
            assert_eq!(Recipe::by_name(name).unwrap().about, *about);
            assert_eq!(Recipe::by_name(full_name), Recipe::by_name(name));
        }
        assert_eq!(Recipe::by_name("python2"), None);
    }

    #[test]
    fn only_plain_names_reach_apt() {
        let ask = |text: &str| Recipe::by_name("provided.al2023").unwrap().with_debian(&[text.to_owned()]);
        let recipe = ask("libstdc++6").unwrap();
        assert!(recipe.wanted().contains(&"libstdc++6") && recipe.wanted().contains(&"bash"));
        for bad in ["", "-y", "--reinstall", "a=1", "a b", "../x", "A"] {
            assert!(matches!(ask(bad), Err(BuildError::DebianName(_))), "{bad}");
        }
    }

    #[test]
    fn only_plain_requirements_reach_pip() {
        let python = || Recipe::by_name("python3.11").unwrap();
        let ask = |text: &str| python().with_packages(&[text.to_owned()]);
        for good in ["numpy", "numpy==2.1.0", "pillow>=10,<12", "requests[socks]"] {
            assert!(ask(good).is_ok(), "{good}");
        }
        for bad in ["", "-r/etc/passwd", "--pre", "./evil", "git+https://x/y", "a b", "/tmp/x.whl", "n\u{e4}"]
        {
            assert!(matches!(ask(bad), Err(BuildError::Requirement(_))), "{bad}");
        }
        let plain = Recipe::by_name("provided.al2023").unwrap();
        assert!(matches!(plain.with_packages(&["numpy".to_owned()]), Err(BuildError::NoPython { .. })));
    }
}
