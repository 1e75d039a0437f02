//! Runtimes as `faasnap runtime build` makes them. `cargo xtask test` builds them first, since that needs Debian's archive
//! and the Python package index; a plain `cargo test` leaves these tests out.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn home() -> PathBuf {
    std::env::var_os("FAASNAP_TEST_HOME").expect("run `cargo xtask test`, which prepares the runtimes").into()
}

fn examples() -> PathBuf {
    std::env::var_os("FAASNAP_TEST_EXAMPLES")
        .expect("run `cargo xtask test`, which builds the examples")
        .into()
}

fn faasnap(home: &Path, line: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
    command.args(line).env("FAASNAP_HOME", home).output().unwrap()
}

fn root(runtime: &str) -> PathBuf {
    home().join("runtimes").join(runtime).join("root")
}

/// Python code run by the runtime's interpreter, started by its own loader with its own libraries.
fn python(code: &str, path: &[PathBuf]) -> String {
    let root = root("python3.11");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(&libraries)
        .arg(root.join("usr/bin/python3.11"))
        .args(["-B", "-c", code]);
    command.env_clear().env("PYTHONHOME", root.join("usr"));
    command.env("PYTHONPATH", std::env::join_paths(path).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn the_runtimes_are_what_their_records_say() {
    for runtime in ["python3.11", "provided.al2023"] {
        let output = faasnap(&home(), &["runtime", "show", runtime, "--verify"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn a_root_has_the_layout_of_lambda() {
    for (runtime, programs) in [
        ("python3.11", &["usr/bin/python3.11", "usr/bin/dash", "var/runtime/bootstrap"][..]),
        ("provided.al2023", &["usr/bin/bash"]),
    ] {
        let root = root(runtime);
        for program in programs {
            let mode = fs::metadata(root.join(program)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{runtime} {program}");
        }
        for folder in ["dev", "proc", "sys", "tmp", "opt", "var/task", "home/sbx_user1051"] {
            assert!(root.join(folder).is_dir(), "{runtime} {folder}");
        }
        for (link, target) in [("bin", "usr/bin"), ("lib64", "usr/lib64")] {
            assert_eq!(fs::read_link(root.join(link)).unwrap(), Path::new(target));
        }
        assert!(root.join("usr/bin/sh").exists(), "{runtime}");
        assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("sbx_user1051:x:993:990:"));
        let certificates = fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
        assert!(certificates.matches("BEGIN CERTIFICATE").count() > 100, "{runtime}");
        // The interpreter of every program is where programs expect it.
        assert!(root.join("lib64/ld-linux-x86-64.so.2").exists(), "{runtime}");
    }
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn the_runtime_client_loads_with_its_c_part() {
    let code = "import runtime_client, awslambdaric.bootstrap, snapshot_restore_py, ssl, sqlite3, ctypes, lzma\n\
                print(runtime_client.__file__.rsplit('.', 1)[1], callable(runtime_client.next))";
    assert_eq!(python(code, &[root("python3.11").join("var/runtime")]), "so True\n");
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn every_module_is_compiled_and_names_its_file_as_the_guest_sees_it() {
    let code = "import json, sys, importlib.util\n\
                cached = importlib.util.cache_from_source(json.__file__)\n\
                import marshal; code = marshal.loads(open(cached, 'rb').read()[16:])\n\
                print(code.co_filename)";
    assert_eq!(python(code, &[]), "/usr/lib/python3.11/json/__init__.py\n");
}

#[test]
#[ignore = "needs the layers that `cargo xtask test` builds"]
fn the_example_handlers_answer_in_the_runtime() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python");
    let layer = |name: &str| vec![examples().join("layers").join(name).join("content/python")];
    for (name, event, layers) in [
        ("hello", "{'name': 'tests'}", Vec::new()),
        ("json", "{'records': 50}", Vec::new()),
        ("pillow", "{'size': 64}", layer("pillow")),
        ("numpy", "{'size': 32}", layer("numpy")),
    ] {
        let mut path = vec![source.join(name)];
        path.extend(layers);
        let code = format!(
            "import app, types\ncontext = types.SimpleNamespace(aws_request_id='r')\nprint(app.handler({event}, context))"
        );
        let answer = python(&code, &path);
        let expected = match name {
            "hello" => "'message': 'Hello, tests!'",
            "json" => "'records': 50",
            "pillow" => "'size': [16, 16]",
            _ => "'size': 32",
        };
        assert!(answer.contains(expected), "{name}: {answer}");
    }
}

#[test]
#[ignore = "needs the layers that `cargo xtask test` builds"]
fn the_examples_are_stored_as_functions() {
    let home = tempfile::tempdir().unwrap();
    // A small root stands for the real ones: what is tested is code and layers.
    let root = home.path().join("root/var/runtime");
    fs::create_dir_all(&root).unwrap();
    let state = home.path().join("home");
    for runtime in ["python3.11", "provided.al2023"] {
        let root = home.path().join("root");
        assert!(faasnap(&state, &["runtime", "import", runtime, root.to_str().unwrap()]).status.success());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let layer = examples().join("layers/numpy/content");
    for (name, runtime, code, layer) in [
        ("numpy", "python3.11", source.join("python/numpy"), Some(layer)),
        ("rust", "provided.al2023", examples().join("functions/rust"), None),
        ("shell", "provided.al2023", source.join("shell"), None),
    ] {
        let create = ["function", "create", name, "--runtime", runtime, "--handler", "app.handler", "--code"];
        let mut line = create.to_vec();
        line.push(code.to_str().unwrap());
        if let Some(layer) = &layer {
            line.extend(["--layer", layer.to_str().unwrap()]);
        }
        let output = faasnap(&state, &line);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(faasnap(&state, &["function", "show", name, "--verify"]).status.success());
    }
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn building_again_finds_nothing_to_do() {
    let before = fs::metadata(root("provided.al2023")).unwrap().modified().unwrap();
    let output = faasnap(&home(), &["runtime", "build", "provided.al2023"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is up to date"), "{text}");
    assert_eq!(fs::metadata(root("provided.al2023")).unwrap().modified().unwrap(), before);
}

#[test]
#[ignore = "needs Debian's archive and the Python package index"]
fn a_package_that_is_not_there_leaves_nothing_behind() {
    let output = faasnap(
        &home(),
        &["runtime", "build", "python3.11", "--name", "absent", "--package", "no-such-package-of-faasnap"],
    );
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("pip ended with") && error.contains("no-such-package-of-faasnap"), "{error}");
    assert!(!home().join("runtimes/absent").exists());
}
