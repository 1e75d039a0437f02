//! `faasnap exec`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use store::{KernelName, TmpMegabytes};

use super::{ReachArguments, kernel, values};

/// A folder of the host that the program sees, at the same place or another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bind {
    /// The folder on the host.
    pub(crate) source: PathBuf,
    /// Where the program sees it.
    pub(crate) target: PathBuf,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, target) = text.split_once(':').unwrap_or((text, text));
        if source.is_empty() || !target.starts_with('/') {
            return Err(format!(
                "{text:?} needs an absolute place: write SRC or SRC:DST with DST like /data"
            ));
        }
        Ok(Self { source: PathBuf::from(source), target: PathBuf::from(target) })
    }
}

/// A tap device of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tap {
    /// Its name.
    pub(crate) device: String,
    /// The file that its network namespace is known by; without one it is in this process's.
    pub(crate) namespace: Option<PathBuf>,
}

impl FromStr for Tap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, namespace) = match text.split_once('@') {
            Some((device, namespace)) => (device, Some(namespace)),
            None => (text, None),
        };
        if device.is_empty() || namespace == Some("") {
            return Err(format!("{text:?} names no device: write tap0 or tap0@NAMESPACE"));
        }
        // A path stays as it is.
        let namespace = namespace.map(|namespace| Path::new("/run/netns").join(namespace));
        Ok(Self { device: device.to_owned(), namespace })
    }
}

/// What a program runs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum GuestKind {
    /// A process guest: the program alone on a processor, its system calls served by faasnap; starts in milliseconds
    Process,
    /// A linux guest: an unmodified Linux kernel in a microVM; needs hardware KVM, a kernel (`faasnap kernel`) and --root
    Linux,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The program gets this terminal's standard input, output and error and every descriptor that was open; its exit \
status becomes faasnap's (128 + N when signal N ended it, 3 when it could not be started). Without --root it sees \
this machine's file system, read-only, with /tmp, /run and /dev/shm of its own and without faasnap's home \
directory. It is one process: fork and its kin answer ENOSYS.

The worker of a program is not jailed, as those of functions are: it runs as the calling user, in this session. A program that \
broke out of its virtual machine could do what the caller can. Run what you don't trust as a function, or as another user.

With --guest linux it has a kernel of its own and may do what it likes, but sees nothing of this machine: it gets \
standard input, output and error only, and --root's files, read-only below what it writes. With --network it opens \
TCP connections and sends UDP datagrams to public addresses, by way of this command. With --tap its card, 169.254.78.10/24 with \
169.254.78.254 as its gateway, is on a tap device of yours: whatever you connect that with, by whatever rules.

Examples:
  faasnap exec -- /bin/echo hello
  faasnap exec --memory 512 --bind $PWD:/work --cwd /work -- python3 script.py
  faasnap exec --root ~/rootfs --env LANG=C -- /usr/bin/sqlite3 :memory: 'select 1'
  faasnap exec --guest linux --root ~/rootfs -- /bin/sh -c 'ls / | wc -l'
  faasnap exec --guest linux --root ~/rootfs --network --tmp 4096 -- /usr/bin/python3 fetch.py")]
pub(crate) struct ExecArguments {
    /// What the program runs in
    #[arg(long, value_enum, default_value_t = GuestKind::Process)]
    pub(crate) guest: GuestKind,
    /// The linux guest's kernel
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT)]
    pub(crate) kernel: KernelName,
    /// The root file system: a folder, for a linux guest also an image [default: the host's, read-only]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Memory in MB
    #[arg(long, value_name = "MB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) memory: u32,
    /// An environment variable, added to PATH, HOME=/tmp and, with no --root, this environment's PATH, TERM, LANG and
    /// LC_ALL; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = values::variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// The program's working directory [default: /, or with no --root the current one]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// A folder that the program may read and write; may be repeated
    #[arg(long = "bind", value_name = "SRC[:DST]")]
    pub(crate) binds: Vec<Bind>,
    /// Give a linux guest a disk of its own for /tmp, of that many MB, 512 to 10240 [default: /tmp is memory]
    #[arg(long, value_name = "MB", value_parser = values::tmp)]
    pub(crate) tmp: Option<TmpMegabytes>,
    /// Give a linux guest a network: TCP and UDP to public addresses and to those that --allow-network names
    #[arg(long)]
    pub(crate) network: bool,
    #[command(flatten)]
    pub(crate) reach: ReachArguments,
    /// Put a linux guest's network card on a tap device that is there, in this network namespace or in another: a name as in
    /// /run/netns, or a path like /proc/PID/ns/net
    #[arg(long, value_name = "DEVICE[@NAMESPACE]", conflicts_with = "network")]
    pub(crate) tap: Option<Tap>,
    /// Say on standard error which system calls the program made that are not there, even when it ended well; of a linux
    /// guest, what its kernel says and how long it took
    #[arg(long)]
    pub(crate) verbose: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArguments,
    }

    fn parse(line: &str) -> Result<ExecArguments, clap::Error> {
        let words = std::iter::once("exec").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.exec)
    }

    #[test]
    fn the_program_keeps_its_own_options() {
        let exec = parse("--root /r --cwd /w --env A=b --bind /x:/y --bind /z -- ls --json -l").unwrap();
        assert_eq!(exec.program, ["ls", "--json", "-l"]);
        assert_eq!((exec.root, exec.cwd), (Some(PathBuf::from("/r")), Some(PathBuf::from("/w"))));
        assert_eq!(exec.environment, [("A".to_owned(), "b".to_owned())]);
        let binds: Vec<_> =
            exec.binds.iter().map(|bind| (bind.source.to_str(), bind.target.to_str())).collect();
        assert_eq!(binds, [(Some("/x"), Some("/y")), (Some("/z"), Some("/z"))]);
        assert_eq!(exec.memory, 1024);
    }

    #[test]
    fn a_tap_device_is_in_a_namespace_by_name_or_path() {
        let namespace = |text: &str| text.parse::<Tap>().unwrap().namespace;
        assert_eq!(namespace("tap0"), None);
        assert_eq!(namespace("tap0@blue"), Some(PathBuf::from("/run/netns/blue")));
        assert_eq!(namespace("tap0@/proc/7/ns/net"), Some(PathBuf::from("/proc/7/ns/net")));
        assert!("@blue".parse::<Tap>().is_err() && "tap0@".parse::<Tap>().is_err());
        assert!(parse("--tap tap0 --network -- ls").is_err());
    }

    #[test]
    fn mistakes_are_found() {
        for wrong in ["", "ls", "--memory 1 -- ls", "--bind x -- ls", "--bind :/y -- ls", "--env A -- ls"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
