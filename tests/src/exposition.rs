//! What does a page of `/metrics` hold? The samples of the Prometheus text format, with their labels.

use std::collections::BTreeMap;

/// One line of the page.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The metric's name, `_bucket`, `_sum` and `_count` included.
    pub name: String,
    /// Its labels, unescaped.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// Whether the sample has this name and at least these labels.
    pub fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name && labels.iter().all(|(key, value)| self.label(key) == *value)
    }

    /// A label's value; empty where it has none, as Prometheus has it.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
}

/// Reads a page; panics on a line that is no sample.
pub fn parse(page: &str) -> Vec<Sample> {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"))).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label value up to its closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_labels_values_and_escapes() {
        let page = "# HELP a b\na 1\nb{c=\"d\\\"e\\n\",f=\"{,}\"} 2.5e3\nc_bucket{le=\"+Inf\"} 7 123\n";
        let samples = parse(page);
        assert!(samples[0].is("a", &[]) && samples[0].value == 1.0);
        assert!(samples[1].is("b", &[("c", "d\"e\n"), ("f", "{,}")]) && samples[1].value == 2500.0);
        assert!(samples[2].is("c_bucket", &[("le", "+Inf")]) && samples[2].value == 7.0);
    }
}
