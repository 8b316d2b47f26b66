//! Whether a text is an expression in CEL (<https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax>).
//! Nothing is evaluated: what operators bind to does not matter here.

/// Longest expression, in bytes.
const MAX_LEN: usize = 4096;
/// Deepest nesting of brackets and conditionals.
const MAX_DEPTH: usize = 64;

/// # Errors
/// Where the text stops being an expression, in words.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_LEN {
        return Err(format!("it has {} bytes; {MAX_LEN} are the most", text.len()));
    }
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.expression()?;
    reader.skip_space();
    if reader.rest().is_empty() { Ok(()) } else { Err(reader.unexpected("an operator or the end")) }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// Longer ones first, as the first that fits is taken.
const BINARY: [&str; 13] = ["||", "&&", "<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "%"];

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn unexpected(&self, wanted: &str) -> String {
        let found: String = self.rest().chars().take(10).collect();
        match found.is_empty() {
            true => format!("it ends where {wanted} must come"),
            false => format!("{found:?} stands where {wanted} must come"),
        }
    }

    fn skip_space(&mut self) {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(&format!("{token:?}"))) }
    }

    fn take_identifier(&mut self) -> bool {
        self.skip_space();
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let found = len > 0 && !rest.starts_with(|c: char| c.is_ascii_digit());
        if found {
            self.at += len;
        }
        found
    }

    fn take_binary(&mut self) -> bool {
        if BINARY.iter().any(|operator| self.take(operator)) {
            return true;
        }
        let start = self.at;
        let is_in = self.take_identifier() && self.text[start..self.at].trim_start() == "in";
        if !is_in {
            self.at = start;
        }
        is_in
    }

    fn expression(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        loop {
            self.operand()?;
            if !self.take_binary() {
                break;
            }
        }
        if self.take("?") {
            self.expression()?;
            self.expect(":")?;
            self.expression()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn operand(&mut self) -> Result<(), String> {
        while self.take("!") || self.take("-") {}
        self.primary()?;
        loop {
            if self.take(".") {
                self.take("?");
                if !self.take_identifier() {
                    return Err(self.unexpected("a name"));
                }
            } else if self.take("(") {
                self.list(")", Self::expression)?;
            } else if self.take("[") {
                self.take("?");
                self.expression()?;
                self.expect("]")?;
            } else if self.take("{") {
                self.list("}", Self::entry)?;
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Result<(), String> {
        if self.take("(") {
            self.expression()?;
            return self.expect(")");
        }
        if self.take("[") {
            return self.list("]", Self::expression);
        }
        if self.take("{") {
            return self.list("}", Self::entry);
        }
        if self.string()? || self.number() {
            return Ok(());
        }
        self.take(".");
        if self.take_identifier() { Ok(()) } else { Err(self.unexpected("a value")) }
    }

    fn entry(&mut self) -> Result<(), String> {
        self.expression()?;
        self.expect(":")?;
        self.expression()
    }

    /// Items with commas between them; one more comma may follow.
    fn list(&mut self, end: &str, item: fn(&mut Self) -> Result<(), String>) -> Result<(), String> {
        while !self.take(end) {
            item(self)?;
            if !self.take(",") {
                return self.expect(end);
            }
        }
        Ok(())
    }

    fn number(&mut self) -> bool {
        let rest = self.rest();
        let digits = rest.strip_prefix('.').unwrap_or(rest);
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        let mut previous = ' ';
        let end = rest.find(|c: char| {
            let is_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E') && !rest.starts_with("0x");
            previous = c;
            !(c.is_ascii_alphanumeric() || c == '.' || is_sign)
        });
        let end = end.unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches(['u', 'U']);
        let is_number = match number.strip_prefix("0x") {
            Some(hex) => !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()),
            None => number.parse::<f64>().is_ok() && !number.ends_with('.'),
        };
        if is_number {
            self.at += end;
        }
        is_number
    }

    fn string(&mut self) -> Result<bool, String> {
        self.skip_space();
        let rest = self.rest();
        let prefix = rest.find(|c: char| !matches!(c, 'r' | 'R' | 'b' | 'B')).unwrap_or(rest.len());
        let (prefix, quoted) = rest.split_at(prefix.min(2));
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| quoted.starts_with(quote)) else {
            return Ok(false);
        };
        let is_raw = prefix.contains(['r', 'R']);
        self.at += prefix.len() + quote.len();
        while !self.rest().starts_with(quote) {
            let mut chars = self.rest().chars();
            let escapes = match chars.next() {
                None => return Err("a text in it has no end".into()),
                Some('\n') if quote.len() == 1 => return Err("a text in it has no end on its line".into()),
                Some(c) => c == '\\' && !is_raw,
            };
            if escapes {
                chars.next();
            }
            self.at = self.text.len() - chars.as_str().len();
        }
        self.at += quote.len();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_are_told_from_other_text() {
        for text in [
            "true",
            "response.code >= 400",
            "connection.mtls && request.url_path.contains('v1beta3')",
            r#"!has(request.useragent) || !(request.useragent.startsWith("Amazon-Route53"))"#,
            "a ? b : c ? d : e",
            "request.headers['x-a'] in ['a', 'b',]",
            "{'a': 1, 'b': -2.5e-3}.a == 0x1fu",
            "size(b\"\\\"x\") + r'\\' == '''a\n'''",
            "Type{field: 1}.x",
            "a // says it\n&& b",
            "index == 1 && innermost",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "a b",
            "a &&",
            "(a",
            "a)",
            "a ? b",
            "'a",
            "1..2",
            "a.",
            "[1 2]",
            "{1}",
            "response.code >= ",
            "a = b",
            "@",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"(".repeat(MAX_LEN)).is_err());
        assert!(check(&"a".repeat(MAX_LEN + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_checking_panic(text in "[a-c\"'rb.0-9x?:()\\[\\]{},!-\\\\ é\n]{0,40}") {
            let _ = check(&text);
        }
    }
}
