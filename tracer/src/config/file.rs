//! What does the file say, and where is it wrong? TOML with the place of every value, so that each mistake names its
//! line and column and what was expected there.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::Range,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Threshold;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What it is, and what was expected.
    pub message: String,
}

impl Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl Mistake {
    /// A mistake at an offset into the text, in bytes.
    fn at(text: &str, offset: usize, message: impl Display) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.to_string(),
        }
    }
}

/// The text of a file.
pub fn text(bytes: &[u8]) -> Result<&str, Mistake> {
    str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let text = str::from_utf8(valid).unwrap_or_default();
        Mistake::at(text, text.len(), "this byte is not UTF-8, which TOML is written in")
    })
}

/// The unread part of a table. Whoever has read all keys it knows calls [`end`](Self::end).
pub struct Section<'t> {
    text: &'t str,
    /// As it is written in the file; empty for the file itself.
    name: String,
    span: Range<usize>,
    unread: BTreeMap<String, (Range<usize>, Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub fn of_file(text: &'t str) -> Result<Self, Mistake> {
        let table = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            // The parser says in further lines what it expected.
            let message = match (error.message(), text.get(span.clone())) {
                ("duplicate key", Some(key)) => format!("`{key}` is here a second time: expected it once"),
                (message, _) => message.trim().replace('\n', ", "),
            };
            Mistake::at(text, span.start, message)
        })?;
        Ok(Self::new(text, String::new(), table.span(), table.into_inner()))
    }

    fn new(text: &'t str, name: String, span: Range<usize>, table: DeTable<'t>) -> Self {
        let unread = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().clone().into_owned(), (key.span(), value)))
            .collect();
        Self { text, name, span, unread, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<(Range<usize>, Spanned<DeValue<'t>>)> {
        self.known.push(key);
        self.unread.remove(key)
    }

    /// The value of a key, if it is there.
    pub fn value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'_, 't>) -> Result<T, Mistake>,
    ) -> Result<Option<T>, Mistake> {
        let text = self.text;
        self.take(key).map(|(_, value)| read(Value { text, key, value: &value })).transpose()
    }

    /// The table `[key]`, if it is there.
    pub fn section(&mut self, key: &'static str) -> Result<Option<Self>, Mistake> {
        let Some((at, value)) = self.take(key) else { return Ok(None) };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(Some(Self::new(self.text, format!("[{key}]"), span, table))),
            other => {
                Err(self.mistake(&at, format!("`{key}` is {}: expected a table `[{key}]`", kind(&other))))
            }
        }
    }

    /// The tables `[[key]]` in their order.
    pub fn sections(&mut self, key: &'static str) -> Result<Vec<Self>, Mistake> {
        let Some((at, value)) = self.take(key) else { return Ok(Vec::new()) };
        let wrong = |at: &Range<usize>, is: &DeValue<'_>| {
            self.mistake(at, format!("`{key}` is {}: expected one or more tables `[[{key}]]`", kind(is)))
        };
        let array = match value.into_inner() {
            DeValue::Array(array) => array,
            other => return Err(wrong(&at, &other)),
        };
        array
            .into_iter()
            .map(|item| match (item.span(), item.into_inner()) {
                (span, DeValue::Table(table)) => Ok(Self::new(self.text, format!("[[{key}]]"), span, table)),
                (span, other) => Err(wrong(&span, &other)),
            })
            .collect()
    }

    /// A mistake that is about the section as a whole.
    pub fn wrong(&self, message: impl Display) -> Mistake {
        self.mistake(&self.span, message)
    }

    fn mistake(&self, at: &Range<usize>, message: impl Display) -> Mistake {
        Mistake::at(self.text, at.start, message)
    }

    /// Refuses what nobody has asked for.
    pub fn end(self) -> Result<(), Mistake> {
        // The first of them in the file.
        let Some((key, (at, _))) = self.unread.iter().min_by_key(|(_, (at, _))| at.start) else {
            return Ok(());
        };
        let place = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
        Err(self.mistake(at, format!("unknown key `{key}`{place}: {}", expected(key, &self.known, '`'))))
    }
}

/// A value with its key and place.
pub struct Value<'v, 't> {
    text: &'t str,
    key: &'static str,
    value: &'v Spanned<DeValue<'t>>,
}

impl Value<'_, '_> {
    /// A mistake in the value.
    pub fn wrong(&self, message: impl Display) -> Mistake {
        Mistake::at(self.text, self.value.span().start, format!("`{}`: {message}", self.key))
    }

    fn expected(&self, what: &str) -> Mistake {
        self.wrong(format!("expected {what}, not {}", kind(self.value.get_ref())))
    }

    /// A string that means something.
    pub fn string<T, E: Display>(&self, read: impl FnOnce(&str) -> Result<T, E>) -> Result<T, Mistake> {
        let text = self.value.get_ref().as_str().ok_or_else(|| self.expected("a string in quotes"))?;
        read(text).map_err(|error| self.wrong(error))
    }

    /// `true` or `false`.
    pub fn bool(&self) -> Result<bool, Mistake> {
        self.value.get_ref().as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// A string, or an integer as it is written.
    pub fn string_or_integer<T, E: Display>(
        &self,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Mistake> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => read(&integer.to_string()).map_err(|error| self.wrong(error)),
            DeValue::String(text) => read(text).map_err(|error| self.wrong(error)),
            _ => Err(self.expected("a string in quotes or a number")),
        }
    }

    /// One value, or a list of at least one.
    pub fn one_or_more<T>(
        &self,
        read: impl Fn(&Value<'_, '_>) -> Result<T, Mistake>,
    ) -> Result<Vec<T>, Mistake> {
        match self.value.get_ref() {
            DeValue::Array(array) if array.is_empty() => {
                Err(self.wrong("an empty list matches nothing: leave the key out to match everything"))
            }
            DeValue::Array(array) => {
                array.iter().map(|value| read(&Value { text: self.text, key: self.key, value })).collect()
            }
            _ => Ok(vec![read(self)?]),
        }
    }

    /// A duration as on the command line.
    pub fn duration(&self) -> Result<Duration, Mistake> {
        const LIKE: &str = "a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\"";
        let text = self.value.get_ref().as_str().ok_or_else(|| self.expected(LIKE))?;
        super::duration::parse(text)
            .map_err(|error| self.wrong(format!("expected {LIKE}, not \"{text}\" ({error})")))
    }

    /// A duration or `never`.
    pub fn threshold(&self) -> Result<Threshold, Mistake> {
        const LIKE: &str = "a duration such as \"30s\", \"5m\" or \"2h\", or \"never\"";
        let text = self.value.get_ref().as_str().ok_or_else(|| self.expected(LIKE))?;
        if text == "never" {
            return Ok(None);
        }
        let threshold = super::duration::parse(text)
            .map_err(|error| self.wrong(format!("expected {LIKE}, not \"{text}\" ({error})")))?;
        if threshold.is_zero() {
            return Err(self
                .wrong("a threshold of nothing would flag every wait: expected a longer one, or \"never\""));
        }
        Ok(Some(threshold))
    }
}

/// `did you mean …?` if one of the names is near, else all of them.
pub fn expected(given: &str, names: &[&str], quote: char) -> String {
    let distance = |name: &&&str| strsim::damerau_levenshtein(&given.to_lowercase(), name);
    let near = names.iter().min_by_key(distance).filter(|name| distance(name) <= 1 + name.len() / 4);
    match near {
        Some(name) => format!("did you mean {quote}{name}{quote}?"),
        None => format!("expected one of {}", names.join(", ")),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
