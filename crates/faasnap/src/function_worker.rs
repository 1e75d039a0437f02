//! A function's worker process, as the command line uses it: one worker, one instance, one thing after the other.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use restore::{Phase, RestoreStrategy, Timeline};
use runtime_api::environment::{FunctionEnvironment, InitializationType};
use serde_bytes::ByteBuf;
use store::OpenFunction;
use uuid::Uuid;
use worker_protocol::{
    Answer, Attached, Booted, Configuration, Failure, FromWorker, GuestKind, Invoke, Limits, LogStream,
    Mount, NetworkPolicy, NodeChannel, Received, RestoreRequest, Restored, RuntimeService, Snapshotted,
    ToWorker, pair,
};

/// How long init may take (AWS Lambda's figure).
pub(crate) const INIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a restore with its hooks may take (AWS Lambda's figure).
const RESTORE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a function's /tmp.
const TMP_BYTES: u64 = 512 << 20;
/// RLIMIT_NPROC and RLIMIT_NOFILE as AWS Lambda has them.
const TASKS: u32 = 1024;
const OPEN_FILES: u32 = 1024;
/// How long beyond its own limits a worker may be silent before it is given up.
const GRACE: Duration = Duration::from_secs(15);
/// The region that functions are told they are in.
const REGION: &str = "us-east-1";
const VERSION: &str = "$LATEST";

/// Where a function's program is looked for, in this order.
const BOOTSTRAPS: [&str; 3] = ["/var/runtime/bootstrap", "/var/task/bootstrap", "/opt/bootstrap"];

/// A worker could not do what it was asked: what it said.
#[derive(Debug, thiserror::Error)]
#[error("the instance failed: {}", .0.message)]
pub(crate) struct WorkerFailure(pub(crate) Failure);

/// A worker process with one function.
pub(crate) struct FunctionWorker {
    channel: NodeChannel,
    child: Child,
    show_log: bool,
    timeout: Duration,
    function_name: String,
    /// From the request on.
    timeline: Timeline,
}

impl FunctionWorker {
    /// Starts a worker and configures it for `function`; `timeline` began with the request. `snap_start`: the runtime
    /// is told that it will be snapshotted.
    pub(crate) fn start(
        function: &OpenFunction,
        snap_start: bool,
        show_log: bool,
        timeline: Timeline,
    ) -> Result<Self> {
        let (channel, socket) = pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("faasnap")
            .arg("worker")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .spawn()
            .context("starting a worker")?;
        let config = &function.function.config;
        let timeout = Duration::from_secs(config.timeout.get().into());
        let function_name = function.function.name.to_string();
        let mut worker = Self { channel, child, show_log, timeout, function_name, timeline };
        let (configuration, attached) = configuration(function, snap_start)?;
        worker.channel.sender.send(&ToWorker::Configure(Box::new(configuration)), attached)?;
        match worker.answer(Duration::ZERO)? {
            FromWorker::Ready => {}
            other => bail!(unexpected(&other)),
        }
        worker.timeline.reached(Phase::WorkerReady);
        Ok(worker)
    }

    /// Boots the function.
    pub(crate) fn boot(&mut self) -> Result<Booted> {
        self.channel.sender.send(&ToWorker::Boot, Attached::default())?;
        match self.answer(INIT_LIMIT)? {
            FromWorker::Booted(booted) => Ok(booted),
            other => bail!(unexpected(&other)),
        }
    }

    /// Restores the function from the snapshot in `directory`; with `record` its pages are recorded for the strategies
    /// that use recordings and have none.
    pub(crate) fn restore(
        &mut self,
        directory: &Path,
        strategy: RestoreStrategy,
        record: bool,
    ) -> Result<Restored> {
        let mut attached = Attached::default();
        let snapshot = attached.attach(open_directory(directory)?);
        let record_into = match record {
            true => Some(attached.attach(open_directory(directory)?)),
            false => None,
        };
        let request =
            RestoreRequest { snapshot, strategy: strategy.name().to_owned(), record_into, credentials: None };
        self.channel.sender.send(&ToWorker::Restore(request), attached)?;
        match self.answer(RESTORE_LIMIT)? {
            FromWorker::Restored(restored) => Ok(restored),
            other => bail!(unexpected(&other)),
        }
    }

    /// Invokes the function once.
    pub(crate) fn invoke(&mut self, request_id: &str, payload: Vec<u8>) -> Result<Answer> {
        let invoke = Invoke {
            request_id: request_id.to_owned(),
            payload: ByteBuf::from(payload),
            timeout: self.timeout,
            invoked_function_arn: format!(
                "arn:aws:lambda:{REGION}:000000000000:function:{}",
                self.function_name
            ),
            trace_id: None,
            client_context: None,
            cognito_identity: None,
            tenant_id: None,
            streaming: false,
        };
        self.channel.sender.send(&ToWorker::Invoke(Box::new(invoke)), Attached::default())?;
        match self.answer(self.timeout)? {
            FromWorker::Answered(answer) => Ok(*answer),
            other => bail!(unexpected(&other)),
        }
    }

    /// Writes a snapshot below `parent`, as [`instance::SNAPSHOT_NAME`].
    pub(crate) fn snapshot(&mut self, parent: &Path) -> Result<Snapshotted> {
        let mut attached = Attached::default();
        let into = attached.attach(open_directory(parent)?);
        self.channel.sender.send(&ToWorker::Snapshot { into }, attached)?;
        match self.answer(Duration::from_secs(600))? {
            FromWorker::Snapshotted(snapshotted) => Ok(snapshotted),
            other => bail!(unexpected(&other)),
        }
    }

    /// The request's timeline with what the worker measured, whose clock is this machine's too.
    pub(crate) fn timeline(&self, measured: &worker_protocol::Timeline) -> Result<Timeline> {
        let mut whole: Timeline = postcard::from_bytes(&measured.0).context("reading a worker's timeline")?;
        let shift = whole.request_at_ns.saturating_sub(self.timeline.request_at_ns);
        for phase in &mut whole.phases {
            phase.start_ns = phase.start_ns.saturating_add(shift);
            phase.end_ns = phase.end_ns.saturating_add(shift);
        }
        whole.request_at_ns = self.timeline.request_at_ns;
        let mut phases = self.timeline.phases.clone();
        phases.append(&mut whole.phases);
        phases.sort_by_key(|phase| phase.end_ns);
        whole.phases = phases;
        Ok(whole)
    }

    /// Ends the instance and waits until its process is gone.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.channel.sender.send(&ToWorker::Stop, Attached::default())?;
        while let Some(received) = self.channel.receiver.receive_within(GRACE)? {
            if let FromWorker::Log { stream, bytes } = received.message {
                self.log(stream, &bytes);
            }
        }
        self.child.wait().context("waiting for the worker's end")?;
        Ok(())
    }

    /// The next message that is no log, within `limit` and some grace.
    fn answer(&mut self, limit: Duration) -> Result<FromWorker> {
        loop {
            match self.channel.receiver.receive_within(limit + GRACE)? {
                None => bail!("the worker ended without an answer (a defect): {}", self.how_it_ended()),
                Some(Received { message: FromWorker::Log { stream, bytes }, .. }) => self.log(stream, &bytes),
                Some(Received { message: FromWorker::Failed(failure), .. }) => {
                    return Err(WorkerFailure(failure).into());
                }
                Some(Received { message, .. }) => return Ok(message),
            }
        }
    }

    fn how_it_ended(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        // What the worker itself has to say is no part of the function's log.
        if self.show_log || stream == LogStream::Worker {
            // A log that nobody reads is no reason to stop.
            let _ = io::stderr().write_all(bytes);
        }
    }
}

impl Drop for FunctionWorker {
    fn drop(&mut self) {
        // Either fails when the worker has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(message: &FromWorker) -> anyhow::Error {
    match message {
        FromWorker::Exited(exit) => anyhow!("the function's program ended while it waited: {exit:?}"),
        _ => anyhow!("the worker answered out of turn (a defect)"),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).with_context(|| format!("opening {}", path.display()))?.into())
}

fn configuration(function: &OpenFunction, snap_start: bool) -> Result<(Configuration, Attached)> {
    let mut attached = Attached::default();
    let mut attach = |fd: &OwnedFd| -> Result<_> { Ok(attached.attach(fd.try_clone()?)) };
    let root = attach(&function.runtime.directory)?;
    let mount = |source, target: &str| Mount { source, target: bytes(target), writable: false };
    let mut mounts = vec![mount(attach(&function.code.directory)?, "/var/task")];
    if let Some(layers) = &function.layers {
        mounts.push(mount(attach(&layers.directory)?, "/opt"));
    }
    let program = bootstrap(function)?;
    let token = Uuid::new_v4().simple().to_string();
    let config = &function.function.config;
    let configuration = Configuration {
        guest: GuestKind::Process,
        kvm: None,
        root,
        mounts,
        program: bytes(program),
        arguments: vec![bytes(program)],
        environment: environment(function, snap_start, &token),
        working_directory: bytes("/var/task"),
        inherited: Vec::new(),
        limits: Limits {
            memory: config.memory.bytes(),
            tmp: TMP_BYTES,
            tasks: TASKS,
            open_files: OPEN_FILES,
            init_timeout: INIT_LIMIT,
            restore_timeout: RESTORE_LIMIT,
        },
        network: NetworkPolicy::Loopback,
        runtime: Some(RuntimeService {
            snap_start,
            authorization_token: snap_start.then_some(token),
            version: VERSION.to_owned(),
            runtime_version: config.runtime.to_string(),
        }),
    };
    Ok((configuration, attached))
}

fn bytes(text: &str) -> ByteBuf {
    ByteBuf::from(text.as_bytes())
}

/// The function's program: the first of [`BOOTSTRAPS`] that is there.
fn bootstrap(function: &OpenFunction) -> Result<&'static str> {
    let there = |path: &&'static str| {
        let (folder, inside) = match path {
            path if path.starts_with("/var/task/") => (Some(&function.code.path), "bootstrap"),
            path if path.starts_with("/opt/") => {
                (function.layers.as_ref().map(|layers| &layers.path), "bootstrap")
            }
            _ => (Some(&function.runtime.path), "var/runtime/bootstrap"),
        };
        folder.is_some_and(|folder| folder.join(inside).symlink_metadata().is_ok())
    };
    BOOTSTRAPS.into_iter().find(there).with_context(|| {
        format!(
            "function {} has nothing to run: neither its runtime {} nor its code nor a layer has a bootstrap",
            function.function.name, function.function.config.runtime
        )
    })
}

fn environment(function: &OpenFunction, snap_start: bool, token: &str) -> Vec<(ByteBuf, ByteBuf)> {
    let config = &function.function.config;
    let name = function.function.name.as_str();
    // The runtime's variables are like the user's: they win over defaults, never over what identifies the function.
    let own = FunctionEnvironment {
        function_name: name,
        function_version: VERSION,
        memory_size_mb: config.memory.get().into(),
        handler: config.handler.as_str(),
        region: REGION,
        managed_runtime: None,
        log_group: &format!("/aws/lambda/{name}"),
        log_stream: &format!("[{VERSION}]{}", Uuid::new_v4().simple()),
        initialization_type: match snap_start {
            true => InitializationType::SnapStart,
            false => InitializationType::OnDemand,
        },
        authorization_token: Some(token),
        credentials: None,
        json_logs: false,
        log_level: None,
        user: &function.environment(),
    };
    own.variables().into_iter().map(|(name, value)| (bytes(&name), bytes(&value))).collect()
}
