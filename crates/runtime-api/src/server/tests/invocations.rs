//! Invocations from start to end, and calls that don't fit.

use super::*;

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
