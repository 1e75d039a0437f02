//! Workers' requests.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use outbound::{REQUEST, Request, encode_reply, resolver_number};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, getsockname, socket_with, socketpair};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::local::LocalAddresses;
use crate::packet::PacketSocket;
use crate::resolver::DNS;
use crate::{MAX_SOCKETS, Settings, datagrams, stream};

/// What all workers' connections are decided by.
pub(crate) struct Rules {
    settings: Settings,
    local: RefCell<LocalAddresses>,
}

impl Rules {
    pub fn new(settings: Settings) -> Self {
        Self { settings, local: RefCell::default() }
    }

    /// Where what a guest sends to `to` goes.
    ///
    /// # Errors
    /// EACCES when that is out of bounds.
    pub fn destination(&self, to: SocketAddr) -> Result<SocketAddr, Errno> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        match resolver_number(to.ip()) {
            Some(number) if to.port() == DNS => {
                self.settings.name_servers.behind(number).ok_or(Errno::ACCESS)
            }
            Some(_) => Err(Errno::ACCESS),
            None => {
                let is_local = |ip: IpAddr| self.local.borrow_mut().contains(ip);
                self.settings.policy.check(to, is_local).map(|()| to)
            }
        }
    }
}

/// Serves the workers whose control sockets come until no more can come, and those that are there to their ends.
pub(crate) async fn serve(settings: Settings, mut workers: mpsc::UnboundedReceiver<OwnedFd>) {
    let rules = Rc::new(Rules::new(settings));
    let local = LocalSet::new();
    local
        .run_until(async {
            while let Some(socket) = workers.recv().await {
                tokio::task::spawn_local(serve_worker(rules.clone(), socket));
            }
        })
        .await;
    local.await;
}

/// Serves one worker. Its connections end with it.
async fn serve_worker(rules: Rc<Rules>, socket: OwnedFd) {
    let Ok(control) = PacketSocket::new(socket) else { return };
    let mut tasks = JoinSet::new();
    // A byte more than a request has, so that a longer one is noticed.
    let mut buffer = [0; REQUEST + 1];
    while let Some(length) = control.receive(&mut buffer).await {
        while tasks.try_join_next().is_some() {}
        // A worker that says something else is up to something.
        let Ok(request) = Request::decode(buffer.get(..length).unwrap_or_default()) else { return };
        let answered = answer(&rules, request, tasks.len());
        let (reply, handed, task) = match answered {
            Ok(Answer { local, handed, task }) => (Ok(local), handed, task),
            Err(errno) => (Err(errno), None, None),
        };
        if control.send(&encode_reply(reply), handed.as_ref().map(AsFd::as_fd)).is_err() {
            // It asks and does not listen.
            return;
        }
        match task {
            Some(Task::Stream(connection)) => drop(tasks.spawn_local(stream::carry(connection))),
            Some(Task::Datagrams(carrier)) => {
                drop(tasks.spawn_local(datagrams::carry(rules.clone(), carrier)))
            }
            None => {}
        }
    }
}

struct Answer {
    local: SocketAddr,
    handed: Option<OwnedFd>,
    task: Option<Task>,
}

enum Task {
    Stream(stream::Connection),
    Datagrams(datagrams::Carrier),
}

fn answer(rules: &Rules, request: Request, open: usize) -> Result<Answer, Errno> {
    let is_full = open >= MAX_SOCKETS;
    match request {
        Request::Route(to) => {
            let to = rules.destination(to)?;
            let socket = host_socket(to, SocketType::DGRAM)?;
            connect(&socket, &to)?;
            Ok(Answer { local: own_address(&socket)?, handed: None, task: None })
        }
        _ if is_full => Err(Errno::NOBUFS),
        Request::Stream(to) => {
            let to = rules.destination(to)?;
            let host = host_socket(to, SocketType::STREAM)?;
            match connect(&host, &to) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(errno) => return Err(errno),
            }
            let local = own_address(&host)?;
            let (guest, handed) = pair(SocketType::STREAM)?;
            let task = Some(Task::Stream(stream::Connection { guest, host }));
            Ok(Answer { local, handed: Some(handed), task })
        }
        Request::Datagrams(any) => {
            let host = host_socket(any, SocketType::DGRAM)?;
            let local = own_address(&host)?;
            let (guest, handed) = pair(SocketType::SEQPACKET)?;
            let task = Some(Task::Datagrams(datagrams::Carrier { guest, host, is_ipv6: any.is_ipv6() }));
            Ok(Answer { local, handed: Some(handed), task })
        }
    }
}

fn host_socket(to: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

fn own_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(getsockname(socket)?).map_err(|_| Errno::AFNOSUPPORT)
}
