//! The functions that can be measured: those whose code has a `benchmark.json` with inputs and the answers they must get.

use std::fs;
use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;
use store::{FunctionName, OpenFunction, Store};

use crate::error::BenchError;

/// The order in which functions are shown: simple ones first, as in the paper. Others follow by name.
const ORDER: [&str; 12] = [
    "hello-world",
    "read-list",
    "mmap",
    "image",
    "json",
    "pyaes",
    "chameleon",
    "matmul",
    "video",
    "compression",
    "recognition",
    "pagerank",
];

/// A function that is measured.
pub(crate) struct Subject {
    pub name: FunctionName,
    pub function: OpenFunction,
    /// `a` is recorded, `b` is tested; `0.25x` to `4x` are inputs of that size relative to `a`, for some functions.
    pub inputs: Vec<Input>,
}

/// An input and what has to come out.
#[derive(Deserialize)]
pub(crate) struct Input {
    pub label: String,
    pub event: Box<RawValue>,
    pub checksum: String,
}

#[derive(Deserialize)]
struct Description {
    inputs: Vec<Input>,
}

impl Subject {
    fn open(store: &Store, name: &FunctionName) -> Result<Option<Self>, BenchError> {
        let function = store.open_function(name)?;
        let path = function.code.path.join("benchmark.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BenchError::io("reading", &path)(error)),
        };
        let description: Description =
            serde_json::from_str(&text).map_err(|source| BenchError::Damaged { path, source })?;
        Ok(Some(Self { name: name.clone(), function, inputs: description.inputs }))
    }

    /// The functions named in `wanted`, or all that can be measured.
    pub fn all(store: &Store, wanted: &[FunctionName]) -> Result<Vec<Self>, BenchError> {
        let mut subjects = Vec::new();
        for name in wanted {
            let subject = Self::open(store, name)?;
            subjects.push(subject.ok_or_else(|| BenchError::NotForBenchmarks(name.clone()))?);
        }
        if wanted.is_empty() {
            for (name, _) in store.functions()? {
                subjects.extend(Self::open(store, &name)?);
            }
            let place = |subject: &Self| ORDER.iter().position(|known| subject.name.as_str() == *known);
            subjects.sort_by_key(|subject| (place(subject).unwrap_or(ORDER.len()), subject.name.to_string()));
        }
        if subjects.is_empty() { Err(BenchError::NoFunctions) } else { Ok(subjects) }
    }

    pub fn input(&self, label: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.label == label)
    }
}
