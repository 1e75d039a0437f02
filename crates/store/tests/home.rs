//! The home directory as its users see it: functions, runtimes and snapshots come, are replaced and go.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::Status;
use store::{
    CodeSource, Environment, Function, FunctionConfig, FunctionName, Guest, Handler, MemoryMegabytes,
    NewCode, NewFunction, NewLayer, Revision, RuntimeName, RuntimeOrigin, SettingProblem, Settings, Store,
    StoreError, TimeoutSeconds, TmpMegabytes, Version, WhenPresent,
};

struct Home {
    folder: tempfile::TempDir,
    store: Store,
}

fn runtime_name() -> RuntimeName {
    "test.runtime".parse().unwrap()
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

impl Home {
    /// A home with one runtime.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("home")).unwrap().with_grace(Duration::ZERO);
        let home = Self { folder, store };
        home.runtime("one", WhenPresent::Refuse).unwrap();
        home
    }

    fn runtime(&self, content: &str, when: WhenPresent) -> Result<(), StoreError> {
        let staging = self.store.stage_runtime()?;
        fs::create_dir(staging.root()).unwrap();
        fs::write(staging.root().join("release"), content).unwrap();
        let origin = RuntimeOrigin::Imported { from: PathBuf::from("/somewhere") };
        let environment =
            [("PATH", "/bin"), ("MODE", "runtime")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        staging.publish(&runtime_name(), origin, environment.into(), when).map(drop)
    }

    fn code(&self, files: &[(&str, &str)]) -> CodeSource {
        let folder = self.folder.path().join(format!("code-{}", uuid()));
        for (path, content) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        CodeSource::detect(&folder).unwrap()
    }

    fn create(&self, text: &str, content: &str, when: WhenPresent) -> Result<Function, StoreError> {
        self.store.create_function(&new(text, self.code(&[("app.py", content)]), Vec::new()), when)
    }

    fn snapshot(
        &self,
        function: &FunctionName,
        revision: Revision,
    ) -> Result<store::SnapshotEntry, StoreError> {
        let staging = self.store.stage_snapshot()?;
        fs::create_dir(staging.path()).unwrap();
        fs::write(staging.path().join("memory"), "m").unwrap();
        staging.publish(function, revision)
    }

    fn count(&self, part: &str) -> usize {
        fs::read_dir(self.store.path().join(part)).unwrap().count()
    }
}

fn uuid() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

fn new(text: &str, code: CodeSource, layers: Vec<CodeSource>) -> NewFunction {
    let config = FunctionConfig {
        runtime: runtime_name(),
        handler: Handler::try_from("app.handler".to_owned()).unwrap(),
        memory: MemoryMegabytes::DEFAULT,
        timeout: TimeoutSeconds::DEFAULT,
        tmp: TmpMegabytes::DEFAULT,
        environment: Environment::default(),
        guest: Guest::Process,
    };
    NewFunction {
        name: name(text),
        config,
        settings: Settings::default(),
        code,
        layers: layers.into_iter().map(NewLayer::Files).collect(),
        tags: BTreeMap::new(),
        status: Status::active(),
    }
}

#[test]
fn a_function_comes_back_as_it_was_stored() {
    let home = Home::new();
    let created = home.create("hello", "x", WhenPresent::Refuse).unwrap();
    assert_eq!(Store::open(home.store.path()).unwrap().function(&name("hello")).unwrap(), created);
    let open = home.store.open_function(&name("hello")).unwrap();
    assert_eq!(fs::read_to_string(open.code.path.join("app.py")).unwrap(), "x");
    assert_eq!(fs::read_to_string(open.runtime.path.join("release")).unwrap(), "one");
    assert!(open.layers.is_none());
    assert_eq!((home.count("staging"), home.count("trash")), (0, 0));
}

#[test]
fn a_function_s_variables_win_over_its_runtime_s() {
    let home = Home::new();
    let mut new = new("f", home.code(&[("x", "")]), Vec::new());
    let own = BTreeMap::from([("MODE".to_owned(), "function".to_owned())]);
    new.config.environment = Environment::new(own).unwrap();
    home.store.create_function(&new, WhenPresent::Refuse).unwrap();
    let environment = home.store.open_function(&name("f")).unwrap().environment();
    let pairs: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("MODE", "function"), ("PATH", "/bin")]);
}

#[test]
fn the_same_code_is_stored_once_and_goes_with_its_last_user() {
    let home = Home::new();
    home.create("a", "same", WhenPresent::Refuse).unwrap();
    home.create("b", "same", WhenPresent::Refuse).unwrap();
    assert_eq!(home.count("trees"), 1);
    home.store.remove_function(&name("a")).unwrap();
    assert_eq!(home.count("trees"), 1);
    home.store.remove_function(&name("b")).unwrap();
    assert_eq!(home.count("trees"), 0);
    assert!(matches!(home.store.remove_function(&name("b")), Err(StoreError::NoFunction(_))));
}

#[test]
fn code_that_nothing_names_any_more_stays_for_a_grace_period() {
    let home = Home::new();
    let hour = Duration::from_secs(3600);
    let careful = home.store.clone().with_grace(hour);
    home.create("f", "one", WhenPresent::Refuse).unwrap();
    careful.remove_function(&name("f")).unwrap();
    assert_eq!(home.count("trees"), 2, "the code, and since when it has no use");
    home.create("f", "one", WhenPresent::Refuse).unwrap();
    careful.tidy().unwrap();
    assert_eq!(home.count("trees"), 1, "it has a use again");

    careful.remove_function(&name("f")).unwrap();
    let folder = home.store.path().join("trees");
    let entries = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mark = entries().find(|path| path.to_string_lossy().ends_with(".unused")).unwrap();
    let age = |age: Duration| {
        let at = std::time::SystemTime::now() - age;
        fs::File::options().write(true).open(&mark).unwrap().set_modified(at).unwrap();
        careful.tidy().unwrap();
        home.count("trees")
    };
    assert_eq!((age(hour / 2), age(hour)), (2, 0));
}

#[test]
fn a_taken_name_is_refused_unless_it_is_replaced() {
    let home = Home::new();
    home.create("f", "one", WhenPresent::Refuse).unwrap();
    assert!(matches!(home.create("f", "two", WhenPresent::Refuse), Err(StoreError::FunctionExists(_))));
    home.create("f", "two", WhenPresent::Replace).unwrap();
    let open = home.store.open_function(&name("f")).unwrap();
    assert_eq!(fs::read_to_string(open.code.path.join("app.py")).unwrap(), "two");
    assert_eq!(home.count("trees"), 1, "the old code is gone");
}

#[test]
fn layers_are_merged_and_the_last_one_wins() {
    let home = Home::new();
    let layers = vec![
        home.code(&[("python/a.py", "1"), ("python/b.py", "1")]),
        home.code(&[("python/b.py", "2"), ("bin/c", "2")]),
    ];
    let code = home.code(&[("app.py", "")]);
    home.store.create_function(&new("f", code, layers), WhenPresent::Refuse).unwrap();
    let open = home.store.open_function(&name("f")).unwrap();
    let merged = open.layers.unwrap().path;
    let read = |path: &str| fs::read_to_string(merged.join(path)).unwrap();
    assert_eq!([read("python/a.py"), read("python/b.py"), read("bin/c")], ["1", "2", "2"]);
    assert_eq!(home.count("trees"), 4, "code, two layers, and their merger");
    home.store.verify_function(&name("f")).unwrap();

    let six = (0..6).map(|_| home.code(&[("x", "")])).collect();
    let refused = home.store.create_function(&new("g", home.code(&[("x", "")]), six), WhenPresent::Refuse);
    assert!(matches!(refused, Err(StoreError::Setting(SettingProblem::Layers(6)))));
}

#[test]
fn a_function_needs_its_runtime_and_protects_it() {
    let home = Home::new();
    let mut other = new("f", home.code(&[("x", "")]), Vec::new());
    other.config.runtime = "absent".parse().unwrap();
    let refused = home.store.create_function(&other, WhenPresent::Refuse);
    assert!(matches!(refused, Err(StoreError::NoRuntime(_))));

    home.create("user", "x", WhenPresent::Refuse).unwrap();
    let refused = home.store.remove_runtime(&runtime_name(), false);
    assert!(
        matches!(refused, Err(StoreError::RuntimeInUse { functions, .. }) if functions == [name("user")])
    );
    home.store.remove_runtime(&runtime_name(), true).unwrap();
    assert!(matches!(home.store.open_function(&name("user")), Err(StoreError::NoRuntime(_))));
}

#[test]
fn what_is_in_use_outlives_its_removal() {
    let home = Home::new();
    home.create("f", "precious", WhenPresent::Refuse).unwrap();
    let open = home.store.open_function(&name("f")).unwrap();
    home.store.remove_function(&name("f")).unwrap();
    home.store.remove_runtime(&runtime_name(), false).unwrap();
    home.store.sweep().unwrap();
    // The names are gone, the files are there for who has them open.
    assert!(!open.code.path.exists());
    for (directory, file, content) in
        [(&open.code.directory, "app.py", "precious"), (&open.runtime.directory, "release", "one")]
    {
        assert_eq!(read_at(directory.as_fd(), file), content);
    }
    assert_eq!(home.count("trash"), 2);
    drop(open);
    home.store.sweep().unwrap();
    assert_eq!(home.count("trash"), 0);
}

fn read_at(directory: std::os::fd::BorrowedFd<'_>, file: &str) -> String {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, file, flags, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_replaced_runtime_changes_the_revision_and_drops_its_snapshots() {
    let home = Home::new();
    home.create("f", "x", WhenPresent::Refuse).unwrap();
    let before = home.store.open_function(&name("f")).unwrap().revision();
    home.snapshot(&name("f"), before).unwrap();
    assert!(matches!(home.runtime("two", WhenPresent::Refuse), Err(StoreError::RuntimeExists(_))));
    home.runtime("two", WhenPresent::Replace).unwrap();
    let after = home.store.open_function(&name("f")).unwrap();
    assert_ne!(after.revision(), before);
    assert_eq!(home.store.current_snapshot(&after).unwrap(), None);
    assert_eq!(home.store.snapshots(&name("f")).unwrap(), []);
}

#[test]
fn snapshots_are_numbered_and_the_latest_fitting_one_is_current() {
    let home = Home::new();
    home.create("f", "x", WhenPresent::Refuse).unwrap();
    let open = home.store.open_function(&name("f")).unwrap();
    let first = home.snapshot(&name("f"), open.revision()).unwrap();
    let second = home.snapshot(&name("f"), open.revision()).unwrap();
    assert_eq!((first.id.number(), second.id.number()), (1, 2));
    assert_eq!(home.store.current_snapshot(&open).unwrap(), Some(second.clone()));
    home.store.remove_snapshot(&name("f"), &second.id).unwrap();
    assert_eq!(home.store.current_snapshot(&open).unwrap(), Some(first.clone()));
    let gone = home.store.open_snapshot(&name("f"), &second.id);
    assert!(matches!(gone, Err(StoreError::NoSnapshot { .. })));

    drop(open);
    // A leased snapshot stays on disk when its whole function goes.
    let (_, lease) = home.store.open_snapshot(&name("f"), &first.id).unwrap();
    home.store.remove_function(&name("f")).unwrap();
    home.store.sweep().unwrap();
    assert_eq!(home.count("trash"), 1);
    drop(lease);
    home.store.sweep().unwrap();
    assert_eq!(home.count("trash"), 0);
}

#[test]
fn a_snapshot_of_a_removed_function_is_not_published() {
    let home = Home::new();
    home.create("f", "x", WhenPresent::Refuse).unwrap();
    let revision = home.store.open_function(&name("f")).unwrap().revision();
    home.store.remove_function(&name("f")).unwrap();
    assert!(matches!(home.snapshot(&name("f"), revision), Err(StoreError::NoFunction(_))));
    assert_eq!(home.count("staging"), 0);
}

#[test]
fn what_a_crash_left_in_staging_is_swept_and_what_is_being_made_is_not() {
    let home = Home::new();
    let running = home.store.stage_runtime().unwrap();
    let abandoned = home.store.path().join("staging/0123");
    fs::create_dir_all(abandoned.join("runtime/root")).unwrap();
    fs::write(home.store.path().join("staging/0123.lock"), "").unwrap();
    home.store.sweep().unwrap();
    assert!(!abandoned.exists());
    assert_eq!(home.count("staging"), 2, "the running one with its lock");
    assert!(running.root().parent().unwrap().exists());
}

#[test]
fn a_zip_that_is_refused_leaves_nothing_behind() {
    let home = Home::new();
    let path = home.folder.path().join("evil.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    zip.start_file("../../escaped", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"x").unwrap();
    zip.finish().unwrap();
    let code = CodeSource::detect(&path).unwrap();
    let refused = home.store.create_function(&new("f", code, Vec::new()), WhenPresent::Refuse);
    assert!(matches!(refused, Err(StoreError::Code { .. })), "{refused:?}");
    assert_eq!(
        (home.store.functions().unwrap().len(), home.count("trees"), home.count("staging")),
        (0, 0, 0)
    );
}

#[test]
fn only_folders_and_zips_are_code() {
    let home = Home::new();
    let text = home.folder.path().join("app.py");
    fs::write(&text, "def handler(): pass").unwrap();
    assert!(CodeSource::detect(&text).is_err());
    assert!(CodeSource::detect(Path::new("/nonexistent/code")).is_err());
}

fn published(home: &Home, text: &str) -> (Function, bool) {
    home.store.registry().publish(&name(text), |_| Ok::<_, StoreError>(()), |_| {}).unwrap()
}

#[test]
fn a_version_keeps_its_code_and_snapshots_until_it_goes() {
    let home = Home::new();
    home.create("f", "one", WhenPresent::Refuse).unwrap();
    let (first, is_new) = published(&home, "f");
    assert_eq!((first.version, is_new), (Version::Number(1), true));
    assert!(!published(&home, "f").1, "nothing has changed");
    let open = home.store.open_version(&name("f"), Version::Number(1)).unwrap();
    let latest = home.store.open_function(&name("f")).unwrap();
    assert_ne!(open.revision(), latest.revision(), "a function sees its version");
    let kept = home.snapshot(&name("f"), open.revision()).unwrap();
    home.snapshot(&name("f"), latest.revision()).unwrap();

    let code = NewCode { code: Some(home.code(&[("app.py", "two")])), layers: None };
    home.store.update_function(&name("f"), &code, |_| Ok::<_, StoreError>(())).unwrap();
    assert_eq!(home.count("trees"), 2, "the old code is a version's");
    let left = home.store.snapshots(&name("f")).unwrap();
    assert_eq!(left.iter().map(|snapshot| &snapshot.id).collect::<Vec<_>>(), [&kept.id]);
    let stale = home.snapshot(&name("f"), latest.revision());
    assert!(matches!(stale, Err(StoreError::Outdated(_))), "{stale:?}");
    assert_eq!(published(&home, "f").0.version, Version::Number(2));

    drop((open, latest));
    assert!(home.store.remove_version(&name("f"), 1).unwrap());
    assert!(!home.store.remove_version(&name("f"), 1).unwrap());
    assert_eq!((home.count("trees"), home.store.snapshots(&name("f")).unwrap().len()), (1, 0));
    let gone = home.store.open_version(&name("f"), Version::Number(1));
    assert!(matches!(gone, Err(StoreError::NoVersion { .. })));
}

#[test]
fn a_refused_update_changes_nothing() {
    let home = Home::new();
    let before = home.create("f", "one", WhenPresent::Refuse).unwrap();
    let code = NewCode { code: Some(home.code(&[("app.py", "two")])), layers: None };
    let refuse = |_: &mut Function| Err(StoreError::NoHome);
    assert!(matches!(home.store.update_function(&name("f"), &code, refuse), Err(StoreError::NoHome)));
    assert_eq!(home.store.function(&name("f")).unwrap(), before);
    assert_eq!((home.count("trees"), home.count("staging")), (1, 0));
}

#[test]
fn an_archive_can_be_read_again_as_it_was() {
    let home = Home::new();
    let path = home.folder.path().join("code.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    zip.start_file("app.py", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"x").unwrap();
    zip.finish().unwrap();
    let code = CodeSource::detect(&path).unwrap();
    let function = home.store.create_function(&new("f", code, Vec::new()), WhenPresent::Refuse).unwrap();
    let mut kept = Vec::new();
    home.store.open_package(&function.package.sha256).unwrap().read_to_end(&mut kept).unwrap();
    assert_eq!(kept, fs::read(&path).unwrap());
    home.store.remove_function(&name("f")).unwrap();
    assert_eq!(home.count("packages"), 0);
}

#[test]
fn changed_files_are_found() {
    let home = Home::new();
    home.create("f", "x", WhenPresent::Refuse).unwrap();
    let path = home.store.open_function(&name("f")).unwrap().code.path;
    fs::write(path.join("app.py"), "changed").unwrap();
    assert!(matches!(home.store.verify_function(&name("f")), Err(StoreError::Changed { .. })));
}

#[test]
fn several_writers_do_not_disturb_each_other() {
    let home = Home::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let home = &home;
            scope.spawn(move || {
                for round in 0..5 {
                    let text = format!("f{writer}");
                    home.create(&text, &format!("{round}"), WhenPresent::Replace).unwrap();
                    home.store.open_function(&name(&text)).unwrap();
                }
                home.store.remove_function(&name(&format!("f{writer}"))).unwrap();
            });
        }
    });
    let functions = home.store.functions().unwrap().len();
    assert_eq!((home.count("trees"), functions, home.count("staging")), (0, 0, 0));
}

#[test]
fn snapshots_go_when_nobody_uses_them_or_the_quota_has_no_room() {
    use std::time::Duration;

    use store::Retention;
    let home = Home::new();
    home.create("used", "x", WhenPresent::Refuse).unwrap();
    home.create("old", "x", WhenPresent::Refuse).unwrap();
    let taken = |text: &str| {
        let open = home.store.open_function(&name(text)).unwrap();
        home.snapshot(&name(text), open.revision()).unwrap()
    };
    let (used, old) = (taken("used"), taken("old"));
    let there = |text: &str| home.store.snapshots(&name(text)).unwrap().len();
    let retained = home.store.retain(&Retention::default()).unwrap();
    assert_eq!((retained.removed, retained.over_quota, there("used"), there("old")), (vec![], false, 1, 1));
    // Within the grace period nothing goes, and that is said.
    let full = Retention { quota: Some(1), ..Retention::default() };
    assert!(home.store.retain(&full).unwrap().over_quota);
    let past = std::time::SystemTime::now() - Duration::from_secs(20 * 86_400);
    for entry in [&used, &old] {
        fs::File::open(&entry.path).unwrap().set_modified(past).unwrap();
    }
    home.store.note_use(&name("used"), &used.id).unwrap();
    let retained = home.store.retain(&Retention::default()).unwrap();
    assert_eq!(retained.removed, [(name("old"), old.id.clone())]);
    assert_eq!((there("used"), there("old")), (1, 0));
    let now = Retention { grace: Duration::ZERO, ..full };
    assert_eq!(home.store.retain(&now).unwrap().removed, [(name("used"), used.id)]);
    assert_eq!(there("used"), 0);
    assert_eq!(fs::read_dir(home.store.path().join("snapshots/used")).unwrap().count(), 0);
}
