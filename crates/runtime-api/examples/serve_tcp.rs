//! Serves the Runtime API on a real loopback socket, to try a runtime without a guest:
//!
//! ```text
//! cargo run -p runtime-api --example serve_tcp -- 9001 '{"n": 1}' '{"n": 2}' &
//! AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001 AWS_LAMBDA_INITIALIZATION_TYPE=snap-start _HANDLER=app.handler ... python3 -m awslambdaric app.handler
//! ```
//!
//! Each payload is one invocation. At the runtime's first wait the state is saved and resumed, as a restore would.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_api::{After, Config, ConnectionId, Event, Invocation, ResponseMode, RuntimeApi};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("usage: serve_tcp PORT PAYLOAD...")?.parse()?;
    let mut payloads = arguments.enumerate();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let mut api = RuntimeApi::new(Config { snap_start: true, ..Config::default() });
    let mut streams: BTreeMap<ConnectionId, TcpStream> = BTreeMap::new();
    let mut opened = 0;
    loop {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            opened += 1;
            api.connection_opened(ConnectionId(opened))?;
            streams.insert(ConnectionId(opened), stream);
        }
        streams.retain(|id, stream| {
            let keep = serve(&mut api, *id, stream).unwrap_or(false);
            if !keep {
                api.peer_closed(*id);
            }
            keep
        });
        while let Some(event) = api.next_event() {
            println!("{event:?}");
            match event {
                Event::WaitingForRestore => {
                    api = RuntimeApi::resume(api.save())?;
                    println!("{:?}", api.release_restore());
                }
                Event::WaitingForInvocation { after } => {
                    if after == After::Init {
                        api = RuntimeApi::resume(api.save())?;
                    }
                    match payloads.next() {
                        None => return Ok(()),
                        Some((index, payload)) => api.deliver(invocation(index, payload)?)?,
                    }
                }
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Moves bytes both ways; `false` when the connection is over.
fn serve(api: &mut RuntimeApi, id: ConnectionId, stream: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    if api.accepts_input(id) {
        // Peeked first: what the API doesn't take now stays in the socket.
        match stream.peek(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                let taken = api.received(id, buffer.get(..count).unwrap_or_default());
                stream.read_exact(buffer.get_mut(..taken).unwrap_or_default())?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    while !api.output(id).is_empty() {
        match stream.write(api.output(id)) {
            Ok(count) => api.output_sent(id, count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(!(api.output_ends(id) && api.output(id).is_empty()))
}

fn invocation(index: usize, payload: String) -> Result<Invocation, Box<dyn std::error::Error>> {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(30);
    Ok(Invocation {
        request_id: format!("request-{index}"),
        deadline_ms: u64::try_from(deadline.as_millis())?,
        invoked_function_arn: "arn:aws:lambda:eu-central-1:000000000000:function:tried".to_owned(),
        trace_id: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: payload.into_bytes(),
        content_type: None,
        response_mode: ResponseMode::Buffered,
    })
}
