//! Progress on standard error: a bar with the time left on a terminal, a line for each function elsewhere.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress {
    /// None when standard error is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For `total` requests, of which some may have been measured before.
    pub fn new(total: u64, done: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(done);
            let style = ProgressStyle::with_template("{msg:32!} [{bar:30}] {pos}/{len}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            // What was measured before must not count as fast.
            bar.reset_eta();
            bar
        });
        if bar.is_none() && done > 0 {
            line(&format!("going on: {done} of {total} requests were measured before"));
        }
        Self { bar }
    }

    /// Says what is being done now.
    pub fn at(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// Says that something larger begins.
    pub fn begin(&self, what: &str) {
        match &self.bar {
            Some(_) => self.at(what),
            None => line(what),
        }
    }

    /// Something that a user should know.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => line(text),
        }
    }

    pub fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    // Progress that can't be shown is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}
