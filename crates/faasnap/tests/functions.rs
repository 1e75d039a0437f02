//! Functions from start to answer: booted cold, snapshotted, restored; what goes wrong with AWS's own words.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod function_home;

use std::collections::HashSet;
use std::fs;

use serde_json::{Value, json};

use function_home::{Home, prepared, source, three_ways};

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn hello_answers_cold_and_restored() {
    let home = Home::new();
    home.create("hello", "python3.11", "app.handler", &source().join("python/hello"), &["--memory", "256"]);
    let answers = three_ways(&home, "hello", r#"{"name":"tests"}"#);
    let ids: HashSet<_> = answers.iter().map(|answer| answer["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    assert!(answers.iter().all(|answer| answer["message"] == "Hello, tests!"));
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_warm_instance_keeps_what_it_has_done() {
    let home = Home::new();
    home.python(
        "counts",
        "calls = []\ndef handler(event, context):\n    calls.append(1)\n    return len(calls)\n",
        &[],
    );
    home.run(&["snapshot", "create", "counts"]).good();
    for from in ["cold", "snapshot"] {
        assert_eq!(home.run(&["invoke", "counts", "--from", from, "--repeat", "3"]).good(), "3\n");
        // Each invocation of the command has an instance of its own.
        assert_eq!(home.run(&["invoke", "counts", "--from", from]).good(), "1\n");
    }
    home.python("exits", "import os\ndef handler(event, context): os._exit(1)\n", &[]);
    let refused = home.run(&["invoke", "exits", "--repeat", "2"]);
    assert_eq!(refused.status, Some(3), "{}", refused.out);
    assert!(refused.err.contains("can't be invoked again"), "{}", refused.err);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_recorded_snapshot_is_loaded_while_the_function_runs() {
    let home = Home::new();
    home.create("hello", "python3.11", "app.handler", &source().join("python/hello"), &["--memory", "256"]);
    home.run(&["snapshot", "create", "hello"]).good();
    let faasnap = ["invoke", "hello", "--from", "snapshot", "--strategy", "faasnap"];
    let recorded = home.run(&[&faasnap[..], &["--record"]].concat());
    assert!(!recorded.err.contains("not kept"), "{}", recorded.err);
    recorded.good();
    let report: Value =
        serde_json::from_str(&home.run(&[&faasnap[..], &["--json"]].concat()).good()).unwrap();
    assert_eq!((&report["failed"], &report["payload"]["message"]), (&json!(false), &json!("Hello, world!")));
    assert_eq!(report["timeline"]["fell_back"], Value::Null);
    // Beside the two files of every snapshot there is the loading-set file now.
    let shown: Value =
        serde_json::from_str(&home.run(&["snapshot", "show", "hello", "--json"]).good()).unwrap();
    let files = fs::read_dir(shown["path"].as_str().unwrap()).unwrap().count();
    assert!(files > 2, "{files}");
    home.run(&["snapshot", "verify", "hello"]).good();
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn json_pillow_and_numpy_check_their_own_answers() {
    let home = Home::new();
    for (name, payload) in [("json", r#"{"records":200}"#), ("pillow", "{}"), ("numpy", r#"{"size":64}"#)] {
        let layer = prepared("FAASNAP_TEST_EXAMPLES").join("layers").join(name).join("content");
        let layer = layer.to_str().unwrap();
        let layers: &[&str] = if name == "json" { &[] } else { &["--layer", layer] };
        let more = [&["--memory", "512", "--timeout", "30"], layers].concat();
        home.create(name, "python3.11", "app.handler", &source().join("python").join(name), &more);
        let [cold, first, second] = three_ways(&home, name, payload);
        assert_eq!((&cold, &cold), (&first, &second), "{name}");
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn rust_and_shell_bootstraps_answer() {
    let home = Home::new();
    let rust = prepared("FAASNAP_TEST_EXAMPLES").join("functions/rust");
    home.create("rust", "provided.al2023", "bootstrap", &rust, &[]);
    for answer in three_ways(&home, "rust", r#"{"below":10000}"#) {
        assert_eq!(answer["primes"], 1229);
    }
    home.create("shell", "provided.al2023", "app.handler", &source().join("shell"), &[]);
    for answer in three_ways(&home, "shell", r#"{"a":1234}"#) {
        assert_eq!(answer, json!({"digits": 4, "sum": 10}));
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn two_instances_of_one_snapshot_have_randomness_of_their_own() {
    let home = Home::new();
    // Each generator is used before the snapshot, too: its state then is part of it.
    let code = "import os, random, ssl, uuid, secrets\n\
                before = [os.urandom(8), uuid.uuid4(), random.SystemRandom().random(), ssl.RAND_bytes(8)]\n\
                def handler(event, context):\n    \
                    return [os.urandom(8).hex(), str(uuid.uuid4()), random.SystemRandom().random(),\n            \
                            ssl.RAND_bytes(8).hex(), secrets.token_hex(8)]\n";
    home.python("dice", code, &[]);
    let [cold, first, second] = three_ways(&home, "dice", "{}");
    for at in 0..5 {
        assert!(
            cold[at] != first[at] && first[at] != second[at] && cold[at] != second[at],
            "{at}: {first} {second}"
        );
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn clocks_go_on_and_the_wall_clock_is_right_after_a_restore() {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};
    let home = Home::new();
    let code = "import time\n\
                started = time.monotonic()\n\
                def handler(event, context):\n    \
                    return {'wall': time.time(), 'since': time.monotonic() - started,\n            \
                            'left': context.get_remaining_time_in_millis()}\n";
    home.python("clock", code, &["--timeout", "7"]);
    home.run(&["snapshot", "create", "clock"]).good();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let answer = home.answer("clock", "snapshot", "{}");
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let wall = Duration::from_secs_f64(answer["wall"].as_f64().unwrap());
    // Two hundredths for rounding: what is compared are two clocks of one machine.
    let slack = Duration::from_millis(20);
    assert!(wall + slack >= before && wall <= after + slack, "{before:?} {wall:?} {after:?}");
    assert!(answer["since"].as_f64().unwrap() > 0.0);
    let left = answer["left"].as_i64().unwrap();
    assert!((1..=7000).contains(&left), "{left}");
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn snap_start_hooks_run_around_a_snapshot() {
    let home = Home::new();
    let code = "from snapshot_restore_py import register_before_snapshot, register_after_restore\n\
                seen = []\n\
                register_before_snapshot(seen.append, 'before')\n\
                register_after_restore(seen.append, 'after')\n\
                def handler(event, context): return seen\n";
    home.python("hooks", code, &[]);
    let [cold, first, second] = three_ways(&home, "hooks", "{}");
    assert_eq!((cold, first, second), (json!([]), json!(["before", "after"]), json!(["before", "after"])));

    // Without a hook for after a restore there is nothing to do there.
    let code = "from snapshot_restore_py import register_before_snapshot\n\
                seen = []\n\
                register_before_snapshot(seen.append, 'before')\n\
                def handler(event, context): return seen\n";
    home.python("one-hook", code, &[]);
    let point = |function: &str| -> Value {
        let created = home.run(&["snapshot", "create", function, "--json"]).good();
        serde_json::from_str::<Value>(&created).unwrap()["point"].clone()
    };
    assert_eq!((point("hooks"), point("one-hook")), (json!("restore/next"), json!("invocation/next")));
    assert_eq!(home.answer("one-hook", "snapshot", "{}"), json!(["before"]));
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_raised_exception_is_the_function_s_error() {
    let home = Home::new();
    let code = "import sys\n\
                def handler(event, context):\n    \
                    print('to the log')\n    \
                    raise ValueError('no luck with ' + event['what'])\n";
    home.python("raises", code, &[]);
    home.run(&["snapshot", "create", "raises"]).good();
    for from in ["cold", "snapshot"] {
        let error = home.invoke("raises", from, r#"{"what":"dice"}"#).function_error();
        assert_eq!(
            (&error["errorType"], &error["errorMessage"]),
            (&json!("ValueError"), &json!("no luck with dice"))
        );
        assert!(error["stackTrace"].is_array());
    }
    let log = home.run(&["invoke", "raises", "--log", "--payload", r#"{"what":"logs"}"#]).err;
    for text in ["to the log", "START RequestId: ", "END RequestId: ", "REPORT RequestId: "] {
        assert!(log.contains(text), "{text:?} is missing in: {log}");
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn what_ends_an_instance_is_said_in_aws_s_words() {
    let home = Home::new();
    let handler = |body: &str| format!("import os, sys, time\ndef handler(event, context):\n    {body}\n");
    for (name, body, error_type, message) in [
        ("slow", "time.sleep(60)", "Sandbox.Timedout", "Error: Task timed out after 1.00 seconds"),
        ("spins", "while True: pass", "Sandbox.Timedout", "Error: Task timed out after 1.00 seconds"),
        ("exits", "os._exit(3)", "Runtime.ExitError", "Error: Runtime exited with error: exit status 3"),
        ("ends", "os._exit(0)", "Runtime.ExitError", "Error: Runtime exited without providing a reason"),
        (
            "killed",
            "os.kill(os.getpid(), 9)",
            "Runtime.ExitError",
            "Error: Runtime exited with error: signal: killed",
        ),
        ("eats", "return len(bytearray(1 << 30))", "Runtime.ExitError", ""),
    ] {
        home.python(name, &handler(body), &["--timeout", "1"]);
        let error = home.invoke(name, "cold", "{}");
        if name == "eats" {
            // Python may report the failed allocation itself before the instance is ended; either is an error.
            assert_eq!(error.status, Some(1), "{}{}", error.out, error.err);
            continue;
        }
        let error = error.function_error();
        assert_eq!(error["errorType"], error_type, "{name}: {error}");
        let text = error["errorMessage"].as_str().unwrap();
        assert!(text.starts_with("RequestId: ") && text.ends_with(message), "{name}: {text}");
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_function_that_can_not_initialise_says_why() {
    let home = Home::new();
    home.python("broken", "import no_such_module\ndef handler(event, context): pass\n", &[]);
    let error = home.invoke("broken", "cold", "{}").function_error();
    assert_eq!(error["errorType"], "Runtime.ImportModuleError");
    assert!(error["errorMessage"].as_str().unwrap().contains("no_such_module"), "{error}");
    let refused = home.run(&["snapshot", "create", "broken"]);
    assert_ne!(refused.status, Some(0));
    let none = home.invoke("broken", "snapshot", "{}");
    assert_eq!(none.status, Some(3), "{}", none.err);
    assert!(none.err.contains("has no snapshot"), "{}", none.err);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_function_sees_lambda_s_world_and_no_other() {
    let home = Home::new();
    let code = "import os\n\
                def handler(event, context):\n    \
                    open('/tmp/mine', 'w').write('x')\n    \
                    refused = []\n    \
                    for path in ['/var/task/new', '/opt/new', '/usr/new']:\n        \
                        try: open(path, 'w')\n        \
                        except OSError as error: refused.append(error.errno)\n    \
                    return {'cwd': os.getcwd(), 'tmp': os.listdir('/tmp'), 'refused': len(refused),\n            \
                            'task': os.listdir('/var/task'), 'variables': dict(os.environ)}\n";
    home.python("world", code, &["--env", "TABLE=mine"]);
    for _ in 0..2 {
        let answer = home.answer("world", "cold", "{}");
        assert_eq!((&answer["cwd"], &answer["tmp"]), (&json!("/var/task"), &json!(["mine"])));
        assert_eq!((&answer["refused"], &answer["task"]), (&json!(3), &json!(["app.py"])));
        let variables = &answer["variables"];
        for (name, value) in [
            ("TABLE", "mine"),
            ("_HANDLER", "app.handler"),
            ("AWS_LAMBDA_FUNCTION_NAME", "world"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11"),
            ("LAMBDA_TASK_ROOT", "/var/task"),
        ] {
            assert_eq!(variables[name], value, "{name}");
        }
        assert_eq!(variables["FAASNAP_HOME"], Value::Null);
    }
}
