//! Creating, opening, listing and removing functions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::StoreError;
use crate::function::{Function, FunctionConfig, MAX_LAYERS, SettingProblem};
use crate::home::{Listing, Store, names, now};
use crate::manifest;
use crate::names::FunctionName;
use crate::runtimes::OpenRuntime;
use crate::snapshots::Revision;
use crate::staging::{Staging, discard, sweep};
use crate::trees::{CodeSource, OpenTree, StagedTrees, verify};

const KIND: &str = "function";

/// What to do when a name is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenPresent {
    /// Leave what is there and fail.
    Refuse,
    /// Put the new one in its place in one step.
    Replace,
}

/// A function to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFunction {
    /// Its name.
    pub name: FunctionName,
    /// Its settings.
    pub config: FunctionConfig,
    /// Its code.
    pub code: CodeSource,
    /// Its layers, at most [`MAX_LAYERS`]; a later one's files win.
    pub layers: Vec<CodeSource>,
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
}

impl OpenFunction {
    /// The variables that do not come from Lambda itself: the runtime's, and the function's, which win.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = self.runtime.record.environment.clone();
        variables.extend(self.function.config.environment.variables().clone());
        variables
    }

    /// The identity of everything that its snapshots depend on.
    pub fn revision(&self) -> Revision {
        Revision::of(&self.function, &self.runtime.record)
    }
}

impl Store {
    /// Stores a function: its code and layers first, then its record, published together.
    ///
    /// # Errors
    /// [`StoreError::FunctionExists`] under [`WhenPresent::Refuse`], [`StoreError::NoRuntime`], [`StoreError::Code`] when
    /// an archive is refused, [`StoreError::Setting`] when there is too much of it.
    pub fn create_function(&self, new: &NewFunction, when: WhenPresent) -> Result<Function, StoreError> {
        let NewFunction { name, config, code, layers } = new;
        if layers.len() > MAX_LAYERS {
            return Err(SettingProblem::Layers(layers.len()).into());
        }
        let record = self.function_record(name);
        // Checked again under the lock; here it spares the unpacking.
        self.check_new(new, when)?;
        let staging = Staging::new(self)?;
        let trees = StagedTrees::make(&staging, code, layers)?;

        let _lock = self.lock()?;
        self.check_new(new, when)?;
        trees.publish(self, &staging)?;
        let function = Function {
            name: name.clone(),
            config: config.clone(),
            code: trees.code,
            layers: trees.layers,
            merged_layers: trees.merged,
            modified: now(),
        };
        manifest::write(&record, KIND, &function)?;
        self.discard_stale_snapshots(name)?;
        self.collect_trees()?;
        sweep(self);
        Ok(function)
    }

    fn check_new(&self, new: &NewFunction, when: WhenPresent) -> Result<(), StoreError> {
        if when == WhenPresent::Refuse && self.function_record(&new.name).exists() {
            return Err(StoreError::FunctionExists(new.name.clone()));
        }
        self.runtime(&new.config.runtime).map(drop)
    }

    /// The record of a function.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`], or its record is damaged.
    pub fn function(&self, name: &FunctionName) -> Result<Function, StoreError> {
        let path = self.function_record(name);
        match manifest::read::<Function>(&path, KIND) {
            Ok(function) if function.name == *name => Ok(function),
            Ok(function) => {
                let problem = format!("it is the record of function {}", function.name);
                Err(StoreError::Damaged { path, problem })
            }
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::NoFunction(name.clone()))
            }
            Err(other) => Err(other),
        }
    }

    /// Opens a function for use.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`], [`StoreError::NoRuntime`], or something of it is damaged.
    pub fn open_function(&self, name: &FunctionName) -> Result<OpenFunction, StoreError> {
        // The record and the things it names are opened one after the other; a removal in between shows as a missing
        // tree. Under the home's lock nothing can come in between.
        let _lock = self.lock()?;
        let function = self.function(name)?;
        let runtime = self.open_runtime(&function.config.runtime)?;
        let code = self.open_tree(function.code.digest)?;
        let layers = function.merged_layers.map(|tree| self.open_tree(tree.digest)).transpose()?;
        Ok(OpenFunction { function, runtime, code, layers })
    }

    /// Every function, by name; a damaged one as its error, so that one can't hide the others.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be read.
    pub fn functions(&self) -> Result<Listing<FunctionName, Function>, StoreError> {
        let found = names(&self.functions_folder(), |name| name.strip_suffix(".json")?.parse().ok())?;
        Ok(found.into_iter().map(|name: FunctionName| (name.clone(), self.function(&name))).collect())
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

    /// Removes a function with its snapshots. Instances that run right now are not disturbed; its files go with them.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`] when there is neither a record nor snapshots.
    pub fn remove_function(&self, name: &FunctionName) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let record = self.function_record(name);
        let snapshots = self.snapshots_folder().join(name.as_str());
        if !record.exists() && !snapshots.exists() {
            return Err(StoreError::NoFunction(name.clone()));
        }
        // Snapshots hold secrets, so they go first: a crash in between leaves a function without snapshots.
        for path in [snapshots, record] {
            if path.exists() {
                discard(self, &path)?;
            }
        }
        self.collect_trees()?;
        sweep(self);
        Ok(())
    }

    fn function_record(&self, name: &FunctionName) -> PathBuf {
        self.functions_folder().join(format!("{name}.json"))
    }
}
