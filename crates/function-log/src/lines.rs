//! From pieces of output to lines.

/// A line longer than this is cut: a function that never ends its lines must not fill the memory.
const LONGEST: usize = 256 << 10;

/// Collects pieces of one instance's output into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// Adds a piece; `each` gets every line that is complete now, without its end.
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(&[u8])) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) if self.unfinished.is_empty() => each(end),
                Some(end) => {
                    self.unfinished.extend_from_slice(end);
                    self.finish(&mut each);
                }
                None => {
                    self.unfinished.extend_from_slice(part);
                    if self.unfinished.len() >= LONGEST {
                        self.finish(&mut each);
                    }
                }
            }
        }
    }

    /// Gives what has no end yet as a line of its own.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.unfinished.is_empty() {
            each(&std::mem::take(&mut self.unfinished));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let whole = b"first\n\nthird, longer\nunfinished";
        for size in 1..whole.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in whole.chunks(size) {
                lines.push(piece, |line| seen.push(String::from_utf8_lossy(line).into_owned()));
            }
            assert_eq!(seen, ["first", "", "third, longer"]);
            lines.finish(|line| seen.push(String::from_utf8_lossy(line).into_owned()));
            assert_eq!(seen.last().unwrap(), "unfinished");
            assert!(lines.is_empty());
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (mut lines, mut longest) = (Lines::default(), 0);
        for _ in 0..100 {
            lines.push(&[b'x'; 10_000], |line| longest = longest.max(line.len()));
        }
        assert!((LONGEST..LONGEST + 10_000).contains(&longest), "{longest}");
    }
}
