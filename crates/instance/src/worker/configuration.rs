//! From the node's configuration to what a function's guest is made from.

use std::os::fd::OwnedFd;
use std::time::Duration;

use process_kernel::fs::{MountEntry, MountSource, MountTable};
use process_kernel::task::Identity;
use restore::{RestoreStrategy, Technique, Techniques};
use runtime_api::Config;
use worker_protocol::{
    Configuration, Descriptor, Descriptors, GuestKind, NetworkPolicy, Record, RestoreRequest,
};

use crate::function_guest::{FunctionConfig, directory_name};
use crate::mounts::private_trees;
use crate::restored::RestoreOptions;

/// A configured worker.
pub(super) struct Configured {
    pub function: FunctionConfig,
    pub init_timeout: Duration,
    pub restore_timeout: Duration,
    /// The function's version, for the START line.
    pub version: String,
    /// The function's memory in MB, for the REPORT line.
    pub memory_mb: u64,
}

/// Takes a configuration apart. What this worker can't do is refused in words, never left out.
pub(super) fn read(
    configuration: Configuration,
    descriptors: &mut Descriptors,
) -> Result<Configured, String> {
    let Configuration { guest, root, mounts, limits, network, runtime, inherited, .. } = &configuration;
    if *guest != GuestKind::Process {
        return Err("this worker has no Linux guest yet, only the process guest".to_owned());
    }
    if *network != NetworkPolicy::Loopback {
        return Err("this worker can't give a guest a way out to the network yet".to_owned());
    }
    if !inherited.is_empty() {
        return Err("this worker hands no descriptors on".to_owned());
    }
    let Some(runtime) = runtime else {
        return Err("this worker runs functions; programs are run by `faasnap exec` itself".to_owned());
    };
    let mut directories: Vec<OwnedFd> = Vec::new();
    let mut pass = |descriptor: Descriptor| -> Result<MountSource, String> {
        let path = directory_name(directories.len());
        directories.push(descriptors.take(descriptor).map_err(|error| error.to_string())?);
        Ok(MountSource::HostDirectory { path, hidden: Vec::new(), cross_devices: false })
    };
    let mut table = vec![MountEntry { at: "/".to_owned(), source: pass(*root)?, writable: false }];
    table.extend(private_trees(limits.tmp));
    for mount in mounts {
        let at = String::from_utf8(mount.target.to_vec()).map_err(|_| "a mount's path is not UTF-8")?;
        table.push(MountEntry { at, source: pass(mount.source)?, writable: mount.writable });
    }
    let function = FunctionConfig {
        mounts: MountTable(table),
        directories,
        identity: Identity { hostname: "localhost".to_owned(), ..Identity::default() },
        memory_limit: limits.memory,
        program: configuration.program.to_vec(),
        arguments: configuration.arguments.iter().map(|argument| argument.to_vec()).collect(),
        environment: configuration
            .environment
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        working_directory: configuration.working_directory.to_vec(),
        runtime: Config {
            snap_start: runtime.snap_start,
            authorization_token: runtime.authorization_token.clone(),
            ..Config::default()
        },
    };
    Ok(Configured {
        function,
        init_timeout: limits.init_timeout,
        restore_timeout: limits.restore_timeout,
        version: runtime.version.clone(),
        memory_mb: limits.memory >> 20,
    })
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
