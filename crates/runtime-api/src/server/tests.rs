use proptest::prelude::*;

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

#[test]
fn an_invocation_from_next_to_next() {
    let mut api = on_demand();
    assert_eq!(send(&mut api, A, &get(NEXT)), "");
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Init }]);
    api.deliver(invocation("r")).unwrap();
    assert_eq!(
        read(&mut api, A),
        "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: r\r\nLambda-Runtime-Deadline-Ms: 1700000000000\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:r:1:function:f\r\nLambda-Runtime-Trace-Id: Root=1\r\n\
         Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
    );
    let answer = send(&mut api, A, &post("/runtime/invocation/r/response", "Content-Type: text/x\r\n", "42"));
    assert_eq!(
        answer,
        "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n"
    );
    assert_eq!(
        events(&mut api),
        [Event::Responded {
            request_id: "r".to_owned(),
            payload: b"42".to_vec(),
            content_type: Some("text/x".to_owned()),
            error: None
        }]
    );
    send(&mut api, B, &get(NEXT));
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Invocation }]);
}

#[test]
fn an_invocation_delivered_early_is_fetched_by_next() {
    let mut api = on_demand();
    api.deliver(invocation("r")).unwrap();
    assert_eq!(api.deliver(invocation("s")), Err(DeliverError::Busy { request_id: "r".to_owned() }));
    assert!(send(&mut api, A, &get(NEXT)).contains("Aws-Request-Id: r"));
    assert_eq!(api.deliver(invocation("s")), Err(DeliverError::Busy { request_id: "r".to_owned() }));
    assert_eq!(api.runtime_state(), RuntimeState::Running);
}

#[test]
fn invocations_that_cannot_be_expressed_are_refused() {
    let mut api = on_demand();
    for id in ["", "a/b", "a b", "a\r\nX: y"] {
        assert_eq!(api.deliver(invocation(id)), Err(DeliverError::InvalidRequestId(id.to_owned())));
    }
    let payload = vec![b'1'; MAX_PAYLOAD + 1];
    let too_large = Invocation { payload, ..invocation("r") };
    assert_eq!(api.deliver(too_large), Err(DeliverError::PayloadTooLarge(MAX_PAYLOAD + 1)));
}

#[test]
fn callers_cannot_forge_header_fields() {
    let mut api = on_demand();
    api.received(A, &get(NEXT));
    let context = Some("{\"a\":\"\r\nLambda-Runtime-Deadline-Ms: 1\"}".to_owned());
    api.deliver(Invocation { client_context: context, ..invocation("r") }).unwrap();
    let answer = read(&mut api, A);
    assert_eq!(answer.matches("\r\nLambda-Runtime-Deadline-Ms").count(), 1);
    assert!(answer.contains("Client-Context: {\"a\":\"  Lambda-Runtime-Deadline-Ms: 1\"}\r\n"));
}

#[test]
fn a_blocked_restore_call_goes_on_after_save_and_resume() {
    let mut api = snap_start();
    assert_eq!(send(&mut api, A, &get(RESTORE_NEXT)), "");
    // Half a request on another connection is kept as well.
    let next = get(NEXT);
    let (head, tail) = next.split_at(20);
    assert_eq!(send(&mut api, B, head), "");
    assert_eq!(events(&mut api), [Event::WaitingForRestore]);

    let saved = postcard::to_allocvec(&api.save()).unwrap();
    drop(api);
    let mut api = RuntimeApi::resume(postcard::from_bytes(&saved).unwrap()).unwrap();

    api.deliver(invocation("r")).unwrap();
    assert_eq!(api.release_restore(), ReleasedRuntime::Released);
    assert_eq!(read(&mut api, A), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(send(&mut api, B, tail).contains("Aws-Request-Id: r"));
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Restore }]);
}

#[test]
fn a_runtime_without_hooks_is_restored_inside_next() {
    let mut api = snap_start();
    send(&mut api, A, &get(NEXT));
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Init }]);
    let mut api = RuntimeApi::resume(api.save()).unwrap();
    assert_eq!(api.release_restore(), ReleasedRuntime::NothingToRelease);
    api.deliver(invocation("r")).unwrap();
    assert!(read(&mut api, A).contains("Aws-Request-Id: r"));
}

#[test]
fn contradictory_saved_states_are_refused() {
    let mut api = snap_start();
    send(&mut api, A, &get(NEXT));
    let mut forged = api.save();
    forged.waiting.push_back(B);
    assert_eq!(RuntimeApi::resume(forged).unwrap_err(), ResumeError::NotWaiting(B));
    let mut forged = api.save();
    forged.waiting.clear();
    assert_eq!(RuntimeApi::resume(forged).unwrap_err(), ResumeError::Contradiction(RuntimeState::Ready));
}

#[test]
fn failed_hooks_are_restore_errors_on_both_paths() {
    for path in ["/runtime/restore/error", "/runtime/init/error"] {
        let mut api = snap_start();
        send(&mut api, A, &get(RESTORE_NEXT));
        api.release_restore();
        events(&mut api);
        let fields = "Lambda-Runtime-Function-Error-Type: Runtime.AfterRestoreError\r\n";
        assert!(send(&mut api, B, &post(path, fields, "{}")).starts_with("HTTP/1.1 202"));
        let error_type = ErrorType::from_header(Some("Runtime.AfterRestoreError"));
        assert_eq!(events(&mut api), [Event::RestoreError { error_type, payload: b"{}".to_vec() }]);
        assert_eq!(api.deliver(invocation("r")), Err(DeliverError::Failed(RuntimeState::RestoreError)));
    }
}

#[test]
fn an_init_error_is_final() {
    let mut api = on_demand();
    assert!(send(&mut api, A, &post("/runtime/init/error", "", "{}")).starts_with("HTTP/1.1 202"));
    assert!(matches!(events(&mut api).as_slice(), [Event::InitError { payload, .. }] if payload == b"{}"));
    assert!(send(&mut api, A, &get(NEXT)).starts_with("HTTP/1.1 403"));
}

#[test]
fn calls_out_of_order_name_both_states() {
    let mut api = snap_start();
    send(&mut api, A, &get(NEXT));
    let answer = send(&mut api, B, &get(RESTORE_NEXT));
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with(
        "{\"errorMessage\":\"State transition from Ready to Ready failed for runtime. Error: State transition is not \
         allowed\",\"errorType\":\"InvalidStateTransition\"}\n"
    ));
}

#[test]
fn answers_to_other_invocations_and_second_answers() {
    let mut api = running(ResponseMode::Buffered);
    let other = send(&mut api, A, &post("/runtime/invocation/other/response", "", "1"));
    assert!(other.starts_with("HTTP/1.1 400") && other.contains("InvalidRequestID"), "{other}");
    send(&mut api, A, &post("/runtime/invocation/r/response", "", "1"));
    let second = send(&mut api, A, &post("/runtime/invocation/r/error", "", "1"));
    assert!(second.starts_with("HTTP/1.1 403") && second.contains("RuntimeResponseSentState"), "{second}");
    assert_eq!(events(&mut api).len(), 1);
}

#[test]
fn handler_errors_pass_byte_for_byte_and_causes_are_cut() {
    let report = r#"{"errorMessage":"m","errorType":"T","stackTrace":["s"],"errorCause":{"x":1}}"#;
    for (content_type, expected) in [
        ("application/json", report),
        (
            "application/vnd.aws.lambda.error.cause+json",
            r#"{"errorMessage":"m","errorType":"T","stackTrace":["s"]}"#,
        ),
    ] {
        let mut api = running(ResponseMode::Buffered);
        let fields = format!("Content-Type: {content_type}\r\n");
        send(&mut api, A, &post("/runtime/invocation/r/error", &fields, report));
        let events = events(&mut api);
        assert!(
            matches!(events.as_slice(), [Event::FunctionError { payload, .. }] if payload == expected.as_bytes())
        );
    }
}

#[test]
fn the_largest_response_passes_and_one_byte_more_does_not() {
    for (length, chunked) in
        [(MAX_PAYLOAD, false), (MAX_PAYLOAD + 1, false), (MAX_PAYLOAD, true), (MAX_PAYLOAD + 1, true)]
    {
        let mut api = running(ResponseMode::Buffered);
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {length}")
        };
        let head = format!(
            "POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
        );
        send(&mut api, A, head.as_bytes());
        let body = vec![b'x'; length];
        let answer = if chunked {
            for piece in body.chunks(100_000) {
                send(&mut api, A, format!("{:x}\r\n", piece.len()).as_bytes());
                send(&mut api, A, piece);
                send(&mut api, A, b"\r\n");
            }
            send(&mut api, A, b"0\r\n\r\n")
        } else {
            send(&mut api, A, &body)
        };
        let events = events(&mut api);
        if length == MAX_PAYLOAD {
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            assert!(
                matches!(events.as_slice(), [Event::Responded { payload, .. }] if payload.len() == length)
            );
        } else {
            assert!(
                answer.starts_with("HTTP/1.1 413") && answer.contains("RequestEntityTooLarge"),
                "{answer}"
            );
            assert_eq!(events, [Event::ResponseTooLarge { request_id: "r".to_owned() }]);
        }
        // Either way the runtime goes on with the next invocation on the same connection.
        assert_eq!(send(&mut api, A, &get(NEXT)), "");
    }
}

#[test]
fn a_client_that_asks_first_is_told_at_once() {
    let head = |length: usize| {
        format!(
            "POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let mut api = running(ResponseMode::Buffered);
    assert_eq!(send(&mut api, A, head(2).as_bytes()), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(send(&mut api, A, b"42").starts_with("HTTP/1.1 202"));

    let mut api = running(ResponseMode::Buffered);
    assert!(send(&mut api, A, head(MAX_PAYLOAD + 1).as_bytes()).starts_with("HTTP/1.1 413"));
    assert!(api.output_ends(A), "the body never comes, so the connection can't go on");
    assert_eq!(events(&mut api), [Event::ResponseTooLarge { request_id: "r".to_owned() }]);
}

const STREAMED: &str = "POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: h\r\n\
    Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n6\r\n world\r\n0\r\nLambda-Runtime-Function-Error-Type: Runtime.Oops\r\n\
    Lambda-Runtime-Function-Error-Body: eyJhIjoxfQ==\r\n\r\n";

fn oops() -> Option<StreamError> {
    Some(StreamError {
        error_type: ErrorType::from_header(Some("Runtime.Oops")),
        body: br#"{"a":1}"#.to_vec(),
    })
}

#[test]
fn streams_to_callers_that_want_it_and_collects_for_others() {
    let request_id = || "r".to_owned();
    let mut api = running(ResponseMode::Streaming);
    assert!(send(&mut api, A, STREAMED.as_bytes()).starts_with("HTTP/1.1 202"));
    assert_eq!(
        events(&mut api),
        [
            Event::ResponseStarted { request_id: request_id(), content_type: None },
            Event::ResponseChunk { request_id: request_id(), bytes: b"hello world".to_vec() },
            Event::ResponseFinished { request_id: request_id(), error: oops() },
        ]
    );
    let mut api = running(ResponseMode::Buffered);
    send(&mut api, A, STREAMED.as_bytes());
    let payload = b"hello world".to_vec();
    assert_eq!(
        events(&mut api),
        [Event::Responded { request_id: request_id(), payload, content_type: None, error: oops() }]
    );
}

#[test]
fn an_unread_stream_holds_the_function_back() {
    let mut api = running(ResponseMode::Streaming);
    let head = STREAMED.split_inclusive("\r\n\r\n").next().unwrap();
    send(&mut api, A, head.as_bytes());
    send(&mut api, A, b"fffffff\r\n");
    let piece = vec![b'x'; 4 * 1024 * 1024];
    let taken = api.received(A, &piece);
    assert!((MAX_QUEUED_CHUNKS..MAX_QUEUED_CHUNKS + PIECE).contains(&taken), "{taken}");
    assert!(!api.accepts_input(A));
    events(&mut api);
    assert!(api.accepts_input(A));
}

#[test]
fn unknown_response_modes_are_refused() {
    let mut api = running(ResponseMode::Streaming);
    let fields = "Lambda-Runtime-Function-Response-Mode: fast\r\n";
    let answer = send(&mut api, A, &post("/runtime/invocation/r/response", fields, "1"));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("InvalidFunctionResponseMode"));
    assert!(matches!(events(&mut api).as_slice(), [Event::FunctionError { error_type, .. }]
        if error_type.as_str() == "Runtime.InvalidResponseModeHeader"));
}

#[test]
fn broken_responses_are_known_as_truncated() {
    let request = post("/runtime/invocation/r/response", "", "0123456789");
    let truncated = Event::ResponseTruncated { request_id: "r".to_owned() };
    // Closed in the middle.
    let mut api = running(ResponseMode::Buffered);
    api.received(A, &request[..request.len() - 3]);
    api.peer_closed(A);
    assert_eq!(events(&mut api), std::slice::from_ref(&truncated));
    // Ended in the middle: there is someone left to tell.
    let mut api = running(ResponseMode::Buffered);
    api.received(A, &request[..request.len() - 3]);
    api.peer_finished(A);
    assert!(read(&mut api, A).starts_with("HTTP/1.1 400"));
    assert_eq!(events(&mut api), std::slice::from_ref(&truncated));
    // Garbled.
    let mut api = running(ResponseMode::Streaming);
    let garbled = STREAMED.replace("6\r\n", "x\r\n");
    assert!(send(&mut api, A, garbled.as_bytes()).starts_with("HTTP/1.1 400"));
    assert!(api.output_ends(A));
    assert_eq!(events(&mut api).last(), Some(&truncated));
}

#[test]
fn an_event_on_a_lost_connection_is_given_again() {
    let mut api = on_demand();
    api.received(A, &get(NEXT));
    api.deliver(invocation("r")).unwrap();
    api.peer_closed(A);
    assert!(send(&mut api, B, &get(NEXT)).contains("Aws-Request-Id: r"));
}

#[test]
fn the_longest_wait_is_served_first_and_closed_waits_are_forgotten() {
    let mut api = on_demand();
    let c = ConnectionId(3);
    api.connection_opened(c).unwrap();
    for id in [A, B, c] {
        api.received(id, &get(NEXT));
    }
    api.peer_closed(A);
    api.deliver(invocation("r")).unwrap();
    assert!(read(&mut api, B).contains("Aws-Request-Id: r"));
    assert_eq!(read(&mut api, c), "");
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Init }]);
}

#[test]
fn a_waiting_client_may_end_its_side() {
    let mut api = on_demand();
    api.received(A, &get(NEXT));
    api.peer_finished(A);
    api.deliver(invocation("r")).unwrap();
    assert!(read(&mut api, A).contains("Aws-Request-Id: r"));
    assert!(api.output_ends(A));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut api = on_demand();
    let requests = [get("/ping"), get(NEXT), get("/ping")].concat();
    let first = send(&mut api, A, &requests);
    assert_eq!(first.matches("pong").count(), 1);
    api.deliver(invocation("r")).unwrap();
    let rest = read(&mut api, A);
    assert!(rest.find("Aws-Request-Id: r").unwrap() < rest.find("pong").unwrap());
}

#[test]
fn http_1_0_closes_unless_asked_otherwise() {
    let mut api = on_demand();
    let ping = "GET /2018-06-01/ping HTTP/1.0\r\n";
    assert!(send(&mut api, A, format!("{ping}\r\n").as_bytes()).starts_with("HTTP/1.0 200 OK\r\n"));
    assert!(api.output_ends(A));
    let answer = send(&mut api, B, format!("{ping}Connection: keep-alive\r\n\r\n").as_bytes());
    assert!(answer.contains("Connection: keep-alive\r\n"));
    assert!(!api.output_ends(B));
}

#[test]
fn malformed_requests_are_refused_once() {
    for (request, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(), "400"),
        (b"GET /\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHo st: h\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
    ] {
        let mut api = on_demand();
        let answer = send(&mut api, A, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(api.output_ends(A));
        assert_eq!(send(&mut api, A, &get("/ping")), "", "nothing is served any more");
    }
}

#[test]
fn heads_may_pass_one_mebibyte_and_no_more_than_the_limit() {
    let mut api = running(ResponseMode::Buffered);
    let cause = format!("Lambda-Runtime-Function-XRay-Error-Cause: {}\r\n", "x".repeat(1024 * 1024));
    assert!(
        send(&mut api, A, &post("/runtime/invocation/r/error", &cause, "{}")).starts_with("HTTP/1.1 202")
    );
    let endless = vec![b'a'; LIMITS.head + 1];
    assert!(send(&mut api, B, &endless).starts_with("HTTP/1.1 431"));
}

#[test]
fn many_large_heads_together_are_refused() {
    let mut api = RuntimeApi::new(Config::default());
    let mut refused = 0;
    for id in (0..Config::default().max_connections as u64).map(ConnectionId) {
        api.connection_opened(id).unwrap();
        api.received(id, &vec![b'a'; LIMITS.head]);
        refused += usize::from(api.output_ends(id));
    }
    assert!(refused > 100, "{refused}");
    assert!(api.held() < MAX_INPUT + 1024 * 1024, "{}", api.held());
    assert_eq!(api.connection_opened(ConnectionId(1 << 40)), Err(OpenError::TooMany(128)));
}

#[test]
fn an_event_asked_for_everywhere_does_not_multiply() {
    let mut api = RuntimeApi::new(Config::default());
    api.deliver(Invocation { payload: vec![b' '; MAX_PAYLOAD], ..invocation("r") }).unwrap();
    for id in (0..100).map(ConnectionId) {
        api.connection_opened(id).unwrap();
        api.received(id, &get(NEXT));
    }
    assert!(api.held() < 2 * MAX_PAYLOAD, "{}", api.held());
}

#[test]
fn unread_answers_hold_requests_back() {
    let mut api = on_demand();
    let pings = get("/ping").repeat(100_000);
    let taken = api.received(A, &pings);
    assert!(taken < pings.len());
    assert!(api.held() < 2 * 1024 * 1024, "{}", api.held());
    let mut answers = 0;
    let mut sent = taken;
    while sent < pings.len() {
        answers += read(&mut api, A).matches("pong").count();
        sent += api.received(A, &pings[sent..]);
    }
    answers += read(&mut api, A).matches("pong").count();
    assert_eq!(answers, 100_000, "but none is lost");
}

#[test]
fn credentials_need_their_token() {
    let request = |token: &str| {
        format!("GET /2021-04-23/credentials HTTP/1.1\r\nHost: h\r\nAuthorization: {token}\r\n\r\n")
            .into_bytes()
    };
    let mut api = snap_start();
    assert!(send(&mut api, A, &request("secret")).starts_with("HTTP/1.1 404"), "none are set");
    api.set_credentials(Some(Credentials {
        access_key_id: "AK".to_owned(),
        secret_access_key: "SK".to_owned(),
        token: "ST".to_owned(),
        expiration: "2030-01-01T00:00:00Z".to_owned(),
    }));
    assert!(send(&mut api, A, &request("wrong")).starts_with("HTTP/1.1 404"));
    let answer = send(&mut api, A, &request("secret"));
    assert!(answer.ends_with(
        r#"{"AccessKeyId":"AK","SecretAccessKey":"SK","Token":"ST","Expiration":"2030-01-01T00:00:00Z"}"#
    ));
    let saved = postcard::to_allocvec(&api.save()).unwrap();
    assert!(!saved.windows(2).any(|window| window == b"SK"), "a snapshot holds no keys");
}

#[test]
fn subscriptions_are_accepted_and_not_done() {
    let mut api = on_demand();
    for (path, error_type) in
        [("/2020-08-15/logs", "Logs.NotSupported"), ("/2022-07-01/telemetry", "Telemetry.NotSupported")]
    {
        let request = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{{}}");
        let answer = send(&mut api, A, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 202") && answer.contains(error_type), "{answer}");
    }
}

/// A conversation that uses most of the server, as one connection's bytes.
fn conversation() -> Vec<u8> {
    let mut bytes = b"\r\n".to_vec();
    bytes.extend(get(NEXT));
    bytes.extend(post("/runtime/invocation/wrong/response", "", "abc"));
    bytes.extend(STREAMED.as_bytes());
    bytes.extend(get(NEXT));
    bytes.extend(get("/nowhere"));
    bytes.extend(post(
        "/runtime/invocation/s/error",
        "Content-Type: application/json\r\n",
        "{\"errorType\":\"E\"}",
    ));
    bytes
}

/// Sends `bytes` in pieces of the given sizes, cyclically, and delivers an invocation whenever the runtime waits. Gives all
/// events, joined chunks, and all output.
fn converse(bytes: &[u8], sizes: &[usize], save_between: bool) -> (Vec<Event>, Vec<u8>) {
    let mut api = on_demand();
    let mut invocations = ["r", "s", "t"].into_iter();
    let mut sizes = sizes.iter().copied().cycle();
    let (mut events, mut output): (Vec<Event>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    loop {
        if save_between {
            let saved = postcard::to_allocvec(&api.save()).unwrap();
            api = RuntimeApi::resume(postcard::from_bytes(&saved).unwrap()).unwrap();
        }
        let (piece, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        assert_eq!(api.received(A, piece), piece.len());
        rest = later;
        let mut waits = true;
        while std::mem::take(&mut waits) {
            while let Some(event) = api.next_event() {
                match (event, events.last_mut()) {
                    (Event::ResponseChunk { bytes: more, .. }, Some(Event::ResponseChunk { bytes, .. })) => {
                        bytes.extend(more)
                    }
                    (event, _) => events.push(event),
                }
            }
            if api.runtime_state() == RuntimeState::Ready {
                let request_id = invocations.next().unwrap();
                api.deliver(Invocation { response_mode: ResponseMode::Streaming, ..invocation(request_id) })
                    .unwrap();
                waits = true;
            }
            output.extend(api.take_output(A).0);
        }
        if rest.is_empty() {
            return (events, output);
        }
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same(sizes in prop::collection::vec(1usize..200, 1..20), save_between: bool) {
        let bytes = conversation();
        prop_assert_eq!(converse(&bytes, &sizes, save_between), converse(&bytes, &[usize::MAX], false));
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pile_up(pieces in prop::collection::vec((0u64..4, hostile()), 0..60)) {
        let mut api = snap_start();
        for (id, piece) in pieces {
            let id = ConnectionId(id);
            let _ = api.connection_opened(id);
            api.received(id, &piece);
            match piece.len() % 7 {
                0 => api.peer_finished(id),
                1 => api.peer_closed(id),
                2 => drop(api.take_output(id)),
                3 => { let _ = api.deliver(invocation("r")); }
                4 => { api.release_restore(); }
                5 => drop(events(&mut api)),
                _ => {}
            }
            prop_assert!(api.held() < 1024 * 1024);
            prop_assert!(RuntimeApi::resume(api.save()).is_ok());
        }
    }

    #[test]
    fn damaged_states_neither_panic_nor_hang(at: prop::sample::Index, bit in 0u8..8) {
        let mut api = snap_start();
        api.received(A, &get(RESTORE_NEXT));
        api.received(B, &get(NEXT)[..30]);
        let mut saved = postcard::to_allocvec(&api.save()).unwrap();
        let at = at.index(saved.len());
        saved[at] ^= 1 << bit;
        if let Ok(Ok(mut api)) = postcard::from_bytes(&saved).map(RuntimeApi::resume) {
            api.release_restore();
            let _ = api.deliver(invocation("r"));
            for id in [A, B] {
                api.received(id, &get(NEXT));
                // Not take_output: a damaged state may hold any number of requests.
                let count = api.output(id).len();
                api.output_sent(id, count);
            }
        }
    }
}

/// Bytes near enough to HTTP and the API to get somewhere.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words: &'static [&'static [u8]] = &[
        b"GET ",
        b"POST ",
        b"PUT ",
        b"/2018-06-01/runtime/invocation/next",
        b"/2018-06-01/runtime/restore/next",
        b"/2018-06-01/runtime/invocation/r/response",
        b"/2018-06-01/runtime/invocation/r/error",
        b"/2018-06-01/runtime/init/error",
        b"/2021-04-23/credentials",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: h\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Lambda-Runtime-Function-Response-Mode: streaming\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"5\r\nhello\r\n",
        b"0\r\n",
        b"ffffffff\r\n",
        b"hello",
        b"\0",
        b":",
        b" ",
    ];
    let word = prop_oneof![
        4 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        2 => Just(get(NEXT)),
        2 => Just(get(RESTORE_NEXT)),
        2 => Just(post("/runtime/invocation/r/response", "", "hello")),
        1 => Just(STREAMED.as_bytes().to_vec()),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}
