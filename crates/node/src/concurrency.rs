//! Reserved concurrency.

use lambda_api::{ConcurrencyRequest, LambdaError, parse, validation};
use serde_json::json;

use crate::answer::{Answer, Failed};
use crate::functions::latest_only;
use crate::node::Node;
use crate::request::ApiRequest;

/// What must stay for functions that reserve nothing: AWS's figure.
const UNRESERVED: u64 = 100;

impl Node {
    pub(crate) fn put_concurrency(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: ConcurrencyRequest = parse(&request.body)?;
        let target = request.target(self)?;
        latest_only(&target)?;
        self.must_exist(&target)?;
        let number = body
            .reserved_concurrent_executions
            .ok_or_else(|| validation::missing("reservedConcurrentExecutions"))?;
        let number = validation::in_range(number, "reservedConcurrentExecutions", 0, i64::from(u32::MAX))?;
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let registry = self.store.registry();
        let others = registry.reserved_by_others(target.name.as_str()).map_err(failed)?;
        let reserved = u32::try_from(number).unwrap_or(u32::MAX);
        let total = u64::from(self.settings.concurrency);
        if reserved > 0 && others + u64::from(reserved) + UNRESERVED.min(total) > total {
            return Err(LambdaError::invalid(
                "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its \
                 minimum value of [100].",
            ));
        }
        registry.reserve_concurrency(&target.name, Some(reserved)).map_err(failed)?;
        self.pool.reserve(&target.name, Some(reserved));
        Answer::json(&json!({"ReservedConcurrentExecutions": reserved}))
    }

    pub(crate) fn get_concurrency(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let reserved = self.store.registry().reserved_concurrency(&target.name);
        match reserved.map_err(|error| Failed::from(error).into_error(&target.arn(self)))? {
            Some(reserved) => Answer::json(&json!({"ReservedConcurrentExecutions": reserved})),
            None => Answer::json(&json!({})),
        }
    }

    pub(crate) fn delete_concurrency(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        latest_only(&target)?;
        self.must_exist(&target)?;
        let reserved = self.store.registry().reserve_concurrency(&target.name, None);
        reserved.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        self.pool.reserve(&target.name, None);
        Ok(Answer::empty())
    }
}
