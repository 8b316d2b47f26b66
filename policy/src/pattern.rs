//! Regular expressions as documents write them: RE2's syntax, run by the `regex` crate, linear in time and bounded
//! in size.

pub(crate) mod automaton;
pub(crate) mod outline;

use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{
    ParserBuilder,
    hir::{Class, ClassUnicodeRange, Hir, HirKind, Look},
};

use self::outline::Outline;

/// Longest expression, in characters, as in Istio.
pub(crate) const MAX_PATTERN_CHARS: usize = 1024;
/// Most memory that one compiled expression may take, in bytes.
const MAX_COMPILED_BYTES: usize = 512 * 1024;

/// A checked expression that must match the whole of a value.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: String,
    needs: Needs,
    outline: Option<Outline>,
    exact: Option<Box<[Outline]>>,
    /// The longest text of `needs`, where none is the start: most values are ruled out by it, in a fraction of the time.
    finder: Option<Box<Finder<'static>>>,
    whole: Regex,
}

/// Fixed text that is in every value that an expression matches whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// What it begins with.
    pub(crate) start: Option<Box<[u8]>>,
    /// What it has in it, the start too.
    pub(crate) texts: Vec<Box<[u8]>>,
    /// What it has in it in some case; here in lower case.
    pub(crate) in_any_case: Vec<Box<[u8]>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Pattern {
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        let translated = translated(source)?;
        // Compiled alone first, so that `a)|(b` cannot close the group that makes the match whole.
        compile(&translated)?;
        let whole = compile(&format!(r"\A(?:{translated})\z"))?;
        let parsed = parse(&translated);
        let needs = parsed.as_ref().map(Needs::of).unwrap_or_default();
        let outline = parsed.as_ref().map(Outline::of);
        let exact = parsed.as_ref().and_then(outline::exact).map(Into::into);
        let longest = needs.texts.iter().filter(|_| needs.start.is_none()).max_by_key(|text| text.len());
        let finder = longest.map(|text| Box::new(Finder::new(text).into_owned()));
        Ok(Self { source: source.to_owned(), needs, outline, exact, finder, whole })
    }

    /// As it was given.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    pub(crate) fn outline(&self) -> Option<&Outline> {
        self.outline.as_ref()
    }

    /// Outlines of which a value that is UTF-8 has one if and only if the whole of it matches, where that is known; what is
    /// not UTF-8 does not.
    pub(crate) fn exact(&self) -> Option<&[Outline]> {
        self.exact.as_deref()
    }

    /// What the parser makes of it.
    pub(crate) fn parsed(&self) -> Option<Hir> {
        translated(&self.source).ok().and_then(|translated| parse(&translated))
    }

    pub(crate) fn is_whole(&self, value: &[u8]) -> bool {
        let may_match = self.needs.start.as_ref().is_none_or(|start| value.starts_with(start))
            && self.finder.as_ref().is_none_or(|finder| finder.find(value).is_some());
        may_match && self.whole.is_match(value)
    }
}

impl Needs {
    fn of(hir: &Hir) -> Self {
        let mut needs = Self { start: start_of(hir).map(Into::into), ..Self::default() };
        needs.add(hir);
        needs
    }

    /// Adds the texts that all matches of a part have in them.
    fn add(&mut self, part: &Hir) {
        match part.kind() {
            HirKind::Literal(literal) => self.texts.push(literal.0.clone()),
            HirKind::Capture(capture) => self.add(&capture.sub),
            HirKind::Repetition(repeated) if repeated.min > 0 => self.add(&repeated.sub),
            HirKind::Concat(parts) => {
                for run in parts.chunk_by(|a, b| letter_of(a).is_some() == letter_of(b).is_some()) {
                    let letters: Vec<u8> = run.iter().filter_map(letter_of).collect();
                    match letters.is_empty() {
                        true => run.iter().for_each(|part| self.add(part)),
                        false => self.in_any_case.push(letters.into()),
                    }
                }
            }
            _ => self.in_any_case.extend(letter_of(part).map(|letter| [letter].into())),
        }
    }
}

/// The text that all of its matches begin with, if that is fixed.
fn start_of(hir: &Hir) -> Option<&[u8]> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(&literal.0),
        HirKind::Capture(capture) => start_of(&capture.sub),
        HirKind::Repetition(repeated) if repeated.min > 0 => start_of(&repeated.sub),
        HirKind::Concat(parts) => {
            start_of(parts.iter().find(|part| !matches!(part.kind(), HirKind::Look(Look::Start)))?)
        }
        _ => None,
    }
}

/// The letter that it matches in both cases, in lower case. `(?i)` makes such classes of most letters.
fn letter_of(part: &Hir) -> Option<u8> {
    let HirKind::Class(Class::Unicode(class)) = part.kind() else { return None };
    let [upper, lower] = class.ranges() else { return None };
    let only = |range: &ClassUnicodeRange| {
        let letter = u8::try_from(range.start()).ok().filter(u8::is_ascii_alphabetic)?;
        (range.start() == range.end()).then_some(letter)
    };
    only(lower).filter(|letter| only(upper) == Some(letter.to_ascii_uppercase()))
}

/// An expression that is searched for, not matched whole: that of `uriRegexRewrite`.
pub(crate) fn search(source: &str) -> Result<Regex, String> {
    compile(&translated(source)?)
}

fn parse(translated: &str) -> Option<Hir> {
    ParserBuilder::new().utf8(false).build().parse(translated).ok()
}

fn compile(translated: &str) -> Result<Regex, String> {
    RegexBuilder::new(translated).size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES).build().map_err(
        |error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("the expression needs more than {MAX_COMPILED_BYTES} bytes compiled: use fewer or smaller repetitions")
            }
            other => {
                // The last line of the parser's picture says what is wrong; the lines before draw it.
                let text = other.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        },
    )
}

/// Checks the length and writes in the `regex` crate's syntax what means something else there than in RE2
/// (<https://github.com/google/re2/wiki/Syntax>): perl classes are ASCII, a class holds no set operations, `\Q…\E`
/// quotes, and a brace that is no repetition is a brace.
fn translated(source: &str) -> Result<String, String> {
    if source.is_empty() {
        return Err("an expression must not be empty".into());
    }
    if source.chars().count() > MAX_PATTERN_CHARS {
        return Err(format!("an expression has {MAX_PATTERN_CHARS} characters at most"));
    }
    let mut translation = Translation { rest: source, out: String::with_capacity(source.len() + 16) };
    translation.run()?;
    Ok(translation.out)
}

struct Translation<'s> {
    rest: &'s str,
    out: String,
}

impl Translation<'_> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '{' if !is_repetition(self.rest) => self.out.push_str(r"\{"),
                '(' => self.group()?,
                c => self.out.push(c),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(c) = self.next() else { return Err("a backslash needs something after it".into()) };
        let ascii = match c {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => r"[\t\n\f\r ]",
            'S' => r"[^\t\n\f\r ]",
            'b' if !in_class => r"(?-u:\b)",
            'B' if !in_class => r"(?-u:\B)",
            'Q' if !in_class => {
                let end = self.rest.find(r"\E").unwrap_or(self.rest.len());
                let (quoted, rest) = self.rest.split_at(end);
                self.out.push_str(&regex::escape(quoted));
                self.rest = rest.strip_prefix(r"\E").unwrap_or(rest);
                return Ok(());
            }
            'a' | 'f' | 't' | 'n' | 'r' | 'v' | 'x' | 'p' | 'P' | 'A' | 'z' => {
                self.out.extend(['\\', c]);
                return Ok(());
            }
            c if c.is_ascii_alphanumeric() => return Err(format!(r"\{c} is not an escape of RE2")),
            c => {
                self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                return Ok(());
            }
        };
        self.out.push_str(ascii);
        Ok(())
    }

    /// After `[`, to its `]`.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.skip("^") {
            self.out.push('^');
        }
        // Its first character is one of it even if it is `]`.
        if self.skip("]") {
            self.out.push_str(r"\]");
        }
        while let Some(c) = self.next() {
            match c {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => self.escape(true)?,
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => {
                    let end = self.rest.find(":]").map_or(0, |at| at + 2);
                    self.out.push('[');
                    self.out.push_str(&self.rest[..end]);
                    self.rest = &self.rest[end..];
                }
                '[' | '&' | '~' => self.out.extend(['\\', c]),
                '-' if self.out.ends_with('-') => self.out.push_str(r"\-"),
                c => self.out.push(c),
            }
        }
        Err("a class needs its ]".into())
    }

    /// After `(`: lets through what RE2 has of the `(?` forms.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if let Some(form) = self.rest.strip_prefix('?')
            && !form.starts_with(['P', '<'])
        {
            let flags = form.split([':', ')']).next().unwrap_or_default();
            if !flags.bytes().all(|b| b"imsU-".contains(&b)) {
                return Err(format!("(?{flags} is not a form of RE2"));
            }
        }
        Ok(())
    }
}

/// Whether what follows a `{` makes it a repetition: `n}`, `n,}` or `n,m}`.
fn is_repetition(rest: &str) -> bool {
    let Some((counts, _)) = rest.split_once('}') else { return false };
    let (least, most) = counts.split_once(',').unwrap_or((counts, ""));
    !least.is_empty() && [least, most].iter().all(|count| count.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_whole(pattern: &str, value: &str) -> bool {
        Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_whole(value.as_bytes())
    }

    #[test]
    fn an_expression_must_match_the_whole() {
        assert!(is_whole("a|ab", "ab"));
        assert!(!is_whole("a", "ab"));
        assert!(!is_whole("b", "ab"));
        assert!(!is_whole("a$", "a\n"));
        assert!(is_whole("^/v[12]/.*$", "/v1/x"));
    }

    #[test]
    fn what_an_expression_needs_never_rules_out_a_match() {
        for (pattern, value, expected) in [
            ("/a/b/[0-9]+", "/a/b/1", true),
            ("/a/b/[0-9]+", "/a/c/1", false),
            ("^/a$", "/a", true),
            (".*/b/.*", "/a/b/c", true),
            (".*/b/.*", "/a/c/c", false),
            ("(/a)/b", "/a/b", true),
            ("(?i)/ab.*", "/AB/c", true),
            ("/a|/b", "/b", true),
            ("(/a|/b)/c", "/b/c", true),
            ("/a?/b", "//b", true),
            ("(/a)*/b", "/b", true),
            ("(?:/a){0}/b", "/b", true),
            ("(?:/a){1,2}/b", "/a/a/b", true),
            ("(?:/a)+/b", "/a/b", true),
            ("(x(/a)y)+", "x/ayx/ay", true),
            ("(^/a)/b.*", "/a/b", true),
            ("(.*/a|/b)/c", "/x/a/c", true),
            ("", "", false),
            (r"\Q/a.\Eb", "/a.b", true),
            (".*", "", true),
        ] {
            let found = Pattern::new(pattern).is_ok_and(|pattern| pattern.is_whole(value.as_bytes()));
            assert_eq!(found, expected, "{pattern} on {value}");
        }
    }

    #[test]
    fn what_an_expression_needs_is_found_in_all_of_its_parts() {
        for (pattern, start, texts, in_any_case) in [
            ("/a/(b[0-9])+/c", "/a/", &["/a/", "b", "/c"][..], &[][..]),
            (".*/a/[a-z]+/b", "", &["/a/", "/b"], &[]),
            ("(?i)/orders/7.*", "/", &["/", "/7"], &["order"]),
            ("/a(?i)bc", "/a", &["/a"], &["bc"]),
            ("(?i)a+[bB]?", "", &[], &["a"]),
            ("/a|/b", "", &[], &[]),
            ("(a/)?[bc]*", "", &[], &[]),
        ] {
            let needs = Pattern::new(pattern).unwrap().needs;
            let read = |texts: &[Box<[u8]>]| -> Vec<String> {
                texts.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
            };
            assert_eq!(String::from_utf8(needs.start.unwrap_or_default().to_vec()).unwrap(), start, "{pattern}");
            assert_eq!(read(&needs.texts), texts, "{pattern}");
            assert_eq!(read(&needs.in_any_case), in_any_case, "{pattern}");
        }
    }

    #[test]
    fn what_re2_means_otherwise_is_translated() {
        for (pattern, value, expected) in [
            (r"\d+", "12", true),
            (r"\d+", "١٢", false),
            (r"\w", "é", false),
            (r"[\w-]+", "a-b", true),
            (r"[^\d]", "x", true),
            (r"[[]", "[", true),
            (r"[]a]+", "]a", true),
            (r"[a&&b]+", "a&b", true),
            (r"[[:alpha:]]+", "ab", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b", "axb", false),
            (r"/users/{id}", "/users/{id}", true),
            (r"a{2,3}", "aaa", true),
            (r"a{,3}", "a{,3}", true),
            (r"\<a\>", "<a>", true),
            (r"(?i)ABC", "abc", true),
            (r"(?P<name>a)", "a", true),
            (r"a\bb", "ab", false),
            (r"[+--]", "-", true),
            (r"\/", "/", true),
        ] {
            assert_eq!(is_whole(pattern, value), expected, "{pattern} on {value}");
        }
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        let long = "a".repeat(MAX_PATTERN_CHARS + 1);
        for pattern in ["", "(", "a)|(b", "*", "[a", r"\1", r"(?x)a # c", "(?=a)", r"a\", &long] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_expression_that_compiles_too_large_is_refused() {
        let error = Pattern::new(r"(\pL{1000}){1000}").unwrap_err();
        assert!(error.contains("repetitions"), "{error}");
    }
}
