//! Creating, changing, opening, listing and removing functions.

use std::collections::BTreeMap;

use registry::{
    Function, FunctionConfig, FunctionName, LayerUse, MAX_LAYERS, RegistryError, SettingProblem, Settings,
    Status, Version,
};

use crate::error::StoreError;
use crate::home::{Listing, Store};
use crate::images::LinuxFiles;
use crate::packages;
use crate::runtimes::OpenRuntime;
use crate::snapshots::Revision;
use crate::staging::{Staging, discard, sweep};
use crate::trees::{CodeSource, OpenTree, StagedTrees, verify};

/// What to do when a name is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenPresent {
    /// Leave what is there and fail.
    Refuse,
    /// Put the new one in its place in one step.
    Replace,
}

/// Where a function's layer comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewLayer {
    /// A folder or an archive.
    Files(CodeSource),
    /// A layer whose files are stored already.
    Stored(LayerUse),
}

/// A function to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFunction {
    /// Its name.
    pub name: FunctionName,
    /// What its instances depend on.
    pub config: FunctionConfig,
    /// Its other settings.
    pub settings: Settings,
    /// Its code.
    pub code: CodeSource,
    /// Its layers, at most [`MAX_LAYERS`]; a later one's files win.
    pub layers: Vec<NewLayer>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its state.
    pub status: Status,
}

/// New code or layers for a function that is there; `None` leaves what there is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewCode {
    /// Its code.
    pub code: Option<CodeSource>,
    /// Its layers.
    pub layers: Option<Vec<NewLayer>>,
}

/// A function that is in use: everything an instance needs, kept on disk as long as this value lives.
#[derive(Debug)]
pub struct OpenFunction {
    /// Its record.
    pub function: Function,
    /// Its root file system, seen at `/`.
    pub runtime: OpenRuntime,
    /// Its code, seen at `/var/task`.
    pub code: OpenTree,
    /// Its layers merged, seen at `/opt`.
    pub layers: Option<OpenTree>,
    /// What it needs to be in a linux guest; `None` for other guests.
    pub linux: Option<LinuxFiles>,
    /// Whether it may open connections to the outside: its tag [`NETWORK_TAG`] says [`NETWORK_OUTBOUND`].
    pub network: bool,
}

/// The tag by which a function asks for outbound connections.
pub const NETWORK_TAG: &str = "faasnap:network";
/// That tag's value when it has them.
pub const NETWORK_OUTBOUND: &str = "outbound";
/// That tag's value when it has none, which is also what no tag means.
pub const NETWORK_NONE: &str = "none";

impl OpenFunction {
    /// The variables that do not come from Lambda itself: the runtime's, and the function's, which win.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = self.runtime.record.environment.clone();
        variables.extend(self.function.config.environment.variables().clone());
        variables
    }

    /// The identity of everything that its snapshots depend on.
    pub fn revision(&self) -> Revision {
        Revision::of(&self.function, &self.runtime.record, self.network)
    }
}

/// The name of a staged archive.
const PACKAGE: &str = "package.zip";

impl Store {
    /// Stores a function: its code and layers first, then its record, published together.
    ///
    /// # Errors
    /// [`StoreError::FunctionExists`] under [`WhenPresent::Refuse`], [`StoreError::NoRuntime`], [`StoreError::Code`] when
    /// an archive is refused, [`StoreError::Setting`] when there is too much of it.
    pub fn create_function(&self, new: &NewFunction, when: WhenPresent) -> Result<Function, StoreError> {
        if new.layers.len() > MAX_LAYERS {
            return Err(SettingProblem::Layers(new.layers.len()).into());
        }
        // Checked again under the lock; here it spares the unpacking.
        self.check_new(new, when)?;
        let staging = Staging::new(self)?;
        let code = StagedTrees::code(&staging, &new.code)?;
        let package = packages::stage(&staging, PACKAGE, &new.code, &code.summary())?;
        let layers = StagedTrees::layers(self, &staging, &new.layers, code.summary())?;

        let _lock = self.lock()?;
        self.check_new(new, when)?;
        code.publish(self, &staging)?;
        layers.publish(self, &staging)?;
        packages::publish(self, &staging, PACKAGE, &package)?;
        let mut function = Function {
            name: new.name.clone(),
            version: Version::Latest,
            config: new.config.clone(),
            settings: new.settings.clone(),
            code: code.summary(),
            package,
            merged_layers: layers.merged(),
            layers: layers.uses,
            status: new.status.clone(),
            revision_id: String::new(),
            modified_ms: 0,
        };
        function.touch();
        self.registry().insert(&function, &new.tags, when == WhenPresent::Replace)?;
        if when == WhenPresent::Replace {
            self.discard_stale_snapshots(&new.name)?;
            self.collect()?;
        }
        sweep(self);
        Ok(function)
    }

    fn check_new(&self, new: &NewFunction, when: WhenPresent) -> Result<(), StoreError> {
        if when == WhenPresent::Refuse && self.registry().exists(&new.name)? {
            return Err(StoreError::FunctionExists(new.name.clone()));
        }
        self.runtime(&new.config.runtime).map(drop)
    }

    /// Changes `$LATEST`: its files when there are new ones, then what `change` does to its record, in one step. `change`
    /// sees the record with the new files in it, and may refuse.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`], [`StoreError::Code`] when an archive is refused, [`StoreError::NoRuntime`] when the
    /// changed record has none, or what `change` refuses with.
    pub fn update_function<E: From<StoreError> + From<RegistryError>>(
        &self,
        name: &FunctionName,
        new: &NewCode,
        change: impl FnOnce(&mut Function) -> Result<(), E>,
    ) -> Result<Function, E> {
        let before = self.function(name)?;
        let staging = Staging::new(self)?;
        let code = new.code.as_ref().map(|source| StagedTrees::code(&staging, source)).transpose()?;
        let code_now = code.as_ref().map_or(before.code, StagedTrees::summary);
        let package = match (&new.code, &code) {
            (Some(source), Some(code)) => Some(packages::stage(&staging, PACKAGE, source, &code.summary())?),
            _ => None,
        };
        let layers = match &new.layers {
            Some(layers) => Some(StagedTrees::layers(self, &staging, layers, code_now)?),
            None => None,
        };

        let _lock = self.lock().map_err(E::from)?;
        for trees in code.iter().chain(&layers) {
            trees.publish(self, &staging)?;
        }
        if let Some(package) = &package {
            packages::publish(self, &staging, PACKAGE, package)?;
        }
        let function = self.registry().update(name, Version::Latest, |function| {
            if let (Some(code), Some(package)) = (&code, package) {
                function.code = code.summary();
                function.package = package;
            }
            if let Some(layers) = layers {
                function.merged_layers = layers.merged();
                function.layers = layers.uses;
            }
            change(function)?;
            self.runtime(&function.config.runtime)?;
            function.touch();
            Ok::<_, E>(())
        });
        // Also when it was refused: the new files are nobody's then.
        self.discard_stale_snapshots(name)?;
        self.collect()?;
        sweep(self);
        function
    }

    /// The record of `$LATEST`.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`], or its record is damaged.
    pub fn function(&self, name: &FunctionName) -> Result<Function, StoreError> {
        Ok(self.registry().function(name, Version::Latest)?)
    }

    /// Opens `$LATEST` for use.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`], [`StoreError::NoRuntime`], or something of it is damaged.
    pub fn open_function(&self, name: &FunctionName) -> Result<OpenFunction, StoreError> {
        self.open_version(name, Version::Latest)
    }

    /// Opens a version of a function for use.
    ///
    /// # Errors
    /// As [`Self::open_function`], and [`StoreError::NoVersion`].
    pub fn open_version(&self, name: &FunctionName, version: Version) -> Result<OpenFunction, StoreError> {
        // The record and the things it names are opened one after the other; a removal in between shows as a missing
        // tree. Under the home's lock nothing can come in between.
        let lock = self.lock()?;
        let function = self.registry().function(name, version)?;
        let runtime = self.open_runtime(&function.config.runtime)?;
        let code = self.open_tree(function.code.digest)?;
        let layers = function.merged_layers.map(|tree| self.open_tree(tree.digest)).transpose()?;
        drop(lock);
        let network = self.has_network(name)?;
        let mut open = OpenFunction { function, runtime, code, layers, linux: None, network };
        open.linux = self.linux_files(&open)?;
        Ok(open)
    }

    /// Whether a function asks for outbound connections.
    ///
    /// # Errors
    /// [`StoreError::Registry`] when the registry can't be read.
    pub fn has_network(&self, name: &FunctionName) -> Result<bool, StoreError> {
        Ok(self.registry().tags(name)?.get(NETWORK_TAG).is_some_and(|value| value == NETWORK_OUTBOUND))
    }

    /// `$LATEST` of every function, by name; a damaged one as its error, so that one can't hide the others.
    ///
    /// # Errors
    /// [`StoreError::Registry`] when the registry can't be read.
    pub fn functions(&self) -> Result<Listing<FunctionName, Function>, StoreError> {
        let all = self.registry().functions()?;
        Ok(all.into_iter().map(|(name, function)| (name, function.map_err(StoreError::from))).collect())
    }

    /// Reads every file of a function's code and layers and compares with the recorded digests.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when a file was changed, added or removed.
    pub fn verify_function(&self, name: &FunctionName) -> Result<(), StoreError> {
        let open = self.open_function(name)?;
        std::iter::once(&open.code)
            .chain(&open.layers)
            .try_for_each(|tree| verify(&tree.path, tree.summary.digest))
    }

    /// Removes a function with its versions and snapshots. Instances that run right now are not disturbed; its files go
    /// with them.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`] when there is neither a record nor snapshots.
    pub fn remove_function(&self, name: &FunctionName) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let snapshots = self.snapshots_folder().join(name.as_str());
        if !self.registry().exists(name)? && !snapshots.exists() {
            return Err(StoreError::NoFunction(name.clone()));
        }
        // Snapshots hold secrets, so they go first: a crash in between leaves a function without snapshots.
        if snapshots.exists() {
            discard(self, &snapshots)?;
        }
        self.registry().remove(name)?;
        self.collect()?;
        sweep(self);
        Ok(())
    }

    /// Removes a published version with its snapshots. Says whether it was there.
    ///
    /// # Errors
    /// [`StoreError::Registry`] or [`StoreError::Io`].
    pub fn remove_version(&self, name: &FunctionName, number: u64) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let was_there = self.registry().remove_version(name, number)?;
        self.discard_stale_snapshots(name)?;
        self.collect()?;
        sweep(self);
        Ok(was_there)
    }
}
