//! How asynchronous events are handled: event invoke configurations.

use lambda_api::{
    Destination, DestinationConfig, ErrorKind, EventConfig, EventConfigRequest, LambdaError, parse,
    validation,
};
use registry::EventInvokeConfig;
use serde_json::json;

use crate::answer::{Answer, Failed};
use crate::node::Node;
use crate::reading::with_next;
use crate::request::{ApiRequest, Target};

impl Node {
    fn event_answer(&self, target: &Target, config: &EventInvokeConfig) -> EventConfig {
        EventConfig {
            last_modified: config.modified_ms as f64 / 1e3,
            function_arn: self.account.qualified(target.name.as_str(), &config.qualifier),
            maximum_retry_attempts: config.maximum_retries,
            maximum_event_age_in_seconds: config.maximum_age_seconds,
            destination_config: DestinationConfig {
                on_success: Destination { destination: config.on_success.clone() },
                on_failure: Destination { destination: config.on_failure.clone() },
            },
        }
    }

    fn no_event_config(&self, target: &Target, qualifier: &str) -> LambdaError {
        let arn = self.account.qualified(target.name.as_str(), qualifier);
        LambdaError::new(
            ErrorKind::ResourceNotFound,
            format!("The function {arn} doesn't have an EventInvokeConfig"),
        )
    }

    /// Put replaces what there is, Update changes what is given.
    pub(crate) fn put_event_config(&self, request: &ApiRequest, update: bool) -> Result<Answer, LambdaError> {
        let body: EventConfigRequest = parse(&request.body)?;
        let target = request.target(self)?;
        self.record_of(&target)?;
        let qualifier = target.qualifier.clone().unwrap_or_else(|| "$LATEST".to_owned());
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let registry = self.store.registry();
        let before = registry.event_config(&target.name, &qualifier).map_err(failed)?;
        let mut config = match (update, before) {
            (true, Some(before)) => before,
            (true, None) => return Err(self.no_event_config(&target, &qualifier)),
            (false, _) => EventInvokeConfig::default(),
        };
        if !update
            && body.maximum_retry_attempts.is_none()
            && body.maximum_event_age_in_seconds.is_none()
            && body.destination_config.is_none()
        {
            return Err(LambdaError::invalid(
                "You must specify at least one of error handling or destination setting.",
            ));
        }
        if let Some(retries) = body.maximum_retry_attempts {
            let retries = validation::in_range(retries, "maximumRetryAttempts", 0, 2)?;
            config.maximum_retries = u32::try_from(retries).ok();
        }
        if let Some(age) = body.maximum_event_age_in_seconds {
            let age = validation::in_range(age, "maximumEventAgeInSeconds", 60, 21_600)?;
            config.maximum_age_seconds = u32::try_from(age).ok();
        }
        if let Some(destinations) = &body.destination_config {
            let check = |destination: &Destination, member| {
                self.destination(destination.destination.as_deref(), member)
            };
            config.on_success = check(&destinations.on_success, "destinationConfig.onSuccess.destination")?;
            config.on_failure = check(&destinations.on_failure, "destinationConfig.onFailure.destination")?;
            let own = Some(target.plain_arn(self));
            if config.on_success == own || config.on_failure == own {
                return Err(LambdaError::invalid(
                    "You can't specify the function as a destination for itself.",
                ));
            }
        }
        config.qualifier = qualifier;
        let stored = registry.put_event_config(&target.name, config).map_err(failed)?;
        Answer::json(&self.event_answer(&target, &stored))
    }

    pub(crate) fn get_event_config(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.record_of(&target)?;
        let qualifier = target.qualifier.clone().unwrap_or_else(|| "$LATEST".to_owned());
        let found = self.store.registry().event_config(&target.name, &qualifier);
        let found = found.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        Answer::json(
            &self.event_answer(&target, &found.ok_or_else(|| self.no_event_config(&target, &qualifier))?),
        )
    }

    pub(crate) fn delete_event_config(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let qualifier = target.qualifier.clone().unwrap_or_else(|| "$LATEST".to_owned());
        let removed = self.store.registry().remove_event_config(&target.name, &qualifier);
        match removed.map_err(|error| Failed::from(error).into_error(&target.arn(self)))? {
            true => Ok(Answer::empty()),
            false => Err(self.no_event_config(&target, &qualifier)),
        }
    }

    pub(crate) fn list_event_configs(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let page = self
            .store
            .registry()
            .event_configs_page(&target.name, request.marker(), request.page_size(50)?)
            .map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        let configs: Vec<_> = page.items.iter().map(|config| self.event_answer(&target, config)).collect();
        Answer::json(&with_next("FunctionEventInvokeConfigs", json!(configs), page.next))
    }
}
