//! Functions with a network: what they reach, by which names, and what they don't. The other ends are servers of the test's own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod function_home;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use function_home::Home;
use serde_json::{Value, json};

/// Connects to every address of the event and gives what came of each; looks names up.
const CONNECTS: &str = r#"
import errno, socket
kept = []
def reach(address):
    host, port = address
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(b'ping')
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def look_up(name):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return 'gaierror'
def handler(event, context):
    return {'reached': [reach(address) for address in event.get('reach', [])],
            'found': [look_up(name) for name in event.get('names', [])]}
"#;

/// A name server on the host's loopback that says `address` to every question for an IPv4 address, and nothing to others.
fn name_server(address: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        // Ends with the process.
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let question = &question[..length];
            // The name ends with an empty label; type and class follow (RFC 1035). Other records of the question are left out.
            let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
            let asks_for_v4 = question[name_end..name_end + 2] == [0, 1];
            let mut answer = question[..name_end + 4].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_v4), 0, 0, 0, 0]);
            if asks_for_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address.octets());
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    own
}

/// A server at `ip` that answers every connection with `pong`.
fn server(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut received = Vec::new();
            // A guest that gives up is none of the test's business.
            if connection.read_to_end(&mut received).is_ok() && received == b"ping" {
                let _ = connection.write_all(b"pong");
            }
        }
    });
    address
}

/// An address of this machine that others could reach: no packet is sent.
fn own_address() -> Ipv4Addr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect("192.0.2.1:9").expect("a machine without any network can't run this");
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

fn invoke(home: &Home, name: &str, options: &[&str], event: &Value) -> Value {
    let event = event.to_string();
    let line = [&["invoke", name, "--payload", &event], options].concat();
    serde_json::from_str(&home.run(&line).good()).unwrap()
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_function_with_a_network_reaches_what_is_allowed_and_nothing_else() {
    let home = Home::new();
    home.python("connects", CONNECTS, &["--network", "--timeout", "30"]);
    assert!(home.run(&["function", "show", "connects"]).good().contains("network   outbound"));
    let own = own_address();
    let (outer, inner) = (server(own.into()), server(Ipv4Addr::LOCALHOST.into()));
    let names = name_server(own).to_string();
    let event = json!({
        "reach": [
            [own.to_string(), outer.port()],
            ["anything.example", outer.port()],
            ["127.0.0.1", inner.port()],
            ["169.254.169.254", 80],
            ["169.254.78.1", inner.port()],
        ],
        "names": ["anything.example"],
    });
    let allow = own.to_string();
    let told = ["--name-server", &names, "--allow-network", &allow];
    let open = json!({
        "reached": ["pong", "pong", "ECONNREFUSED", "EACCES", "EACCES"],
        "found": [[own.to_string()]],
    });
    // Booted, then restored twice, recorded and by the recording.
    assert_eq!(invoke(&home, "connects", &told, &event), open);
    home.run(&["snapshot", "create", "connects"]).good();
    for _ in 0..2 {
        assert_eq!(invoke(&home, "connects", &told, &event), open);
    }
    // This machine's own address is out of bounds unless it is named.
    let unnamed = invoke(&home, "connects", &["--name-server", &names], &event);
    assert_eq!(unnamed["reached"], json!(["EACCES", "EACCES", "ECONNREFUSED", "EACCES", "EACCES"]));
    assert_eq!(unnamed["found"], open["found"]);
    // A name that leads to a cloud's metadata service: what it means is looked at when it is connected to.
    let rebound = name_server(Ipv4Addr::new(169, 254, 169, 254)).to_string();
    let event = json!({"reach": [["anything.example", 80]], "names": ["anything.example"]});
    let lured = invoke(&home, "connects", &["--name-server", &rebound], &event);
    assert_eq!(lured, json!({"reached": ["EACCES"], "found": [["169.254.169.254"]]}));
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_function_without_a_network_reaches_nothing() {
    let home = Home::new();
    home.python("connects", CONNECTS, &["--timeout", "30"]);
    let own = own_address();
    let outer = server(own.into());
    let allow = own.to_string();
    let event =
        json!({"reach": [[own.to_string(), outer.port()], ["1.1.1.1", 443]], "names": ["anything.example"]});
    let answer = invoke(&home, "connects", &["--allow-network", &allow], &event);
    assert_eq!(answer, json!({"reached": ["ENETUNREACH", "ENETUNREACH"], "found": ["gaierror"]}));
}

/// Keeps a connection open across the snapshot that it was made before.
const KEEPS: &str = r#"
import socket
connection = socket.create_connection(('169.254.78.1', 53))
def handler(event, context):
    global connection
    try:
        connection.sendall(b'ping')
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100).decode()
    except OSError as error:
        old, connection = type(error).__name__, socket.create_connection(('169.254.78.1', 53))
        connection.sendall(b'ping')
        connection.shutdown(socket.SHUT_WR)
        return old + ', then ' + connection.recv(100).decode()
"#;

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_connection_that_was_open_comes_back_reset() {
    let home = Home::new();
    home.python("keeps", KEEPS, &["--network"]);
    let named = server(Ipv4Addr::LOCALHOST.into()).to_string();
    let told = ["--name-server", &named];
    assert_eq!(invoke(&home, "keeps", &told, &json!({})), json!("pong"));
    home.run(&["snapshot", "create", "keeps", "--name-server", &named]).good();
    assert_eq!(invoke(&home, "keeps", &told, &json!({})), json!("ConnectionResetError, then pong"));
}

/// What an SDK does to find credentials; botocore's own are tested over the node.
const ASKS: &str = r#"
import json, os, urllib.request
def ask(token):
    uri = os.environ.get('AWS_CONTAINER_CREDENTIALS_FULL_URI')
    if uri is None:
        return [os.environ.get('AWS_ACCESS_KEY_ID'), os.environ.get('AWS_SESSION_TOKEN')]
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, headers={'Authorization': token})) as answer:
            given = json.load(answer)
            return [given['AccessKeyId'], given['Token']]
    except urllib.error.HTTPError as error:
        return error.code
def handler(event, context):
    token = os.environ.get('AWS_CONTAINER_AUTHORIZATION_TOKEN', '')
    return [ask(token), ask('wrong')]
"#;

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn restored_functions_get_credentials_that_no_snapshot_holds() {
    let home = Home::new();
    home.python("asks", ASKS, &[]);
    let file = home.0.path().join("credentials.json");
    let option = ["--function-credentials", file.to_str().unwrap()];
    let write = |key: &str| {
        let given = json!({"Version": 1, "AccessKeyId": key, "SecretAccessKey": "TOPSECRET", "SessionToken": "t",
            "Expiration": "2099-01-01T00:00:00Z"});
        std::fs::write(&file, given.to_string()).unwrap();
    };
    assert!(home.run(&[&["invoke", "asks"], &option[..]].concat()).err.contains("credentials.json"));
    write("FIRSTKEYID");
    assert_eq!(invoke(&home, "asks", &option, &json!({}))[0], json!(["FIRSTKEYID", "t"]));
    home.run(&[&["snapshot", "create", "asks"], &option[..]].concat()).good();
    write("SECONDKEYID");
    for _ in 0..2 {
        let answer = invoke(&home, "asks", &option, &json!({}));
        assert_eq!(answer[0], json!(["SECONDKEYID", "t"]));
        assert!(answer[1].is_number(), "{answer}");
    }
    assert!(invoke(&home, "asks", &[], &json!({}))[0].is_number(), "there are none without the file");
    let snapshots = home.0.path().join("home/snapshots");
    let found =
        std::process::Command::new("grep").args(["-r", "-l", "TOPSECRET"]).arg(snapshots).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}
