//! A home with functions whose code is a word, and a pool whose workers obey it.

pub mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instance_pool::{
    Call, Deployed, LogReceiver, LogStream, Pool, PoolSettings, Refused, Reply, Statistics, StreamingReply,
};
use parking_lot::Mutex;
use registry::Status;
use store::{
    CodeSource, Environment, FunctionConfig, Guest, Handler, MemoryMegabytes, NewFunction, RuntimeOrigin,
    Settings, Store, TimeoutSeconds, TmpMegabytes, WhenPresent,
};

pub struct World {
    folder: tempfile::TempDir,
    pub store: Store,
    pub pool: Pool,
    log: Arc<Log>,
}

/// Everything that workers wrote.
#[derive(Default)]
struct Log(Mutex<String>);

impl LogReceiver for Log {
    fn receive(&self, _: &Deployed, _: &str, _: LogStream, bytes: &[u8]) {
        self.0.lock().push_str(&String::from_utf8_lossy(bytes));
    }
}

impl World {
    /// Within a runtime.
    pub fn new(settings: PoolSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("home")).unwrap();
        let staging = store.stage_runtime().unwrap();
        let bootstrap = staging.root().join("var/runtime/bootstrap");
        fs::create_dir_all(bootstrap.parent().unwrap()).unwrap();
        fs::write(bootstrap, "").unwrap();
        let origin = RuntimeOrigin::Imported { from: PathBuf::from("/somewhere") };
        let name = "test".parse().unwrap();
        staging.publish(&name, origin, BTreeMap::new(), WhenPresent::Refuse).unwrap();
        let worker_program = Some(std::env::current_exe().unwrap());
        let log = Arc::new(Log::default());
        let settings = PoolSettings { worker_program, ..settings };
        let pool = Pool::start(settings, store.clone(), log.clone());
        Self { folder, store, pool, log }
    }

    /// A function whose workers behave as `behaviour` says; see [`worker`].
    pub fn function(&self, name: &str, behaviour: &str) -> Arc<Deployed> {
        let code = self.folder.path().join(format!("code-{name}"));
        fs::create_dir_all(&code).unwrap();
        let config = FunctionConfig {
            runtime: "test".parse().unwrap(),
            handler: Handler::try_from(behaviour.to_owned()).unwrap(),
            memory: MemoryMegabytes::DEFAULT,
            timeout: TimeoutSeconds::try_from(5).unwrap(),
            tmp: TmpMegabytes::DEFAULT,
            environment: Environment::default(),
            guest: Guest::Process,
        };
        let new = NewFunction {
            name: name.parse().unwrap(),
            config,
            settings: Settings::default(),
            code: CodeSource::detect(&code).unwrap(),
            layers: Vec::new(),
            tags: BTreeMap::new(),
            status: Status::active(),
        };
        self.store.create_function(&new, WhenPresent::Replace).unwrap();
        let open = self.store.open_function(&new.name).unwrap();
        let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
        Arc::new(Deployed::new(open, "$LATEST".to_owned(), arn, false, true))
    }

    /// Invokes at once, whether the result is awaited or not.
    pub fn invoke(
        &self,
        function: &Arc<Deployed>,
        payload: &str,
    ) -> impl Future<Output = Result<Reply, Refused>> + Send + use<> {
        let (pool, function, call) = (self.pool.clone(), function.clone(), call(function, payload));
        let call = tokio::spawn(async move { pool.invoke(function, call).await });
        async move { call.await.unwrap() }
    }

    pub async fn stream(&self, function: &Arc<Deployed>, payload: &str) -> Result<StreamingReply, Refused> {
        self.pool.invoke_streaming(function.clone(), call(function, payload)).await
    }

    /// How many times workers ran `what`.
    pub fn runs(&self, what: &str) -> usize {
        let line = format!("RAN {what}");
        self.log.0.lock().lines().filter(|found| *found == line).count()
    }

    /// Waits until the pool's statistics are as wished.
    pub async fn until(&self, wished: impl Fn(Statistics) -> bool) {
        while !wished(self.pool.statistics()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Kills all workers of this process, spare ones too.
pub fn kill_workers() {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        for worker in children.split_whitespace() {
            let worker = rustix::process::Pid::from_raw(worker.parse().unwrap()).unwrap();
            // It may just have ended.
            let _ = rustix::process::kill_process(worker, rustix::process::Signal::KILL);
        }
    }
}

pub fn call(function: &Deployed, payload: &str) -> Call {
    Call {
        request_id: uuid::Uuid::new_v4().to_string(),
        payload: payload.as_bytes().to_vec(),
        invoked_function_arn: function.arn.clone(),
        trace_id: None,
        client_context: None,
        tenant_id: None,
    }
}
