//! `faasnap runtime`.

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use file_tree::{EntryPath, TreeLimits, TreeWriter, copy_folder, open_tar, unpack_tar};
use runtime_builder::{Built, Recipe};
use store::{Package, Runtime, RuntimeName, RuntimeOrigin, Store, StoreError, WhenPresent};

use super::{Outcome, sound, verified};
use crate::args::{BuildRuntime, GuestKind, ImportRuntime, OutputArguments, RuntimeCommand};
use crate::output::{Table, bytes, count, note, print, print_json, report, time};
use crate::progress::BuildProgress;

pub(super) fn run(store: &Store, command: RuntimeCommand) -> Result<Outcome> {
    match command {
        RuntimeCommand::Build(arguments) => build(store, &arguments),
        RuntimeCommand::Import(arguments) => import(store, arguments),
        RuntimeCommand::List(output) => list(store, &output),
        RuntimeCommand::Show { name, verify, output } => show(store, &name, verify, &output),
        RuntimeCommand::Rm { names, force } => {
            for name in &names {
                store.remove_runtime(name, force)?;
            }
            Ok(Outcome::Good)
        }
    }
}

fn build(store: &Store, arguments: &BuildRuntime) -> Result<Outcome> {
    let recipe = Recipe::by_name(&arguments.recipe)
        .with_context(|| format!("there is no recipe {}", arguments.recipe))?
        .with_packages(&arguments.packages)?
        .with_debian(&arguments.debian)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => arguments.recipe.parse()?,
    };
    let progress = BuildProgress::new();
    let cache = store.cache();
    let plan = runtime_builder::plan(&recipe, &cache, &progress)?;
    let present = match store.runtime(&name) {
        Ok(runtime) => Some(runtime),
        Err(StoreError::NoRuntime(_)) => None,
        // A damaged one is built again.
        Err(damaged) => {
            report(&damaged.into());
            None
        }
    };
    if let Some(runtime) = present
        && !arguments.rebuild
    {
        match &runtime.origin {
            RuntimeOrigin::Built { inputs, .. } if *inputs == plan.inputs() => {
                progress.finish();
                return with_image(store, &runtime, "is up to date", arguments);
            }
            RuntimeOrigin::Built { .. } => {}
            RuntimeOrigin::Imported { from } => bail!(
                "runtime {name} was imported from {from:?}: choose another --name, or --rebuild to put a built one in its place"
            ),
        }
    }
    let staging = store.stage_runtime()?;
    let built = runtime_builder::build(&plan, &staging.root(), &staging.scratch(), &cache, &progress)?;
    let environment = built.environment.clone();
    let runtime = staging.publish(&name, origin(&recipe, built), environment, WhenPresent::Replace)?;
    progress.finish();
    with_image(store, &runtime, "is ready", arguments)
}

/// Makes the image for linux guests if it is wanted, and says what there is.
fn with_image(store: &Store, runtime: &Runtime, state: &str, arguments: &BuildRuntime) -> Result<Outcome> {
    if arguments.guest == GuestKind::Linux {
        store.runtime_image(&store.open_runtime(&runtime.name)?)?;
        if let Err(error) = linux_guest::check_machine() {
            note(&format!("its linux guests can't run here: {error}"));
        }
    }
    announce(runtime, state, &arguments.output)
}

fn origin(recipe: &Recipe, built: Built) -> RuntimeOrigin {
    let debian =
        built.debian.into_iter().map(|package| Package { name: package.name, version: package.version });
    let python =
        built.python.into_iter().map(|package| Package { name: package.name, version: package.version });
    RuntimeOrigin::Built {
        recipe: recipe.name.to_owned(),
        inputs: built.inputs,
        debian: debian.collect(),
        python: python.collect(),
    }
}

fn import(store: &Store, arguments: ImportRuntime) -> Result<Outcome> {
    let ImportRuntime { name, source, environment, replace, output } = arguments;
    let when = if replace { WhenPresent::Replace } else { WhenPresent::Refuse };
    if !replace && store.runtime(&name).is_ok() {
        return Err(StoreError::RuntimeExists(name).into());
    }
    let source = std::fs::canonicalize(&source).with_context(|| format!("reading {source:?}"))?;
    let staging = store.stage_runtime()?;
    let make = || {
        let mut tree = TreeWriter::create(staging.root(), TreeLimits::ROOT)?;
        if source.is_dir() {
            copy_folder(&source, &mut tree)?;
        } else {
            unpack_tar(&mut open_tar(&source)?, &mut tree, &Some)?;
        }
        complete(&mut tree)?;
        tree.sync()
    };
    make().with_context(|| format!("can't import {source:?}"))?;
    let origin = RuntimeOrigin::Imported { from: source };
    let runtime = staging.publish(&name, origin, environment.into_iter().collect(), when)?;
    announce(&runtime, "is ready", &output)
}

/// A root needs the folders that other things are mounted on.
fn complete(tree: &mut TreeWriter) -> std::result::Result<(), file_tree::TreeError> {
    for folder in ["dev", "opt", "proc", "sys", "tmp", "var/runtime", "var/task"] {
        if let Ok(path) = EntryPath::parse(folder.as_bytes())
            && !tree.contains(&path)
        {
            tree.folder(&path)?;
        }
    }
    Ok(())
}

fn announce(runtime: &Runtime, state: &str, output: &OutputArguments) -> Result<Outcome> {
    if output.json {
        print_json(runtime)?;
    } else {
        let size = bytes(runtime.root.bytes);
        let files = count(runtime.root.entries, "file");
        print(&format!("runtime {} {state} ({size}, {files})", runtime.name))?;
    }
    Ok(Outcome::Good)
}

fn list(store: &Store, output: &OutputArguments) -> Result<Outcome> {
    let (good, outcome) = sound(store.list_runtimes()?);
    if output.json {
        print_json(&good)?;
    } else if good.is_empty() && std::io::stdout().is_terminal() {
        print("There are no runtimes yet; `faasnap runtime build python3.11` makes one.")?;
    } else {
        let mut table = Table::new(&["NAME", "SIZE", "CREATED", "ORIGIN"]);
        for runtime in &good {
            let origin = match &runtime.origin {
                RuntimeOrigin::Built { recipe, .. } => format!("built: {recipe}"),
                RuntimeOrigin::Imported { from } => format!("imported: {}", from.display()),
            };
            let (size, created) = (bytes(runtime.root.bytes), time(runtime.created));
            table.row([runtime.name.to_string(), size, created, origin]);
        }
        print(&table.text())?;
    }
    Ok(outcome)
}

fn show(store: &Store, name: &RuntimeName, verify: bool, output: &OutputArguments) -> Result<Outcome> {
    let open = store.open_runtime(name)?;
    let runtime = &open.record;
    if output.json {
        print_json(runtime)?;
    } else {
        print(&describe(runtime, &open.path))?;
    }
    if verify { verified(store.verify_runtime(name)) } else { Ok(Outcome::Good) }
}

fn describe(runtime: &Runtime, path: &std::path::Path) -> String {
    let mut lines = vec![
        format!("name     {}", runtime.name),
        format!("created  {}", time(runtime.created)),
        format!("root     {}", path.display()),
        format!("size     {}, {} files, folders and links", bytes(runtime.root.bytes), runtime.root.entries),
        format!("digest   {}", runtime.root.digest),
    ];
    match &runtime.origin {
        RuntimeOrigin::Imported { from } => lines.push(format!("origin   imported from {}", from.display())),
        RuntimeOrigin::Built { recipe, debian, python, .. } => {
            lines.push(format!("origin   built by recipe {recipe}"));
            lines.extend(packages("Debian packages", debian));
            lines.extend(packages("Python packages", python));
        }
    }
    if !runtime.environment.is_empty() {
        lines.push("environment".to_owned());
        lines.extend(runtime.environment.iter().map(|(name, value)| format!("  {name}={value}")));
    }
    lines.join("\n")
}

fn packages(heading: &str, packages: &[Package]) -> Vec<String> {
    if packages.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![heading.to_owned()];
    lines.extend(packages.iter().map(|package| format!("  {} {}", package.name, package.version)));
    lines
}
