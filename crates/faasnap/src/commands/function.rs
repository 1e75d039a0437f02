//! `faasnap function`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anyhow::Result;
use registry::Status;
use store::{
    CodeSource, Function, FunctionConfig, FunctionName, Guest, KernelName, NETWORK_OUTBOUND, NETWORK_TAG,
    NewFunction, NewLayer, Settings, Store, WhenPresent,
};

use super::{Outcome, sound, verified};
use crate::args::{CreateFunction, FunctionCommand, GuestKind, OutputArguments, environment};
use crate::output::{Table, bytes, count, note, print, print_json, time};

pub(super) fn run(store: &Store, command: FunctionCommand) -> Result<Outcome> {
    match command {
        FunctionCommand::Create(arguments) => create(store, arguments),
        FunctionCommand::List(output) => list(store, &output),
        FunctionCommand::Show { name, verify, output } => show(store, &name, verify, &output),
        FunctionCommand::Rm { names } => {
            for name in &names {
                store.remove_function(name)?;
            }
            Ok(Outcome::Good)
        }
    }
}

fn create(store: &Store, arguments: CreateFunction) -> Result<Outcome> {
    let output = arguments.output;
    let new = NewFunction {
        name: arguments.name,
        config: FunctionConfig {
            runtime: arguments.runtime,
            handler: arguments.handler,
            memory: arguments.memory,
            timeout: arguments.timeout,
            tmp: arguments.tmp,
            environment: environment(arguments.environment)?,
            guest: guest(store, arguments.guest, arguments.kernel)?,
        },
        code: CodeSource::detect(&arguments.code)?,
        settings: Settings::default(),
        layers: arguments
            .layers
            .iter()
            .map(|layer| CodeSource::detect(layer).map(NewLayer::Files))
            .collect::<Result<_, _>>()?,
        tags: match arguments.network {
            true => BTreeMap::from([(NETWORK_TAG.to_owned(), NETWORK_OUTBOUND.to_owned())]),
            false => BTreeMap::new(),
        },
        status: Status::active(),
    };
    let when = if arguments.replace { WhenPresent::Replace } else { WhenPresent::Refuse };
    let function = store.create_function(&new, when)?;
    if arguments.guest == GuestKind::Linux {
        // Makes the images now rather than with the first call.
        store.open_function(&function.name)?;
        if let Err(error) = linux_guest::check_machine() {
            note(&format!("it can't be run here: {error}"));
        }
    }
    if output.json {
        print_json(&function)?;
    } else {
        let size = bytes(function.code.bytes);
        let files = count(function.code.entries, "file");
        print(&format!("function {} is stored ({size}, {files})", function.name))?;
    }
    Ok(Outcome::Good)
}

/// What the function runs in; a kernel that is not stored is refused here rather than with the first call.
fn guest(store: &Store, kind: GuestKind, kernel: KernelName) -> Result<Guest> {
    Ok(match kind {
        GuestKind::Process => Guest::Process,
        GuestKind::Linux => {
            store.kernel(&kernel)?;
            Guest::Linux { kernel }
        }
    })
}

fn list(store: &Store, output: &OutputArguments) -> Result<Outcome> {
    let (good, outcome) = sound(store.functions()?);
    if output.json {
        print_json(&good)?;
    } else if good.is_empty() && std::io::stdout().is_terminal() {
        print("There are no functions yet; `faasnap function create --help` has examples.")?;
    } else {
        let headings = ["NAME", "RUNTIME", "HANDLER", "MEMORY", "TIMEOUT", "CODE", "LAYERS", "SNAPSHOTS"];
        let mut table = Table::new(&headings);
        for function in &good {
            let config = &function.config;
            table.row([
                function.name.to_string(),
                config.runtime.to_string(),
                config.handler.to_string(),
                format!("{} MB", config.memory),
                format!("{} s", config.timeout),
                bytes(function.code.bytes),
                function.layers.len().to_string(),
                store.snapshots(&function.name)?.len().to_string(),
            ]);
        }
        print(&table.text())?;
    }
    Ok(outcome)
}

fn show(store: &Store, name: &FunctionName, verify: bool, output: &OutputArguments) -> Result<Outcome> {
    let function = store.function(name)?;
    if output.json {
        print_json(&function)?;
    } else {
        print(&describe(store, &function)?)?;
    }
    if verify { verified(store.verify_function(name)) } else { Ok(Outcome::Good) }
}

fn describe(store: &Store, function: &Function) -> Result<String> {
    let config = &function.config;
    let mut lines = vec![
        format!("name      {}", function.name),
        format!("modified  {}", time(function.modified_ms / 1000)),
        format!("runtime   {}", config.runtime),
        match &config.guest {
            Guest::Process => "guest     process".to_owned(),
            Guest::Linux { kernel } => format!("guest     linux, kernel {kernel}"),
        },
        format!("handler   {}", config.handler),
        format!("memory    {} MB", config.memory),
        format!("timeout   {} s", config.timeout),
    ];
    if store.has_network(&function.name)? {
        lines.push("network   outbound".to_owned());
    }
    let trees = std::iter::once(("code", &function.code))
        .chain(function.layers.iter().map(|layer| ("layer", &layer.tree)));
    for (what, tree) in trees {
        let digest = tree.digest.short(16);
        lines.push(format!("{what:<9} {digest}, {}, {}", bytes(tree.bytes), count(tree.entries, "file")));
    }
    for snapshot in store.snapshots(&function.name)? {
        let (size, created) = (bytes(snapshot.bytes_on_disk), time(snapshot.created));
        lines.push(format!("snapshot  {}, {size}, {created}", snapshot.id));
    }
    if !config.environment.variables().is_empty() {
        lines.push("environment".to_owned());
        let variables = config.environment.variables();
        lines.extend(variables.iter().map(|(name, value)| format!("  {name}={value}")));
    }
    Ok(lines.join("\n"))
}
