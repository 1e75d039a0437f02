//! `faasnap kernel`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use initramfs::ModuleError;
use linux_guest::{KernelImage, MODULES, OPTIONAL_MODULES};
use store::{
    Kernel, KernelModule, KernelName, KernelOrigin, NewKernel, OpenKernel, Package, Store, WhenPresent,
};

use super::{Outcome, sound};
use crate::args::{BuildKernel, ImportKernel, KernelCommand, OutputArguments, StoredKernel};
use crate::output::{Table, bytes, count, note, print, print_json, time};
use crate::progress::BuildProgress;

pub(super) fn run(store: &Store, command: KernelCommand) -> Result<Outcome> {
    match command {
        KernelCommand::BuildFromDebian(arguments) => build(store, &arguments),
        KernelCommand::Import(arguments) => import(store, &arguments),
        KernelCommand::List(output) => list(store, &output),
        KernelCommand::Show { name, output } => show(&store.kernel(&name)?, &output),
        KernelCommand::Edit { name, command_line, output } => edit(store, &name, command_line, &output),
        KernelCommand::Rm { names } => {
            for name in &names {
                store.remove_kernel(name)?;
            }
            Ok(Outcome::Good)
        }
    }
}

fn build(store: &Store, arguments: &BuildKernel) -> Result<Outcome> {
    let progress = BuildProgress::new();
    let staging = store.stage_runtime()?;
    let built = runtime_builder::debian_kernel(&staging.scratch(), &store.cache(), &progress)?;
    progress.finish();
    let package = Package { name: built.package.name.clone(), version: built.package.version.clone() };
    let origin = KernelOrigin::Debian { package };
    keep(store, &arguments.stored, origin, &built.image, Some(&built.modules), WhenPresent::Replace)
}

fn import(store: &Store, arguments: &ImportKernel) -> Result<Outcome> {
    let from = fs::canonicalize(&arguments.file).with_context(|| format!("reading {:?}", arguments.file))?;
    let origin = KernelOrigin::Imported { from: from.clone() };
    let when = if arguments.replace { WhenPresent::Replace } else { WhenPresent::Refuse };
    keep(store, &arguments.stored, origin, &from, arguments.modules.as_deref(), when)
}

fn keep(
    store: &Store,
    stored: &StoredKernel,
    origin: KernelOrigin,
    image: &Path,
    modules: Option<&Path>,
    when: WhenPresent,
) -> Result<Outcome> {
    let image_bytes = fs::read(image).with_context(|| format!("reading {image:?}"))?;
    KernelImage::new(image_bytes.clone()).with_context(|| format!("{image:?} can't be used"))?;
    let modules = modules.map_or(Ok(Vec::new()), modules_of)?;
    let kernel = NewKernel {
        origin,
        image: &image_bytes,
        modules: &modules,
        command_line: stored.command_line.clone(),
    };
    let kernel = store.add_kernel(&stored.name, &kernel, when)?;
    if stored.output.json {
        print_json(&kernel)?;
    } else {
        let modules = count(kernel.modules.len() as u64, "module");
        print(&format!("kernel {} is ready ({}, {modules})", kernel.name, bytes(kernel.bytes)))?;
    }
    if let Err(error) = linux_guest::check_machine() {
        note(&format!("it can't be booted here: {error}"));
    }
    Ok(Outcome::Good)
}

/// The modules that guests need; one that is built in has no file, but a line in `modules.builtin`.
fn modules_of(folder: &Path) -> Result<Vec<KernelModule>> {
    if !folder.is_dir() {
        bail!("{folder:?} is no folder with kernel modules");
    }
    let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let is_built_in = |name: &str| {
        built_in.lines().any(|line| {
            let file = line.rsplit('/').next().unwrap_or_default();
            file.strip_suffix(".ko").is_some_and(|stem| stem.replace('-', "_") == name)
        })
    };
    let wanted: Vec<&str> = MODULES.into_iter().filter(|name| !is_built_in(name)).collect();
    let mut all = wanted;
    for (name, lack) in OPTIONAL_MODULES.into_iter().filter(|(name, _)| !is_built_in(name)) {
        match initramfs::load_order(folder, &[name]) {
            Err(ModuleError::Missing { .. }) => note(&format!("the kernel has no module {name}: {lack}")),
            _ => all.push(name),
        }
    }
    Ok(initramfs::load_order(folder, &all)?
        .into_iter()
        .map(|module| KernelModule { name: module.name, content: module.content })
        .collect())
}

/// Stores the kernel anew with another command line. Snapshots keep the one that they were booted with.
fn edit(store: &Store, name: &KernelName, command_line: String, output: &OutputArguments) -> Result<Outcome> {
    let OpenKernel { record, image, modules } = store.open_kernel(name)?;
    let kernel = NewKernel { origin: record.origin, image: &image, modules: &modules, command_line };
    show(&store.add_kernel(name, &kernel, WhenPresent::Replace)?, output)
}

fn list(store: &Store, output: &OutputArguments) -> Result<Outcome> {
    let (kernels, outcome) = sound(store.list_kernels()?);
    if output.json {
        print_json(&kernels)?;
    } else {
        let mut table = Table::new(&["NAME", "FROM", "SIZE", "MODULES"]);
        for kernel in &kernels {
            let modules = kernel.modules.len().to_string();
            table.row([kernel.name.to_string(), origin(&kernel.origin), bytes(kernel.bytes), modules]);
        }
        print(&table.text())?;
    }
    Ok(outcome)
}

fn show(kernel: &Kernel, output: &OutputArguments) -> Result<Outcome> {
    if output.json {
        print_json(kernel)?;
        return Ok(Outcome::Good);
    }
    print(&format!(
        "name          {}\nfrom          {}\nstored        {}\nsize          {}\ncommand line  {}\nloads         {}",
        kernel.name,
        origin(&kernel.origin),
        time(kernel.created),
        bytes(kernel.bytes),
        kernel.command_line,
        kernel.modules.join(" "),
    ))?;
    Ok(Outcome::Good)
}

fn origin(origin: &KernelOrigin) -> String {
    match origin {
        KernelOrigin::Debian { package } => format!("Debian, {} {}", package.name, package.version),
        KernelOrigin::Imported { from } => from.display().to_string(),
    }
}
