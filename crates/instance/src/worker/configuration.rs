//! From the node's configuration to what a function's guest is made from.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use guest_init::wire::{Network, Start};
use initramfs::Module;
use process_kernel::fs::{MountEntry, MountSource, MountTable};
use process_kernel::task::Identity;
use restore::{RestoreStrategy, Technique, Techniques};
use runtime_api::{Config, Credentials};
use worker_protocol::{
    BOOT_LIMIT, Configuration, Descriptor, Descriptors, GuestKind, Kernel, NetworkPolicy, Record,
    RestoreRequest,
};

use crate::function_guest::{FunctionConfig, directory_name};
use crate::guest::GuestConfig;
use crate::linux_function::{BootFiles, LinuxConfig};
use crate::mounts::{private_trees, resolver_file};
use crate::restored::RestoreOptions;
use crate::runtime_bridge::PORT;

/// A configured worker.
pub(super) struct Configured {
    pub guest: GuestConfig,
    /// How long a kernel may take to boot before init begins.
    pub boot_timeout: Duration,
    pub init_timeout: Duration,
    pub restore_timeout: Duration,
    /// The function's version, for the START line.
    pub version: String,
    /// The function's memory in MB, for the REPORT line.
    pub memory_mb: u64,
}

/// Takes a configuration apart. What this worker can't do is refused in words, never left out.
pub(super) fn read(
    configuration: &Configuration,
    descriptors: &mut Descriptors,
) -> Result<Configured, String> {
    let Configuration { limits, runtime, inherited, .. } = configuration;
    if !inherited.is_empty() {
        return Err("this worker hands no descriptors on".to_owned());
    }
    let Some(runtime) = runtime else {
        return Err("this worker runs functions; programs are run by `faasnap exec` itself".to_owned());
    };
    let api = Config {
        snap_start: runtime.snap_start,
        authorization_token: runtime.authorization_token.clone(),
        ..Config::default()
    };
    let credentials = runtime.credentials.clone().map(|credentials| Credentials {
        access_key_id: credentials.access_key_id,
        secret_access_key: credentials.secret_access_key,
        token: credentials.token,
        expiration: credentials.expiration,
    });
    let guest = match configuration.guest {
        GuestKind::Process => GuestConfig::Process(process(configuration, api, credentials, descriptors)?),
        GuestKind::Linux => GuestConfig::Linux(linux(configuration, api, credentials, descriptors)?),
    };
    Ok(Configured {
        guest,
        boot_timeout: if configuration.guest == GuestKind::Linux { BOOT_LIMIT } else { Duration::ZERO },
        init_timeout: limits.init_timeout,
        restore_timeout: limits.restore_timeout,
        version: runtime.version.clone(),
        memory_mb: limits.memory >> 20,
    })
}

fn process(
    configuration: &Configuration,
    runtime: Config,
    credentials: Option<Credentials>,
    descriptors: &mut Descriptors,
) -> Result<FunctionConfig, String> {
    let mut directories: Vec<OwnedFd> = Vec::new();
    let relay = relay(configuration, descriptors)?;
    let mut pass = |descriptor: Descriptor| -> Result<MountSource, String> {
        let path = directory_name(directories.len());
        directories.push(descriptors.take(descriptor).map_err(|error| error.to_string())?);
        Ok(MountSource::HostDirectory { path, hidden: Vec::new(), cross_devices: false })
    };
    let Configuration { root, mounts, limits, .. } = configuration;
    let mut table = vec![MountEntry { at: "/".to_owned(), source: pass(*root)?, writable: false }];
    table.extend(private_trees(limits.tmp));
    table.push(resolver_file());
    for mount in mounts {
        let at = String::from_utf8(mount.target.to_vec()).map_err(|_| "a mount's path is not UTF-8")?;
        table.push(MountEntry { at, source: pass(mount.source)?, writable: mount.writable });
    }
    Ok(FunctionConfig {
        mounts: MountTable(table),
        directories,
        identity: identity(),
        memory_limit: limits.memory,
        relay,
        program: configuration.program.to_vec(),
        arguments: configuration.arguments.iter().map(|argument| argument.to_vec()).collect(),
        environment: configuration
            .environment
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        working_directory: configuration.working_directory.to_vec(),
        runtime,
        credentials,
    })
}

/// The way to the relay of outbound connections, for a function that may have any.
fn relay(configuration: &Configuration, descriptors: &mut Descriptors) -> Result<Option<OwnedFd>, String> {
    match &configuration.network {
        NetworkPolicy::Loopback => Ok(None),
        NetworkPolicy::Outbound { relay } => {
            descriptors.take(*relay).map(Some).map_err(|error| error.to_string())
        }
    }
}

/// As whom a function runs, and where it believes to be.
fn identity() -> Identity {
    Identity { hostname: "localhost".to_owned(), ..Identity::default() }
}

/// A linux guest's directories are images of file systems; the program's own path is its first argument.
fn linux(
    configuration: &Configuration,
    runtime: Config,
    credentials: Option<Credentials>,
    descriptors: &mut Descriptors,
) -> Result<LinuxConfig, String> {
    let Configuration { root, mounts, scratch, limits, .. } = configuration;
    if mounts.iter().any(|mount| mount.writable) {
        return Err("a linux guest shares no directory that it may write".to_owned());
    }
    let scratch = scratch.ok_or("a linux guest needs a file for its own disk")?;
    let scratch = descriptors.take(scratch).map_err(|error| error.to_string())?;
    let relay = relay(configuration, descriptors)?;
    let images = std::iter::once(*root).chain(mounts.iter().map(|mount| mount.source));
    let disks =
        images.map(|image| descriptors.take(image).map(File::from).map_err(|error| error.to_string()));
    let network = relay.as_ref().map(|_| Network {
        address: guest_network::GUEST.octets(),
        prefix: guest_network::PREFIX,
        gateway: guest_network::GATEWAY.octets(),
    });
    let identity = identity();
    let arguments = configuration.arguments.iter().skip(1);
    Ok(LinuxConfig {
        disks: disks.collect::<Result<_, _>>()?,
        scratch: scratch.into(),
        relay,
        start: Start {
            hostname: identity.hostname.into_bytes(),
            user: identity.uid,
            group: identity.gid,
            directory: configuration.working_directory.to_vec(),
            arguments: std::iter::once(&configuration.program)
                .chain(arguments)
                .map(|text| text.to_vec())
                .collect(),
            environment: configuration
                .environment
                .iter()
                .map(|(name, value)| [name.as_slice(), b"=", value].concat())
                .collect(),
            mounts: mounts.iter().map(|mount| mount.target.to_vec()).collect(),
            tmp_disk: true,
            network,
            resolver: outbound::resolver_configuration().into_bytes(),
            memory_limit: limits.memory,
            tmp_limit: limits.tmp,
            task_limit: limits.tasks.into(),
            descriptor_limit: limits.open_files.into(),
            served_port: PORT,
            ..Start::default()
        },
        runtime,
        credentials,
    })
}

/// Reads what a linux guest boots.
pub(super) fn boot_files(kernel: Kernel, descriptors: &mut Descriptors) -> Result<BootFiles, String> {
    let mut read = |file| {
        let mut content = Vec::new();
        let mut file = File::from(descriptors.take(file).map_err(|error| error.to_string())?);
        file.read_to_end(&mut content).map_err(|error| format!("reading the kernel: {error}"))?;
        Ok::<_, String>(content)
    };
    let image = read(kernel.image)?;
    let modules = kernel
        .modules
        .into_iter()
        .map(|module| Ok(Module { name: module.name, content: read(module.file)? }))
        .collect::<Result<_, String>>()?;
    Ok(BootFiles { image, modules, command_line: kernel.command_line })
}

/// How the snapshot is to be restored. Names that this worker doesn't know are refused.
pub(super) fn restore_options(request: &RestoreRequest) -> Result<RestoreOptions, String> {
    let strategy: RestoreStrategy =
        request.strategy.parse().map_err(|error: restore::UnknownStrategy| error.to_string())?;
    let mut techniques = Techniques::default();
    for name in &request.without {
        let technique: Technique =
            name.parse().map_err(|error: restore::UnknownTechnique| error.to_string())?;
        techniques = techniques.without(technique);
    }
    if !request.without.is_empty() && strategy != RestoreStrategy::FaaSnap {
        return Err(format!("the {strategy} strategy has no techniques to do without: only faasnap has"));
    }
    if request.verify && request.record != Record::No {
        return Err(
            "comparing all of memory touches all of it: such an invocation can't be recorded".to_owned()
        );
    }
    Ok(RestoreOptions {
        strategy,
        techniques,
        random_access: request.random_access,
        record: request.record,
        verify: request.verify,
    })
}
