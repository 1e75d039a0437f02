//! What a function may do to its instance, and what its caller hears about it: AWS's words, and an instance that is never
//! used again when its state can't be trusted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod function_home;

use std::fs;

use serde_json::Value;

use function_home::{Home, three_ways};

/// The error of an invocation: type and message without its request id.
#[track_caller]
fn error_of(home: &Home, name: &str, payload: &str) -> (String, String) {
    let error = home.invoke(name, "cold", payload).function_error();
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    let message = text("errorMessage");
    let plain = match message.strip_prefix("RequestId: ").and_then(|rest| rest.split_once(' ')) {
        Some((_, plain)) => plain.to_owned(),
        None => message,
    };
    (text("errorType"), plain)
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn an_answer_that_is_too_large_is_an_error() {
    let home = Home::new();
    home.python("large", "def handler(event, context): return 'x' * event\n", &["--timeout", "20"]);
    let (kind, message) = error_of(&home, "large", "6291556");
    assert_eq!(kind, "Function.ResponseSizeTooLarge");
    assert_eq!(message, "Response payload size exceeded maximum allowed payload size (6291556 bytes).");
    // Two quotes around it: just as much as is allowed.
    assert_eq!(home.answer("large", "cold", "6291554").as_str().unwrap().len(), 6_291_554);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_function_that_ends_while_it_initialises_is_said_to() {
    let home = Home::new();
    for (name, body, message) in [
        ("leaves", "os._exit(5)", "Error: Runtime exited with error: exit status 5"),
        ("dies", "os.kill(os.getpid(), 11)", "Error: Runtime exited with error: signal: segmentation fault"),
    ] {
        home.python(name, &format!("import os\n{body}\ndef handler(event, context): pass\n"), &[]);
        let (kind, said) = error_of(&home, name, "{}");
        assert_eq!((kind.as_str(), said.as_str()), ("Runtime.ExitError", message), "{name}");
        let refused = home.run(&["snapshot", "create", name]);
        assert!(refused.status != Some(0) && !refused.err.is_empty(), "{name}: {}", refused.err);
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_hostile_handler_ends_with_its_instance_and_the_next_one_is_whole() {
    let home = Home::new();
    let code = "import ctypes, os, threading\n\
                def wild(): ctypes.memset(0x7f8000002000, 0, 8)\n\
                def threads():\n    \
                    wait = threading.Event()\n    \
                    while True: threading.Thread(target=wait.wait).start()\n\
                def files():\n    \
                    kept = []\n    \
                    while True: kept.append(os.open('/dev/null', 0))\n\
                def memory():\n    \
                    kept = []\n    \
                    while True: kept.append(ctypes.create_string_buffer(b'x' * (1 << 20)))\n\
                def own():\n    \
                    with open('/proc/self/mem', 'r+b', 0) as mem:\n        \
                        mem.seek(0x7f8000002000)\n        \
                        mem.read(8)\n\
                def fine(): return 'fine'\n\
                def handler(event, context): return globals()[event]()\n";
    home.python("hostile", code, &["--timeout", "20"]);
    home.run(&["snapshot", "create", "hostile"]).good();
    for (event, kinds) in [
        ("wild", &["Runtime.ExitError"][..]),
        ("threads", &["RuntimeError"]),
        ("files", &["OSError"]),
        ("memory", &["Runtime.ExitError", "MemoryError", "Runtime.OutOfMemory"]),
        ("own", &["OSError", "PermissionError", "FileNotFoundError"]),
    ] {
        let ran = home.invoke("hostile", "snapshot", &format!("{event:?}"));
        let error = ran.function_error();
        let kind = error["errorType"].as_str().unwrap_or_default().to_owned();
        assert!(kinds.contains(&kind.as_str()), "{event}: {error}");
        assert_eq!(home.answer("hostile", "snapshot", "\"fine\""), "fine", "after {event}");
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn node_s_random_bytes_differ_between_instances_of_one_snapshot() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let code = "const crypto = require('crypto');\n\
                crypto.randomBytes(64);\n\
                exports.handler = async () => [crypto.randomBytes(16).toString('hex'), crypto.randomUUID(),\n    \
                    crypto.getRandomValues(new Uint32Array(4)).join()];\n";
    fs::write(folder.path().join("index.js"), code).unwrap();
    home.create("dice", "nodejs", "index.handler", folder.path(), &["--memory", "512", "--timeout", "20"]);
    let [cold, first, second] = three_ways(&home, "dice", "{}");
    for at in 0..3 {
        let all: [&Value; 3] = [&cold[at], &first[at], &second[at]];
        assert!(all.iter().all(|one| one.is_string()), "{all:?}");
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{at}: {all:?}");
    }
}
