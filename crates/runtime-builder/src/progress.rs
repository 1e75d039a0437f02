//! What a long build tells its user.

/// Told what is going on; called from the thread that builds.
pub trait Progress {
    /// A new step begins.
    fn step(&self, text: &str);
    /// Within the step, `done` of `total` pieces are ready.
    fn advance(&self, done: usize, total: usize);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _text: &str) {}
    fn advance(&self, _done: usize, _total: usize) {}
}
