//! `faasnap kernel`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use store::KernelName;

use super::OutputArguments;

/// The kernel that is used when nothing is said.
pub(crate) const DEFAULT: &str = "default";

/// Messages on the serial port, which faasnap reads; a guest that can't go on ends; there is no PCI; what is freed is cleared, so that
/// snapshots need not store it (docs/benchmarks.md, "Linux guests").
const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off init_on_free=1";

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// Take Debian's kernel for virtual machines, with the modules that guests need
    BuildFromDebian(BuildKernel),
    /// Take a kernel of your own: a bzImage or an ELF file (vmlinux)
    Import(ImportKernel),
    /// List the kernels
    #[command(visible_alias = "ls")]
    List(OutputArguments),
    /// Show where a kernel came from, what it loads, and its command line
    Show {
        /// The kernel
        #[arg(default_value = DEFAULT)]
        name: KernelName,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Change a kernel's command line, for guests that boot from now on
    Edit {
        /// The kernel
        #[arg(default_value = DEFAULT)]
        name: KernelName,
        /// Its new command line, all of it; `faasnap kernel show` has the present one
        #[arg(long, value_name = "TEXT")]
        command_line: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Remove kernels
    Rm {
        /// The kernels
        #[arg(required = true)]
        names: Vec<KernelName>,
    },
}

/// What every kernel is stored with.
#[derive(Debug, Args)]
pub(crate) struct StoredKernel {
    /// Its name
    #[arg(long, default_value = DEFAULT)]
    pub(crate) name: KernelName,
    /// Its command line, as in the kernel's own documentation (kernel-parameters.txt)
    #[arg(long, value_name = "TEXT", default_value = COMMAND_LINE)]
    pub(crate) command_line: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs apt-get and dpkg-deb (Debian, Ubuntu), but no root: the package is downloaded into the home's cache and \
unpacked there, nothing on this machine is installed or changed. A kernel of that name is replaced.

Examples:
  faasnap kernel build-from-debian
  faasnap kernel build-from-debian --command-line 'console=ttyS0 reboot=k panic=-1 pci=off init_on_free=0'")]
pub(crate) struct BuildKernel {
    #[command(flatten)]
    pub(crate) stored: StoredKernel,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A guest needs virtio devices over memory-mapped registers announced by ACPI (virtio_mmio, virtio_blk, vsock with \
its virtio transport, virtio_rng), erofs and overlayfs; for functions ext4, for a network virtio_net. What of these \
is not built into the kernel is taken from --modules, where modules must not be compressed.

Examples:
  faasnap kernel import vmlinux --name mine
  faasnap kernel import /boot/vmlinuz-6.1.0-48-cloud-amd64 --modules /lib/modules/6.1.0-48-cloud-amd64")]
pub(crate) struct ImportKernel {
    /// The bzImage or ELF file
    pub(crate) file: PathBuf,
    /// The folder with its modules [default: everything is built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,
    /// Put it in the place of a kernel of that name
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) stored: StoredKernel,
}
