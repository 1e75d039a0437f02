//! What functions with a network may reach.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use function_worker::CredentialsFile;
use outbound_relay::{NameServers, Network, Policy, Settings};

/// What a guest with a network may reach.
#[derive(Debug, Args)]
pub(crate) struct ReachArguments {
    /// An address or network that a guest with a network may reach besides public ones, as 10.1.0.0/16; may be repeated. This
    /// machine's own addresses and private networks are out of reach otherwise, link-local ones (169.254.169.254) always
    #[arg(long = "allow-network", value_name = "ADDRESS[/PREFIX]")]
    allowed: Vec<Network>,
    /// Who answers a guest's questions for names [default: the name servers of this machine's /etc/resolv.conf]
    #[arg(long = "name-server", value_name = "ADDRESS[:PORT]", value_parser = name_server)]
    name_servers: Vec<SocketAddr>,
}

impl ReachArguments {
    /// Whether none of them was given.
    pub(crate) fn says_nothing(&self) -> bool {
        self.allowed.is_empty() && self.name_servers.is_empty()
    }

    /// Settings for the relay.
    pub(crate) fn settings(&self) -> Settings {
        let name_servers = match self.name_servers.is_empty() {
            true => NameServers::default(),
            false => NameServers::new(self.name_servers.clone()),
        };
        Settings { policy: Policy { allowed: self.allowed.clone() }, name_servers }
    }
}

#[derive(Debug, Args)]
pub(crate) struct NetworkArguments {
    #[command(flatten)]
    reach: ReachArguments,
    /// What functions may call AWS with: a file as `aws configure export-credentials --format process` prints it, read anew for
    /// each instance. They are not this program's own credentials
    #[arg(long, value_name = "FILE")]
    function_credentials: Option<PathBuf>,
}

impl NetworkArguments {
    /// Whether none of them was given.
    pub(crate) fn says_nothing(&self) -> bool {
        self.reach.says_nothing() && self.function_credentials.is_none()
    }

    /// Makes them this process's, and gives what functions may call AWS with.
    ///
    /// # Errors
    /// When the file of credentials holds none.
    pub(crate) fn apply(&self) -> anyhow::Result<Option<CredentialsFile>> {
        outbound_relay::configure(self.reach.settings())?;
        Ok(self.function_credentials.as_deref().map(CredentialsFile::open).transpose()?)
    }
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let alone = |ip: IpAddr| SocketAddr::new(ip, 53);
    text.parse()
        .or_else(|_| text.parse().map(alone))
        .map_err(|_| format!("{text:?} is no address: write 10.0.0.2 or 10.0.0.2:53"))
}
