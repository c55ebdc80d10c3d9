//! Answers under a grammar, written by chance alone: whatever is drawn from the masks must fit.

use std::rc::Rc;
use std::time::Instant;

use penstock::math::{IsaChoice, Kernels};
use penstock::model::grammar::{Grammar, Matcher, Vocabulary};
use penstock::model::sampling::{Sampler, SamplingParams};
use penstock::model::tokenizer::{Kind, Tokenizer};
use penstock::model::{Text, demo};
use serde_json::{Value, json};

use crate::mutate::{Random, damage};
use crate::tokenizers::all_tokenizers;

fn some_tokenizers() -> Vec<(String, Rc<Tokenizer>)> {
    let mut all: Vec<_> =
        all_tokenizers().into_iter().step_by(7).map(|(n, t)| (n, Rc::new(t))).collect();
    let demo = Text::open(&demo::source().unwrap()).unwrap();
    all.push(("demo".into(), demo.tokenizer));
    all
}

/// Draws to the end; `None` if that does not come within `most` tokens. Every logit is random but
/// that of ends, so that texts do end.
pub fn draw(tokenizer: &Tokenizer, grammar: &Grammar, seed: u64, most: usize) -> Option<Vec<u32>> {
    let mut random = Random(seed);
    let params = SamplingParams { seed, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, Kernels::new(IsaChoice::Auto).unwrap()).unwrap();
    let mut matcher = grammar.begin();
    let mut ids = vec![];
    while !matcher.over() {
        if ids.len() == most {
            return None;
        }
        let logits: Vec<f32> = (0..tokenizer.vocab_size() as u32 + 3)
            .map(|id| random.below(1000) as f32 / 150.0 + f32::from(tokenizer.is_end(id)) * 4.0)
            .collect();
        let mask = matcher.mask().unwrap();
        // All ends mean the same. That none comes too early is seen by what was written.
        let ends = &tokenizer.special().end_of_generation;
        let may_end = ends.iter().any(|&id| mask.allows(id));
        assert_eq!(ends.iter().all(|&id| mask.allows(id)), may_end);
        let id = sampler.sample_among(Some(mask), &logits, &[], ids.len() as u64).unwrap().id;
        matcher.accept(id).unwrap();
        if tokenizer.is_end(id) {
            break;
        }
        ids.push(id);
    }
    Some(ids)
}

fn write(tokenizer: &Tokenizer, grammar: &Grammar, seed: u64, most: usize) -> Option<String> {
    let ids = draw(tokenizer, grammar, seed, most)?;
    assert!(ids.iter().all(|&id| tokenizer.kind(id) != Kind::Control));
    // A text is what its bytes say, wherever a file's decoder would add or drop a space.
    let bytes = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
    Some(String::from_utf8(bytes).unwrap())
}

type Check = fn(&Value) -> bool;

/// Schemas with what their documents have in common.
fn schemas() -> Vec<(Value, Check)> {
    let short = json!({"type": "string", "maxLength": 12});
    vec![
        (json!({"type": "boolean"}), |v| v.is_boolean()),
        (json!({"enum": ["red", "green", 7, null]}), |v| {
            [json!("red"), json!("green"), json!(7), json!(null)].contains(v)
        }),
        (json!({"type": "integer", "minimum": 3, "maximum": 40}), |v| {
            v.as_i64().is_some_and(|n| (3..=40).contains(&n))
        }),
        (json!({"type": "string", "minLength": 2, "maxLength": 6}), |v| {
            v.as_str().is_some_and(|s| (2..=6).contains(&s.chars().count()))
        }),
        (json!({"type": "string", "pattern": "^[a-c]{1,4}x$"}), |v| {
            let s = v.as_str().unwrap().strip_suffix('x').unwrap();
            (1..=4).contains(&s.len()) && s.chars().all(|c| ('a'..='c').contains(&c))
        }),
        (
            json!({
                "type": "object",
                "properties": {"name": short, "age": {"type": "integer", "maximum": 200},
                    "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
                "required": ["name", "tags"],
                "additionalProperties": false,
            }),
            |v| {
                let map = v.as_object().unwrap();
                let tags = v["tags"].as_array().unwrap();
                v["name"].as_str().is_some_and(|s| s.chars().count() <= 12)
                    && map.keys().all(|k| ["name", "age", "tags"].contains(&&**k))
                    && map.get("age").is_none_or(|age| age.as_i64().is_some_and(|n| n <= 200))
                    && tags.len() <= 3
                    && tags.iter().all(|tag| tag == "a" || tag == "b")
            },
        ),
        (
            json!({
                "$defs": {"node": {"type": "object", "properties":
                    {"v": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"},
                        {"$ref": "#/$defs/node"}]}}, "required": ["v", "next"],
                    "additionalProperties": false}},
                "$ref": "#/$defs/node",
            }),
            |v| {
                let mut node = v;
                while !node.is_null() {
                    if !node["v"].is_boolean() || node.as_object().unwrap().len() != 2 {
                        return false;
                    }
                    node = &node["next"];
                }
                true
            },
        ),
        (
            json!({"oneOf": [{"type": "object", "properties": {"a": {"const": 1}},
                "required": ["a"], "additionalProperties": false}, {"type": "null"}]}),
            |v| v.is_null() || v == &json!({"a": 1}),
        ),
    ]
}

#[test]
fn whatever_chance_writes_fits_the_schema() {
    let (mut done, mut cut) = (0, 0);
    for (name, tokenizer) in some_tokenizers() {
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        for (schema, fits) in schemas() {
            let grammar = Grammar::json_schema(&vocabulary, &schema).unwrap();
            for seed in 0..6 {
                let Some(text) = write(&tokenizer, &grammar, seed, 400) else {
                    cut += 1;
                    continue;
                };
                let value: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|e| panic!("{name}: {schema}: {e}: {text:?}"));
                assert!(fits(&value), "{name}: {schema}: {text:?}");
                done += 1;
            }
        }
    }
    assert!(done > 100 && cut * 4 < done, "{done} ended, {cut} did not");
}

#[test]
fn json_objects_regexes_and_rules_hold() {
    for (name, tokenizer) in some_tokenizers() {
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        let object = Grammar::json_object(&vocabulary).unwrap();
        let regex = Grammar::regex(&vocabulary, r"([0-9]{1,3}\.){3}[0-9]{1,3}").unwrap();
        let rules = "start: \"<\" word (\",\" word)* \">\"\nword: /[a-z]{1,3}/\n";
        let rules = Grammar::lark(&vocabulary, rules).unwrap();
        for seed in 0..20 {
            if let Some(text) = write(&tokenizer, &object, seed, 300) {
                assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{name} {text}");
            }
            let text = write(&tokenizer, &regex, seed, 40).unwrap();
            let parts: Vec<&str> = text.split('.').collect();
            let number =
                |p: &&str| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit());
            assert!(parts.len() == 4 && parts.iter().all(number), "{name} {text}");
            if let Some(text) = write(&tokenizer, &rules, seed, 300) {
                let inner = text.strip_prefix('<').unwrap().strip_suffix('>').unwrap();
                let word = |w: &str| {
                    (1..=3).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase())
                };
                assert!(inner.split(',').all(word), "{name} {text}");
            }
        }
    }
}

fn demo_vocabulary() -> (Rc<Tokenizer>, Rc<Vocabulary>) {
    let text = Text::open(&demo::source().unwrap()).unwrap();
    let vocabulary = Vocabulary::new(&text.tokenizer).unwrap();
    (text.tokenizer, vocabulary)
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}))
}

/// Definitions each of which needs the next.
fn chain(links: usize) -> Value {
    let name = |n: usize| format!("d{n}");
    let refs = |n: usize| json!({"$ref": format!("#/$defs/d{n}")});
    let defs: serde_json::Map<String, Value> =
        (0..links).map(|n| (name(n), json!({"type": "array", "items": refs(n + 1)}))).collect();
    let mut schema = json!({"$defs": defs, "$ref": "#/$defs/d0"});
    schema["$defs"][name(links)] = json!({"type": "null"});
    schema
}

#[test]
fn bad_schemas_are_refused_by_place() {
    let (_, vocabulary) = demo_vocabulary();
    let inside = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    let mut wrong = String::new();
    for (schema, words) in [
        (json!(7), "#: a schema is"),
        (json!(false), "describes nothing"),
        (inside(json!({"type": "strin"})), "#/properties/a/type: must be one of"),
        (inside(json!({"type": []})), "#/properties/a/type"),
        (inside(json!({"not": {}})), "#/properties/a/not: this keyword"),
        (inside(json!({"if": true})), "#/properties/a/if"),
        (inside(json!({"items": [true]})), "#/properties/a/items: a list"),
        (inside(json!({"items": 3})), "#/properties/a/items: a schema is"),
        (inside(json!({"anyOf": {}})), "#/properties/a/anyOf: must be a list"),
        (inside(json!({"anyOf": [true, 1]})), "#/properties/a/anyOf/1: a schema is"),
        (inside(json!({"minLength": -1})), "minLength: must be a whole"),
        (inside(json!({"maxLength": 4_000_000_000u64})), "maxLength: must be at most"),
        (inside(json!({"required": "a"})), "required: must be a list"),
        (inside(json!({"enum": []})), "enum: must be"),
        (inside(json!({"$ref": "#/$defs/x"})), "a/$ref: nothing in the schema"),
        (inside(json!({"$ref": "http://x.y/z"})), "a/$ref: nothing in the schema"),
        (inside(json!({"$ref": 1})), "a/$ref: must be a text"),
        (inside(json!({"pattern": 1})), "a/pattern: must be a text"),
        (inside(json!({"type": "string", "pattern": "("})), "the schema: "),
        (inside(json!({"type": "string", "format": "nope"})), "Unknown format: nope"),
        (inside(json!({"x-guidance": {"lenient": true}})), "x-guidance"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "nsatisfiable"),
        (deep(100), "nests more than"),
        (chain(400), "references lead more than"),
    ] {
        match Grammar::json_schema(&vocabulary, &schema) {
            Ok(_) => wrong += &format!("{schema:.90} was taken\n"),
            Err(error) if !error.to_string().contains(words) => {
                wrong += &format!("{schema:.90}: {error}\n");
            }
            Err(error) => assert!(error.to_string().len() < 600),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // As deep as is taken; this thread has 2 MB of stack.
    for schema in [deep(22), chain(70)] {
        let grammar = Grammar::json_schema(&vocabulary, &schema).unwrap();
        grammar.begin().mask().unwrap();
    }
}

#[test]
fn bad_grammars_are_refused_in_a_sentence() {
    let (_, vocabulary) = demo_vocabulary();
    let rule_chain = |n: usize| {
        (0..n).map(|i| format!("r{i}: \"x\" r{}\n", i + 1)).collect::<String>()
            + &format!("r{n}: \"y\"\nstart: r0\n")
    };
    for source in [
        String::new(),
        "start: ".into(),
        "start: nope".into(),
        "start: (((".into(),
        "start: /(/".into(),
        "no start".into(),
        "start: %json {\"not\": {}}".into(),
        "start: %json {".into(),
        "start: <nope>".into(),
        "start: <[0-".into(),
        format!("start: {}\"a\"{}", "(".repeat(500), ")".repeat(500)),
        format!("start: A\nA: {}\"a\"", "~".repeat(500)),
        format!("start: /{}a{}/", "(".repeat(5000), ")".repeat(5000)),
        format!("start: \"{}\"", "a".repeat(300_000)),
        rule_chain(5000),
        "start: \"a\"{1,1000000000}".into(),
        "start: /(a{1000}){1000}/".into(),
        "start: /((a{100}){100}){100}/".into(),
        "start: start".into(),
    ] {
        let begun = Instant::now();
        if let Ok(grammar) = Grammar::lark(&vocabulary, &source) {
            // What is taken after all ends in a sentence when it is used, or works.
            let _ = grammar.begin().mask();
        }
        assert!(begun.elapsed().as_secs() < 20, "{source:.60}");
    }
    let grammar = Grammar::lark(&vocabulary, &rule_chain(295)).unwrap();
    grammar.begin().mask().unwrap();
    for source in ["(", "a{2,1}", "\\", "[z-a]", "(?=a)", "(?P<n>a"] {
        match Grammar::regex(&vocabulary, source) {
            Ok(_) => panic!("{source} was taken"),
            Err(error) => {
                assert!(error.to_string().starts_with("the regular expression: "), "{error}")
            }
        }
    }
    for source in [format!("{}a{}", "(".repeat(9000), ")".repeat(9000)), "(a|b)*a(a|b){400}".into()]
    {
        let _ = Grammar::regex(&vocabulary, &source).map(|g| g.begin().mask().map(|_| ()));
    }
}

/// A few steps of an answer; errors are fine, panics are not.
fn try_out(tokenizer: &Tokenizer, matcher: &mut Matcher, random: &mut Random) -> bool {
    for _ in 0..12 {
        let Ok(mask) = matcher.mask() else { return false };
        let allowed: Vec<u32> =
            (0..tokenizer.vocab_size() as u32).filter(|&id| mask.allows(id)).collect();
        if allowed.is_empty() {
            return false;
        }
        if matcher.accept(*random.pick(&allowed)).is_err() || matcher.over() {
            break;
        }
    }
    true
}

/// Puts another keyword or another value somewhere into a schema.
fn change(random: &mut Random, value: &mut Value) {
    const KEYS: [&str; 24] = [
        "type",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "const",
        "enum",
        "pattern",
        "format",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "multipleOf",
        "required",
        "properties",
        "patternProperties",
        "additionalProperties",
        "prefixItems",
        "minProperties",
        "exclusiveMinimum",
    ];
    let inner = match value {
        Value::Object(map) if random.below(4) > 0 => {
            let at = random.below(map.len().max(1));
            map.values_mut().nth(at)
        }
        Value::Array(list) if random.below(4) > 0 => {
            let at = random.below(list.len().max(1));
            list.get_mut(at)
        }
        _ => None,
    };
    if let Some(inner) = inner {
        return change(random, inner);
    }
    let fresh = [
        json!({}),
        json!([]),
        json!(null),
        json!(true),
        json!(false),
        json!(-1),
        json!(0),
        json!(7),
        json!(1e300),
        json!(0.1),
        json!(20_000),
        json!("#"),
        json!("#/properties/name"),
        json!("é\u{0}"),
        json!("(a|b)*a(a|b){20}"),
        json!("string"),
        json!("number"),
        json!("date-time"),
        json!(["null", "object"]),
        json!([{}, {"type": "integer"}]),
        json!({"a": {"$ref": "#"}}),
        json!({"^a": {"type": "string"}}),
        json!([[1, "x"], {"k": null}]),
        json!({"type": "array", "items": {"type": "string", "minLength": 9}}),
    ];
    let fresh = random.pick(&fresh).clone();
    match value {
        Value::Object(map) if random.below(3) > 0 => {
            map.insert((*random.pick(&KEYS)).to_owned(), fresh);
        }
        value => *value = fresh,
    }
}

#[test]
fn damaged_grammars_never_panic() {
    let (tokenizer, vocabulary) = demo_vocabulary();
    let mut random = Random(0x6a2);
    let mut sources: Vec<Value> = schemas().into_iter().map(|s| s.0).collect();
    sources.push(chain(5));
    let (mut taken, mut refused) = (0, 0);
    for round in 0..1500 {
        let mut schema = sources[round % sources.len()].clone();
        for _ in 0..1 + random.below(3) {
            change(&mut random, &mut schema);
        }
        match Grammar::json_schema(&vocabulary, &schema) {
            Ok(grammar) if try_out(&tokenizer, &mut grammar.begin(), &mut random) => taken += 1,
            _ => refused += 1,
        }
    }
    assert!(taken > 200 && refused > 200, "{taken} taken, {refused} refused");

    let rules = "start: head (\"; \" item)* tail?\nhead: \"A\" | /b[0-9]+/\nitem: NAME \"=\" %json {\
                 \"type\":\"integer\"}\nNAME: /[a-z]{1,4}/ & ~\"ab\"\ntail[capture]: \"end\"\n";
    let pointed = [
        "(", ")", "%json {}", "{1,9}", "~", "*", "/", "\"", ":", "start", "<[1-5]>", "|", "\n",
        "::",
    ];
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..1200 {
        let bytes = damage(&mut random, rules.as_bytes(), &pointed);
        match Grammar::lark(&vocabulary, &String::from_utf8_lossy(&bytes)) {
            Ok(grammar) if try_out(&tokenizer, &mut grammar.begin(), &mut random) => taken += 1,
            _ => refused += 1,
        }
    }
    assert!(taken > 20 && refused > 20, "{taken} taken, {refused} refused");
}

#[test]
fn answers_of_one_grammar_know_nothing_of_each_other() {
    let (tokenizer, vocabulary) = demo_vocabulary();
    let grammar = Grammar::json_schema(&vocabulary, &json!({"enum": ["yes", "no"]})).unwrap();
    let alone = write(&tokenizer, &grammar, 3, 50).unwrap();
    let mut other = grammar.begin();
    other.mask().unwrap();
    // A token that does not fit ends that answer and no other.
    assert!((0..tokenizer.vocab_size() as u32).rev().any(|id| other.accept(id).is_err()));
    assert_eq!(write(&tokenizer, &grammar.clone(), 3, 50).unwrap(), alone);
}
