//! The order in which a runtime may make its calls, as AWS's in-guest daemon enforces it.
//!
//! ```text
//!              /restore/next                released             /next
//!   Started ──────────────────► RestoreReady ─────► Restoring ─────────┐
//!      │  └─────────────────────── /next ─────────────────────────┐    │
//!      │ /init/error                                 │            ▼    ▼      delivered
//!      ▼                                             │            Ready ◄──┐ ─────────► Running
//!   InitError                 RestoreError ◄─────────┘                     │              │ /response, /error: head
//!                          /restore/error, /init/error               /next │              ▼
//!                                                                   ResponseSent ◄── InvocationResponse,
//!                                                                         body's end InvocationErrorResponse
//! ```

use serde::{Deserialize, Serialize};

/// Where the runtime is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuntimeState {
    /// Initialising.
    Started,
    /// It reported that its init failed. Final.
    InitError,
    /// Init is over; blocked in `/runtime/restore/next`.
    RestoreReady,
    /// Released from `/runtime/restore/next`; runs its after-restore hooks.
    Restoring,
    /// It reported that an after-restore hook failed. Final.
    RestoreError,
    /// It asked for an invocation.
    Ready,
    /// It has an invocation.
    Running,
    /// It is sending the response.
    InvocationResponse,
    /// It is sending an error report.
    InvocationErrorResponse,
    /// It has answered.
    ResponseSent,
}

/// A call that is not allowed in the runtime's present state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TransitionRefused {
    pub(crate) from: RuntimeState,
    pub(crate) to: RuntimeState,
}

impl RuntimeState {
    /// The name in AWS's messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::InitError => "InitError",
            Self::RestoreReady => "RestoreReady",
            Self::Restoring => "Restoring",
            Self::RestoreError => "RuntimeRestoreErrorState",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InvocationResponse => "InvocationResponse",
            Self::InvocationErrorResponse => "InvocationErrorResponse",
            Self::ResponseSent => "RuntimeResponseSentState",
        }
    }

    /// Moves to `to` when the present state is one of `from`.
    fn pass(&mut self, from: &[Self], to: Self) -> Result<Self, TransitionRefused> {
        let before = *self;
        if !from.contains(&before) {
            return Err(TransitionRefused { from: before, to });
        }
        *self = to;
        Ok(before)
    }

    /// `GET /runtime/invocation/next`; gives the state before. Allowed again while running: the event is then given again.
    pub(crate) fn ask_next(&mut self) -> Result<Self, TransitionRefused> {
        if *self == Self::Running {
            return Ok(Self::Running);
        }
        self.pass(&[Self::Started, Self::Restoring, Self::Ready, Self::ResponseSent], Self::Ready)
    }

    /// `GET /runtime/restore/next`.
    pub(crate) fn ask_restore(&mut self) -> Result<(), TransitionRefused> {
        // AWS's message names Ready as the target.
        self.pass(&[Self::Started], Self::RestoreReady)
            .map(drop)
            .map_err(|refused| TransitionRefused { to: Self::Ready, ..refused })
    }

    /// The answer to `/runtime/restore/next` was given.
    pub(crate) fn restore_released(&mut self) -> Result<(), TransitionRefused> {
        self.pass(&[Self::RestoreReady], Self::Restoring).map(drop)
    }

    /// An invocation was handed to the runtime.
    pub(crate) fn delivered(&mut self) -> Result<(), TransitionRefused> {
        self.pass(&[Self::Ready], Self::Running).map(drop)
    }

    /// A response begins.
    pub(crate) fn respond(&mut self) -> Result<(), TransitionRefused> {
        self.pass(&[Self::Running], Self::InvocationResponse).map(drop)
    }

    /// An error report begins.
    pub(crate) fn respond_error(&mut self) -> Result<(), TransitionRefused> {
        self.pass(&[Self::Running], Self::InvocationErrorResponse).map(drop)
    }

    /// The response or error report is complete, or will never be.
    pub(crate) fn responded(&mut self) {
        if matches!(self, Self::InvocationResponse | Self::InvocationErrorResponse) {
            *self = Self::ResponseSent;
        }
    }

    /// `POST /runtime/init/error`. Gives the new state: older runtimes report failed after-restore hooks here too.
    pub(crate) fn init_error(&mut self) -> Result<Self, TransitionRefused> {
        let to = if *self == Self::Restoring { Self::RestoreError } else { Self::InitError };
        self.pass(&[Self::Started, Self::Restoring], to).map(|_| to)
    }

    /// `POST /runtime/restore/error`.
    pub(crate) fn restore_error(&mut self) -> Result<(), TransitionRefused> {
        self.pass(&[Self::Restoring], Self::RestoreError).map(drop)
    }
}
