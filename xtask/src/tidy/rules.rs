//! The rules, each a function from a file to what is wrong with it.

use super::source::Source;

/// A file that is longer has more than one reason to change.
const FILE_LINES: usize = 600;
/// A function that is longer does more than one thing.
const FUNCTION_LINES: usize = 80;
/// Left-over notes. Spelled in pieces, or this file would find itself.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Everything that is wrong with a file, as `LINE: what`.
pub(super) fn examine(source: &Source<'_>) -> Vec<String> {
    [head(source), length(source), functions(source), notes(source), allowances(source)].concat()
}

/// Every file says at its top what it is for; a `tests.rs` is for testing the file that it belongs to.
fn head(source: &Source<'_>) -> Vec<String> {
    let said = source.text().starts_with("//!") || source.is_test();
    if said { Vec::new() } else { vec!["1: no //! at the top".to_owned()] }
}

fn length(source: &Source<'_>) -> Vec<String> {
    let lines = source.product_lines().len();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    vec![format!("{lines}: more than {FILE_LINES} lines without the tests")]
}

/// In rustfmt's layout a function starts with `fn` among its qualifiers and ends with a closing brace at the same
/// indentation.
fn functions(source: &Source<'_>) -> Vec<String> {
    let lines = source.product_lines();
    let mut findings = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let body = lines.iter().skip(start).take_while(|line| **line != end).count() + 1;
        // Without a body of its own (in a trait), or with one on the same line, there is nothing to measure.
        let has_body = lines
            .iter()
            .skip(start)
            .find(|line| line.ends_with('{') || line.ends_with(';') || line.ends_with('}'))
            .is_some_and(|line| line.ends_with('{'));
        if has_body && body > FUNCTION_LINES {
            findings
                .push(format!("{}: a function of {body} lines, {FUNCTION_LINES} are the limit", start + 1));
        }
    }
    findings
}

fn starts_function(line: &str) -> bool {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        match word {
            "fn" => {
                return words.peek().is_some_and(|name| {
                    name.starts_with(|first: char| first.is_alphabetic() || first == '_')
                });
            }
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"" => {}
            visibility if visibility.starts_with("pub(") => {}
            _ => return false,
        }
    }
    false
}

fn notes(source: &Source<'_>) -> Vec<String> {
    let found = |line: &str| NOTES.iter().find(|note| line.contains(**note)).copied();
    source
        .text()
        .lines()
        .enumerate()
        .filter_map(|(number, line)| found(line).map(|note| format!("{}: a left-over {note}", number + 1)))
        .collect()
}

/// A lint that is switched off in the product says why.
fn allowances(source: &Source<'_>) -> Vec<String> {
    let lines = source.product_lines();
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| {
            let line = line.trim_start();
            line.starts_with("#[allow(") || line.starts_with("#![allow(")
        })
        .filter(|(number, line)| {
            let explained = |line: &&str| line.trim_start().starts_with("// ");
            !line.contains("reason")
                && !number.checked_sub(1).and_then(|before| lines.get(before)).is_some_and(explained)
                && !lines.get(number + 1).is_some_and(|after| after.trim_start().starts_with("reason"))
        })
        .map(|(number, _)| format!("{}: allow without a reason", number + 1))
        .collect()
}

/// A crate that is not on the list of those with `unsafe` forbids it.
pub(super) fn forbids_unsafe(source: &Source<'_>) -> Vec<String> {
    if source.text().contains("#![forbid(unsafe_code)]") {
        Vec::new()
    } else {
        vec!["1: no #![forbid(unsafe_code)]".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(text: &str) -> Vec<String> {
        examine(&Source::new(Path::new("crates/x/src/lib.rs"), text))
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert_eq!(check("//! Head.\n\nfn short() {\n    work();\n}\n"), [""; 0]);
    }

    #[test]
    fn each_rule_finds_its_mistake() {
        assert_eq!(check("fn a() {}\n"), ["1: no //! at the top"]);
        let note = format!("//! Head.\n// {} later\n", NOTES[0]);
        assert_eq!(check(&note), [format!("2: a left-over {}", NOTES[0])]);
        let long = format!(
            "//! Head.\n    pub(crate) const fn long(\n    ) {{\n{}    }}\n",
            "        x();\n".repeat(80)
        );
        assert_eq!(check(&long), ["2: a function of 83 lines, 80 are the limit"]);
        let file = format!("//! Head.\n{}", "const A: u8 = 1;\n".repeat(600));
        assert_eq!(check(&file), ["601: more than 600 lines without the tests"]);
        assert_eq!(check("//! Head.\n#[allow(dead_code)]\nfn a() {}\n"), ["2: allow without a reason"]);
    }

    #[test]
    fn what_is_explained_or_only_looks_alike_is_let_pass() {
        assert_eq!(check("//! Head.\n// The ABI has it.\n#[allow(dead_code)]\nfn a() {}\n"), [""; 0]);
        assert_eq!(check("//! Head.\n#[allow(dead_code, reason = \"x\")]\nfn a() {}\n"), [""; 0]);
        let declared = format!("//! Head.\ntrait A {{\n    fn a();\n{}}}\n", "    const B: u8;\n".repeat(90));
        assert_eq!(check(&declared), [""; 0]);
        let tests = format!("//! Head.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    // x\n".repeat(700));
        assert_eq!(check(&tests), [""; 0]);
    }
}
