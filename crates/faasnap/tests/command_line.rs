//! The real executable, used as people use it, mistakes included.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

struct Session {
    folder: tempfile::TempDir,
}

struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.status, 0, "{}", self.err);
        self.out
    }

    /// Ended with `status`, and standard error has each of the texts.
    #[track_caller]
    fn bad(self, status: i32, texts: &[&str]) {
        assert_eq!(self.status, status, "out: {}\nerr: {}", self.out, self.err);
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is missing in: {}", self.err);
        }
    }
}

impl Session {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A session with a runtime `tiny` and code in `code/`.
    fn with_runtime() -> Self {
        let session = Self::new();
        session.write("root/var/runtime/bootstrap", "#!/bin/sh\n");
        session.write("code/app.py", "def handler(event, context): return event\n");
        session.run(&["runtime", "import", "tiny", "root"]).good();
        session
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn zip(&self, name: &str, entries: &[(&str, &str)]) {
        let mut zip = zip::ZipWriter::new(fs::File::create(self.path(name)).unwrap());
        for (entry, content) in entries {
            zip.start_file(*entry, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("FAASNAP_HOME", self.path("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// A line as typed, without quotes.
    fn line(&self, line: &str) -> Ran {
        self.run(&line.split(' ').collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.line(line).good()).unwrap()
    }
}

const CREATE: &str = "function create hello --runtime tiny --handler app.handler --code code";

/// The least that is taken for a kernel: a bzImage's header, version 2.15, with a 64-bit entry.
fn kernel_header() -> Vec<u8> {
    let mut image = vec![0; 0x300];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x236] = 1;
    image
}

#[test]
fn a_kernel_is_imported_edited_shown_and_removed() {
    let session = Session::new();
    fs::write(session.path("image"), kernel_header()).unwrap();
    session.line("kernel import image").good();
    session.line("kernel import image").bad(3, &["there is a kernel default already", "--replace"]);
    session.line("kernel import image --replace").good();
    session.line("kernel import image --name other --modules missing").bad(3, &["missing", "no folder"]);
    session.write("empty/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
    session.line("kernel import image --name other --modules empty").bad(3, &["no kernel module", "below"]);
    session.write("script", "#!/bin/sh\n");
    session
        .line("kernel import script --name other")
        .bad(3, &["script", "neither a bzImage nor an ELF file"]);
    session.line("kernel import /proc/self/exe --name other").bad(3, &["no vmlinux"]);
    session.line("kernel edit other --command-line quiet").bad(3, &["other"]);

    session.run(&["kernel", "edit", "--command-line", "console=ttyS0 quiet"]).good();
    let shown = session.json("kernel show --json");
    assert_eq!(shown["command_line"], "console=ttyS0 quiet");
    assert_eq!(session.json("kernel list --json").as_array().unwrap().len(), 1);
    session.line("kernel rm default").good();
    session.line("kernel show").bad(3, &["there is no kernel default", "kernel build-from-debian"]);
}

#[test]
fn a_process_guest_is_not_given_what_is_a_linux_guests() {
    let session = Session::new();
    for option in
        ["--tmp 600", "--network", "--tap tap0", "--allow-network 10.0.0.0/8", "--name-server 10.0.0.2"]
    {
        session.line(&format!("exec {option} -- /bin/true")).bad(3, &["--guest linux"]);
    }
    session.line("exec --tmp 100 -- /bin/true").bad(2, &["512 to 10240"]);
}

#[test]
fn a_function_is_created_listed_shown_and_removed() {
    let session = Session::with_runtime();
    session.zip("layer.zip", &[("python/lib.py", "x = 1")]);
    let out = session
        .line(&format!("{CREATE} --memory 512 --timeout 30 --env TABLE=a=b --env MODE=x --layer layer.zip"))
        .good();
    assert!(out.contains("function hello is stored"), "{out}");

    let list = session.json("function list --json");
    assert_eq!(list[0]["name"], "hello");
    let show = session.json("function show hello --json");
    let config = &show["config"];
    assert_eq!((&config["memory"], &config["timeout"]), (&Value::from(512), &Value::from(30)));
    assert_eq!(config["environment"], serde_json::json!({"TABLE": "a=b", "MODE": "x"}));
    assert_eq!(show["layers"].as_array().unwrap().len(), 1);
    let text = session.line("function show hello").good();
    assert!(text.contains("TABLE=a=b") && text.contains("512 MB"), "{text}");

    session.line("function rm hello").good();
    assert_eq!(session.json("function ls --json"), serde_json::json!([]));
    session.line("function rm hello").bad(3, &["there is no function hello", "faasnap function list"]);
}

#[test]
fn defaults_are_those_of_lambda() {
    let session = Session::with_runtime();
    session.line(CREATE).good();
    let config = session.json("function show hello --json")["config"].clone();
    assert_eq!((&config["memory"], &config["timeout"]), (&Value::from(128), &Value::from(3)));
}

#[test]
fn mistakes_in_the_command_line_are_explained() {
    let session = Session::with_runtime();
    for (line, texts) in [
        ("functoin list", &["functoin", "function"][..]),
        ("function create he/llo --runtime tiny --handler a.b --code code", &["function's name", "64"]),
        ("function create hello --runtime Tiny --handler a.b --code code", &["runtime's name"]),
        (&format!("{CREATE} --memory 64"), &["128 to 10240"]),
        (&format!("{CREATE} --memory plenty"), &["no number of MB"]),
        (&format!("{CREATE} --timeout 901"), &["1 to 900"]),
        (&format!("{CREATE} --env TABLE"), &["NAME=VALUE"]),
        ("function create hello --runtime tiny --handler a.b", &["--code"]),
        ("function rm", &["NAME"]),
        ("runtime build python2", &["python2", "python3.11"]),
        ("invoke hello --drop-cache", &["--restores"]),
        ("invoke hello --drop-cache --timeline", &["--drop-cache", "cannot be used with", "--timeline"]),
        ("invoke hello --no-spare --repeat 2", &["--no-spare", "cannot be used with", "--repeat"]),
        ("bench modes --rig --report", &["--rig", "cannot be used with", "--report"]),
    ] {
        session.line(line).bad(2, texts);
    }
    assert_eq!(session.json("function list --json"), serde_json::json!([]));
}

#[test]
fn what_can_not_be_done_is_explained_with_its_causes() {
    let session = Session::with_runtime();
    session.write("app.py", "x = 1\n");
    session.zip("evil.zip", &[("../../evil", "x")]);
    let create = |rest: &str| session.line(&format!("function create hello --handler a.b {rest}"));
    create("--runtime absent --code code").bad(3, &["no runtime absent", "faasnap runtime build"]);
    create("--runtime tiny --code nowhere").bad(3, &["nowhere", "because: No such file"]);
    create("--runtime tiny --code app.py").bad(3, &["neither a folder nor a zip"]);
    create("--runtime tiny --code evil.zip").bad(3, &["evil.zip", "../../evil", "because: it has a '..'"]);
    create("--runtime tiny --code code --env AWS_REGION=x").bad(3, &["AWS_REGION is set by Lambda itself"]);
    let large = "x".repeat(5000);
    create(&format!("--runtime tiny --code code --env BIG={large}")).bad(3, &["4096 are allowed"]);
    let layers = "--layer code ".repeat(6);
    create(&format!("{layers}--runtime tiny --code code")).bad(3, &["because: a function can have 5 layers"]);
    assert!(!session.path("evil").exists());
    let home = session.path("home");
    assert_eq!(session.json("function list --json"), serde_json::json!([]));
    for part in ["packages", "trees", "staging", "trash"] {
        assert_eq!(fs::read_dir(home.join(part)).unwrap().count(), 0, "{part} is empty");
    }
}

#[test]
fn a_taken_name_needs_replace() {
    let session = Session::with_runtime();
    session.line(CREATE).good();
    let before = session.json("function show hello --json");
    session.write("code/app.py", "changed = True\n");
    session.line(CREATE).bad(3, &["exists already", "--replace"]);
    assert_eq!(session.json("function show hello --json"), before);
    session.line(&format!("{CREATE} --replace")).good();
    assert_ne!(session.json("function show hello --json")["code"], before["code"]);
}

#[test]
fn a_runtime_in_use_is_protected() {
    let session = Session::with_runtime();
    session.line(CREATE).good();
    session.line("runtime rm tiny").bad(3, &["used by hello", "--force"]);
    session.line("runtime import tiny root").bad(3, &["exists already", "--replace"]);
    session.line("runtime import tiny root --replace").good();
    session.line("runtime rm tiny --force").good();
    assert_eq!(session.json("runtime list --json"), serde_json::json!([]));
}

#[test]
fn damage_is_found() {
    let session = Session::with_runtime();
    session.line(CREATE).good();
    session.line("function show hello --verify").good();
    let digest = session.json("function show hello --json")["code"]["digest"].as_str().unwrap().to_owned();
    fs::write(session.path("home/trees").join(digest).join("tree/app.py"), "evil").unwrap();
    session.line("function show hello --verify").bad(1, &["have changed"]);

    fs::write(session.path("home/runtimes/tiny/root").join("extra"), "evil").unwrap();
    session.line("runtime show tiny --verify").bad(1, &["have changed"]);

    for file in ["registry.sqlite-wal", "registry.sqlite-shm"] {
        let _ = fs::remove_file(session.path("home").join(file));
    }
    fs::write(session.path("home/registry.sqlite"), "damaged".repeat(1000)).unwrap();
    session.line("function list").bad(3, &["registry.sqlite", "because: file is not a database"]);
}

#[test]
fn a_tar_is_imported() {
    let session = Session::new();
    session.write("root/var/runtime/bootstrap", "#!/bin/sh\n");
    std::os::unix::fs::symlink("/usr/bin/env", session.path("root/link")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-czf", "root.tar.gz", "-C", "root", "."]).current_dir(session.folder.path());
    assert!(tar.status().unwrap().success());
    session.line("runtime import a root --env MODE=x").good();
    session.line("runtime import b root.tar.gz").good();
    let digest = |name: &str| session.json(&format!("runtime show {name} --json"))["root"]["digest"].clone();
    assert_eq!(digest("a"), digest("b"));
    assert_eq!(session.json("runtime show a --json")["environment"]["MODE"], "x");
    session.write("broken.tar", &"x".repeat(2000));
    session.line("runtime import c broken.tar").bad(3, &["can't import", "because:"]);
    session.line("runtime import c nowhere").bad(3, &["nowhere"]);
}

#[test]
fn the_home_is_private_and_found_in_the_order_that_is_documented() {
    use std::os::unix::fs::PermissionsExt;
    let session = Session::new();
    session.line("function list").good();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&session.path("home")), 0o700);

    session.line("--home other function list").good();
    assert!(session.path("other/trees").is_dir());

    let xdg = session.path("data");
    let output =
        session.command(&["function", "list"]).env_remove("FAASNAP_HOME").env("XDG_DATA_HOME", &xdg).output();
    Ran::of(output.unwrap()).good();
    assert_eq!(mode(&xdg.join("faasnap")), 0o700);

    let output = session
        .command(&["function", "list"])
        .env_remove("FAASNAP_HOME")
        .env_remove("XDG_DATA_HOME")
        .env_remove("HOME")
        .output();
    Ran::of(output.unwrap()).bad(3, &["set FAASNAP_HOME"]);
}

#[test]
fn a_home_that_can_not_be_is_explained() {
    let session = Session::new();
    session.write("file", "");
    session.line("--home file/home function list").bad(3, &["file/home", "because:"]);
    session.write("future/home.json", r#"{"schema":99}"#);
    session.line("--home future function list").bad(3, &["schema 99", "--home"]);
}

#[test]
fn doctor_judges_this_machine() {
    let session = Session::new();
    let ran = session.line("doctor --json");
    let findings: Value = serde_json::from_str(&ran.out).unwrap();
    let findings = findings.as_array().unwrap();
    let state = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}"))["state"]
            .clone()
    };
    // What the probes of this very test show must be what doctor says.
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    assert_eq!(state("/dev/kvm") == "good", kvm);
    assert_eq!(state("home"), "good");
    let missing = findings.iter().any(|finding| finding["state"] == "missing");
    assert_eq!(ran.status, i32::from(missing));
    for finding in findings.iter().filter(|finding| finding["state"] != "good") {
        assert!(finding["meaning"].is_string(), "{finding}");
    }
    session.line("--home /proc/nowhere doctor").bad(1, &[]);
}

#[test]
fn help_teaches() {
    let session = Session::new();
    for (line, texts) in [
        ("--help", &["A first session", "Exit status", "faasnap doctor"][..]),
        ("runtime build --help", &["python3.11", "--package", "Examples"]),
        ("function create --help", &["DIR-OR-ZIP", "Examples", "[default: 128]", "[default: 3]"]),
    ] {
        let out = session.line(line).good();
        for text in texts {
            assert!(out.contains(text), "{text:?} is missing in `{line}`:\n{out}");
        }
    }
}

#[test]
fn no_command_at_all_shows_the_help() {
    Session::new().run(&[]).bad(2, &["A first session", "Commands:"]);
}

#[test]
fn a_reader_that_stops_is_no_error() {
    let session = Session::with_runtime();
    let mut child =
        session.command(&["runtime", "show", "tiny"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_writer_killed_at_any_point_leaves_the_last_good_state() {
    use std::time::Duration;
    let session = Session::with_runtime();
    for file in 0..40 {
        session.write(&format!("code/lib/module{file}.py"), &"x = 1\n".repeat(2000));
    }
    session.line(CREATE).good();
    let replace = format!("{CREATE} --replace");
    for round in 0..30u64 {
        session.write("code/app.py", &format!("round = {round}\n"));
        let words: Vec<_> = replace.split(' ').collect();
        let mut writer = session.command(&words).stdout(std::process::Stdio::null()).spawn().unwrap();
        // From "before it began" to "after it ended", whatever the machine's speed: what is asserted holds at any time.
        std::thread::sleep(Duration::from_micros(round * 700));
        writer.kill().unwrap();
        writer.wait().unwrap();
        // Old or new, and whole.
        session.line("function show hello --verify").good();
    }
    // What the killed ones left goes with the next writer that is not killed.
    session.line(&replace).good();
    let count = |part: &str| fs::read_dir(session.path("home").join(part)).unwrap().count();
    assert_eq!((count("staging"), count("trash")), (0, 0));
    // What was replaced stays for a while, marked as without a use.
    let trees = fs::read_dir(session.path("home/trees")).unwrap().map(|entry| entry.unwrap().file_name());
    let marks = trees.filter(|name| name.to_string_lossy().ends_with(".unused")).count();
    assert_eq!(count("trees"), 1 + 2 * marks);
}
