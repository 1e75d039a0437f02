//! `faasnap doctor`.

use clap::Args;

use super::OutputArguments;

#[derive(Debug, Args)]
#[command(after_help = "\
Looks only; changes nothing but making the home directory when it is not there yet. Exit status 1 when functions \
can't run on this machine.")]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
