//! `faasnap function`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use store::{FunctionName, Handler, KernelName, MemoryMegabytes, RuntimeName, TimeoutSeconds, TmpMegabytes};

use super::exec::GuestKind;
use super::{OutputArguments, kernel, values};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  faasnap function create hello --runtime python3.11 --handler app.handler --code ./hello
  faasnap function list
  faasnap function show hello --verify
  faasnap function rm hello")]
pub(crate) enum FunctionCommand {
    /// Create a function from a folder or a zip
    Create(CreateFunction),
    /// List the functions
    #[command(visible_alias = "ls")]
    List(OutputArguments),
    /// Show a function's settings, code and layers
    Show {
        /// The function
        name: FunctionName,
        /// Read every file and compare with the recorded digests; exit status 1 when something has changed
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Remove functions with their snapshots; instances that run right now are not disturbed
    Rm {
        /// The functions
        #[arg(required = true)]
        names: Vec<FunctionName>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Limits are those of AWS Lambda: code and layers unpack to at most 262144000 bytes, environment variables take at \
most 4 KB, there are at most 5 layers. A zip may not hold paths with '..' or absolute ones, symbolic links that \
leave it, or a name twice.

Examples:
  faasnap function create hello --runtime python3.11 --handler app.handler --code ./hello
  faasnap function create thumbs --runtime python3.11 --handler app.handler --code thumbs.zip \\
      --layer pillow.zip --memory 512 --timeout 30 --env BUCKET=pictures
  faasnap function create forks --runtime python3.11 --handler app.handler --code ./forks --guest linux --memory 256
  faasnap function create rusty --runtime provided.al2023 --handler bootstrap --code ./target/lambda/rusty")]
pub(crate) struct CreateFunction {
    /// Its name: 1 to 64 of a-z, A-Z, 0-9, '-' and '_'
    pub(crate) name: FunctionName,
    /// The runtime it runs in; see `faasnap runtime list`
    #[arg(long)]
    pub(crate) runtime: RuntimeName,
    /// What it runs in
    #[arg(long, value_enum, default_value_t = GuestKind::Process)]
    pub(crate) guest: GuestKind,
    /// The stored kernel that a linux guest boots; see `faasnap kernel list`
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT)]
    pub(crate) kernel: KernelName,
    /// What the runtime calls; for Python MODULE.FUNCTION
    #[arg(long, value_parser = values::handler)]
    pub(crate) handler: Handler,
    /// Its code: a folder, or a zip as for AWS Lambda; seen at /var/task
    #[arg(long, value_name = "DIR-OR-ZIP")]
    pub(crate) code: PathBuf,
    /// Its memory in MB, 128 to 10240
    #[arg(long, value_name = "MB", default_value_t = MemoryMegabytes::DEFAULT, value_parser = values::memory)]
    pub(crate) memory: MemoryMegabytes,
    /// The size of its /tmp in MB, 512 to 10240
    #[arg(long, value_name = "MB", default_value_t = TmpMegabytes::DEFAULT, value_parser = values::tmp)]
    pub(crate) tmp: TmpMegabytes,
    /// How long one invocation may take, in seconds, 1 to 900
    #[arg(long, value_name = "SECONDS", default_value_t = TimeoutSeconds::DEFAULT, value_parser = values::timeout)]
    pub(crate) timeout: TimeoutSeconds,
    /// An environment variable; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = values::variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Let it open connections to the outside: TCP and UDP to public addresses and to those that --allow-network of `serve` or
    /// `invoke` names; the same as the tag faasnap:network=outbound
    #[arg(long)]
    pub(crate) network: bool,
    /// A layer, a folder or a zip, seen at /opt; up to 5, the files of a later one win
    #[arg(long = "layer", value_name = "DIR-OR-ZIP")]
    pub(crate) layers: Vec<PathBuf>,
    /// Take the place of a function of that name; snapshots that no longer fit go
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
