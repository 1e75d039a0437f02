//! Progress of something long, on standard error: a moving line on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows the steps of a runtime being built.
pub(crate) struct BuildProgress {
    /// `None` when standard error is no terminal.
    bar: Option<ProgressBar>,
}

impl BuildProgress {
    pub(crate) fn new() -> Self {
        Self { bar: io::stderr().is_terminal().then(ProgressBar::new_spinner) }
    }

    /// Takes the moving line away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl runtime_builder::Progress for BuildProgress {
    fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.enable_steady_tick(Duration::from_millis(100));
                bar.set_message(text.to_owned());
            }
            None => {
                // Progress that can't be shown is no reason to stop.
                let _ = writeln!(io::stderr(), "{text}");
            }
        }
    }

    fn advance(&self, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}/{len}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }
}
