//! AWS Lambda's API as data: operations, names, requests, answers, errors, event streams, signatures.
//!
//! Texts and shapes are AWS's own, as recorded from the service or as its published model has them; each says where it is
//! from when it is not obvious.
//!
//! Architecture invariant: no I/O, no clock, no knowledge of how functions are stored or run.
#![forbid(unsafe_code)]

mod answers;
mod error;
pub mod event_stream;
mod identifier;
mod operation;
pub mod percent;
mod requests;
pub mod sigv4;
pub mod validation;

pub use answers::{
    AliasConfiguration, CodeLocation, CodeSha, Configuration, DeadLetter, Destination, DestinationConfig,
    EnvironmentAnswer, EventConfig, LayerReference, LayerVersionAnswer, LoggingConfig, Routing, SizeAnswer,
    SnapStartAnswer, TracingConfig,
};
pub use error::{ErrorKind, LambdaError};
pub use identifier::{Account, FunctionReference, QUALIFIER_PATTERN};
pub use operation::{Matched, Operation, query_pairs};
pub use requests::{
    AliasRequest, CodeRequest, ConcurrencyRequest, CreateFunctionRequest, EventConfigRequest, LayerContent,
    LayerRequest, PermissionRequest, PublishVersionRequest, SettingsRequest, TagRequest, UpdateCodeRequest,
    UpdateConfigurationRequest, UrlRequest, parse,
};
