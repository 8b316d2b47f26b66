//! Where the fields of a printed document stand.

use super::{
    error::steps_of,
    tree::{Node, Position, read_yaml},
};

/// A document as it was printed, for the lines of its fields.
#[derive(Debug)]
pub struct Lines(Node);

impl Lines {
    /// `None` for what is no YAML.
    pub fn read(yaml: &str) -> Option<Self> {
        read_yaml(yaml).ok()?.into_iter().next().map(Self)
    }

    /// The line of a field such as `spec.http[0].timeout`, counted from 1, or of what there is of the way to it. What a
    /// document says as a whole stands where its `spec` begins, or the document, if it has none.
    pub fn of(&self, field: &str) -> Option<u64> {
        let path = steps_of(if field.is_empty() { "spec" } else { field });
        let at = self.0.position(&path);
        (at != Position::default()).then_some(at.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_lines_in_which_they_stand() {
        let yaml = "kind: V\nspec:\n  hosts:\n  - a\n  http:\n  - name: x\n    match:\n    - uri:\n        exact: /\n    - port: 1\n";
        let lines = Lines::read(yaml).unwrap();
        for (field, line) in [
            ("", 2),
            ("spec.http", 5),
            ("spec.http[0]", 6),
            ("spec.http[0].match[0]", 8),
            ("spec.http[0].match[1]", 10),
            ("spec.http[0].timeout", 6),
            ("spec.http[7]", 5),
        ] {
            assert_eq!(lines.of(field), Some(line), "{field}");
        }
        assert!(Lines::read("a: [").is_none());
    }
}
