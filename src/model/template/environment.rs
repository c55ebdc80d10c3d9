//! The functions, filters and methods that chat templates expect.

use std::sync::{Arc, Mutex};

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::budget::{Budget, FUEL, NAMESPACE, bad};
use super::guard;
use super::python::{JsonStyle, Writer};
use crate::base::date::Moment;

/// What a template said with `raise_exception`.
pub(super) type Raised = Arc<Mutex<Option<String>>>;

/// Filters of the engine that are not safe on hostile input and that chat templates do not use.
const REMOVED: &[&str] = &["batch", "slice", "groupby", "sum", "zip", "chain", "pprint", "format"];

/// Widest indentation taken: one line of it is no burden.
const MAX_INDENT: usize = 64;

pub(super) fn build(budget: &Arc<Budget>, raised: &Raised, now: i64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(400);
    env.set_debug(false);
    for name in REMOVED {
        env.remove_filter(name);
    }
    add_guards(&mut env, budget);
    add_filters(&mut env, budget);
    add_functions(&mut env, budget, raised, now);
    let b = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        method_call(&b, state, value, method, args)
    });
    env
}

fn add_guards(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    let b = budget.clone();
    env.add_filter(guard::MADE, move |value: Value| b.made(&value).map(|()| value));
    env.add_filter(guard::SAME, |value: Value| value);
    let b = budget.clone();
    env.add_filter(guard::STORED, move |value: Value| b.stored(value, false));
    let b = budget.clone();
    env.add_filter(guard::STORED_IN, move |value: Value| b.stored(value, true));
    let b = budget.clone();
    env.add_filter(guard::CONCAT, move |left: Value, right: Value| {
        let mut out = Writer::new(&b);
        out.str(&left)?;
        out.str(&right)?;
        charged(&b, out)
    });
    let b = budget.clone();
    env.set_formatter(move |out, _, value| {
        if let Some(text) = value.as_str() {
            b.charge(text.len() as u64)?;
            return out.write_str(text).map_err(|_| bad("its output cannot be written"));
        }
        let mut text = Writer::new(&b);
        text.str(value)?;
        b.charge(text.text.len() as u64)?;
        out.write_str(&text.text).map_err(|_| bad("its output cannot be written"))
    });
}

fn charged(budget: &Budget, out: Writer) -> Result<Value, Error> {
    budget.charge(out.text.len() as u64)?;
    Ok(Value::from(out.text))
}

fn add_filters(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    let b = budget.clone();
    env.add_filter("string", move |value: Value| {
        let mut out = Writer::new(&b);
        out.str(&value)?;
        charged(&b, out)
    });
    let b = budget.clone();
    env.add_filter("join", move |value: Value, joiner: Option<String>, rest: Kwargs| {
        let joiner = match joiner {
            Some(joiner) => joiner,
            None => rest.get::<Option<String>>("d")?.unwrap_or_default(),
        };
        let attribute: Option<String> = rest.get("attribute")?;
        rest.assert_all_used()?;
        let pick = |item: Value| match &attribute {
            Some(name) => item.get_attr(name),
            None => Ok(item),
        };
        join(&b, &value, &joiner, pick)
    });
    let b = budget.clone();
    env.add_filter("replace", move |text: String, from: String, to: String| {
        replace(&b, &text, &from, &to, usize::MAX)
    });
    let b = budget.clone();
    env.add_filter(
        "indent",
        move |text: String, width: Option<Value>, first: Option<bool>, rest: Kwargs| {
            indent(&b, &text, width, first, rest)
        },
    );
    let b = budget.clone();
    env.add_filter("tojson", move |value: Value, rest: Kwargs| tojson(&b, &value, rest));
}

fn join(
    budget: &Budget,
    value: &Value,
    joiner: &str,
    pick: impl Fn(Value) -> Result<Value, Error>,
) -> Result<Value, Error> {
    let mut out = Writer::new(budget);
    for (at, item) in value.try_iter()?.checked().enumerate() {
        if at > 0 {
            out.push(joiner)?;
        }
        out.str(&pick(item?)?)?;
    }
    charged(budget, out)
}

fn replace(budget: &Budget, text: &str, from: &str, to: &str, most: usize) -> Result<Value, Error> {
    let count = text.matches(from).count().min(most);
    budget.charge(count as u64 * to.len() as u64 + text.len() as u64)?;
    Ok(Value::from(text.replacen(from, to, count)))
}

fn indent(
    budget: &Budget,
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    rest: Kwargs,
) -> Result<Value, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => rest.get::<Option<Value>>("width")?,
    };
    let pad = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(MAX_INDENT + 1)),
        },
    };
    if pad.len() > MAX_INDENT {
        return Err(bad(format!("it indents by more than {MAX_INDENT}")));
    }
    let first = match first {
        Some(first) => first,
        None => rest.get::<Option<bool>>("first")?.unwrap_or(false),
    };
    let blank = rest.get::<Option<bool>>("blank")?.unwrap_or(false);
    rest.assert_all_used()?;
    let mut out = Writer::new(budget);
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            out.push("\n")?;
        }
        let wanted = if at == 0 { first } else { blank || !line.is_empty() };
        out.push(if wanted { &pad } else { "" })?;
        out.push(line)?;
    }
    charged(budget, out)
}

fn tojson(budget: &Budget, value: &Value, rest: Kwargs) -> Result<Value, Error> {
    let indent = match rest.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(v)?.min(MAX_INDENT + 1)),
        }),
    };
    if indent.as_ref().is_some_and(|i| i.len() > MAX_INDENT) {
        return Err(bad(format!("it indents by more than {MAX_INDENT}")));
    }
    let separators = match rest.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let pair: Vec<String> = pair.try_iter()?.map(|v| v.to_string()).collect();
            let [item, key] = <[String; 2]>::try_from(pair)
                .map_err(|_| bad("the separators of tojson are not two"))?;
            Some((item, key))
        }
        _ => None,
    };
    let (item_separator, key_separator) = separators.unzip();
    let style = JsonStyle {
        ensure_ascii: rest.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: rest.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    rest.assert_all_used()?;
    let mut out = Writer::new(budget);
    out.json(value, &style, 0)?;
    charged(budget, out)
}

fn add_functions(env: &mut Environment<'static>, budget: &Arc<Budget>, raised: &Raised, now: i64) {
    let raised = raised.clone();
    env.add_function("raise_exception", move |message: Value| -> Result<Value, Error> {
        let text = message.to_string();
        if let Ok(mut slot) = raised.lock() {
            *slot = Some(text.chars().take(1000).collect());
        }
        Err(bad("raise_exception"))
    });
    let b = budget.clone();
    env.add_function("strftime_now", move |format: String| {
        // No code gives more than ten characters for its two.
        b.charge(format.len() as u64 * 8)?;
        Ok::<_, Error>(Moment::new(now).format(&format))
    });
    env.add_function("namespace", |args: Rest<Value>, kwargs: Kwargs| {
        let mut fields: Vec<(Value, Value)> = vec![(Value::from(NAMESPACE), Value::from(true))];
        if let Some(map) = args.first() {
            for key in map.try_iter()?.checked() {
                let key = key?;
                fields.push((key.clone(), map.get_item(&key)?));
            }
        }
        for name in kwargs.args() {
            fields.push((Value::from(name), kwargs.peek::<Value>(name)?));
        }
        let defaults: Value =
            fields.into_iter().collect::<std::collections::BTreeMap<_, _>>().into();
        let defaults = minijinja::value::from_args(&[defaults])?;
        let (defaults,): (Option<minijinja::value::ValueOrKwargs>,) = defaults;
        minijinja::functions::namespace(defaults)
    });
}

/// Methods of Python's strings and maps. Those that can make text longer are written here, with
/// a price; the others come from the engine's own collection.
fn method_call(
    budget: &Budget,
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let text = |at: usize| args.get(at).and_then(Value::as_str);
    match (value.as_str(), method) {
        (Some(s), "replace") => {
            let (Some(from), Some(to)) = (text(0), text(1)) else {
                return Err(bad("replace takes two strings"));
            };
            let most = match args.get(2) {
                None => usize::MAX,
                Some(n) => usize::try_from(n.clone()).unwrap_or(usize::MAX),
            };
            replace(budget, s, from, to, most)
        }
        (Some(s), "join") => {
            let list = args.first().ok_or_else(|| bad("join takes a list"))?;
            join(budget, list, s, Ok)
        }
        (Some(s), "title") => {
            // Python starts a word after anything that is no letter, an apostrophe included.
            let mut inside = false;
            let mut out = String::with_capacity(s.len());
            for c in s.chars() {
                match std::mem::replace(&mut inside, c.is_alphabetic()) {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
            }
            Ok(Value::from(out))
        }
        (Some(s), "removeprefix") => {
            let cut = text(0).and_then(|prefix| s.strip_prefix(prefix));
            Ok(Value::from(cut.unwrap_or(s)))
        }
        (Some(s), "removesuffix") => {
            let cut = text(0).and_then(|suffix| s.strip_suffix(suffix));
            Ok(Value::from(cut.unwrap_or(s)))
        }
        (Some(_), "format") => Err(bad("the method format is not offered")),
        (None, "copy") if value.kind() == ValueKind::Map => Ok(value.clone()),
        _ => unknown_method_callback(state, value, method, args),
    }
}
