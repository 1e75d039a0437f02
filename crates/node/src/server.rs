//! Sockets: one for the network, one in the home for the command line.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::connections;
use crate::node::Node;

/// A node's sockets, bound but not yet served.
#[derive(Debug)]
pub struct Server {
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
}

/// Why a node can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address can't be bound.
    #[error("listening on {address} failed")]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Server {
    /// Binds the sockets. `socket` is a path in the home, as short as a socket's path must be.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(address: SocketAddr, socket: Option<&Path>) -> Result<Self, ServeError> {
        let failed = |address: String| move |source| ServeError::Listen { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed(address.to_string()))?;
        let unix = match socket {
            None => None,
            Some(path) => {
                let failed = failed(path.display().to_string());
                let bind = || {
                    // One that an earlier node left: nobody else may be listening, the home's lock says so.
                    match fs::remove_file(path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                    let listener = UnixListener::bind(path)?;
                    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                    Ok(listener)
                };
                Some((bind().map_err(failed)?, path.to_owned()))
            }
        };
        Ok(Self { tcp, unix })
    }

    /// The address of the network's socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop` ends, then takes no more calls (whoever asks for the node's state still hears it), waits for the requests under way, and ends the instances.
    pub async fn serve(self, node: Node, stop: impl Future<Output = ()> + Send + 'static) {
        let (stopped, stopping) = watch::channel(false);
        let stops = node.clone();
        tokio::spawn(async move {
            stop.await;
            stops.begin_to_stop();
            // Nobody waits any more when all connections have ended.
            let _ = stopped.send(true);
        });
        let limit = node.settings.connections;
        let network = connections::serve(self.tcp, node.clone(), false, limit, stopping.clone());
        match self.unix {
            None => network.await,
            Some((listener, path)) => {
                let home = connections::serve(listener, node.clone(), true, limit, stopping);
                tokio::join!(network, home);
                // A socket that can't be removed is removed by the next node.
                let _ = fs::remove_file(path);
            }
        }
        node.shut_down().await;
    }
}
