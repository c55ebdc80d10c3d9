//! What a client's grammar may ask for, checked before the library reads it.
//!
//! The library recurses over what it reads, and an exhausted stack is the end of the process. So
//! nesting is bounded here, along references too. What takes time or memory it bounds itself, by
//! the numbers of [`parser`].

use llguidance::api::ParserLimits;
use serde_json::{Value, json};

/// Longest grammar or regular expression, in bytes.
const MAX_SOURCE: usize = 256 << 10;
/// Values in a schema, each key with its value counted as one.
const MAX_VALUES: usize = 20_000;
/// Bytes of a schema's texts.
const MAX_TEXT: usize = 512 << 10;
/// How deep a schema nests.
const MAX_DEPTH: usize = 48;
/// How deep it nests with all its references followed, one after the other.
const MAX_CHAIN: usize = 160;
/// Largest count in a schema, of characters, items or properties.
const MAX_COUNT: u64 = 20_000;
/// Rules in a grammar, brackets open at once and negations.
const MAX_RULES: usize = 300;
const MAX_BRACKETS: usize = 24;
const MAX_NOTS: usize = 64;
/// Says that a schema follows inside a grammar.
const INNER: &str = "%json";

/// Characters of white space between two words of JSON. Models that may write it without end
/// sometimes do.
pub(super) const WHITESPACE_PATTERN: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// What the library may spend. A megabyte of memory holds some 700 states.
pub(super) fn parser() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1_000,
        // About 10 ms.
        initial_lexer_fuel: 500_000,
        // About 10 ms for one token at the worst.
        step_lexer_fuel: 150_000,
        step_max_items: 30_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

pub(super) fn check_regex(regex: &str) -> Result<(), String> {
    // How deep it nests is bounded by its parser.
    check_source("the regular expression", regex)?;
    let trailing = regex.bytes().rev().take_while(|&byte| byte == b'\\').count();
    match trailing % 2 {
        0 => Ok(()),
        _ => Err("the regular expression: a backslash stands at its end".into()),
    }
}

/// Checks a grammar, and the schemas in it, which get the house's options.
pub(super) fn check_lark(rules: &str) -> Result<String, String> {
    check_source("the grammar", rules)?;
    let (mut out, mut code) = (String::with_capacity(rules.len()), Code::default());
    let mut rest = rules;
    while let Some(at) = rest.find(INNER) {
        let (before, inner) = rest.split_at(at + INNER.len());
        code.read(before)?;
        out.push_str(before);
        let mut values = serde_json::Deserializer::from_str(inner).into_iter::<Value>();
        match values.next() {
            Some(Ok(schema)) => {
                check_schema(&schema).map_err(|e| format!("{INNER} in the grammar: {e}"))?;
                out.push_str(&with_options(&schema).to_string());
                rest = &inner[values.byte_offset()..];
            }
            // The library says what is wrong.
            _ => rest = inner,
        }
    }
    code.read(rest)?;
    out.push_str(rest);
    Ok(out)
}

fn check_source(what: &str, text: &str) -> Result<(), String> {
    match text.len() > MAX_SOURCE {
        true => Err(format!("{what} has {} bytes, more than {MAX_SOURCE}", text.len())),
        false => Ok(()),
    }
}

/// Counts what a grammar recurses over. Texts and regular expressions are left out; neither goes
/// beyond its line, so that whatever this counting takes for one hides no more than that.
#[derive(Default)]
struct Code {
    rules: usize,
    nots: usize,
    open: usize,
}

impl Code {
    fn read(&mut self, text: &str) -> Result<(), String> {
        let mut quote = None;
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match (quote, byte) {
                (_, b'\n') => quote = None,
                (Some(_), b'\\') => drop(bytes.next()),
                (Some(end), byte) if byte == end => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'/') => quote = Some(byte),
                (None, b'(' | b'[' | b'{') => self.open += 1,
                (None, b')' | b']' | b'}') => self.open = self.open.saturating_sub(1),
                (None, b':') => self.rules += 1,
                (None, b'~') => self.nots += 1,
                (None, _) => {}
            }
            if self.open > MAX_BRACKETS {
                return Err(format!("the grammar nests more than {MAX_BRACKETS} brackets"));
            }
        }
        for (what, count, most) in
            [("rules", self.rules, MAX_RULES), ("signs ~", self.nots, MAX_NOTS)]
        {
            if count > most {
                return Err(format!("the grammar has more than {most} {what}"));
            }
        }
        Ok(())
    }
}

/// The schema with the house's options instead of the client's.
pub(super) fn with_options(schema: &Value) -> Value {
    let options = json!({
        "whitespace_flexible": true,
        "whitespace_pattern": WHITESPACE_PATTERN,
        "coerce_one_of": true,
    });
    let mut map = schema.as_object().cloned().unwrap_or_default();
    map.insert("x-guidance".into(), options);
    Value::Object(map)
}

/// Keywords whose value is a schema, a list of them, or a map of them.
const ONE: [&str; 3] = ["items", "additionalProperties", "additionalItems"];
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
const COUNTS: [&str; 6] =
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];
/// Keywords that narrow what a schema describes in a way that is not enforced.
const REFUSED: [&str; 21] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "contentSchema",
    "x-guidance",
];

pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    if schema == &Value::Bool(false) {
        return Err("the schema describes nothing".into());
    }
    Size::default().count(schema, 0)?;
    let mut walk = Walk { root: schema, seen: Vec::new(), chain: 0 };
    walk.schema(schema, &mut Place(vec!["#".into()]))
}

#[derive(Default)]
struct Size {
    values: usize,
    text: usize,
}

impl Size {
    fn count(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        self.values += 1;
        if depth > MAX_DEPTH {
            return Err(format!("the schema nests more than {MAX_DEPTH} deep"));
        }
        match value {
            Value::String(text) => self.text += text.len(),
            Value::Array(list) => {
                list.iter().try_for_each(|item| self.count(item, depth + 1))?;
            }
            Value::Object(map) => {
                for (key, item) in map {
                    self.text += key.len();
                    self.count(item, depth + 1)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if self.values > MAX_VALUES {
            return Err(format!("the schema has more than {MAX_VALUES} values"));
        }
        match self.text > MAX_TEXT {
            true => Err(format!("the schema has more than {MAX_TEXT} bytes of text")),
            false => Ok(()),
        }
    }
}

/// Where in a schema something stands.
struct Place(Vec<String>);

impl Place {
    fn name(&self) -> String {
        let whole = self.0.join("/");
        match whole.char_indices().nth(200) {
            Some((at, _)) => format!("{}…", &whole[..at]),
            None => whole,
        }
    }
}

struct Walk<'a> {
    root: &'a Value,
    /// Texts of references that were followed. Each is followed once, as the library does it.
    seen: Vec<&'a str>,
    chain: usize,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, place: &mut Place) -> Result<(), String> {
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            _ => return Err(format!("{}: a schema is an object or a boolean", place.name())),
        };
        self.chain += 1;
        if self.chain > MAX_CHAIN {
            return Err(format!(
                "{}: references lead more than {MAX_CHAIN} schemas deep",
                place.name()
            ));
        }
        for (key, value) in map {
            place.0.push(key.clone());
            self.keyword(key, value, place)?;
            place.0.pop();
        }
        self.chain -= 1;
        Ok(())
    }

    fn keyword(&mut self, key: &str, value: &'a Value, place: &mut Place) -> Result<(), String> {
        let wrong = |place: &Place, what: &str| Err(format!("{}: {what}", place.name()));
        if REFUSED.contains(&key) {
            // Some libraries write out what holds anyway.
            return match (key, value) {
                ("uniqueItems", Value::Bool(false)) => Ok(()),
                _ => wrong(place, "this keyword is not supported"),
            };
        }
        if COUNTS.contains(&key) {
            return match value.as_u64() {
                Some(n) if n <= MAX_COUNT => Ok(()),
                Some(_) => wrong(place, &format!("must be at most {MAX_COUNT}")),
                None => wrong(place, "must be a whole number"),
            };
        }
        match key {
            "$ref" => return self.reference(value, place),
            "type" => return check_type(value).map_or(Ok(()), |what| wrong(place, &what)),
            "required" => {
                let names = value.as_array().is_some_and(|l| l.iter().all(Value::is_string));
                return if names { Ok(()) } else { wrong(place, "must be a list of names") };
            }
            "enum" => {
                let any = value.as_array().is_some_and(|l| !l.is_empty());
                return if any { Ok(()) } else { wrong(place, "must be a list of values") };
            }
            "pattern" => {
                let Some(regex) = value.as_str() else { return wrong(place, "must be a text") };
                return check_regex(regex).or_else(|what| wrong(place, &what));
            }
            _ => {}
        }
        if ONE.contains(&key) {
            // Older schemas have a list under `items`.
            return match value {
                Value::Array(_) => wrong(place, "a list is not supported; use prefixItems"),
                schema => self.schema(schema, place),
            };
        }
        if LISTS.contains(&key) {
            let Value::Array(list) = value else { return wrong(place, "must be a list") };
            for (at, schema) in list.iter().enumerate() {
                place.0.push(at.to_string());
                self.schema(schema, place)?;
                place.0.pop();
            }
        }
        if MAPS.contains(&key) {
            let Value::Object(map) = value else { return wrong(place, "must be an object") };
            for (name, schema) in map {
                place.0.push(name.clone());
                if key == "patternProperties" {
                    check_regex(name).or_else(|what| wrong(place, &what))?;
                }
                self.schema(schema, place)?;
                place.0.pop();
            }
        }
        Ok(())
    }

    fn reference(&mut self, value: &'a Value, place: &mut Place) -> Result<(), String> {
        let Some(path) = value.as_str() else {
            return Err(format!("{}: must be a text", place.name()));
        };
        if self.seen.contains(&path) {
            return Ok(());
        }
        let Some(target) = resolve(self.root, path) else {
            return Err(format!(
                "{}: nothing in the schema is at {path:?}; references begin with #/",
                place.name()
            ));
        };
        self.seen.push(path);
        self.schema(target, place)
    }
}

fn resolve<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    if path == "#" || path == "#/" {
        return Some(root);
    }
    path.strip_prefix("#/")?.split('/').try_fold(root, |value, part| match value {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })
}

/// What is wrong with a type, if anything.
fn check_type(value: &Value) -> Option<String> {
    const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let fine = match value {
        Value::Array(list) => !list.is_empty() && list.iter().all(known),
        value => known(value),
    };
    (!fine).then(|| format!("must be one of {}, or a list of these", TYPES.join(", ")))
}
