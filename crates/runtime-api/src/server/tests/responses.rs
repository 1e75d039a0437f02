//! Answers: sizes, streams, broken ones.

use super::*;

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
