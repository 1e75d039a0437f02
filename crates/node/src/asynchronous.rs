//! Asynchronous invocations: taking events, and what the queue asks of the node when it delivers them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use event_queue::{Deliver, Delivery, NewEvent, QueuedEvent, RetryPolicy};
use instance_pool::{Call, Refused};
use lambda_api::{ErrorKind, LambdaError, Operation};
use registry::RegistryError;

use crate::answer::{Answer, chain};
use crate::invoke::{Checked, too_large};
use crate::node::Node;
use crate::request::{Target, parse_target};

/// Bytes of an asynchronous event: AWS's figure.
const EVENT: usize = event_queue::MAX_EVENT;

impl Node {
    /// Takes an event; it is on disk before this answers.
    pub(crate) async fn invoke_event(&self, checked: Checked) -> Result<Answer, LambdaError> {
        let Checked { target, call, .. } = checked;
        if call.payload.len() > EVENT {
            return Err(too_large(EVENT, Operation::Invoke));
        }
        // Whether it can be called at all; that its snapshot is still being made is the queue's to wait for.
        self.deployment(&target).await?;
        let event = NewEvent {
            request_id: call.request_id,
            target: queued(&target),
            payload: call.payload,
            client_context: None,
            trace_id: call.trace_id,
        };
        self.events.put(event).await.map_err(|error| {
            let error = chain(&error);
            tracing::error!(error, "an event can't be queued");
            LambdaError::new(ErrorKind::Service, format!("The event could not be stored: {error}"))
        })?;
        Ok(Answer { status: Some(202), ..Answer::empty() })
    }

    fn retry_policy(&self, target: &event_queue::Target) -> Result<RetryPolicy, RegistryError> {
        let mut policy = RetryPolicy::default();
        let Ok(name) = target.function.parse() else { return Ok(policy) };
        let registry = self.store.registry();
        let destination = |arn: Option<&str>| {
            let target = parse_target(self, arn?, None).ok()?;
            Some(queued(&target))
        };
        let qualifier = target.qualifier.as_deref().unwrap_or("$LATEST");
        if let Some(config) = registry.event_config(&name, qualifier)? {
            policy.retries = config.maximum_retries.unwrap_or(policy.retries);
            if let Some(seconds) = config.maximum_age_seconds {
                policy.max_age = Duration::from_secs(seconds.into());
            }
            policy.on_success = destination(config.on_success.as_deref());
            policy.on_failure = destination(config.on_failure.as_deref());
        }
        if policy.on_failure.is_none() {
            let version = target.qualifier.as_deref().and_then(|text| text.parse().ok());
            let function = registry.function(&name, version.unwrap_or(registry::Version::Latest))?;
            policy.on_failure = destination(function.settings.dead_letter.as_deref());
        }
        Ok(policy)
    }

    async fn deliver_event(&self, event: &QueuedEvent) -> Delivery {
        let NewEvent { request_id, target, payload, client_context, trace_id } = &event.event;
        let Ok(name) = target.function.parse() else { return Delivery::Gone };
        let target = Target { name, qualifier: target.qualifier.clone() };
        let deployed = match self.deployment(&target).await {
            Ok(deployed) => deployed,
            Err(error) if error.kind == ErrorKind::ResourceNotFound => return Delivery::Gone,
            Err(_) => return Delivery::TryLater,
        };
        if self.ready_for(&deployed).is_err() {
            return Delivery::TryLater;
        }
        let version = deployed.version.clone();
        let call = Call {
            request_id: request_id.clone(),
            payload: payload.clone(),
            invoked_function_arn: target.arn(self),
            trace_id: trace_id.clone(),
            client_context: client_context.clone(),
            tenant_id: None,
        };
        let outcome = self.run(deployed, call, None).await;
        // An event that is done has its log: who finds none would take it for lost.
        self.pool.log_kept().await;
        match outcome {
            Ok(reply) if reply.function_error.is_none() => {
                Delivery::Succeeded { payload: reply.payload, version: reply.version }
            }
            Ok(reply) => Delivery::Failed { payload: reply.payload, version: reply.version },
            Err(Refused::RestoreHook { payload, .. }) => Delivery::Failed { payload, version },
            Err(_) => Delivery::TryLater,
        }
    }
}

fn queued(target: &Target) -> event_queue::Target {
    event_queue::Target { function: target.name.to_string(), qualifier: target.qualifier.clone() }
}

/// A node as its queue sees it.
pub(crate) struct Deliverer(pub Node);

impl Deliver for Deliverer {
    fn policy(&self, target: &event_queue::Target) -> RetryPolicy {
        // Of a function that is gone, or whose settings can't be read now, the defaults hold.
        self.0.retry_policy(target).unwrap_or_default()
    }

    fn arn(&self, target: &event_queue::Target) -> String {
        self.0.account.qualified(&target.function, target.qualifier.as_deref().unwrap_or("$LATEST"))
    }

    fn deliver<'a>(&'a self, event: &'a QueuedEvent) -> Pin<Box<dyn Future<Output = Delivery> + Send + 'a>> {
        Box::pin(self.0.deliver_event(event))
    }
}
