//! Tells guest threads when the host's descriptors become ready: one thread per process with a host epoll set, started
//! with the first descriptor. It is the only thread that waits in the host kernel for a guest's input and output.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

use crate::wait::WaitQueue;

/// The number of the descriptor that ends the thread; no registration has it.
const STOP: u64 = 0;

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    queues: Mutex<HashMap<u64, Weak<WaitQueue>>>,
}

#[derive(Default)]
struct State {
    shared: Option<Arc<Shared>>,
    last: u64,
}

/// The reactor of one process.
#[derive(Default)]
pub struct Reactor {
    state: Mutex<State>,
}

/// A watched descriptor; dropping it ends the watch.
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
    fd: Arc<OwnedFd>,
}

impl Reactor {
    /// Notifies `queue` whenever `fd` has become ready for anything (edge-triggered), until the watch is dropped.
    ///
    /// # Errors
    /// EPERM for files that are always ready; the host's errno.
    pub fn watch(&self, fd: &Arc<OwnedFd>, queue: &Arc<WaitQueue>) -> Result<Watch, Errno> {
        let mut state = self.state.lock();
        let shared = match &state.shared {
            Some(shared) => shared.clone(),
            None => {
                let shared = start()?;
                state.shared = Some(shared.clone());
                shared
            }
        };
        state.last += 1;
        let id = state.last;
        drop(state);
        // In the table first: an event may come at once.
        shared.queues.lock().insert(id, Arc::downgrade(queue));
        let events = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::PRI
            | epoll::EventFlags::ET;
        if let Err(errno) = epoll::add(&shared.epoll, fd.as_fd(), epoll::EventData::new_u64(id), events) {
            shared.queues.lock().remove(&id);
            return Err(errno);
        }
        Ok(Watch { shared, id, fd: fd.clone() })
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(shared) = &self.state.get_mut().shared {
            // It fails only when the counter is full, and then the thread is awake already.
            let _ = rustix::io::write(&shared.stop, &1_u64.to_ne_bytes());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.queues.lock().remove(&self.id);
        // The descriptor's file may live on in the caller: closing ours would not end the watch.
        let _ = epoll::delete(&self.shared.epoll, self.fd.as_fd());
    }
}

fn start() -> Result<Arc<Shared>, Errno> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
    let shared = Arc::new(Shared { epoll, stop, queues: Mutex::default() });
    let own = shared.clone();
    let spawned = std::thread::Builder::new().name("reactor".to_owned()).spawn(move || run(&own));
    spawned.map_err(|_| Errno::AGAIN)?;
    Ok(shared)
}

fn run(shared: &Shared) {
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        match epoll::wait(&shared.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "waiting for the host's descriptors");
                return;
            }
        }
        for event in &events {
            let id = event.data.u64();
            if id == STOP {
                return;
            }
            let queue = shared.queues.lock().get(&id).and_then(Weak::upgrade);
            if let Some(queue) = queue {
                queue.notify();
            }
        }
    }
}
