//! The life of a function's instance as a pure state machine: what happened in, what is to be done out.
//!
//! ```text
//!              boot                    first wait
//!   Fresh ───────────────► Booting ──────────────────► Waiting ◄──────────────────┐
//!     │       restore                   released          │  ▲ snapshot (only here) │
//!     └──────────────────► Restoring ─────────────────►───┘  └─                     │ asks for the next
//!                              │                          │ invoke                  │
//!                              │                          ▼                         │
//!                              │                       Running ──── answers ──► Running, answered
//!                              │                          │                         │
//!          time-out, exit, report of failure, memory      │                         │ time-out, exit
//!                              └──────────────► Over ◄────┴─────────────────────────┘
//! ```
//!
//! An invocation is over when the runtime asks for the next one: between its answer and that, the function may still run.
//! An answer that was given counts, whatever happens behind it; then only the instance is discarded.
//!
//! No I/O, no clock: the driver (`worker`) tells when time is up.

use std::time::Duration;

use runtime_api::{After, Event, ExitReason, Outcome, ReleasedRuntime};

/// Where the instance is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Fresh,
    Booting,
    Restoring,
    Waiting,
    Running { request_id: String, limit: Duration, answer: Option<Outcome> },
    Over,
}

/// Where an initialised runtime waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitingIn {
    /// `/runtime/restore/next`
    RestoreNext,
    /// `/runtime/invocation/next`
    InvocationNext,
}

/// How the guest's program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuestEnd {
    /// By itself, or by a signal.
    Exit(ExitReason),
    /// It used more memory than it may.
    OutOfMemory,
    /// Its processor could not go on, or serving it failed.
    Broken(String),
}

/// Why an instance did not become ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotReady {
    /// The runtime reported that it can't initialise.
    InitError {
        /// The type from the report's header.
        error_type: String,
        /// The report.
        payload: Vec<u8>,
    },
    /// An after-restore hook failed.
    RestoreError {
        /// The type from the report's header.
        error_type: String,
        /// The report.
        payload: Vec<u8>,
    },
    /// Init took too long.
    InitTimeout,
    /// The restore's hooks took too long.
    RestoreTimeout,
    /// The program ended.
    Ended(GuestEnd),
}

/// What the driver has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Say that the function has initialised.
    Booted(WaitingIn),
    /// Say that the instance takes invocations.
    Restored,
    /// Say that it will not.
    NotReady(NotReady),
    /// Say that a streamed answer begins.
    AnswerStarted {
        /// The invocation.
        request_id: String,
        /// Its media type.
        content_type: Option<String>,
    },
    /// Pass on a piece of a streamed answer.
    AnswerPiece {
        /// The invocation.
        request_id: String,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Say how an invocation ended.
    Answered {
        /// The invocation.
        request_id: String,
        /// How.
        outcome: Outcome,
        /// Whether the instance takes another one.
        reusable: bool,
    },
    /// Say that the program ended between invocations.
    Exited(GuestEnd),
    /// End the guest.
    Kill,
}

/// What was asked can't be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("can't {wish} an instance that {state}")]
pub struct OutOfTurn {
    wish: &'static str,
    state: &'static str,
}

/// See above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lifecycle(State);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(State::Fresh)
    }
}

impl Lifecycle {
    /// The guest is about to boot.
    ///
    /// # Errors
    /// [`OutOfTurn`].
    pub fn boot(&mut self) -> Result<(), OutOfTurn> {
        self.take("boot", &State::Fresh, State::Booting)
    }

    /// The guest is about to be restored.
    ///
    /// # Errors
    /// [`OutOfTurn`].
    pub fn restore(&mut self) -> Result<(), OutOfTurn> {
        self.take("restore", &State::Fresh, State::Restoring)
    }

    /// The restored guest runs, and its runtime was let go on if it waited for that.
    pub fn released(&mut self, runtime: ReleasedRuntime) -> Vec<Step> {
        match (&self.0, runtime) {
            (State::Restoring, ReleasedRuntime::NothingToRelease) => {
                self.0 = State::Waiting;
                vec![Step::Restored]
            }
            _ => Vec::new(),
        }
    }

    /// An invocation is about to be delivered; it may take `limit`.
    ///
    /// # Errors
    /// [`OutOfTurn`].
    pub fn invoke(&mut self, request_id: &str, limit: Duration) -> Result<(), OutOfTurn> {
        let running = State::Running { request_id: request_id.to_owned(), limit, answer: None };
        self.take("invoke", &State::Waiting, running)
    }

    /// Whether a snapshot may be taken.
    ///
    /// # Errors
    /// [`OutOfTurn`].
    pub fn snapshot(&self) -> Result<(), OutOfTurn> {
        if self.0 == State::Waiting { Ok(()) } else { Err(self.refuse("snapshot")) }
    }

    /// Whether it is on its way to waiting for its first invocation.
    pub fn is_starting(&self) -> bool {
        matches!(self.0, State::Booting | State::Restoring)
    }

    /// Whether time is limited now: booting, restoring or running.
    pub fn is_timed(&self) -> bool {
        matches!(self.0, State::Booting | State::Restoring | State::Running { .. })
    }

    /// The runtime did something.
    pub fn runtime(&mut self, event: Event) -> Vec<Step> {
        match (&mut self.0, event) {
            (State::Booting, Event::WaitingForRestore) => self.ready(Step::Booted(WaitingIn::RestoreNext)),
            (State::Booting, Event::WaitingForInvocation { after: After::Init }) => {
                self.ready(Step::Booted(WaitingIn::InvocationNext))
            }
            (State::Restoring, Event::WaitingForInvocation { .. }) => self.ready(Step::Restored),
            (State::Booting, Event::InitError { error_type, payload }) => {
                let error_type = error_type.as_str().to_owned();
                self.fail(NotReady::InitError { error_type, payload })
            }
            (State::Restoring, Event::RestoreError { error_type, payload }) => {
                let error_type = error_type.as_str().to_owned();
                self.fail(NotReady::RestoreError { error_type, payload })
            }
            (State::Running { request_id, answer, .. }, event) => {
                let finished = matches!(event, Event::WaitingForInvocation { .. });
                let (steps, outcome) = during_invocation(event);
                if let Some(outcome) = outcome {
                    answer.get_or_insert(outcome);
                }
                match answer.take() {
                    Some(outcome) if finished => {
                        let request_id = std::mem::take(request_id);
                        self.0 = State::Waiting;
                        vec![Step::Answered { request_id, outcome, reusable: true }]
                    }
                    kept => {
                        *answer = kept;
                        steps
                    }
                }
            }
            // A second thread that waits, too, or a report out of turn: nothing follows from it.
            _ => Vec::new(),
        }
    }

    /// The program has ended.
    pub fn ended(&mut self, end: GuestEnd) -> Vec<Step> {
        match std::mem::replace(&mut self.0, State::Over) {
            State::Fresh | State::Over => Vec::new(),
            State::Booting | State::Restoring => vec![Step::NotReady(NotReady::Ended(end))],
            State::Waiting => vec![Step::Exited(end)],
            State::Running { request_id, answer, .. } => {
                let outcome = answer.unwrap_or(match end {
                    GuestEnd::Exit(reason) => Outcome::Exited(reason),
                    GuestEnd::OutOfMemory => Outcome::OutOfMemory,
                    GuestEnd::Broken(message) => Outcome::Sandbox { message },
                });
                vec![Step::Answered { request_id, outcome, reusable: false }]
            }
        }
    }

    /// Time is up.
    pub fn time_is_up(&mut self) -> Vec<Step> {
        match std::mem::replace(&mut self.0, State::Over) {
            State::Booting => vec![Step::NotReady(NotReady::InitTimeout), Step::Kill],
            State::Restoring => vec![Step::NotReady(NotReady::RestoreTimeout), Step::Kill],
            State::Running { request_id, limit, answer } => {
                let outcome = answer.unwrap_or(Outcome::TimedOut { limit });
                vec![Step::Answered { request_id, outcome, reusable: false }, Step::Kill]
            }
            untimed => {
                self.0 = untimed;
                Vec::new()
            }
        }
    }

    fn ready(&mut self, step: Step) -> Vec<Step> {
        self.0 = State::Waiting;
        vec![step]
    }

    fn fail(&mut self, why: NotReady) -> Vec<Step> {
        self.0 = State::Over;
        vec![Step::NotReady(why), Step::Kill]
    }

    fn take(&mut self, wish: &'static str, from: &State, to: State) -> Result<(), OutOfTurn> {
        if self.0 == *from {
            self.0 = to;
            return Ok(());
        }
        Err(self.refuse(wish))
    }

    fn refuse(&self, wish: &'static str) -> OutOfTurn {
        let state = match self.0 {
            State::Fresh => "has not been started",
            State::Booting => "is booting",
            State::Restoring => "is being restored",
            State::Waiting => "waits for invocations",
            State::Running { .. } => "is busy",
            State::Over => "has ended",
        };
        OutOfTurn { wish, state }
    }
}

/// What an event during an invocation has to be passed on as, and the outcome that it decides.
fn during_invocation(event: Event) -> (Vec<Step>, Option<Outcome>) {
    match event {
        Event::Responded { error: Some(error), .. } => (Vec::new(), Some(Outcome::StreamError(error))),
        Event::Responded { payload, content_type, error: None, .. } => {
            (Vec::new(), Some(Outcome::Response { payload, content_type }))
        }
        Event::ResponseStarted { request_id, content_type } => {
            (vec![Step::AnswerStarted { request_id, content_type }], None)
        }
        Event::ResponseChunk { request_id, bytes } => (vec![Step::AnswerPiece { request_id, bytes }], None),
        Event::ResponseFinished { error: Some(error), .. } => (Vec::new(), Some(Outcome::StreamError(error))),
        Event::ResponseFinished { error: None, .. } => {
            (Vec::new(), Some(Outcome::Response { payload: Vec::new(), content_type: None }))
        }
        Event::ResponseTooLarge { .. } => (Vec::new(), Some(Outcome::ResponseTooLarge)),
        Event::ResponseTruncated { .. } => (Vec::new(), Some(Outcome::ResponseTruncated)),
        Event::FunctionError { error_type, payload, .. } => {
            (Vec::new(), Some(Outcome::HandlerError { error_type, payload }))
        }
        Event::WaitingForRestore
        | Event::WaitingForInvocation { .. }
        | Event::InitError { .. }
        | Event::RestoreError { .. } => (Vec::new(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    fn waiting() -> Lifecycle {
        let mut life = Lifecycle::default();
        life.boot().unwrap();
        let steps = life.runtime(Event::WaitingForInvocation { after: After::Init });
        assert_eq!(steps, [Step::Booted(WaitingIn::InvocationNext)]);
        life
    }

    fn running() -> Lifecycle {
        let mut life = waiting();
        life.invoke("id", LIMIT).unwrap();
        life
    }

    fn responded() -> Event {
        let (payload, content_type) = (b"1".to_vec(), None);
        Event::Responded { request_id: "id".to_owned(), payload, content_type, error: None }
    }

    fn next() -> Event {
        Event::WaitingForInvocation { after: After::Invocation }
    }

    fn answered(outcome: Outcome, reusable: bool) -> Step {
        Step::Answered { request_id: "id".to_owned(), outcome, reusable }
    }

    fn response() -> Outcome {
        Outcome::Response { payload: b"1".to_vec(), content_type: None }
    }

    #[test]
    fn an_answer_counts_when_the_next_invocation_is_asked_for() {
        let mut life = running();
        assert_eq!(life.runtime(responded()), []);
        assert!(life.snapshot().is_err());
        assert_eq!(life.runtime(next()), [answered(response(), true)]);
        assert!(life.snapshot().is_ok());
        life.invoke("another", LIMIT).unwrap();
    }

    #[test]
    fn an_answer_survives_what_comes_behind_it_and_the_instance_does_not() {
        let mut life = running();
        life.runtime(responded());
        assert_eq!(life.ended(GuestEnd::OutOfMemory), [answered(response(), false)]);
        let mut life = running();
        life.runtime(responded());
        assert_eq!(life.time_is_up(), [answered(response(), false), Step::Kill]);
        assert!(life.invoke("id", LIMIT).is_err());
    }

    #[test]
    fn endings_without_an_answer_have_their_outcomes() {
        let exit = ExitReason::Status(3);
        assert_eq!(running().ended(GuestEnd::Exit(exit)), [answered(Outcome::Exited(exit), false)]);
        assert_eq!(running().ended(GuestEnd::OutOfMemory), [answered(Outcome::OutOfMemory, false)]);
        let timed_out = Outcome::TimedOut { limit: LIMIT };
        assert_eq!(running().time_is_up(), [answered(timed_out, false), Step::Kill]);
        assert_eq!(waiting().ended(GuestEnd::Exit(exit)), [Step::Exited(GuestEnd::Exit(exit))]);
    }

    #[test]
    fn asking_for_the_next_invocation_without_an_answer_answers_nothing() {
        let mut life = running();
        assert_eq!(life.runtime(next()), []);
        assert!(life.is_timed());
    }

    #[test]
    fn a_restore_ends_when_the_hooks_are_through() {
        let mut life = Lifecycle::default();
        life.restore().unwrap();
        assert_eq!(life.released(ReleasedRuntime::Released), []);
        let after = Event::WaitingForInvocation { after: After::Restore };
        assert_eq!(life.runtime(after), [Step::Restored]);
        let mut life = Lifecycle::default();
        life.restore().unwrap();
        assert_eq!(life.released(ReleasedRuntime::NothingToRelease), [Step::Restored]);
    }

    #[test]
    fn what_comes_out_of_turn_is_refused_with_the_reason() {
        let mut life = Lifecycle::default();
        assert_eq!(
            life.invoke("id", LIMIT).unwrap_err().to_string(),
            "can't invoke an instance that has not been started"
        );
        life.boot().unwrap();
        assert!(life.restore().is_err());
        assert_eq!(life.time_is_up(), [Step::NotReady(NotReady::InitTimeout), Step::Kill]);
        assert_eq!(life.ended(GuestEnd::Exit(ExitReason::Signal(9))), []);
    }
}
