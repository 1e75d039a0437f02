//! What the tests of the Runtime API share.

mod connections;
mod invocations;
mod properties;
mod responses;
mod snapshots;

use super::*;
use crate::event::StreamError;
use crate::invocation::ResponseMode;

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn snap_start() -> RuntimeApi {
    let config =
        Config { snap_start: true, authorization_token: Some("secret".to_owned()), ..Config::default() };
    let mut api = RuntimeApi::new(config);
    api.connection_opened(A).unwrap();
    api.connection_opened(B).unwrap();
    api
}

fn on_demand() -> RuntimeApi {
    let mut api = RuntimeApi::new(Config::default());
    api.connection_opened(A).unwrap();
    api.connection_opened(B).unwrap();
    api
}

fn invocation(request_id: &str) -> Invocation {
    Invocation {
        request_id: request_id.to_owned(),
        deadline_ms: 1_700_000_000_000,
        invoked_function_arn: "arn:aws:lambda:r:1:function:f".to_owned(),
        trace_id: Some("Root=1".to_owned()),
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: br#"{"a":1}"#.to_vec(),
        content_type: None,
        response_mode: ResponseMode::Buffered,
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET /2018-06-01{path} HTTP/1.1\r\nHost: 127.0.0.1:9001\r\n\r\n").into_bytes()
}

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /2018-06-01{path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
        .into_bytes()
}

const NEXT: &str = "/runtime/invocation/next";
const RESTORE_NEXT: &str = "/runtime/restore/next";

fn send(api: &mut RuntimeApi, id: ConnectionId, bytes: &[u8]) -> String {
    assert_eq!(api.received(id, bytes), bytes.len());
    read(api, id)
}

fn read(api: &mut RuntimeApi, id: ConnectionId) -> String {
    String::from_utf8(api.take_output(id).0).unwrap()
}

fn events(api: &mut RuntimeApi) -> Vec<Event> {
    std::iter::from_fn(|| api.next_event()).collect()
}

/// A runtime that has fetched invocation `r` on connection A.
fn running(mode: ResponseMode) -> RuntimeApi {
    let mut api = on_demand();
    api.received(A, &get(NEXT));
    api.deliver(Invocation { response_mode: mode, ..invocation("r") }).unwrap();
    read(&mut api, A);
    events(&mut api);
    api
}

const STREAMED: &str = "POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: h\r\n\
    Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n6\r\n world\r\n0\r\nLambda-Runtime-Function-Error-Type: Runtime.Oops\r\n\
    Lambda-Runtime-Function-Error-Body: eyJhIjoxfQ==\r\n\r\n";
