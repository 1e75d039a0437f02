//! The registry as its users see it: what was acknowledged stays, what is refused changes nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use registry::{
    Alias, Environment, Function, FunctionConfig, Guest, Handler, MemoryMegabytes, Package, Registry,
    RegistryError, Settings, Status, TimeoutSeconds, TmpMegabytes, TreeDigest, TreeSummary, Version,
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("registry.sqlite")
    }

    fn open(&self) -> Registry {
        Registry::open(&self.path()).unwrap()
    }
}

fn function(name: &str, code: &str) -> Function {
    Function {
        name: name.parse().unwrap(),
        version: Version::Latest,
        config: FunctionConfig {
            runtime: "test".parse().unwrap(),
            handler: Handler::try_from("app.handler".to_owned()).unwrap(),
            memory: MemoryMegabytes::DEFAULT,
            timeout: TimeoutSeconds::DEFAULT,
            tmp: TmpMegabytes::DEFAULT,
            environment: Environment::default(),
            guest: Guest::Process,
        },
        settings: Settings::default(),
        code: TreeSummary { digest: TreeDigest::of_bytes(code.as_bytes()), bytes: 1, entries: 1 },
        package: Package { sha256: code.to_owned(), bytes: 1, kept: true },
        layers: Vec::new(),
        merged_layers: None,
        status: Status::active(),
        revision_id: "1".to_owned(),
        modified_ms: 1,
    }
}

fn alias(version: u64) -> Alias {
    Alias {
        name: "live".parse().unwrap(),
        version: Version::Number(version),
        description: String::new(),
        routing: [(Version::Number(2), 0.25)].into(),
        revision_id: "1".to_owned(),
    }
}

fn ok(_: &Function) -> Result<(), RegistryError> {
    Ok(())
}

#[test]
fn what_was_stored_is_there_after_opening_again() {
    let place = Place::new();
    let stored = function("f", "one");
    let tags = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    place.open().insert(&stored, &tags, false).unwrap();
    let registry = place.open();
    assert_eq!(registry.function(&stored.name, Version::Latest).unwrap(), stored);
    assert_eq!(registry.tags(&stored.name).unwrap(), tags);
    assert!(matches!(registry.insert(&stored, &tags, false), Err(RegistryError::FunctionExists(_))));
    let missing = registry.function(&stored.name, Version::Number(1));
    assert!(matches!(missing, Err(RegistryError::NoVersion { .. })));
    let missing = registry.function(&"g".parse().unwrap(), Version::Number(1));
    assert!(matches!(missing, Err(RegistryError::NoFunction(_))));
}

#[test]
fn versions_are_numbered_and_a_number_never_comes_back() {
    let registry = Place::new();
    let registry = registry.open();
    let name = "f".parse().unwrap();
    registry.insert(&function("f", "one"), &BTreeMap::new(), false).unwrap();
    let publish = || registry.publish(&name, ok, |_| {}).unwrap();
    assert_eq!(publish().0.version, Version::Number(1));
    assert!(!publish().1, "unchanged");
    registry
        .update(&name, Version::Latest, |function| {
            function.package.sha256 = "two".to_owned();
            Ok::<_, RegistryError>(())
        })
        .unwrap();
    assert_eq!(publish().0.version, Version::Number(2));
    assert!(registry.remove_version(&name, 2).unwrap());
    assert!(registry.remove_version(&name, 1).unwrap());
    assert_eq!(publish().0.version, Version::Number(3));
    assert!(!registry.remove_version(&name, 0).unwrap(), "$LATEST goes with its function only");
    let page = registry.versions_page(&name, "", 1).unwrap();
    assert_eq!((page.items.len(), page.next.as_deref()), (1, Some("0")));
    let rest = registry.versions_page(&name, "0", 1).unwrap();
    assert_eq!(
        (rest.items.first().map(|function| function.version), rest.next),
        (Some(Version::Number(3)), None)
    );
}

#[test]
fn a_refused_change_is_taken_back() {
    let place = Place::new();
    let registry = place.open();
    let name = "f".parse().unwrap();
    registry.insert(&function("f", "one"), &BTreeMap::new(), false).unwrap();
    let refused = registry.update(&name, Version::Latest, |function| {
        function.settings.description = "changed".to_owned();
        Err(RegistryError::NoFunction(name.clone()))
    });
    assert!(refused.is_err());
    assert_eq!(registry.function(&name, Version::Latest).unwrap().settings.description, "");
}

#[test]
fn what_belongs_to_a_function_goes_with_it() {
    let place = Place::new();
    let registry = place.open();
    let name = "f".parse().unwrap();
    registry.insert(&function("f", "one"), &BTreeMap::new(), false).unwrap();
    assert!(registry.insert_alias(&name, &alias(1)).unwrap());
    assert!(!registry.insert_alias(&name, &alias(2)).unwrap());
    let changed = registry.update_alias(&name, "live", |alias| {
        alias.version = Version::Number(7);
        Ok::<_, RegistryError>(())
    });
    assert_ne!(changed.unwrap().unwrap().revision_id, "1");
    assert_eq!(registry.aliases_of(&name, Version::Number(7)).unwrap().len(), 1);
    assert_eq!(registry.digests_in_use().unwrap().len(), 2);
    registry.reserve_concurrency(&name, Some(7)).unwrap();
    assert_eq!(registry.reserved_by_others("g").unwrap(), 7);
    assert!(registry.remove(&name).unwrap());
    assert!(!registry.remove(&name).unwrap());
    assert_eq!(registry.alias(&name, "live").unwrap(), None);
    assert!(registry.digests_in_use().unwrap().is_empty());
    assert_eq!(registry.reserved_by_others("g").unwrap(), 0);
    registry.insert(&function("f", "one"), &BTreeMap::new(), false).unwrap();
    assert_eq!(registry.reserved_concurrency(&name).unwrap(), None);
}

#[test]
fn one_damaged_record_hides_nobody_and_can_be_removed() {
    let place = Place::new();
    let registry = place.open();
    for name in ["f", "g"] {
        registry.insert(&function(name, name), &BTreeMap::new(), false).unwrap();
    }
    let outside = rusqlite::Connection::open(place.path()).unwrap();
    let before = registry.data_version().unwrap();
    outside.execute("UPDATE versions SET record = replace(record, '\"memory\":128', '\"memory\":1') WHERE function = 'f'", []).unwrap();
    assert_ne!(registry.data_version().unwrap(), before, "another writer is noticed");
    let listed = registry.functions().unwrap();
    assert_eq!(listed.iter().map(|(_, function)| function.is_ok()).collect::<Vec<_>>(), [false, true]);
    assert!(registry.remove(&"f".parse().unwrap()).unwrap());
    assert_eq!(registry.functions().unwrap().len(), 1);
}

#[test]
fn registries_of_others_are_refused_untouched() {
    let place = Place::new();
    drop(place.open());
    let outside = rusqlite::Connection::open(place.path()).unwrap();
    outside.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Registry::open(&place.path()), Err(RegistryError::Schema { found: 99, .. })));
    let foreign = Place::new();
    let outside = rusqlite::Connection::open(foreign.path()).unwrap();
    outside.execute_batch("CREATE TABLE mine (x)").unwrap();
    assert!(matches!(Registry::open(&foreign.path()), Err(RegistryError::Foreign { .. })));
    let garbage = Place::new();
    std::fs::write(garbage.path(), "no database at all".repeat(100)).unwrap();
    assert!(matches!(Registry::open(&garbage.path()), Err(RegistryError::Database { .. })));
}
