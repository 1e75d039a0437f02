//! Carries guests' connections out: TCP and UDP through sockets of the host, to addresses that are allowed.
//!
//! One [`Relay`] serves all workers of a process, from a thread of its own; each worker has a control socket ([`outbound`]) and sees
//! no other's. What a worker asks for is decided here, by [`Policy`], on the very address that is connected to: a worker that its
//! guest has taken over reaches nothing else. Connections are only made, never taken: a datagram comes in from where one was sent.
//!
//! Name servers: what goes to [`outbound::RESOLVERS`], port 53, goes to the name servers of the host's /etc/resolv.conf, which may
//! well listen on the host's loopback.
//!
//! Architecture invariants: this crate knows no guest, no worker protocol and no function. It runs with its process's own rights
//! and in its network namespace, so it works for any user.
#![forbid(unsafe_code)]

mod control;
mod datagrams;
mod local;
mod packet;
mod policy;
mod resolver;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;
use tokio::sync::mpsc;

pub use policy::{InvalidNetwork, Network, Policy};
pub use resolver::NameServers;

/// Sockets that one worker may have at once.
pub(crate) const MAX_SOCKETS: usize = 256;

/// A relay that can't be started, or not be reached.
#[derive(Debug, Error)]
pub enum RelayError {
    /// No thread, or no event loop for it.
    #[error("starting the relay of outbound connections")]
    Start(#[source] io::Error),
    /// No socket to it.
    #[error("making a socket to the relay of outbound connections")]
    Socket(#[source] io::Error),
    /// It was configured before.
    #[error("the relay of outbound connections has its settings already")]
    Settled,
}

/// What guests may reach, and by which name servers they find it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which addresses are allowed.
    pub policy: Policy,
    /// Who answers their questions.
    pub name_servers: NameServers,
}

/// The thread that carries connections. It ends with the value.
#[derive(Debug)]
pub struct Relay(mpsc::UnboundedSender<OwnedFd>);

impl Relay {
    /// Starts one.
    ///
    /// # Errors
    /// [`RelayError::Start`].
    pub fn start(settings: Settings) -> Result<Self, RelayError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(RelayError::Start)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let serve = move || runtime.block_on(control::serve(settings, receiver));
        thread::Builder::new().name("outbound".to_owned()).spawn(serve).map_err(RelayError::Start)?;
        Ok(Self(sender))
    }

    /// A control socket for one worker.
    ///
    /// # Errors
    /// [`RelayError::Socket`].
    pub fn connect(&self) -> Result<OwnedFd, RelayError> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| RelayError::Socket(errno.into()))?;
        self.0.send(ours).map_err(|_| RelayError::Socket(io::ErrorKind::BrokenPipe.into()))?;
        Ok(theirs)
    }
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static RELAY: OnceLock<Relay> = OnceLock::new();

/// Says what the guests of this process may reach, before the first of them asks.
///
/// # Errors
/// [`RelayError::Settled`] the second time.
pub fn configure(settings: Settings) -> Result<(), RelayError> {
    SETTINGS.set(settings).map_err(|_| RelayError::Settled)
}

/// Starts this process's relay, unless it runs: so that no request waits for that.
///
/// # Errors
/// [`RelayError::Start`].
pub fn prepare() -> Result<&'static Relay, RelayError> {
    if let Some(relay) = RELAY.get() {
        return Ok(relay);
    }
    let started = Relay::start(SETTINGS.get_or_init(Settings::default).clone())?;
    // Whoever was faster keeps theirs; this one ends.
    Ok(RELAY.get_or_init(|| started))
}
