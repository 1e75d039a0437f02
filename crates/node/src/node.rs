//! What the handlers of requests share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use event_queue::EventQueue;
use instance_pool::{Call, Deployed, LogTap, Pool, Refused, Reply};
use lambda_api::Account;
use node_metrics::Metrics;
use parking_lot::Mutex;
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::asynchronous::Deliverer;
use crate::body::Bodies;
use crate::credentials::Credentials;
use crate::deployments::Deployments;
use crate::internal::CodeUrls;

/// What whoever starts a node decides.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The region that the node stands for.
    pub region: String,
    /// The account that the node stands for: twelve digits.
    pub account: String,
    /// Whose signatures are accepted; `None` accepts requests without one.
    pub credentials: Option<Credentials>,
    /// Whether `$LATEST` and versions without SnapStart are snapshotted too.
    pub automatic_snapshots: bool,
    /// Invocations that may run at once.
    pub concurrency: u32,
    /// Connections that there may be at once, for each of the node's sockets.
    pub connections: u32,
}

/// A node. A handle; clones mean the same one.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) store: Store,
    pub(crate) pool: Pool,
    pub(crate) account: Arc<Account>,
    pub(crate) settings: Arc<NodeSettings>,
    pub(crate) deployments: Arc<Deployments>,
    pub(crate) code_urls: Arc<CodeUrls>,
    pub(crate) events: EventQueue,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bodies: Bodies,
    /// Whether the node has begun to end; ends the delivery of events.
    stopping: watch::Sender<bool>,
    /// The delivery of events.
    delivery: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Node {
    /// A node over a home, a pool and a queue; takes up what an earlier one left in progress. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`store::StoreError`] when the registry can't be read.
    pub fn start(
        store: Store,
        pool: Pool,
        events: EventQueue,
        settings: NodeSettings,
    ) -> Result<Self, store::StoreError> {
        let account = Account { region: settings.region.clone(), number: settings.account.clone() };
        let node = Self {
            store,
            pool,
            account: Arc::new(account),
            settings: Arc::new(settings),
            deployments: Arc::default(),
            code_urls: Arc::new(CodeUrls::new()),
            events,
            metrics: Arc::default(),
            bodies: Bodies::new(),
            stopping: watch::Sender::new(false),
            delivery: Arc::default(),
        };
        node.reserve_all()?;
        node.resume()?;
        node.watch_registry();
        let (queue, mut stopping) = (node.events.clone(), node.stopping.subscribe());
        let deliverer = Arc::new(Deliverer(node.clone()));
        let stop = async move {
            // A sender that is gone means the same.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let delivery = tokio::spawn(async move { queue.run(deliverer, stop).await });
        *node.delivery.lock() = Some(delivery);
        Ok(node)
    }

    /// Runs a function, and counts it. All of its log goes to `log`, if somebody wants it.
    pub(crate) async fn run(
        &self,
        deployed: Arc<Deployed>,
        call: Call,
        log: Option<LogTap>,
    ) -> Result<Reply, Refused> {
        let name = deployed.name().clone();
        let outcome = self.pool.invoke_watched(deployed, call, log).await;
        match &outcome {
            Ok(reply) => self.metrics.replied(name.as_str(), reply),
            Err(refused) => self.metrics.refused(refused),
        }
        outcome
    }

    /// Begins to end: no more events are delivered, and whoever asks hears that the node is not ready.
    pub(crate) fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the node has begun to end.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Takes nothing new, and waits for what runs.
    pub(crate) async fn shut_down(&self) {
        self.begin_to_stop();
        let delivery = self.delivery.lock().take();
        if let Some(delivery) = delivery
            && let Err(error) = delivery.await
        {
            tracing::error!(%error, "the delivery of events failed (a defect)");
        }
        self.pool.shut_down().await;
    }
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
