//! Functions in linux guests. They need hardware KVM: `cargo xtask test --hardware-kvm` runs these tests in its rig.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod function_home;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use function_home::{Home, prepared, source, three_ways};

/// Time by the clock, of which an emulated machine takes much.
const LIMITS: &[&str] = &["--guest", "linux", "--timeout", "120"];

fn home() -> Home {
    let home = Home::new();
    let kernel = prepared("FAASNAP_TEST_KERNEL");
    let (image, modules) = (kernel.join("image"), kernel.join("modules"));
    let import = ["kernel", "import", image.to_str().unwrap(), "--modules", modules.to_str().unwrap()];
    home.run(&import).good();
    home
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_hello_answers_cold_restored_and_warm() {
    let home = home();
    home.create(
        "hello",
        "python3.11",
        "app.handler",
        &source().join("python/hello"),
        &[LIMITS, &["--memory", "128"]].concat(),
    );
    let mut answers = three_ways(&home, "hello", r#"{"name":"tests"}"#).to_vec();
    for strategy in ["on-demand", "cached", "eager", "reap", "faasnap"] {
        let line = ["invoke", "hello", "--payload", r#"{"name":"tests"}"#, "--strategy", strategy];
        answers.push(serde_json::from_str(&home.run(&line).good()).unwrap());
    }
    // In workers that have made ready what is likely, all of memory compared before and after.
    let line = [
        "invoke",
        "hello",
        "--payload",
        "{}",
        "--strategy",
        "faasnap",
        "--restores",
        "1",
        "--verify-memory",
        "--json",
    ];
    let report: Value = serde_json::from_str(&home.run(&line).good()).unwrap();
    for timeline in report["timelines"].as_array().unwrap() {
        let [ready, used] = ["bytes", "used_bytes"].map(|what| timeline["ready"][what].as_u64().unwrap());
        assert!(ready > 4 << 20 && used > ready / 10 * 9, "{ready} {used}");
        assert!(timeline["verified"]["after"].as_u64().unwrap() > 0, "{timeline}");
    }
    let warm = home.run(&["invoke", "hello", "--from", "snapshot", "--repeat", "3"]).good();
    assert!(warm.contains("Hello, world!"), "{warm}");
    let ids: HashSet<_> = answers.iter().map(|answer| answer["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), answers.len());
    assert!(answers.iter().all(|answer| answer["message"] == "Hello, tests!"), "{answers:?}");
}

/// What a function finds on its own disk, and does there: 600 MiB are more than its 512; reserving them writes nothing.
const DISK: &str = "import errno, hashlib, os
blob = os.urandom(3 << 20)
open('/tmp/before', 'wb').write(blob)
digest = hashlib.sha256(blob).hexdigest()
def disk():
    size = os.statvfs('/tmp')
    found = sorted(os.listdir('/tmp'))
    same = hashlib.sha256(open('/tmp/before', 'rb').read()).hexdigest() == digest
    with open('/tmp/after', 'wb') as after:
        after.write(os.urandom(1 << 20)); after.flush(); os.fsync(after.fileno())
    with open('/tmp/large', 'wb') as large:
        os.posix_fallocate(large.fileno(), 0, 400 << 20)
        try: os.posix_fallocate(large.fileno(), 0, 600 << 20); full = None
        except OSError as error: full = errno.errorcode[error.errno]
    os.remove('/tmp/large')
    kind = next(line.split()[2] for line in open('/proc/mounts') if line.split()[1] == '/tmp')
    return [size.f_blocks * size.f_frsize >> 20, found, same, full, kind]
";

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_a_function_has_children_and_each_clone_its_own_disk_and_randomness_and_the_right_time() {
    let home = home();
    let code = "import os, random, subprocess, time, uuid\n\
                before = os.urandom(8)\n\
                def handler(event, context):\n    \
                    said = subprocess.run(['/bin/sh', '-c', 'echo child; id -u 2>/dev/null || :'], capture_output=True)\n    \
                    try: open('/var/task/a', 'w'); written = True\n    \
                    except OSError: written = False\n    \
                    return [said.stdout.decode().split()[0], os.getuid(), os.uname().sysname, written, time.time(), \
                            os.listdir('/sys/class/net'), os.urandom(8).hex(), str(uuid.uuid4()), \
                            random.SystemRandom().random(), disk()]\n";
    home.python("forks", &format!("{DISK}{code}"), LIMITS);
    let answers = three_ways(&home, "forks", "{}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for answer in &answers {
        let fixed = [&answer[0], &answer[1], &answer[2], &answer[3]];
        assert_eq!(fixed, ["child", "993", "Linux", "false"].map(expected).each_ref(), "{answer}");
        let time = answer[4].as_f64().unwrap();
        assert!(time <= now && now - time < 600.0, "{time} at {now}");
        // Nobody has asked for a network.
        assert_eq!(answer[5], json!(["lo"]));
        // What one instance wrote, no other has.
        assert_eq!(answer[9], json!([512, ["before"], true, "ENOSPC", "ext4"]));
    }
    for at in 6..9 {
        let different: HashSet<_> = answers.iter().map(|answer| answer[at].to_string()).collect();
        assert_eq!(different.len(), 3, "{at}: {answers:?}");
    }
    let staging = home.0.path().join("home/staging");
    let left: Vec<_> = std::fs::read_dir(staging).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A value as the function gives it: a number or truth value where it is one.
fn expected(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// An address of this host; guests reach it by permission only, and `OTHER` not at all.
const SERVER: &str = "198.51.100.7";
const OTHER: &str = "198.51.100.9";

/// Answers what two clients say when both are there, each with the other's words; and each datagram with itself.
fn serve_two() -> u16 {
    for address in [SERVER, OTHER] {
        let line = ["ip", "addr", "add", &format!("{address}/32"), "dev", "lo"];
        assert!(Command::new("busybox").args(line).status().unwrap().success());
    }
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let datagrams = UdpSocket::bind((SERVER, port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((count, from)) = datagrams.recv_from(&mut buffer) {
            datagrams.send_to(&buffer[..count], from).unwrap();
        }
    });
    std::thread::spawn(move || {
        let both = [(); 2].map(|()| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut said = String::new();
            stream.read_line(&mut said).unwrap();
            (stream.into_inner(), said)
        });
        let [(mut first, to_second), (mut second, to_first)] = both;
        first.write_all(to_first.as_bytes()).unwrap();
        second.write_all(to_second.as_bytes()).unwrap();
    });
    port
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_clones_with_one_address_reach_what_is_allowed_at_once() {
    let home = home();
    let port = serve_two();
    let code = "import os, socket\n\
                def tried(address):\n    \
                    try: return socket.create_connection(address, 60)\n    \
                    except OSError as error: return type(error).__name__\n\
                def handler(event, context):\n    \
                    port, word = event\n    \
                    asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    \
                    asks.settimeout(60)\n    \
                    asks.sendto(word.encode(), ('SERVER', port))\n    \
                    echoed = asks.recv(100).decode()\n    \
                    stream = tried(('SERVER', port))\n    \
                    if isinstance(stream, str): return stream\n    \
                    stream.sendall((word + '\\n').encode())\n    \
                    heard = stream.makefile().readline().strip()\n    \
                    names = open('/etc/resolv.conf').read().split()[:2]\n    \
                    return [sorted(os.listdir('/sys/class/net')), stream.getsockname()[0], echoed, heard, names,\
                            tried(('OTHER', port)), tried(('169.254.169.254', 80))]\n";
    let code = code.replace("SERVER", SERVER).replace("OTHER", OTHER);
    home.python("reaches", &code, &[LIMITS, &["--network"]].concat());
    home.run(&["snapshot", "create", "reaches"]).good();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let invoke = |word| {
            let payload = format!("[{port},\"{word}\"]");
            let line =
                ["invoke", "reaches", "--from", "snapshot", "--allow-network", SERVER, "--payload", &payload];
            serde_json::from_str(&home.run(&line).good()).unwrap()
        };
        let both = ["one", "two"].map(|word| scope.spawn(move || invoke(word)));
        both.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    for (answer, (own, other)) in answers.iter().zip([("one", "two"), ("two", "one")]) {
        let refused = "ConnectionRefusedError";
        let names = ["nameserver", "169.254.78.1"];
        let expected = (["eth0", "lo"], "169.254.78.10", own, other, names, refused, refused);
        assert_eq!(*answer, serde_json::to_value(expected).unwrap(), "{answers:?}");
    }
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_what_goes_wrong_is_what_a_caller_of_lambda_sees() {
    let home = home();
    let code = "import os\n\
                def handler(event, context):\n    \
                    if event == 'exit': os._exit(7)\n    \
                    if event == 'memory': held = [bytearray(os.urandom(1 << 20)) for _ in range(400)]\n    \
                    if event == 'wait': __import__('time').sleep(1000)\n    \
                    raise ValueError('no')\n";
    home.python("fails", code, LIMITS);
    home.run(&["snapshot", "create", "fails"]).good();
    for (event, said) in [("raise", "ValueError"), ("exit", "exit status 7"), ("memory", "signal: killed")] {
        let error = home.invoke("fails", "snapshot", &format!("\"{event}\"")).function_error();
        assert!(error.to_string().contains(said), "{event}: {error}");
    }
}
