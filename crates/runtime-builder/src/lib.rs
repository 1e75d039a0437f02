//! Root file systems for functions, made from a distribution's packages.
//!
//! A [`Recipe`] names Debian packages, what to leave out of their dependencies, Python packages, and the files that make
//! the result look like AWS Lambda's execution environment. [`plan`] resolves it into exact versions without
//! fetching them; [`build`] fetches and unpacks. Everything runs as an ordinary user and nothing on the host is
//! changed: apt downloads into a cache folder, `dpkg-deb` only lists archives' content, and Python's packages are
//! installed by the very interpreter that was just unpacked, started by its own loader.
//!
//! Architecture invariant: this crate knows neither the home directory nor functions; it is given folders.
#![forbid(unsafe_code)]

mod build;
mod certificates;
mod command;
mod debian;
mod error;
mod kernel;
mod plan;
mod progress;
mod python;
mod recipe;
mod skeleton;

pub use build::{Built, build};
pub use debian::DebianPackage;
pub use error::BuildError;
pub use kernel::{DebianKernel, debian_kernel, debian_package};
pub use plan::{Plan, plan};
pub use progress::{Progress, Silent};
pub use python::PythonPackage;
pub use recipe::{PythonRecipe, Recipe, recipes};
