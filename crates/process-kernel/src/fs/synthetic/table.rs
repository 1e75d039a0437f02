//! Trees of texts that are written down as tables of paths.

use super::{Entry, Names};

/// Makes a text from whatever it is about.
pub(super) type MakeText<T> = fn(&T) -> String;

/// A table of texts: path below the directory, and how the text is made.
pub(super) struct Table<T: 'static>(pub &'static [(&'static str, MakeText<T>)]);

/// The rest of `known` behind `path` and a slash, if it lies below; all of it for the empty path.
fn below<'a>(known: &'a str, path: &[u8]) -> Option<&'a str> {
    if path.is_empty() {
        return Some(known);
    }
    let (head, tail) = (known.as_bytes().get(..path.len())?, known.get(path.len()..)?);
    if head == path { tail.strip_prefix('/') } else { None }
}

impl<T> Table<T> {
    /// What is at `path`: a text, or a directory on the way to one.
    pub fn find(&self, path: &Names<'_>) -> Option<Entry> {
        let path = path.join(&b'/');
        if self.0.iter().any(|(known, _)| known.as_bytes() == path) {
            return Some(Entry::Text);
        }
        self.0.iter().any(|(known, _)| below(known, &path).is_some()).then_some(Entry::Directory)
    }

    /// What lies directly below `path`.
    pub fn list(&self, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
        let path = path.join(&b'/');
        let mut entries: Vec<(Vec<u8>, Entry)> = Vec::new();
        for rest in self.0.iter().filter_map(|(known, _)| below(known, &path)) {
            let (name, entry) = match rest.split_once('/') {
                Some((name, _)) => (name, Entry::Directory),
                None => (rest, Entry::Text),
            };
            if !entries.iter().any(|(known, _)| known == name.as_bytes()) {
                entries.push((name.as_bytes().to_vec(), entry));
            }
        }
        entries
    }

    /// The text at `path`.
    pub fn text(&self, path: &Names<'_>, about: &T) -> Option<String> {
        let path = path.join(&b'/');
        self.0.iter().find(|(known, _)| known.as_bytes() == path).map(|(_, make)| make(about))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_from_the_paths() {
        const TABLE: Table<()> = Table(&[
            ("a/b/c", |()| "1".to_owned()),
            ("a/d", |()| "2".to_owned()),
            ("ab", |()| "3".to_owned()),
        ]);
        assert_eq!(TABLE.find(&[]), Some(Entry::Directory));
        assert_eq!(TABLE.find(&[b"a"]), Some(Entry::Directory));
        assert_eq!(TABLE.find(&[b"a", b"b", b"c"]), Some(Entry::Text));
        assert_eq!(TABLE.find(&[b"a", b"x"]), None);
        assert_eq!(TABLE.find(&[b"a", b"d", b"x"]), None);
        let names = |path: &Names<'_>| TABLE.list(path).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&[]), [b"a".to_vec(), b"ab".to_vec()]);
        assert_eq!(names(&[b"a"]), [b"b", b"d"]);
        assert_eq!(TABLE.text(&[b"ab"], &()).as_deref(), Some("3"));
    }
}
