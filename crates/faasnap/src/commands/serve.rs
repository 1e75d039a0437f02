//! `faasnap serve`.

use std::fs::File;
use std::io::{IsTerminal, stderr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use event_queue::{EventQueue, QueueSettings};
use function_log::{FunctionLogs, LogSettings};
use instance_pool::policy::Policy;
use instance_pool::{Deployed, LogReceiver, LogStream, Pool, PoolSettings};
use node::{Credentials, Node, NodeSettings, Server};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use store::{Retention, Store};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Outcome;
use crate::args::{Auth, ServeArguments};
use crate::output::{note, print};

pub(super) fn run(store: &Store, arguments: &ServeArguments) -> Result<Outcome> {
    if arguments.auth == Auth::None && !arguments.listen.ip().is_loopback() && !arguments.insecure {
        bail!(
            "--auth none on {} would let everybody who can reach it run code here: listen on 127.0.0.1, leave out \
             --auth none, or add --insecure",
            arguments.listen
        );
    }
    // From a first node that still runs this home would be taken away under its feet.
    let path = store.path().join("node.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("opening {}", path.display()))?;
    // A lock of this process alone: children on their way to becoming workers outlive a node that is killed, for a moment, and
    // flock(2)'s would be theirs, too.
    if fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a node serves {} already: stop it, or give --home another directory", store.path().display());
    }
    log();
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting")?;
    let store = store.clone().with_grace(Duration::from_secs(arguments.grace));
    runtime.block_on(serve(&store, arguments))?;
    Ok(Outcome::Good)
}

async fn serve(store: &Store, arguments: &ServeArguments) -> Result<()> {
    let path = arguments.credentials.clone().unwrap_or_else(|| store.path().join("credentials"));
    let credentials = match (arguments.auth, &arguments.credentials) {
        (Auth::None, _) => None,
        (Auth::Sigv4, Some(path)) => Some(Credentials::read(path)?),
        (Auth::Sigv4, None) => Some(Credentials::read_or_make(&path)?),
    };
    let settings = NodeSettings {
        region: arguments.region.clone(),
        account: arguments.account.clone(),
        credentials,
        automatic_snapshots: !arguments.no_automatic_snapshots,
        concurrency: arguments.concurrency,
        connections: arguments.connections,
    };
    store.registry().check()?;
    store.tidy()?;
    let pool_settings = PoolSettings {
        policy: Policy {
            keep: arguments.keep_alive.clone(),
            budget: arguments.memory_budget.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
        },
        concurrency: arguments.concurrency,
        automatic_snapshots: !arguments.no_automatic_snapshots,
        retention: Retention {
            quota: arguments.disk_quota.map(|mebibytes| mebibytes << 20),
            grace: Duration::from_secs(arguments.grace),
            ..Retention::default()
        },
        function_credentials: arguments.network.apply()?,
        ..PoolSettings::default()
    };
    // It is there before a function asks for it.
    outbound_relay::prepare()?;
    // A socket's path may have 107 bytes and a home's any number: the way there leads over a descriptor.
    let home = File::open(store.path()).context("opening the home")?;
    let socket = PathBuf::from(format!("/proc/self/fd/{}/node.sock", home.as_raw_fd()));
    let server = Server::bind(arguments.listen, Some(&socket)).await?;
    let address = server.address().context("reading the address")?;
    let logs = FunctionLogs::start(store.path(), LogSettings::default())?;
    let mut terminate = signal(SignalKind::terminate()).context("waiting for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for signals")?;
    let pool = Pool::start(pool_settings, store.clone(), Arc::new(Logs(logs)));
    let events = EventQueue::open(&store.path().join("events.sqlite"), QueueSettings::default()).await?;
    let node = Node::start(store.clone(), pool, events, settings)?;

    print(&format!("faasnap serves http://{address} with {}", store.path().display()))?;
    let region = &arguments.region;
    let line = match arguments.auth {
        Auth::Sigv4 => format!("AWS_SHARED_CREDENTIALS_FILE={} ", quoted(&path.display().to_string())),
        Auth::None => {
            note("--auth none: whoever can reach this address can run code here");
            "AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any ".to_owned()
        }
    };
    print(&format!(
        "  {line}AWS_DEFAULT_REGION={region} AWS_ENDPOINT_URL_LAMBDA=http://{address} aws lambda list-functions"
    ))?;
    print(&format!("  {}", jail::summary()))?;

    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: invocations under way end first; a second signal ends them too");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    };
    server.serve(node, stop).await;
    drop(home);
    Ok(())
}

/// Functions' logs go to files of their own, which `faasnap logs` reads.
struct Logs(FunctionLogs);

impl LogReceiver for Logs {
    fn receive(&self, function: &Deployed, instance: &str, _: LogStream, bytes: &[u8]) {
        self.0.write(function.name(), instance, bytes);
    }

    fn ended(&self, function: &Deployed, instance: &str) {
        self.0.ended(function.name(), instance);
    }

    fn when_kept(&self, then: Box<dyn FnOnce() + Send>) {
        self.0.when_written(then);
    }
}

/// Lets this process have as many descriptors as it may: connections and workers take some each. Workers have limits of their own.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}

fn log() {
    let filter = EnvFilter::try_from_env("FAASNAP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Someone may have set one up already; then that one stays.
    let _ = format.with_ansi(stderr().is_terminal()).try_init();
}

/// Text as a shell reads it.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
