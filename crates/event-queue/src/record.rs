//! What a destination is told: AWS's invocation record.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Delivery, QueuedEvent};
use crate::schedule::Condition;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    request_payload: Json<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Json<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: &'a str,
    condition: &'static str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    executed_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
}

/// JSON as it is; what is none goes as text.
#[derive(Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Raw(&'a RawValue),
    Text(String),
}

impl<'a> Json<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(raw) => Self::Raw(raw),
            Err(_) => Self::Text(String::from_utf8_lossy(bytes).into_owned()),
        }
    }
}

/// The event for a destination.
pub(crate) fn record(
    event: &QueuedEvent,
    function_arn: &str,
    condition: Condition,
    delivery: Option<&Delivery>,
    now_ms: i64,
) -> Vec<u8> {
    let (response, function_error) = match delivery {
        Some(Delivery::Succeeded { payload, version }) => (Some((payload, version)), None),
        Some(Delivery::Failed { payload, version }) => (Some((payload, version)), Some("Unhandled")),
        Some(Delivery::TryLater | Delivery::Gone) | None => (None, None),
    };
    let since = Duration::from_millis(u64::try_from(now_ms).unwrap_or_default());
    let record = Record {
        version: "1.0",
        timestamp: humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string(),
        request_context: RequestContext {
            request_id: &event.event.request_id,
            function_arn,
            condition: condition.name(),
            approximate_invoke_count: event.failures + u32::from(response.is_some()),
        },
        request_payload: Json::of(&event.event.payload),
        response_context: response.map(|(_, version)| ResponseContext {
            status_code: 200,
            executed_version: version,
            function_error,
        }),
        response_payload: response.map(|(payload, _)| Json::of(payload)),
    };
    // Plain data: encoding it can't fail.
    serde_json::to_vec(&record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NewEvent, Target};

    #[test]
    fn a_record_has_the_shape_that_aws_documents() {
        let target = Target { function: "f".to_owned(), qualifier: None };
        let event = NewEvent {
            request_id: "r".to_owned(),
            target,
            payload: br#"{"a":1}"#.to_vec(),
            client_context: None,
            trace_id: None,
        };
        let event = QueuedEvent { id: 1, event, accepted_ms: 0, failures: 2, refusals: 0, hops: 0 };
        let delivery = Delivery::Failed { payload: b"oops".to_vec(), version: "$LATEST".to_owned() };
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST";
        let record = record(&event, arn, Condition::RetriesExhausted, Some(&delivery), 1_500);
        let expected = r#"{"version":"1.0","timestamp":"1970-01-01T00:00:01.500Z","requestContext":{"requestId":"r","functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"RetriesExhausted","approximateInvokeCount":3},"requestPayload":{"a":1},"responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},"responsePayload":"oops"}"#;
        assert_eq!(String::from_utf8(record).unwrap(), expected);
    }
}
