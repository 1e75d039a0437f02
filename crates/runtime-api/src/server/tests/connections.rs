//! Connections and HTTP.

use super::*;

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
