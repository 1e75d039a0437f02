//! `faasnap exec --guest linux`.

use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use guest_init::wire::{Ended, Network, Start};
use initramfs::Module;
use linux_guest::{Card, Disk, Fittings, Hardware, KernelImage, Program, Scratch, Streams, initial_files};
use machine::Kvm;
use rustix::process::{getgid, getuid};
use store::{Store, TmpMegabytes};

use super::Outcome;
use crate::args::{ExecArguments, Tap};
use crate::output::note;

const SIGKILL: u8 = 9;

/// Runs a program in a linux guest of its own.
pub(super) fn run(store: &Store, arguments: ExecArguments) -> Result<Outcome> {
    linux_guest::check_machine()?;
    let Some(root) = &arguments.root else {
        bail!("a linux guest needs --root: a folder with a root file system, or an image of one");
    };
    if !arguments.binds.is_empty() {
        bail!("a linux guest has no --bind: it shares no folder with this machine");
    }
    if !arguments.network && !arguments.reach.says_nothing() {
        bail!("--allow-network and --name-server are what --network goes by: give that as well");
    }
    let kernel = store.open_kernel(&arguments.kernel)?;
    let module = |module: store::KernelModule| Module { name: module.name, content: module.content };
    let modules: Vec<Module> = kernel.modules.into_iter().map(module).collect();
    let mut environment = vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec(), b"HOME=/tmp".to_vec()];
    for (name, value) in &arguments.environment {
        environment.push(format!("{name}={value}").into_bytes());
    }
    let directory = arguments.cwd.as_deref().unwrap_or(Path::new("/"));
    let console: Option<Box<dyn io::Write + Send>> =
        if arguments.verbose { Some(Box::new(io::stderr())) } else { None };
    let own_disk = arguments.tmp.map(|size| own_disk(store, size)).transpose()?;
    let card = card(&arguments)?;
    let network = card.as_ref().map(|_| Network {
        address: guest_network::GUEST.octets(),
        prefix: guest_network::PREFIX,
        gateway: guest_network::GATEWAY.octets(),
    });
    let program = Program {
        hardware: Hardware {
            memory_mib: u64::from(arguments.memory),
            processors: 1,
            fittings: Fittings {
                disks: std::iter::once(disk(store, root)?).chain(own_disk).collect(),
                card,
                console,
            },
        },
        kernel: KernelImage::new(kernel.image)?,
        initial_files: initial_files(&modules, network.is_some())?,
        command_line: kernel.record.command_line,
        start: Start {
            hostname: rustix::system::uname().nodename().to_bytes().to_vec(),
            user: getuid().as_raw(),
            group: getgid().as_raw(),
            directory: directory.as_os_str().as_bytes().to_vec(),
            arguments: arguments.program.into_iter().map(OsStringExt::into_vec).collect(),
            environment,
            tmp_disk: arguments.tmp.is_some(),
            network,
            // Otherwise the root has its own.
            resolver: match arguments.network {
                true => outbound::resolver_configuration().into_bytes(),
                false => Vec::new(),
            },
            ..Start::default()
        },
    };
    let streams = Streams {
        input: Box::new(io::stdin()),
        output: Box::new(io::stdout()),
        error: Box::new(io::stderr()),
    };
    let end = program.run(&Kvm::open()?, streams)?;
    if arguments.verbose {
        let took = end.took.as_millis();
        note(&format!("the machine was made and booted and the program had ended within {took} ms"));
    }
    Ok(Outcome::Status(match end.ended {
        Ended::Status(status) => status,
        Ended::Signal(signal) => super::exec::KILLED.saturating_add(signal),
        Ended::OutOfMemory => super::exec::KILLED.saturating_add(SIGKILL),
    }))
}

/// An image as it is; of a folder, one is made that is gone afterwards.
fn disk(store: &Store, root: &Path) -> Result<Disk> {
    if !root.is_dir() {
        let file = File::open(root).with_context(|| format!("opening {}", root.display()))?;
        return Ok(Disk::shared(file));
    }
    let staging = store.stage_runtime()?;
    let path = staging.scratch().join("root");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let identifier = *uuid::Uuid::new_v4().as_bytes();
    erofs_image::write_image(root, &mut file, &path, identifier)
        .with_context(|| format!("making an image of {}", root.display()))?;
    // The file lives on without its name for as long as it is open.
    drop(staging);
    Ok(Disk::shared(file))
}

/// What is its /tmp: an empty file system, gone with the guest.
fn own_disk(store: &Store, size: TmpMegabytes) -> Result<Disk> {
    let file = store.scratch()?;
    ext4_image::write_empty(&file, size.bytes()).context("making the disk for /tmp")?;
    let disk = Scratch::new(file, None).context("making the disk for /tmp")?;
    Ok(Disk::Private(Arc::new(disk)))
}

/// Its network card, if it has one: on a tap device, or with frames that end in this process.
fn card(arguments: &ExecArguments) -> Result<Option<Card>> {
    let link = match &arguments.tap {
        Some(Tap { device, namespace }) => jail::tap(device, namespace.as_deref()).context(
            "--tap takes a tap device that is there and that nobody uses, this user's or as root: ip tuntap add tap0 mode tap",
        )?,
        None if arguments.network => {
            outbound_relay::configure(arguments.reach.settings())?;
            let relay = outbound::Client::new(outbound_relay::prepare()?.connect()?);
            guest_network::start(relay).context("making the guest's network")?
        }
        None => return Ok(None),
    };
    Ok(Some(Card { link, address: guest_network::GUEST_MAC }))
}
