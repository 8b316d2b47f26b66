//! A text that is read from left to right.

pub(super) struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    pub(super) fn rest(&self) -> &'t str {
        self.rest
    }

    /// Whether this comes next; it is read then.
    pub(super) fn eats(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), String> {
        match self.eats(text) {
            true => Ok(()),
            false if self.rest.is_empty() => Err(format!("expected {text:?} at the end")),
            false => Err(format!("expected {text:?} before {:?}", self.rest)),
        }
    }

    pub(super) fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// All up to one of these.
    pub(super) fn until(&mut self, ends: &[char]) -> &'t str {
        let (read, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        read
    }

    /// Text in quotes of either kind, if it comes next. `\n` and `\t` are what they are in Go, `\` keeps other characters.
    pub(super) fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(quote) = self.rest.chars().next().filter(|first| ['"', '\''].contains(first)) else { return Ok(None) };
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = self.rest.get(at + quote.len_utf8()..).unwrap_or_default();
                    return Ok(Some(text));
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                _ => text.push(character),
            }
        }
        Err(format!("{} has no end", self.rest))
    }

    /// A number, if one comes next.
    pub(super) fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        let is_part = |c: char| c.is_ascii_digit() || ['-', '+', '.'].contains(&c);
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        let number = text.parse().ok()?;
        self.rest = rest;
        Some(number)
    }
}
