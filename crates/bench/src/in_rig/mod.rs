//! A reduced benchmark of linux guests on a machine that can't run them: inside the rig, an emulated host with hardware KVM, with
//! the home on a throttled disk. Its results are ratios; a time there says nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rig::{Rig, RigError, Shown, Staging, Step};

/// The script that measures, by the command line of the executable that is carried in.
const SCRIPT: &str = include_str!("linux.py");
/// After this long a run is ended and has failed.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// The functions: their folder below the script's first argument, and their code.
const CODE: [(&str, &str); 3] = [
    ("python/hello", include_str!("../../../../examples/python/hello/app.py")),
    ("python/json", include_str!("../../../../examples/python/json/app.py")),
    ("functions/pagerank", include_str!("../../../../examples/functions/pagerank/app.py")),
];

/// What the runtimes of the functions are built by, as arguments of `faasnap runtime build`: the first is the emulated host's own
/// root as well.
pub const RUNTIMES: [&[&str]; 2] = [
    &["python3.11"],
    &["python3.11", "--name", "graphs", "--package", "igraph==0.11.9", "--package", "numpy==2.2.6"],
];

/// A run.
#[derive(Debug)]
pub struct InRig<'a> {
    /// Where the rig's parts are kept from run to run.
    pub folder: &'a Path,
    /// The executable that is measured.
    pub faasnap: &'a Path,
    /// The folder `runtimes` of a home that has [`RUNTIMES`].
    pub runtimes: &'a Path,
    /// How often each way to an answer is measured.
    pub rounds: u32,
    /// Only the two small functions.
    pub quick: bool,
}

impl InRig<'_> {
    /// Boots the rig, measures inside, and shows what the script says: progress, then ratios with their targets.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn run(&self, show: &mut dyn FnMut(Shown<'_>)) -> Result<(), RigError> {
        let functions = if self.quick { "hello,json" } else { "hello,json,pagerank" };
        let line = format!(
            "mkdir -p /slow && mount -t ext4 -o noinit_itable /dev/vdb /slow && $FAASNAP runtime list >/dev/null && \
             cp -a /runtimes/* $FAASNAP_HOME/runtimes/ && python3 /rig/linux.py /functions {} {functions}",
            self.rounds
        );
        let steps = [Step { name: "linux-guests".to_owned(), line }];
        let environment = "export FAASNAP=/usr/bin/faasnap FAASNAP_HOME=/slow/home TMPDIR=/tmp\n".to_owned();
        Rig::new(self.folder)?.run(&steps, &environment, LIMIT, |staging, _| self.carry(staging), show)
    }

    fn carry(&self, staging: &Staging) -> Result<(), RigError> {
        staging.tree(&self.runtimes.join("python3.11/root"), Path::new("/"), &[])?;
        staging.tree(self.runtimes, Path::new("/runtimes"), &[])?;
        for (folder, code) in CODE {
            staging.text(&PathBuf::from("/functions").join(folder).join("app.py"), code)?;
        }
        staging.text(Path::new("/rig/linux.py"), SCRIPT)?;
        staging.executable(self.faasnap, Path::new("/usr/bin/faasnap"))
    }
}
