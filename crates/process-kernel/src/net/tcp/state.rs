//! The states of a TCP socket, and how they are saved.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TcpSocket;
use crate::net::connection::{Endpoint, Side};
use crate::net::ports::Lease;
use crate::net::transport::{self, SavedTransport, Transport};
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};

pub(super) type TcpLease = Lease<TcpSocket>;

/// What a socket is doing.
pub(super) enum State {
    /// Nothing; possibly bound.
    Idle(Option<TcpLease>),
    /// Between two other states, while another socket or a service is asked without the lock.
    Opening,
    /// Waiting for room in a listener's backlog.
    Connecting { lease: TcpLease, remote: SocketAddr },
    /// Taking connections.
    Listening { lease: TcpLease, backlog: usize, pending: VecDeque<Pending> },
    /// Connected.
    Connected(Connected),
}

/// A connection that waits to be accepted.
pub(super) struct Pending {
    pub end: Endpoint,
    /// The address that the peer connected to.
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// An established connection.
pub(super) struct Connected {
    /// The connector's own port; an accepted connection shares its listener's.
    pub lease: Option<TcpLease>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub transport: Arc<dyn Transport>,
    /// Whether connect(2) has told the program.
    pub reported: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) enum SavedState {
    Idle(Option<SocketAddr>),
    Connecting {
        local: SocketAddr,
        remote: SocketAddr,
    },
    Listening {
        local: SocketAddr,
        backlog: usize,
        pending: Vec<SavedPending>,
    },
    Connected {
        lease: Option<SocketAddr>,
        local: SocketAddr,
        remote: SocketAddr,
        transport: SavedTransport,
        reported: bool,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedPending {
    end: (ObjectId, Side),
    local: SocketAddr,
    peer: SocketAddr,
}

impl State {
    pub fn save(&self, saver: &mut Saver) -> Result<SavedState, SaveError> {
        Ok(match self {
            Self::Idle(lease) => SavedState::Idle(lease.as_ref().map(TcpLease::address)),
            // No thread serves a call while a snapshot is taken, so no socket is between two states.
            Self::Opening => SavedState::Idle(None),
            Self::Connecting { lease, remote } => {
                SavedState::Connecting { local: lease.address(), remote: *remote }
            }
            Self::Listening { lease, backlog, pending } => {
                let mut save = |one: &Pending| {
                    Ok(SavedPending { end: one.end.save_end(saver)?, local: one.local, peer: one.peer })
                };
                let pending = pending.iter().map(&mut save).collect::<Result<_, SaveError>>()?;
                SavedState::Listening { local: lease.address(), backlog: *backlog, pending }
            }
            Self::Connected(connected) => SavedState::Connected {
                lease: connected.lease.as_ref().map(TcpLease::address),
                local: connected.local,
                remote: connected.remote,
                transport: connected.transport.save(saver)?,
                reported: connected.reported,
            },
        })
    }
}

impl SavedState {
    /// The state of `socket`, whose options are restored already.
    pub fn restore(self, socket: &TcpSocket, restorer: &mut Restorer<'_>) -> Result<State, RestoreError> {
        let bind = |address| socket.network.tcp.rebind(address, socket.sharing(), &socket.this);
        Ok(match self {
            Self::Idle(address) => State::Idle(address.map(bind)),
            Self::Connecting { local, remote } => State::Connecting { lease: bind(local), remote },
            Self::Listening { local, backlog, pending } => {
                let mut restored = VecDeque::new();
                for SavedPending { end: (connection, side), local, peer } in pending {
                    // It has no socket yet, so nobody is notified.
                    let end = Endpoint::restore(connection, side, restorer, &Arc::default())?;
                    restored.push_back(Pending { end, local, peer });
                }
                let lease = bind(local);
                // Whatever shared the address before the snapshot may share it again.
                let _ = lease.listen();
                State::Listening { lease, backlog, pending: restored }
            }
            Self::Connected { lease, local, remote, transport, reported } => {
                let transport = transport::restore(transport, restorer, &socket.queue)?;
                let lease = lease.map(bind);
                State::Connected(Connected { lease, local, remote, transport, reported })
            }
        })
    }
}
