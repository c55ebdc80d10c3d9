//! Calls of tools in answers, whole, in pieces and broken, and grammars that force them.

use penstock::model::channels::{Channels, Voice};
use penstock::model::grammar::Vocabulary;
use penstock::model::tokenizer::{Detokenizer, GgufVocab, Tokenizer};
use penstock::model::tools::{Calls, Piece, ToolChoice, ToolFamily, Tools, grammar};
use serde_json::{Value, json};

use crate::grammars::draw;
use crate::mutate::Random;
use ToolFamily::*;

/// Every byte, and control tokens.
fn tokenizer(controls: &[&str]) -> Tokenizer {
    let mut next = 0x100;
    let letter = |byte: u8| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap()
        }
    };
    let letters = (0..=255).map(letter).map(|c| (c.to_string(), 1)).collect::<Vec<_>>();
    let words = ["ab", "{\"", "\":", "tool"].map(|word| (word.to_owned(), 1));
    let controls = controls.iter().map(|name| (name.to_string(), 3));
    let all = letters.into_iter().chain(words).chain(controls).chain([("<|im_end|>".into(), 3)]);
    let (tokens, types): (Vec<_>, _) = all.map(|(name, kind)| (name.into_bytes(), kind)).unzip();
    Tokenizer::from_gguf(&GgufVocab {
        file: "test".into(),
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        types: Some(types),
        merges: Some(vec![]),
        ..GgufVocab::default()
    })
    .unwrap()
}

fn tools() -> Tools {
    let function = |name: &str, properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let parameters = json!({"type": "object", "properties": properties,
            "required": required, "additionalProperties": false});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    Tools::read(&json!([
        function(
            "get_weather",
            json!({"city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 0, "maximum": 99}})
        ),
        function("now", json!({})),
        function("note", json!({"text": {"type": ["string", "null"]}, "list": {"type": "array"}})),
    ]))
    .unwrap()
}

/// What came out, joined: text, and calls with their arguments.
#[derive(Debug, Default, PartialEq)]
struct Said {
    text: String,
    calls: Vec<(String, String)>,
    /// The order of text and calls.
    order: String,
}

fn gather(said: &mut Said, pieces: Vec<Piece>) {
    for piece in pieces {
        let sign = match piece {
            Piece::Text(text) => {
                assert!(!text.is_empty());
                said.text += &text;
                't'
            }
            Piece::Begin { index, name } => {
                assert_eq!(index, said.calls.len());
                said.calls.push((name, String::new()));
                'c'
            }
            Piece::Arguments { index, json } => {
                assert_eq!(index + 1, said.calls.len());
                said.calls[index].1 += &json;
                continue;
            }
        };
        if !said.order.ends_with(sign) || sign == 'c' {
            said.order.push(sign);
        }
    }
}

fn parse<'a>(family: ToolFamily, pieces: impl IntoIterator<Item = &'a str>) -> Said {
    let mut calls = Calls::new(family, tools());
    let mut said = Said::default();
    for piece in pieces {
        gather(&mut said, calls.push(piece));
    }
    gather(&mut said, calls.finish());
    assert_eq!(calls.count(), said.calls.len());
    said
}

/// The text in random pieces of up to so many characters.
fn cut<'a>(random: &mut Random, text: &'a str, most: usize) -> Vec<&'a str> {
    let mut pieces = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        let count = 1 + random.below(most);
        let at = rest.char_indices().nth(count).map_or(rest.len(), |(at, _)| at);
        let (piece, behind) = rest.split_at(at);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// The same, however the text is cut.
fn parse_all_ways(family: ToolFamily, text: &str) -> Said {
    let whole = parse(family, [text]);
    let mut random = Random(7);
    for most in [1, 2, 5, 20] {
        let pieces = cut(&mut random, text, most);
        assert_eq!(parse(family, pieces), whole, "{family:?} {text}");
    }
    whole
}

const WEATHER: &str = r#"{"city": "Bern", "days": 2}"#;

/// Family, answer, the text that is left of it and the calls.
type Case<'a> = (ToolFamily, String, &'a str, &'a [(&'a str, &'a str)]);

#[test]
fn each_family_writes_its_calls() {
    let w = WEATHER;
    let one = [("get_weather", w)];
    let two = [("get_weather", w), ("now", "{}")];
    let cases: Vec<Case> = vec![
        (Hermes, format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {w}}}\n</tool_call>"), "", &one),
        (Hermes, format!("So:\n\n<tool_call>{{\"arguments\":{w},\"name\":\"get_weather\"}}</tool_call>\n<tool_call>\n{{\"name\": \"now\"}}\n</tool_call>\n"), "So:\n\n", &two),
        (Hermes, format!("<tool_call>\n{{\"name\": \"get_weather\", \"parameters\": {w}}}\n"), "", &one),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": \"{}\"}</tool_call> done".into(), "done", &[("now", "{}")]),
        // Digits stay as they were written.
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": {\"n\": 12345678901234567890123, \"x\": 1.50}}</tool_call>".into(), "",
            &[("now", "{\"n\": 12345678901234567890123, \"x\": 1.50}")]),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": {\"t\": \"</tool_call> \\\" {\"}}</tool_call>".into(), "",
            &[("now", "{\"t\": \"</tool_call> \\\" {\"}")]),
        (QwenCoder, "ok <tool_call>\n<function=get_weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>".into(), "ok ", &one),
        (QwenCoder, "<function=get_weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>".into(), "", &one),
        (QwenCoder, "<tool_call><function=note><parameter=text>12</parameter><parameter=list>[1, \"</function>\"]</parameter></function></tool_call>".into(), "",
            &[("note", "{\"text\": \"12\", \"list\": [1, \"</function>\"]}")]),
        (QwenCoder, "<tool_call><function=note><parameter=text>null</parameter><parameter=list>None</parameter><parameter=z>a\"b</parameter></function></tool_call>".into(), "",
            &[("note", "{\"text\": null, \"list\": null, \"z\": \"a\\\"b\"}")]),
        (Glm, "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>".into(), "\n", &two),
        (Glm, "<tool_call>now</tool_call>".into(), "", &[("now", "{}")]),
        (Glm, "<tool_call>now\n".into(), "", &[("now", "{}")]),
        (Llama, format!("{{\"name\": \"get_weather\", \"parameters\": {w}}}"), "", &one),
        (Llama, format!("<|python_tag|>{{\"name\": \"get_weather\", \"parameters\": {w}}}; {{\"type\": \"function\", \"name\": \"now\", \"parameters\": {{}}}}"), "", &two),
        (Llama, format!(" {{\"name\": \"get_weather\", \"parameters\": {w}}} ;"), " ", &one),
        (Mistral, format!("[TOOL_CALLS] [{{\"name\": \"get_weather\", \"arguments\": {w}}}, {{\"name\": \"now\", \"arguments\": {{}}, \"id\": \"x\"}}]"), "", &two),
        (MistralArgs, format!("Hm.[TOOL_CALLS]get_weather[ARGS]{w}[TOOL_CALLS]now[CALL_ID]abc[ARGS]{{}}"), "Hm.", &two),
        (MistralArgs, format!("[TOOL_CALLS]get_weather{w}"), "", &one),
        (DeepSeek, format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{w}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"), "", &two),
        (DeepSeek, format!("é<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{w}\n```<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>"), "é", &one),
        (DeepSeek, format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{w}<｜tool▁call▁end｜>"), "", &one),
        (Kimi, format!("<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{w}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"), "", &two),
        (Harmony, format!("<|channel|>commentary to=functions.get_weather<|message|>{w}<|channel|>commentary to=functions.now<|message|>{{}}"), "", &two),
    ];
    for (family, text, left, calls) in cases {
        let said = parse_all_ways(family, &text);
        let expected: Vec<_> = calls.iter().map(|c| (c.0.to_owned(), c.1.to_owned())).collect();
        assert_eq!(said.calls, expected, "{family:?} {text}");
        assert_eq!(said.text, left, "{family:?} {text}");
        for (_, arguments) in &said.calls {
            assert!(
                serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok(),
                "{arguments}"
            );
        }
    }
}

#[test]
fn what_is_no_call_is_text() {
    let ds = "<｜tool▁calls▁begin｜>";
    let cases: &[(ToolFamily, &str)] = &[
        (Hermes, "plain words, even {\"name\": \"now\"}"),
        (Hermes, "<tool_call>"),
        (Hermes, "<tool_call>\n"),
        (Hermes, "a <tool_cal"),
        (Hermes, "a < b and <tool_callx>"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": {"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": {}} and so on"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": []}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{name: now}</tool_call>"),
        (Hermes, "<tool_call>{}</tool_call>"),
        (Hermes, "<tool_call>[1]</tool_call>"),
        (Hermes, "<tool_call>nowhere</tool_call>"),
        (Hermes, "<tool_call><tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": \"x\"}</tool_call>"),
        (QwenCoder, "<tool_call><function=now"),
        (QwenCoder, "<tool_call><function=now>"),
        (QwenCoder, "<tool_call><function=>x</function></tool_call>"),
        (QwenCoder, "<tool_call><function=now>x</function></tool_call>"),
        (QwenCoder, "<tool_call><function=now><parameter=a>1</function></tool_call>"),
        (QwenCoder, "<function=now><parameter"),
        (Glm, "<tool_call>now\n<arg_key>a</arg_key>"),
        (Glm, "<tool_call>now\n<arg_key>a</arg_key><arg_val>1"),
        (Glm, "<tool_call>now and then</tool_call>"),
        (Llama, "{\"answer\": 42}"),
        (Llama, "{\"name\": \"Ann\", \"parameters\": {}}"),
        (Llama, "{\"name\": \"now\"}"),
        (Llama, "{\"name\": \"now\", \"parameters\": {}"),
        (Llama, "Well, {\"name\": \"now\", \"parameters\": {}}"),
        (Llama, "<|python_tag|>brave_search.call(query=\"x\")"),
        (Llama, "{"),
        (Llama, "; a"),
        (Mistral, "[TOOL_CALLS]"),
        (Mistral, "[TOOL_CALLS] []"),
        (Mistral, "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}"),
        (Mistral, "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}, 7]"),
        (MistralArgs, "[TOOL_CALLS]now[ARGS]"),
        (MistralArgs, "[TOOL_CALLS]now[ARGS]hello"),
        (MistralArgs, "[TOOL_CALLS] hello there"),
        (DeepSeek, ds),
        (DeepSeek, "<｜tool▁calls▁begin｜>x"),
        (DeepSeek, "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a b<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        ),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```py\n{}\n```",
        ),
        (
            Kimi,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{",
        ),
        (Harmony, "<|channel|>commentary to=functions.now<|message|>not JSON"),
        (Harmony, "<|channel|>commentary to=functions.now<|message|>"),
    ];
    assert!(cases.len() >= 30);
    for (family, text) in cases {
        let said = parse_all_ways(*family, text);
        assert_eq!((said.text.as_str(), said.calls.len()), (*text, 0), "{family:?}");
    }
    // Behind a broken one, a call is still found.
    let text = "<tool_call>oops <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    let said = parse_all_ways(Hermes, text);
    assert_eq!((said.text.as_str(), said.calls.len()), ("<tool_call>oops ", 1));
}

#[test]
fn only_what_may_begin_a_call_is_held_back() {
    let mut calls = Calls::new(Hermes, tools());
    assert_eq!(calls.push("say <to"), [Piece::Text("say ".into())]);
    assert_eq!(calls.push("ast"), [Piece::Text("<toast".into())]);
    let mut calls = Calls::new(Llama, tools());
    assert_eq!(calls.push("{\"na"), []);
    assert_eq!(calls.push("ture\": 1"), [Piece::Text("{\"nature\": 1".into())]);
    assert_eq!(calls.push("}"), [Piece::Text("}".into())]);
    // A long call takes a while, not for ever.
    let long =
        format!("{{\"name\": \"now\", \"arguments\": {{\"t\": \"{}\"}}}}", "x".repeat(200_000));
    let said = parse(Hermes, cut(&mut Random(1), &format!("<tool_call>{long}</tool_call>"), 9));
    assert_eq!(said.calls.len(), 1);
}

#[test]
fn damaged_calls_lose_nothing_and_never_panic() {
    let originals = [
        (
            Hermes,
            "a <tool_call>\n{\"name\": \"now\", \"arguments\": {\"é\": [1, \"x\"]}}\n</tool_call> b",
        ),
        (
            QwenCoder,
            "<tool_call><function=note><parameter=text>é</parameter></function></tool_call>",
        ),
        (Glm, "<tool_call>note\n<arg_key>text</arg_key><arg_value>é</arg_value></tool_call>"),
        (Llama, "{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}"),
        (Mistral, "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}]"),
        (MistralArgs, "[TOOL_CALLS]now[ARGS]{\"a\": 1}"),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (
            Kimi,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        ),
        (Harmony, "<|channel|>commentary to=functions.now<|message|>{\"a\": 1}"),
    ];
    let pointed =
        ["<", ">", "{", "}", "\"", "<tool_call>", "</tool_call>", ";", "[", "]", "é", "｜", " "];
    let mut random = Random(99);
    let (mut called, mut texts) = (0, 0);
    for round in 0..4000 {
        let (family, text) = originals[round % originals.len()];
        let bytes = crate::mutate::damage(&mut random, text.as_bytes(), &pointed);
        let text = String::from_utf8_lossy(&bytes);
        let said = parse_all_ways(family, &text);
        match said.calls.is_empty() {
            true => {
                assert_eq!(said.text, text, "{family:?}");
                texts += 1;
            }
            false => called += 1,
        }
    }
    assert!(called > 200 && texts > 200, "{called} called, {texts} did not");
}

#[test]
fn families_are_known_by_their_templates() {
    let plain = tokenizer(&[]);
    let harmony = tokenizer(&["<|channel|>"]);
    for (template, family) in [
        (include_str!("templates/chatml.jinja"), Some(Hermes)),
        (include_str!("templates/deepseek.jinja"), Some(DeepSeek)),
        (include_str!("templates/glm.jinja"), Some(Glm)),
        (include_str!("templates/llama3.jinja"), Some(Llama)),
        (include_str!("templates/mistral.jinja"), Some(Mistral)),
        (include_str!("templates/odds.jinja"), None),
        ("{{ '<tool_call>\\n<function=' ~ name }}", Some(QwenCoder)),
        ("[TOOL_CALLS]{{ name }}[ARGS]", Some(MistralArgs)),
        ("<|tool_calls_section_begin|>", Some(Kimi)),
        ("{{ messages }}", None),
    ] {
        assert_eq!(ToolFamily::of(template, &plain), family);
    }
    let template = include_str!("templates/harmony.jinja");
    assert_eq!(ToolFamily::of(template, &harmony), Some(Harmony));
}

#[test]
fn bad_tools_and_choices_are_refused_by_field() {
    let function = |function: Value| json!([{"type": "function", "function": function}]);
    for (value, field) in [
        (json!({}), "tools"),
        (json!([{"type": "retrieval"}]), "tools[0].type"),
        (json!(["x"]), "tools[0].type"),
        (function(json!({})), "tools[0].function.name"),
        (function(json!({"name": "a b"})), "tools[0].function.name"),
        (function(json!({"name": "a\"b"})), "tools[0].function.name"),
        (function(json!({"name": "a", "description": 1})), "tools[0].function.description"),
        (function(json!({"name": "a", "parameters": []})), "tools[0].function.parameters"),
        (
            json!([function(json!({"name": "a"}))[0], function(json!({"name": "a"}))[0]]),
            "tools[1].function.name",
        ),
        (vec![function(json!({"name": "a"})); 200].into(), "tools"),
    ] {
        assert_eq!(Tools::read(&value).unwrap_err().field, field, "{value:.90}");
    }
    let (some, none) = (tools(), Tools::default());
    let named = json!({"type": "function", "function": {"name": "now"}});
    assert_eq!(ToolChoice::read(Some(&named), &some), Ok(ToolChoice::Named("now".into())));
    assert_eq!(ToolChoice::read(None, &some), Ok(ToolChoice::Auto));
    assert_eq!(ToolChoice::read(None, &none), Ok(ToolChoice::None));
    for (choice, tools, field) in [
        (json!("any"), &some, "tool_choice"),
        (json!(7), &some, "tool_choice.function.name"),
        (json!({"function": {"name": "then"}}), &some, "tool_choice.function.name"),
        (json!("required"), &none, "tool_choice"),
    ] {
        assert_eq!(ToolChoice::read(Some(&choice), tools).unwrap_err().field, field);
    }
}

/// A forced answer, as a session would show it: answer and calls, control tokens as asked.
fn shown(tokenizer: &Tokenizer, family: ToolFamily, ids: &[u32]) -> String {
    let mut channels = Channels::new(tokenizer, &[]);
    let mut detokenizer = Detokenizer::new(tokenizer, true).show(family.shown(tokenizer));
    let mut text = String::new();
    for &id in ids {
        let voice = match &mut channels {
            Some(channels) => channels.push(tokenizer, id),
            None => Some(Voice::Answer),
        };
        if let Some(call) = channels.as_mut().and_then(Channels::take_opened) {
            text += &call;
        }
        if voice.is_some() {
            detokenizer.push(tokenizer, id, &mut text);
        }
    }
    text
}

#[test]
fn forced_answers_are_calls() {
    let tools = tools();
    let controls = [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<|python_tag|>",
    ];
    let harmony =
        ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|return|>"];
    for (families, tokenizer) in [
        (
            &[Hermes, QwenCoder, Glm, Llama, Mistral, MistralArgs, DeepSeek, Kimi][..],
            tokenizer(&controls),
        ),
        // Where the marks are no tokens, they are words.
        (&[Hermes, QwenCoder, Glm, Llama, Mistral, MistralArgs, DeepSeek, Kimi], tokenizer(&[])),
        (&[Harmony], tokenizer(&harmony)),
    ] {
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        for &family in families {
            let force = |choice| grammar(&vocabulary, &tokenizer, family, &tools, &choice).unwrap();
            assert!(force(ToolChoice::Auto).is_none() && force(ToolChoice::None).is_none());
            let mut done = 0;
            for (choice, names) in [
                (ToolChoice::Required, &["get_weather", "now", "note"][..]),
                (ToolChoice::Named("get_weather".into()), &["get_weather"]),
            ] {
                let grammar = force(choice).unwrap();
                for seed in 0..8 {
                    let Some(ids) = draw(&tokenizer, &grammar, seed, 600) else { continue };
                    let text = shown(&tokenizer, family, &ids);
                    let said = parse(family, [&*text]);
                    assert_eq!(said.text, "", "{family:?} {text}");
                    assert!(!said.calls.is_empty(), "{family:?} {text}");
                    for (name, arguments) in &said.calls {
                        assert!(names.contains(&&**name));
                        // Other numbers may be larger than any type holds.
                        serde_json::from_str::<serde::de::IgnoredAny>(arguments).unwrap();
                        if name == "get_weather" {
                            let arguments: Value = serde_json::from_str(arguments).unwrap();
                            assert!(arguments["city"].is_string() && arguments["days"].is_u64());
                        }
                    }
                    done += 1;
                }
            }
            assert!(done >= 6, "{family:?}: only {done} ended");
        }
    }
    let bad = json!([{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]);
    let bad = Tools::read(&bad).unwrap();
    let tokenizer = tokenizer(&[]);
    let vocabulary = Vocabulary::new(&tokenizer).unwrap();
    let error = grammar(&vocabulary, &tokenizer, Hermes, &bad, &ToolChoice::Required).unwrap_err();
    assert_eq!(error.field, "tools[0].function.parameters");
    assert!(error.reason.contains("#/not"), "{error}");
}
