use std::time::{Duration, Instant};

use penstock::model::template::{ChatTemplate, Error, Message, Options};
use serde_json::Value;

use crate::mutate::{Random, damage};

const TEMPLATES: [(&str, &str); 7] = [
    ("chatml", include_str!("templates/chatml.jinja")),
    ("deepseek", include_str!("templates/deepseek.jinja")),
    ("glm", include_str!("templates/glm.jinja")),
    ("harmony", include_str!("templates/harmony.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
    ("odds", include_str!("templates/odds.jinja")),
];

fn vectors() -> Value {
    serde_json::from_str(include_str!("templates.json")).unwrap()
}

fn message(value: &Value) -> Message {
    let mut fields = value.as_object().unwrap().clone();
    let role = fields.shift_remove("role").unwrap().as_str().unwrap().to_owned();
    let content = fields.shift_remove("content").unwrap_or_default();
    Message { role, content, fields }
}

fn conversation(value: &Value, now: i64) -> (Vec<Message>, Options) {
    let messages = value["messages"].as_array().unwrap().iter().map(message).collect();
    let options = Options {
        add_generation_prompt: value["add_generation_prompt"] == true,
        tools: value.get("tools").cloned(),
        extra: value.get("extra").and_then(Value::as_object).cloned().unwrap_or_default(),
        now,
    };
    (messages, options)
}

#[test]
fn templates_render_as_in_transformers() {
    let vectors = vectors();
    let now = vectors["now"].as_i64().unwrap();
    let mut wrong = String::new();
    for (name, source) in TEMPLATES {
        let template = ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap();
        for (case, value) in vectors["conversations"].as_object().unwrap() {
            let (messages, options) = conversation(value, now);
            let got = template.render(&messages, &options);
            let expected = &vectors["expected"][name][case];
            let same = match (&got, expected.as_str()) {
                (Ok(text), Some(expected)) => text == expected,
                // Where the template raises, its words are kept; the other errors are Python's.
                (Err(Error::Raised(message)), None) => expected["error"] == message.as_str(),
                (Err(_), None) => expected["error"].as_str().unwrap().contains("concatenate"),
                _ => false,
            };
            if !same {
                wrong += &format!("--- {name}, {case}:\n{got:?}\n{expected:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn fails(source: &str) -> String {
    let begun = Instant::now();
    let messages = [Message::new("user", "hello"), Message::new("assistant", "hi")];
    let result = ChatTemplate::new(source, None, None)
        .and_then(|t| t.render(&messages, &Options::default()));
    assert!(begun.elapsed() < Duration::from_secs(20), "too slow: {source:.80}");
    match result {
        Ok(text) => panic!("{source:.80} gave {} bytes", text.len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn hostile_templates_end_in_a_sentence() {
    let mut wrong = String::new();
    let many = |text: &str, n: usize| text.repeat(n);
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}";
    let ends = "{% endfor %}{% endfor %}";
    for (source, words) in [
        (format!("{loops}{ends}"), "does not come to an end"),
        (format!("{loops}{}{ends}", "x".repeat(99)), "more text than"),
        ("{{ 'x' * 99999999 }}".into(), "more text than"),
        ("{{ ['x' * 99999, 'y'] * 99999 }}".into(), "more text than"),
        (format!("{{{{ {}'x' * 99999999 }}}}", many("'x' * 99999999 ~ ", 60)), "more text than"),
        (format!("{{% set x = 'ab' %}}{}{{{{ x }}}}", many("{% set x = x ~ x %}", 60)), "more"),
        (format!("{{% set x = 'ab' %}}{}{{{{ x }}}}", many("{% set x = x + x %}", 60)), "more"),
        (format!("{{% set x = [1] %}}{}{{{{ x }}}}", many("{% set x = x + x %}", 60)), "more"),
        (format!("{{% set x = [1] %}}{}{{{{ x }}}}", many("{% set x = [x, x] %}", 40)), "more"),
        (format!("{{% set x = [1] %}}{}", many("{% set x = [x] %}", 900)), "deep"),
        (format!("{{% set x = {{'a': 1}} %}}{}", many("{% set x = {'a': x} %}", 900)), "deep"),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(99) %}\
             {% set n.s = n.s ~ n.s %}{% endfor %}"
                .into(),
            "more text than",
        ),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(99) %}\
             {% set n.s = n.s.replace('a', n.s) %}{% endfor %}"
                .into(),
            "more text than",
        ),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(99) %}\
             {% set n.s = n.s | list | join(n.s) %}{% endfor %}"
                .into(),
            "more text than",
        ),
        (
            "{% set n = namespace(s=[]) %}{% for i in range(99999) %}\
             {% set n.s = [n.s] %}{% endfor %}{{ n.s }}"
                .into(),
            "deep",
        ),
        ("{% set n = namespace() %}{% set n.a = n %}{{ n }}".into(), "namespace"),
        ("{% set n = namespace() %}{% set n.a = [n] %}{{ n }}".into(), "namespace"),
        ("{% set n = namespace() %}{% set n.a = {'b': n} %}{{ n }}".into(), "namespace"),
        (
            "{% set n = namespace(b=1) %}{% set m = namespace(n=n) %}{% set n.m = m %}{{ n }}"
                .into(),
            "namespace",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), "recursion"),
        ("{% macro f(s) %}{{ f(s ~ s) }}{% endmacro %}{{ f('abc') }}".into(), "more text than"),
        ("{% macro f(s) %}{{ f([s]) }}{% endmacro %}{{ f('abc') }}".into(), "deep"),
        ("{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}".into(), "ecursion"),
        ("{% include 'template' %}".into(), "includes"),
        ("{% extends 'template' %}".into(), "extends"),
        ("{% block a %}{{ self.a() }}{% endblock %}".into(), "blocks"),
        (format!("{{{{ {}1 }}}}", many("1 + ", 100_000)), "operators"),
        (format!("{{{{ {}1 }}}}", many("not ", 100_000)), "operators"),
        (format!("{{{{ {}1 }}}}", many("-", 100_000)), "operators"),
        (format!("{{{{ a{} }}}}", many(".a", 100_000)), "operators"),
        (format!("{{{{ a{} }}}}", many("|e", 100_000)), "operators"),
        (format!("{{{{ {}1{} }}}}", many("[", 100_000), many("]", 100_000)), "operators"),
        (format!("{{{{ {}1{} }}}}", many("[", 200), many("]", 200)), ""),
        (format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 50_000)), "elifs"),
        (format!("{}{}", many("{% if 1 %}", 40_000), many("{% endif %}", 40_000)), "recursion"),
        ("{{ 'a\\nb' | indent(999999999) }}".into(), "indents"),
        ("{{ [1] | tojson(indent=999999999) }}".into(), "indents"),
        ("{{ strftime_now('%A' * 9999999) }}".into(), "more text than"),
        ("{{ '%999999999d' | format(1) }}".into(), "format"),
        ("{{ '{:999999999}'.format(1) }}".into(), "format"),
        ("{{ range(999999999) | list }}".into(), "range"),
        ("{{ messages | batch(999999999) }}".into(), "batch"),
        ("a\nb {% if %}".into(), "line 2"),
        ("a\nb\n{{ 1 / 0 }}".into(), "line 3"),
        ("{{ raise_exception('no way') }}".into(), "no way"),
        ("{% for".into(), "line 1"),
        (many(" ", (1 << 20) + 1), "more than"),
    ] {
        let said = fails(&source);
        if !said.contains(words) {
            wrong += &format!("{source:.80}: {said}\n");
        }
        assert!(said.len() < 600, "{source:.80}: a sentence of {} bytes", said.len());
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn lines_of_errors_are_those_of_the_template() {
    let source = "{% generation %}\n{% endgeneration %}\n{{ raise('x') }}\n";
    assert!(fails(source).contains("line 3"));
    let source = "{%- generation -%}x{%- endgeneration %}{{ '{% generationx %}' }}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    assert_eq!(template.render(&[], &Options::default()).unwrap(), "x{% generationx %}");
}

#[test]
fn without_a_template_texts_stand_below_each_other() {
    let messages = [Message::new("system", "Once"), Message::new("user", "upon a time")];
    let text = ChatTemplate::plain().render(&messages, &Options::default()).unwrap();
    assert_eq!(text, "Once\nupon a time\n");
}

#[test]
fn a_long_conversation_fits_the_budget() {
    let mut messages = vec![Message::new("system", "Be brief.")];
    for i in 0..2000 {
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        messages.push(Message::new(role, format!("message {i} ") + &"word ".repeat(100)));
    }
    let options = Options { add_generation_prompt: true, ..Options::default() };
    for (name, source) in TEMPLATES.iter().filter(|t| t.0 != "odds") {
        let template = ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap();
        let text = template.render(&messages, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains("message 1999"));
    }
}

#[test]
fn damaged_templates_never_panic() {
    let vectors = vectors();
    let cases: Vec<_> = vectors["conversations"].as_object().unwrap().values().collect();
    let pointed = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "-",
        "~",
        "*",
        "99999999",
        "range(9999)",
        "loop",
        "caller()",
        "namespace()",
        "[",
        "]",
        "(",
        ")",
        "|tojson",
        "|join",
        "messages",
        "set ",
        "ns.x",
        "\n",
        "for x in messages",
        "endfor",
        "if",
        "macro f(x)",
        "endmacro",
        "f(x)",
        ".items()",
        "é",
    ];
    let mut random = Random(0x7e3a);
    let (mut rendered, mut refused) = (0, 0);
    for round in 0..3000 {
        let (_, source) = TEMPLATES[round % TEMPLATES.len()];
        let bytes = damage(&mut random, source.as_bytes(), &pointed);
        let source = String::from_utf8_lossy(&bytes);
        let Ok(template) = ChatTemplate::new(&source, Some("<s>"), None) else {
            refused += 1;
            continue;
        };
        let (messages, options) = conversation(cases[random.below(cases.len())], 0);
        match template.render(&messages, &options) {
            Ok(_) => rendered += 1,
            Err(_) => refused += 1,
        }
    }
    // Damage that never hurts, or always does, would test nothing.
    assert!(rendered > 200 && refused > 200, "{rendered} rendered, {refused} refused");
}
