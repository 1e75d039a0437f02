//! `faasnap worker`, as a node starts it.

use clap::Args;
use jail::Confinement;

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// The namespaces it was started in
    #[arg(long)]
    pub(crate) jail: Confinement,
    /// Names of the descriptors from 3 on, in order
    #[arg(long)]
    pub(crate) passed: Vec<String>,
}
