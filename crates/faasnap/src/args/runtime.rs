//! `faasnap runtime`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Subcommand};
use store::RuntimeName;

use super::OutputArguments;
use super::exec::GuestKind;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  faasnap runtime build python3.11
  faasnap runtime import mine root.tar.gz
  faasnap runtime list
  faasnap runtime show python3.11 --verify
  faasnap runtime rm python3.11")]
pub(crate) enum RuntimeCommand {
    /// Build a runtime from Debian packages (and AWS's runtime client from the Python package index)
    Build(BuildRuntime),
    /// Take a root file system from a folder or a tar, such as `docker export` writes
    Import(ImportRuntime),
    /// List the runtimes
    #[command(visible_alias = "ls")]
    List(OutputArguments),
    /// Show what a runtime is made of
    Show {
        /// The runtime
        name: RuntimeName,
        /// Read every file and compare with the recorded digest; exit status 1 when something has changed
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Remove runtimes; functions that run right now are not disturbed
    Rm {
        /// The runtimes
        #[arg(required = true)]
        names: Vec<RuntimeName>,
        /// Also when functions use them; those can't run until a runtime of that name is there again
        #[arg(long)]
        force: bool,
    },
}

fn recipes() -> PossibleValuesParser {
    PossibleValuesParser::new(
        runtime_builder::recipes()
            .map(|recipe| PossibleValue::new(recipe.name).alias(recipe.full_name).help(recipe.about)),
    )
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs apt-get and dpkg-deb (Debian, Ubuntu), but no root: packages are downloaded into the home's cache and \
unpacked there, nothing on this machine is installed or changed. A runtime that is up to date is not built again.

Examples:
  faasnap runtime build python3.11
  faasnap runtime build python3.11 --name science --package numpy --package pillow==11.0.0
  faasnap runtime build python3.11 --guest linux
  faasnap runtime build provided.al2023
  faasnap runtime build provided.al2023 --name tools --debian sqlite3 --debian lua5.4")]
pub(crate) struct BuildRuntime {
    /// What to build; `debian12-` may stand before it
    #[arg(value_parser = recipes(), value_name = "RECIPE")]
    pub(crate) recipe: String,
    /// A name of its own [default: the recipe's, as it is given]
    #[arg(long)]
    pub(crate) name: Option<RuntimeName>,
    /// A Python package to add, as pip names it; may be repeated
    #[arg(long = "package", value_name = "PACKAGE")]
    pub(crate) packages: Vec<String>,
    /// A Debian package to add, with what it depends on; may be repeated
    #[arg(long = "debian", value_name = "PACKAGE")]
    pub(crate) debian: Vec<String>,
    /// What its functions will run in; for linux guests an image of the root file system is made, too
    #[arg(long, value_enum, default_value_t = GuestKind::Process)]
    pub(crate) guest: GuestKind,
    /// Build again although nothing has changed, for newer versions of --package, say
    #[arg(long)]
    pub(crate) rebuild: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The root needs what AWS Lambda's base images have: a program at /var/runtime/bootstrap, unless the function \
brings its own at /var/task/bootstrap.

Examples:
  docker export $(docker create my-image) | gzip > root.tar.gz
  faasnap runtime import my-runtime root.tar.gz
  faasnap runtime import my-runtime ./rootfs --env AWS_EXECUTION_ENV=my_runtime")]
pub(crate) struct ImportRuntime {
    /// Its name
    pub(crate) name: RuntimeName,
    /// A folder, or a tar (plain or gzip)
    pub(crate) source: PathBuf,
    /// An environment variable for every function in it; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = super::values::variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Take the place of a runtime of that name
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
