//! `faasnap snapshot` on snapshots that are put into the home by way of the library.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use pages::{PageCount, PageIndex, PageRange};
use restore::{Access, Backing, GuestLayout, Region};
use serde_json::Value;
use snapshot::{MachineIdentity, SectionKind, SnapshotBuilder, SnapshotError};
use store::{FunctionName, Store};

struct Home(tempfile::TempDir);

impl Home {
    /// A home with a function `hello`.
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.path("root/var/runtime")).unwrap();
        fs::create_dir(home.path("code")).unwrap();
        fs::write(home.path("code/app.py"), "x = 1\n").unwrap();
        assert!(home.line("runtime import tiny root").status.success());
        assert!(
            home.line("function create hello --runtime tiny --handler app.handler --code code")
                .status
                .success()
        );
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn line(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        command.args(line.split(' ')).current_dir(self.0.path()).env("FAASNAP_HOME", self.path("home"));
        command.output().unwrap()
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let output = self.line(line);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", error(&output)))
    }

    /// Publishes a snapshot of ten pages, two of them with content, and gives its identifier.
    fn snapshot(&self, machine: MachineIdentity) -> String {
        let store = Store::open(&self.path("home")).unwrap();
        let name: FunctionName = "hello".parse().unwrap();
        let revision = store.open_function(&name).unwrap().revision();
        let staging = store.stage_snapshot().unwrap();
        let path = staging.path();
        let file_name = path.file_name().unwrap().to_str().unwrap();
        let mut builder = SnapshotBuilder::begin(path.parent().unwrap(), file_name, machine).unwrap();
        builder.section(SectionKind::named("vcpus"), 3, b"registers").unwrap();
        let region = Region {
            range: PageRange::new(PageIndex(0), PageCount(10)),
            backing: Backing::Memory,
            access: Access::ReadWrite,
        };
        GuestLayout::new(PageCount(10), vec![region]).unwrap().add_to(&mut builder).unwrap();
        builder
            .memory(PageCount(10), |sink| -> Result<(), SnapshotError> {
                sink.write(PageIndex(2), &[7; 4096])?;
                sink.write(PageIndex(9), &[8; 4096])
            })
            .unwrap();
        builder.publish().unwrap();
        staging.publish(&name, revision).unwrap().id.to_string()
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn here() -> MachineIdentity {
    MachineIdentity::of_this_machine().unwrap()
}

#[test]
fn snapshots_are_listed_shown_verified_and_removed() {
    let home = Home::new();
    assert_eq!(home.json("snapshot list --json"), serde_json::json!([]));
    let (first, second) = (home.snapshot(here()), home.snapshot(here()));
    let list = home.json("snapshot list hello --json");
    let pairs: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["id"].as_str().unwrap(), &entry["current"]))
        .collect();
    assert_eq!(pairs, [(first.as_str(), &Value::from(false)), (second.as_str(), &Value::from(true))]);

    let show = home.json("snapshot show hello --json");
    assert_eq!(show["id"], second);
    assert_eq!((&show["memory_bytes"], &show["stored_bytes"]), (&Value::from(40960), &Value::from(8192)));
    assert_eq!(show["differences"], serde_json::json!([]));
    assert!(show["sections"].as_array().unwrap().iter().any(|section| section["name"] == "vcpus"));

    let verified = home.json(&format!("snapshot verify hello@{first} --json"));
    assert_eq!((&verified["good"], &verified["pages"]), (&Value::from(true), &Value::from(2)));

    assert!(home.line("snapshot rm hello").status.success());
    assert_eq!(home.json("snapshot show hello --json")["id"], first);
    assert!(home.line(&format!("snapshot rm hello@{first}")).status.success());
    let gone = home.line("snapshot show hello");
    assert_eq!(gone.status.code(), Some(3));
    assert!(error(&gone).contains("has no snapshot"), "{}", error(&gone));
    assert_eq!(fs::read_dir(home.path("home/trash")).unwrap().count(), 0);
}

#[test]
fn damage_is_found_and_named() {
    let home = Home::new();
    let id = home.snapshot(here());
    let memory = home.path(&format!("home/snapshots/hello/{id}/memory"));
    let mut bytes = fs::read(&memory).unwrap();
    bytes[2 * 4096 + 5] ^= 1;
    fs::write(&memory, bytes).unwrap();
    let verified = home.line("snapshot verify hello");
    assert_eq!(verified.status.code(), Some(1));
    assert!(error(&verified).contains("memory"), "{}", error(&verified));
    assert_eq!(home.json("snapshot verify hello --json")["good"], false);
    // A header that can't be read is no way around it.
    fs::write(home.path(&format!("home/snapshots/hello/{id}/state")), "nonsense").unwrap();
    assert_eq!(home.line("snapshot verify hello").status.code(), Some(1));
    assert_eq!(home.line("snapshot show hello").status.code(), Some(3));
}

#[test]
fn a_snapshot_of_another_machine_says_so() {
    let home = Home::new();
    home.snapshot(MachineIdentity { cpu_model: "Another CPU".to_owned(), ..here() });
    let shown = home.line("snapshot show hello");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("can't be restored on this machine"), "{text}");
}

#[test]
fn a_replaced_function_has_no_current_snapshot() {
    let home = Home::new();
    home.snapshot(here());
    let create = "function create hello --runtime tiny --handler other.handler --code code --replace";
    assert!(home.line(create).status.success());
    assert_eq!(home.json("snapshot list hello --json"), serde_json::json!([]));
}
